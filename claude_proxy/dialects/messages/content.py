"""Anthropic Messages, what requests are made of: content blocks and tools, read leniently, made canonical.

In: blocks of any role, tools. Out: the canonical ones. Shapes: https://docs.anthropic.com/en/api/messages;
`cache_control` may stand anywhere and is left out. What cannot be passed on is refused with its path, or named as
ignored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from ...core.conversation import (
    ContentBlock,
    Document,
    Image,
    Text,
    TextSource,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    UrlSource,
)
from ...core.errors import BadRequest
from ..content import build_document, build_image, decode_base64, parse_image_url, parse_schema
from ..transcript import AnyRole, Entry

T = TypeVar("T")

ROLES: dict[str, AnyRole] = {"user": "user", "assistant": "assistant", "system": "system"}
# Claude Code's first system block; it is a header of its own, and changes with the version.
BILLING_HEADER = "x-anthropic-billing-header"

ModelOf = Callable[[str], str | None]


class Source(msgspec.Struct):
    """Where an image or a document comes from: `base64`, `url`, `text`, `content`; `file` is refused."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: "str | list[Block] | None" = None


class Block(msgspec.Struct):
    """One content block of any type; which fields it needs, its reader says."""

    type: str
    text: str | None = None
    source: Source | str | None = None
    title: str | None = None
    context: str | None = None
    citations: Any = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    thinking: str | None = None
    signature: str | None = None
    tool_name: str | None = None


class InputMessage(msgspec.Struct):
    """`role` may be `system` since 2026: Claude Code sends one in the middle or at the end."""

    role: str
    content: str | list[Block]


class ToolSpec(msgspec.Struct):
    """A tool; one with another type than `custom` is one of Anthropic's own."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Any = None
    strict: bool | None = None
    input_examples: list[Any] | None = None


@dataclass(slots=True)
class Reader:
    """Reads blocks and tools; `ignored` collects names of what they ask for in vain."""

    model_of: ModelOf
    ignored: list[str] = field(default_factory=list)

    def read_entries(self, system: str | list[Block] | None, messages: list[InputMessage]) -> Iterator[Entry]:
        """The system prompt as a first entry, then the messages, in order."""
        prompt = self.read_content(system or "", "system", "system")
        yield "system", tuple(block for block in prompt if not _is_billing_header(block))
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            role = ROLES.get(message.role)
            if role is None:
                raise BadRequest(
                    f"Unknown role {message.role[:40]!r}; known are {', '.join(ROLES)}", param=f"{path}.role"
                )
            yield role, self._read_message(message, role, f"{path}.content")

    def _read_message(self, message: InputMessage, role: AnyRole, path: str) -> tuple[ContentBlock, ...]:
        """Thinking stays only where all of a message's is ours: the API takes it whole and unchanged, or not at all."""
        blocks = self.read_content(message.content, role, path)
        thoughts = [block for block in blocks if isinstance(block, Thinking)]
        redacted = not isinstance(message.content, str) and any(b.type == "redacted_thinking" for b in message.content)
        if redacted or not all(block.model for block in thoughts):
            return tuple(block for block in blocks if not isinstance(block, Thinking))
        return blocks

    def read_content(self, content: str | list[Block], place: str, path: str) -> tuple[ContentBlock, ...]:
        """Blocks of a message's role, or of what else holds some (`system`, `tool_result`, `document`)."""
        if isinstance(content, str):
            return (Text(content),)
        read = (self._read_block(block, place, f"{path}[{index}]") for index, block in enumerate(content))
        return tuple(block for block in read if block is not None)

    def _read_block(self, block: Block, place: str, path: str) -> ContentBlock | None:
        if block.type not in _PLACES[place]:
            known = ", ".join(sorted(_PLACES[place]))
            message = (
                f"Blocks of type {block.type[:40]!r} are not supported in {_PLACE_NAMES[place]}; supported: {known}"
            )
            raise BadRequest(message, param=f"{path}.type")
        return _READERS[block.type](self, block, path)

    def read_text(self, block: Block, path: str) -> ContentBlock:
        return Text(required(block.text, f"{path}.text"))

    def read_image(self, block: Block, path: str) -> ContentBlock:
        source = _read_source(block, f"{path}.source")
        match source.type:
            case "base64":
                media_type = required(source.media_type, f"{path}.source.media_type")
                return build_image(media_type, required(source.data, f"{path}.source.data"), f"{path}.source.data")
            case "url":
                return parse_image_url(required(source.url, f"{path}.source.url"), f"{path}.source.url")
        raise _unknown_source(source, f"{path}.source")

    def read_document(self, block: Block, path: str) -> ContentBlock:
        source = _read_source(block, f"{path}.source")
        if block.context:
            self.ignored.append("document.context")
        if isinstance(block.citations, dict) and block.citations.get("enabled"):
            self.ignored.append("document.citations")
        title = block.title or None
        match source.type:
            case "base64":
                data = decode_base64(required(source.data, f"{path}.source.data"), f"{path}.source.data")
                return build_document(source.media_type or "application/pdf", data, title, f"{path}.source.data")
            case "text":
                return Document(TextSource(required(source.data, f"{path}.source.data")), title)
            case "url":
                return Document(_read_url(source, f"{path}.source.url"), title)
            case "content":
                content = [] if source.content is None else source.content
                texts = self.read_content(content, "document", f"{path}.source.content")
                return Document(TextSource("\n".join(text.text for text in texts if isinstance(text, Text))), title)
        raise _unknown_source(source, f"{path}.source")

    def read_call(self, block: Block, path: str) -> ContentBlock:
        call_id, name = required(block.id, f"{path}.id"), required(block.name, f"{path}.name")
        return ToolUse(call_id, name, block.input or {})

    def read_result(self, block: Block, path: str) -> ContentBlock:
        call_id = required(block.tool_use_id, f"{path}.tool_use_id")
        content = "" if block.content is None else block.content
        read = self.read_content(content, "tool_result", f"{path}.content")
        kept = tuple(one for one in read if isinstance(one, (Image, Document)) or (isinstance(one, Text) and one.text))
        return ToolResult(call_id, kept, bool(block.is_error))

    def read_thinking(self, block: Block, path: str) -> ContentBlock:
        """A foreign signature would be refused by the API; such a block is left out by `_read_message`."""
        return Thinking(block.thinking or "", block.signature or "", self.model_of(block.signature or "") or "")

    def read_nothing(self, block: Block, path: str) -> None:
        return None

    def read_reference(self, block: Block, path: str) -> ContentBlock:
        """What a search for tools found: the tool is offered already, its name is what is left to be said."""
        return Text(required(block.tool_name, f"{path}.tool_name"))

    def read_tools(self, specs: list[ToolSpec]) -> tuple[Tool, ...]:
        """Functions, in order. Anthropic's own tools run on its side, or have definitions of its own: ignored."""
        tools: list[Tool] = []
        seen: set[str] = set()
        for index, spec in enumerate(specs):
            path = f"tools[{index}]"
            if not spec.name:
                raise BadRequest("A tool needs a name", param=f"{path}.name")
            if spec.name in seen:
                raise BadRequest(f"Two tools are named {spec.name[:80]!r}", param=path)
            seen.add(spec.name)
            if spec.type not in (None, "custom"):
                self.ignored.append(f"tools.{spec.name}")
                continue
            tools.append(self._read_tool(spec, path))
        return tuple(tools)

    def _read_tool(self, spec: ToolSpec, path: str) -> Tool:
        if spec.input_schema is None:
            raise BadRequest("A tool needs an input_schema", param=f"{path}.input_schema")
        self.ignored += [f"tools.{name}" for name in ("strict", "input_examples") if getattr(spec, name)]
        return Tool(spec.name, spec.description or "", parse_schema(spec.input_schema, f"{path}.input_schema"))


_READERS: dict[str, Callable[[Reader, Block, str], ContentBlock | None]] = {
    "text": Reader.read_text,
    "image": Reader.read_image,
    "document": Reader.read_document,
    "tool_use": Reader.read_call,
    "tool_result": Reader.read_result,
    "thinking": Reader.read_thinking,
    "redacted_thinking": Reader.read_nothing,
    "tool_reference": Reader.read_reference,
}
_PLACES: dict[str, frozenset[str]] = {
    "system": frozenset(("text",)),
    "user": frozenset(("text", "image", "document", "tool_result")),
    "assistant": frozenset(("text", "tool_use", "thinking", "redacted_thinking")),
    "tool_result": frozenset(("text", "image", "document", "tool_reference")),
    "document": frozenset(("text",)),
}
_PLACE_NAMES = {
    "system": "a system prompt or message",
    "user": "a user message",
    "assistant": "an assistant message",
    "tool_result": "a tool_result",
    "document": "a document's content",
}


def _is_billing_header(block: ContentBlock) -> bool:
    return isinstance(block, Text) and block.text.startswith(BILLING_HEADER)


def _read_source(block: Block, path: str) -> Source:
    if not isinstance(block.source, Source):  # a search_result has a string there
        raise BadRequest("source must be an object", param=path)
    return block.source


def _read_url(source: Source, path: str) -> UrlSource:
    url = required(source.url, path)
    if not url.lower().startswith(("http://", "https://")):
        raise BadRequest("Only http(s) URLs are read", param=path)
    return UrlSource(url)


def _unknown_source(source: Source, path: str) -> BadRequest:
    if source.type == "file":
        return BadRequest("There is no file store: send the file itself", param=f"{path}.type")
    return BadRequest(f"Sources of type {source.type[:40]!r} are not supported here", param=f"{path}.type")


def required(value: T | None, path: str) -> T:
    if value is None:
        raise BadRequest(f"{path.rpartition('.')[2]} is missing", param=path)
    return value
