"""What the real API refuses in the messages: their order, their blocks, and how tool calls pair with results.

In goes a request whose shape is right, out come complaints in the API's words. Messages of role `system`
may stand anywhere after the first and are transparent for the order of turns; neighbours of one role are
one turn.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Callable, Iterator, Mapping, Sequence

from claude_proxy.demo.render import sign_thinking
from claude_proxy.demo.request import (
    AnyBlock,
    Base64Source,
    Document,
    Image,
    Message,
    MessagesRequest,
    RedactedThinking,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)

Complaints = Iterator[str]
_SIGNATURE = re.compile(r"demo-sig-[0-9a-f]{32}")
_TOOL_USE_ID = re.compile(r"[a-zA-Z0-9_-]+")

_IMAGE_MAGIC: Mapping[str, Callable[[bytes], bool]] = {
    "image/png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda data: data.startswith(b"\xff\xd8\xff"),
    "image/gif": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "image/webp": lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP",
}
_DOCUMENT_MAGIC: Mapping[str, Callable[[bytes], bool]] = {"application/pdf": lambda data: data.startswith(b"%PDF")}

_ROLE_BLOCKS: Mapping[str, tuple[type, ...]] = {
    "assistant": (Text, ToolUse, Thinking, RedactedThinking),
    "system": (Text,),
}
_ASSISTANT_ONLY = (ToolUse, Thinking, RedactedThinking)


@dataclass(frozen=True, slots=True)
class Turn:
    """Neighbouring messages of one role, with the path of each block (`messages.0.content.1`)."""

    role: str
    blocks: tuple[tuple[str, AnyBlock], ...]


def find_all_blocks(messages: Sequence[Message]) -> Iterator[tuple[str, AnyBlock]]:
    """Every block of every message with its path, in order."""
    for index, message in enumerate(messages):
        for position, block in enumerate(message.blocks):
            yield f"messages.{index}.content.{position}", block


def check_history(request: MessagesRequest) -> Complaints:
    """All complaints about the messages of a request."""
    for check in (_check_order, _check_blocks, _check_pairs, _check_end):
        yield from check(request.messages)


def _check_order(messages: Sequence[Message]) -> Complaints:
    if not messages:
        yield "messages: at least one message is required"
    elif messages[0].role != "user":
        yield 'messages: first message must use the "user" role'
    for index, message in enumerate(messages):
        # the CLI marks a change of effort with an empty system message
        if not message.blocks and message.role != "system":
            yield f"messages.{index}: all messages must have non-empty content"


def _check_end(messages: Sequence[Message]) -> Complaints:
    turns = _merge_turns(messages)
    if turns and turns[-1].role == "assistant":
        yield (
            "This model does not support assistant message prefill. " "The conversation must end with a user message."
        )


def _check_blocks(messages: Sequence[Message]) -> Complaints:
    for index, message in enumerate(messages):
        for position, block in enumerate(message.blocks):
            path = f"messages.{index}.content.{position}"
            yield from _check_role(path, message.role, block)
            yield from _check_block(path, block)


def _check_role(path: str, role: str, block: AnyBlock) -> Complaints:
    allowed = _ROLE_BLOCKS.get(role)
    wrong = not isinstance(block, allowed) if allowed else isinstance(block, _ASSISTANT_ONLY)
    if wrong:
        kind = block.__struct_config__.tag
        yield f"{path}: `{kind}` blocks are not allowed in messages of the `{role}` role"


def _check_block(path: str, block: object) -> Complaints:
    match block:
        case Text(text=text):
            if not text:
                yield "messages: text content blocks must be non-empty"
            elif not text.strip():
                yield "messages: text content blocks must contain non-whitespace text"
        case Image(source=Base64Source() as source):
            yield from _check_bytes(f"{path}.image.source.base64", source, _IMAGE_MAGIC)
        case Document(source=Base64Source() as source):
            yield from _check_bytes(f"{path}.document.source.base64", source, _DOCUMENT_MAGIC)
        case ToolUse(id=identity) if not _TOOL_USE_ID.fullmatch(identity):
            yield f"{path}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
        case ToolResult(content=tuple() as parts):
            for position, part in enumerate(parts):
                yield from _check_block(f"{path}.tool_result.content.{position}", part)
        case Thinking() if not _is_ours(block):
            yield f"{path}: Invalid `signature` in `thinking` block"
        case RedactedThinking():
            yield f"{path}: Invalid `data` in `redacted_thinking` block"


def _check_bytes(path: str, source: Base64Source, magic: Mapping[str, Callable[[bytes], bool]]) -> Complaints:
    if source.media_type not in magic:
        yield f"{path}.media_type: Input should be {' or '.join(map(repr, magic))}"
        return
    try:
        data = base64.b64decode(source.data, validate=True)
    except (binascii.Error, ValueError):
        yield f"{path}.data: Invalid base64 data"
        return
    if not magic[source.media_type](data):
        yield f"{path}.data: The data was specified using the {source.media_type} media type, but is not of it"


def _is_ours(block: Thinking) -> bool:
    """Whether the demo signed it. With `display: omitted` no words went out, so none come back."""
    if not block.thinking:
        return _SIGNATURE.fullmatch(block.signature) is not None
    return block.signature == sign_thinking(block.thinking)


def _merge_turns(messages: Sequence[Message]) -> list[Turn]:
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        blocks = tuple((f"messages.{index}.content.{at}", block) for at, block in enumerate(message.blocks))
        if turns and turns[-1].role == message.role:
            turns[-1] = Turn(message.role, turns[-1].blocks + blocks)
        else:
            turns.append(Turn(message.role, blocks))
    return turns


def _check_pairs(messages: Sequence[Message]) -> Complaints:
    turns = _merge_turns(messages)
    seen: set[str] = set()
    empty = Turn("user", ())
    for before, turn, after in zip([empty, *turns], turns, [*turns[1:], empty]):
        if turn.role == "assistant":
            yield from _check_calls(turn, after, seen)
        else:
            yield from _check_results(turn, before)


def _check_calls(turn: Turn, after: Turn, seen: set[str]) -> Complaints:
    """Each call has a new id, and its result stands at the start of the next turn."""
    calls = [(path, block.id) for path, block in turn.blocks if isinstance(block, ToolUse)]
    answered = set(_leading_results(after))
    for _, identity in calls:
        if identity in seen:
            yield "messages: `tool_use` ids must be unique"
        seen.add(identity)
    missing = [(path, identity) for path, identity in calls if identity not in answered]
    if missing:
        message = missing[0][0].partition(".content")[0]
        yield (
            f"{message}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(identity for _, identity in missing)}. Each `tool_use` block must have a "
            "corresponding `tool_result` block in the next message."
        )


def _leading_results(turn: Turn) -> Iterator[str]:
    for _, block in turn.blocks:
        if not isinstance(block, ToolResult):
            return
        yield block.tool_use_id


def _check_results(turn: Turn, before: Turn) -> Complaints:
    """Each result belongs to a call of the turn before, once."""
    open_calls = {block.id for _, block in before.blocks if isinstance(block, ToolUse)}
    answered: set[str] = set()
    for path, block in turn.blocks:
        if not isinstance(block, ToolResult):
            continue
        if block.tool_use_id not in open_calls:
            yield (
                f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {block.tool_use_id}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
        elif block.tool_use_id in answered:
            yield f"{path}: each tool_use must have a single result. Found multiple for {block.tool_use_id}."
        answered.add(block.tool_use_id)
