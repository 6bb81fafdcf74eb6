"""A Messages API request as types: the shapes that are accepted, and no rule beyond the shape.

In goes the decoded JSON, out comes a frozen `MessagesRequest`; fields that are not named here are
tolerated, because clients send new ones with almost every release. There are no rules between fields.
"""

import re
from typing import Any, Literal

import msgspec

from .errors import ApiError

Ttl = Literal["5m", "1h"]


class CacheControl(msgspec.Struct, frozen=True):
    """A breakpoint of the prompt cache."""

    type: Literal["ephemeral"]
    ttl: Ttl | None = None


class Base64Source(msgspec.Struct, frozen=True, tag_field="type", tag="base64"):
    """The bytes of an image or document, in the request itself."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, frozen=True, tag_field="type", tag="url"):
    """Bytes elsewhere; never fetched."""

    url: str


class FileSource(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    """Bytes uploaded earlier; never looked up."""

    file_id: str


class TextSource(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A document that is plain text."""

    media_type: str
    data: str


class ContentSource(msgspec.Struct, frozen=True, tag_field="type", tag="content"):
    """A document made of blocks."""

    content: Any


class Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every content block may carry."""

    cache_control: CacheControl | None = None


class Text(Block, frozen=True, kw_only=True, tag="text"):
    """Plain text."""

    text: str


class Image(Block, frozen=True, kw_only=True, tag="image"):
    """A picture."""

    source: Base64Source | UrlSource | FileSource


class Document(Block, frozen=True, kw_only=True, tag="document"):
    """A PDF or a text file."""

    source: Base64Source | UrlSource | FileSource | TextSource | ContentSource


class SearchResult(Block, frozen=True, kw_only=True, tag="search_result"):
    """A search result: accepted, counted, not looked at."""


class ToolReference(Block, frozen=True, kw_only=True, tag="tool_reference"):
    """The name of a tool inside a tool's result: accepted, counted, not looked at."""


class ToolUse(Block, frozen=True, kw_only=True, tag="tool_use"):
    """A tool call of an earlier answer."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Block, frozen=True, kw_only=True, tag="tool_result"):
    """What a tool answered."""

    tool_use_id: str
    content: str | tuple[Text | Image | Document | SearchResult | ToolReference, ...] | None = None
    is_error: bool | None = None


class Thinking(Block, frozen=True, kw_only=True, tag="thinking"):
    """Thinking of an earlier answer, with its signature."""

    thinking: str
    signature: str


class RedactedThinking(Block, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Encrypted thinking of an earlier answer."""

    data: str


AnyBlock = Text | Image | Document | SearchResult | ToolUse | ToolResult | Thinking | RedactedThinking


class Message(msgspec.Struct, frozen=True):
    """One message; a string is short for one text block."""

    role: Literal["user", "assistant", "system"]
    content: str | tuple[AnyBlock, ...]

    @property
    def blocks(self) -> tuple[AnyBlock, ...]:
        """The content as blocks; an empty string has none."""
        if isinstance(self.content, str):
            return (Text(text=self.content),) if self.content else ()
        return self.content


class Tool(msgspec.Struct, frozen=True):
    """A tool definition; one of another `type` than `custom` is the vendor's and is never called."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    cache_control: CacheControl | None = None

    @property
    def custom(self) -> bool:
        """Whether the client defined and runs it."""
        return self.type in (None, "custom")


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tools may or must be called."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct, frozen=True):
    """Whether to think; `display: omitted` hides the words."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    """Structured output."""

    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct, frozen=True):
    """How to answer."""

    format: OutputFormat | None = None


class Edit(msgspec.Struct, frozen=True):
    """One strategy of context management."""

    type: str


class ContextManagement(msgspec.Struct, frozen=True):
    """What the API may leave out of a long history."""

    edits: tuple[Edit, ...] = ()


class MessagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/messages`; `count_tokens` takes the same without `max_tokens`."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    system: str | tuple[Text, ...] | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: ToolChoice | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: tuple[str, ...] | None = None
    stream: bool | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    context_management: ContextManagement | None = None
    cache_control: CacheControl | None = None

    @property
    def thinking_on(self) -> bool:
        """Whether the answer may begin with thinking."""
        return self.thinking is not None and self.thinking.type != "disabled"

    @property
    def format(self) -> OutputFormat | None:
        """The structured output asked for, if any."""
        return self.output_config.format if self.output_config else None


def parse_body(raw: bytes) -> dict[str, Any]:
    """Decode a body into a JSON object. Raises ApiError 400."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The request body must be a JSON object")
    return body


def parse_request(body: dict[str, Any]) -> MessagesRequest:
    """Check the shape of a decoded body. Raises ApiError 400 with the path, such as `messages.0.content`."""
    try:
        return msgspec.convert(body, MessagesRequest)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ApiError(400, _locate(str(error))) from error


def _locate(complaint: str) -> str:
    """Put msgspec's path (`… - at `$.messages[0].content``) in front, as the API writes it."""
    text, _, path = complaint.partition(" - at `$")
    place = re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path.rstrip("`")).strip(".")
    return f"{place}: {text}" if place else text
