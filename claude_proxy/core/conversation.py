"""The canonical request, in the Messages API's own words: what every dialect is parsed into.

A `Conversation` is a model name, a system prompt, messages of content blocks, tools and options. `digests` gives the
chain by which a conversation is recognised: identity is content, never a count and never the first message.
Rule: everything here is immutable and holds only what was validated; the CLI hangs or ends on malformed content.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Literal, cast

import msgspec

from .json_text import mend_text

Role = Literal["user", "assistant"]

# Under this name goes what a model wrote for arguments and is not a JSON object, for the API takes nothing else. The
# name is the one that its documentation of fine-grained tool streaming proposes:
# https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming
INVALID_JSON = "INVALID_JSON"

# The largest integer that a float of JavaScript holds exactly.
LARGEST_EXACT = 2**53


class Block(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """One content block; `msgspec.to_builtins` gives its Messages API JSON."""


class Text(Block, frozen=True, tag="text"):
    text: str


class Base64Source(msgspec.Struct, frozen=True, tag_field="type", tag="base64"):
    media_type: str
    data: str


class UrlSource(msgspec.Struct, frozen=True, tag_field="type", tag="url"):
    url: str


class TextSource(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    data: str
    media_type: str = "text/plain"


class Image(Block, frozen=True, tag="image"):
    source: Base64Source | UrlSource


class Document(Block, frozen=True, tag="document"):
    source: Base64Source | UrlSource | TextSource
    title: str | None = None


class Thinking(Block, frozen=True, tag="thinking"):
    """`model`: the id of the model that thought it, where that is known; no part of the API's block."""

    thinking: str
    signature: str = ""
    model: str = ""


class ToolUse(Block, frozen=True, tag="tool_use"):
    """`arguments`: the text that the model wrote for `input`, where that is known; not a part of the API's block."""

    id: str
    name: str
    input: dict[str, Any]
    arguments: str = ""


class ToolResult(Block, frozen=True, tag="tool_result"):
    tool_use_id: str
    content: tuple[Text | Image | Document, ...] = ()
    is_error: bool = False


AnswerBlock = Text | Thinking | ToolUse
ContentBlock = Text | Image | Document | Thinking | ToolUse | ToolResult


class Message(msgspec.Struct, frozen=True):
    """One turn of one side; `content` is never empty."""

    role: Role
    content: tuple[ContentBlock, ...]


class Tool(msgspec.Struct, frozen=True):
    """A function of the client's: `input_schema` is a JSON schema of type object."""

    name: str
    description: str
    input_schema: dict[str, Any]


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tools may be called now. `mode`: auto, any (one must be), tool (`name` must be), none.

    allowed: names of the only ones that are offered; None for all. parallel: more than one call at once.
    """

    mode: Literal["auto", "any", "tool", "none"] = "auto"
    name: str | None = None
    allowed: tuple[str, ...] | None = None
    parallel: bool = True

    @property
    def forced(self) -> bool:
        return self.mode in ("any", "tool")


class ThinkingMode(msgspec.Struct, frozen=True):
    """What a request of the Messages API says of thinking, in its words.

    asked: False where it says nothing, which means `disabled` there, and is no wish that could be ignored.
    """

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: str | None = None
    asked: bool = True


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Options(msgspec.Struct, frozen=True):
    """Parameters of one turn; None means that the client did not say.

    max_tokens: tokens, thinking included. stop_sequences: non-empty strings. temperature, top_p: as the client sent
    them, in its own range. effort: OpenAI's word for it. thinking: only where the dialect speaks of it apart from
    effort. json_schema: the answer must be JSON of this schema.
    """

    max_tokens: int | None = None
    stop_sequences: tuple[str, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    effort: Effort | None = None
    thinking: ThinkingMode | None = None
    tool_choice: ToolChoice = ToolChoice()
    json_schema: dict[str, Any] | None = None


class Conversation(msgspec.Struct, frozen=True):
    """A whole request. `messages` starts with any role and ends with the user; `system` is None where none was sent."""

    model: str
    messages: tuple[Message, ...]
    system: str | None = None
    tools: tuple[Tool, ...] = ()
    options: Options = Options()


def user(text: str) -> Message:
    """A user message of one text block."""
    return Message("user", (Text(text),))


def assistant(text: str) -> Message:
    """An assistant message of one text block."""
    return Message("assistant", (Text(text),))


def parse_tool_input(arguments: str) -> dict[str, Any]:
    """The arguments that a model wrote, as an object: `{}` for none, `{INVALID_JSON: text}` for what is not one."""
    text = mend_text(arguments)
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {INVALID_JSON: text}
    if value is None:
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {INVALID_JSON: text}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def is_blank(block: ContentBlock) -> bool:
    """True for a text of nothing or blanks: the API refuses one, and a client may have left it out."""
    return isinstance(block, Text) and not block.text.strip()


def drop_blanks(blocks: Iterable[ContentBlock]) -> tuple[ContentBlock, ...]:
    """The blocks that are passed on, and that decide which conversation a message belongs to."""
    return tuple(block for block in blocks if not is_blank(block))


def is_said(blocks: Iterable[ContentBlock]) -> bool:
    """True for an answer that is a message of the conversation.

    One of blanks or thinking alone is not: no client can send it back, so that the history goes on without it.
    """
    return any(not isinstance(block, Thinking) and not is_blank(block) for block in blocks)


def digest(*parts: bytes) -> bytes:
    """16 bytes that name these parts in this order; lengths are hashed too, so that parts cannot run together."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest()


def digest_profile(partition: str, mode: str, model: str, conversation: Conversation) -> bytes:
    """H₀: everything but the messages that a child must have been started with to serve this conversation.

    model: the CLI's name for it, so that two spellings of one model are one.
    """
    tools = msgspec.json.encode(conversation.tools, order="sorted")
    system = b"\x00" if conversation.system is None else b"\x01" + conversation.system.encode()
    return digest(partition.encode(), mode.encode(), model.encode(), system, tools)


def digest_message(previous: bytes, message: Message) -> bytes:
    """Hᵢ from Hᵢ₋₁: stable against what clients change without meaning it (see `canonical`).

    An answer that is not a message of the conversation leaves it as it was.
    """
    if message.role == "assistant" and not is_said(message.content):
        return previous
    return digest(previous, message.role.encode(), canonical(message))


def digest_chain(start: bytes, messages: Iterable[Message]) -> tuple[bytes, ...]:
    """H₀ … Hₙ, oldest first: one more than there are messages."""
    chain = [start]
    for message in messages:
        chain.append(digest_message(chain[-1], message))
    return tuple(chain)


def canonical(message: Message) -> bytes:
    """A message reduced to what it means.

    Thinking goes (chat clients cannot send it back), so do blank texts; an answer's texts run together (chat has one
    string) without the blanks around them, ids of tool calls keep letters and digits only (OpenClaw drops underscores),
    and a number is the same however it is written (JavaScript writes 5.0 as 5).
    """
    blocks: list[Any] = []
    for block in drop_blanks(message.content):
        match block:
            case Thinking():
                continue
            case Text(text) if message.role == "assistant" and blocks and blocks[-1]["type"] == "text":
                blocks[-1] = {"type": "text", "text": blocks[-1]["text"] + text}
            case ToolUse():
                given = _plain_numbers(block.input)
                blocks.append({"type": "tool_use", "id": plain_id(block.id), "name": block.name, "input": given})
            case ToolResult():
                value = msgspec.to_builtins(block)
                blocks.append({**value, "tool_use_id": plain_id(block.tool_use_id)})
            case _:
                blocks.append(msgspec.to_builtins(block))
    if message.role == "assistant":
        blocks = [{**block, "text": block["text"].strip()} if block["type"] == "text" else block for block in blocks]
    return msgspec.json.encode(blocks, order="sorted")


def _plain_numbers(value: Any) -> Any:
    """Integers for floats that are one, as far as a float tells integers apart."""
    try:
        return _replace_floats(value)
    except RecursionError:
        return value


def _replace_floats(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) <= LARGEST_EXACT:
            return int(value)
        case dict():
            return {key: _replace_floats(inner) for key, inner in value.items()}
        case list():
            return [_replace_floats(inner) for inner in value]
    return value


def plain_id(tool_use_id: str) -> str:
    """The letters and digits of a tool id: what every client gives back unchanged."""
    return "".join(character for character in tool_use_id if character.isalnum())
