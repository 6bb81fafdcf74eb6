"""Items of the Responses API: what a client's list of them says, and how an item is given out again.

In: JSON objects as clients send them: with or without `type`, with ids of their own making, of kinds that only other
servers make. Out: entries for `transcript.arrange`, and items in the shape of the official document. In a file of its
own because Cursor sends such items to the chat route.
"""

import mimetypes
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ...core.conversation import ContentBlock, Document, Image, Text, ToolResult, ToolUse, UrlSource, parse_tool_input
from ...core.errors import BadRequest
from ..content import build_document, decode_base64, parse_file, parse_image_url
from ..dialect import convert
from ..transcript import AnyRole, Entry

Item = dict[str, Any]

ROLES: dict[str, AnyRole] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

READ = frozenset(("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"))
# What other servers made, and what the model can do without: calls of tools that ran there, and reasoning.
HARMLESS = frozenset(
    (
        "reasoning",
        "compaction",
        "compaction_summary",
        "compaction_trigger",
        "web_search_call",
        "file_search_call",
        "image_generation_call",
        "code_interpreter_call",
        "mcp_call",
        "mcp_list_tools",
        "mcp_approval_request",
        "mcp_approval_response",
        "tool_search_call",
        "tool_search_output",
        "additional_tools",
    )
)
# An item of a kind that is not known here may be left out unless it has one of these: then it says something.
TELLING = ("role", "content", "output", "call_id")


class ImageUrl(msgspec.Struct):
    url: str


class Part(msgspec.Struct):
    """One part of a message's content or of a function's output; `image_url` is a string here, an object in chat."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | ImageUrl | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None


class MessageItem(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class CallItem(msgspec.Struct):
    """A `function_call`, or a `custom_tool_call`, whose `input` is text. `call_id` is what its output names."""

    name: str
    call_id: str | None = None
    id: str | None = None
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None


class OutputItem(msgspec.Struct):
    call_id: str | None = None
    output: str | list[Part] | None = None


def parse_items(items: Sequence[Item], path: str) -> Iterator[Entry]:
    """The entries of these items, in order. Raises BadRequest with the path of an item that cannot be understood."""
    for index, item in enumerate(items):
        entry = parse_item(item, f"{path}[{index}]")
        if entry is not None:
            yield entry


def parse_item(item: Item, path: str) -> Entry | None:
    """What one item says; None for one that can be left out."""
    kind = item.get("type") or ("message" if "role" in item else None)
    match kind:
        case "message":
            return _parse_message(convert(item, MessageItem, path), path)
        case "function_call" | "custom_tool_call":
            return "assistant", (_parse_call(convert(item, CallItem, path), path),)
        case "function_call_output" | "custom_tool_call_output":
            return "user", (_parse_output(convert(item, OutputItem, path), path),)
    if is_harmless(item):
        return None
    raise BadRequest(f"Items of type {str(kind)[:60]!r} are not supported", param=f"{path}.type")


def is_harmless(item: Item) -> bool:
    """True for an item that the model can do without: nothing in it was said to it or by it."""
    kind = item.get("type")
    if not isinstance(kind, str) or kind in READ:
        return False
    return kind in HARMLESS or not any(item.get(key) is not None for key in TELLING)


def merge(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The assistant's items run together: a text and the calls that follow it are one message."""
    said: tuple[ContentBlock, ...] = ()
    for role, blocks in entries:
        if role == "assistant":
            said += blocks
            continue
        if said:
            yield "assistant", said
            said = ()
        yield role, blocks
    if said:
        yield "assistant", said


def join_name(namespace: str | None, name: str) -> str:
    """The name under which a function of a namespace (Codex) is offered to the model."""
    return f"{namespace}__{name}" if namespace else name


def build_stored(item: Item, item_id: str) -> Item:
    """An input item as it is listed later: with an id, a status, and parts for content that was a string."""
    kind = item.get("type") or "message"
    if kind == "reasoning":
        return {"summary": [], **item, "type": kind, "id": item_id}
    if kind != "message":
        return {**item, "id": item_id, "status": item.get("status") or "completed"}
    role, content = item.get("role"), item.get("content")
    text_type = "output_text" if role == "assistant" else "input_text"
    parts = [{"type": text_type, "text": content}] if isinstance(content, str) else content or []
    listed = [_build_part(part, text_type) for part in parts]
    return {"type": kind, "role": role, "id": item_id, "status": item.get("status") or "completed", "content": listed}


def _build_part(part: Any, text_type: str) -> Any:
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            extra: Item = {"annotations": [], "logprobs": []} if text_type == "output_text" else {}
            return {**extra, **part, "type": text_type}
        case "input_image":
            return {"detail": "auto", **part}
    return part


def _parse_message(message: MessageItem, path: str) -> Entry:
    role = ROLES.get(message.role)
    if role is None:
        known = ", ".join(ROLES)
        raise BadRequest(f"Unknown role {message.role[:40]!r}; known are {known}", param=f"{path}.role")
    return role, _parse_content(message.content, f"{path}.content")


def _parse_call(call: CallItem, path: str) -> ToolUse:
    call_id = call.call_id or call.id
    if not call_id:
        raise BadRequest("call_id is missing", param=f"{path}.call_id")
    if call.input is not None:
        return ToolUse(call_id, call.name, {"input": call.input})
    arguments = call.arguments
    given = arguments if isinstance(arguments, dict) else parse_tool_input(arguments or "")
    return ToolUse(call_id, join_name(call.namespace, call.name), given)


def _parse_output(output: OutputItem, path: str) -> ToolResult:
    if not output.call_id:
        raise BadRequest("call_id is missing", param=f"{path}.call_id")
    blocks = _parse_content(output.output, f"{path}.output")
    kept = (block for block in blocks if isinstance(block, (Text, Image, Document)))
    return ToolResult(output.call_id, tuple(block for block in kept if not isinstance(block, Text) or block.text))


def _parse_content(content: str | list[Part] | None, path: str) -> tuple[ContentBlock, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    blocks = (_parse_part(part, f"{path}[{index}]") for index, part in enumerate(content))
    return tuple(block for block in blocks if block is not None)


def _parse_part(part: Part, path: str) -> ContentBlock | None:
    match part.type:
        case "input_text" | "output_text" | "text":
            return Text(_required(part.text, f"{path}.text"))
        case "refusal":
            return Text(_required(part.refusal, f"{path}.refusal"))
        case "input_image" | "image_url":
            _refuse_file_id(part, path)
            url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
            return parse_image_url(_required(url, f"{path}.image_url"), f"{path}.image_url")
        case "input_file":
            return _parse_file(part, path)
        case "reasoning_text" | "summary_text":
            return None
    raise BadRequest(f"Parts of type {part.type[:40]!r} are not supported", param=f"{path}.type")


def _parse_file(part: Part, path: str) -> ContentBlock:
    """`file_data` is a data URL, or plain base64 of a file whose name says what it is."""
    _refuse_file_id(part, path)
    if part.file_url is not None:
        if not part.file_url.lower().startswith(("http://", "https://")):
            raise BadRequest("file_url must be an http(s) URL", param=f"{path}.file_url")
        return Document(UrlSource(part.file_url), part.filename)
    data = _required(part.file_data, f"{path}.file_data")
    if data[:5].lower() == "data:":
        return parse_file(data, part.filename, f"{path}.file_data")
    media_type = mimetypes.guess_type(part.filename or "")[0] or "application/pdf"
    return build_document(media_type, decode_base64(data, f"{path}.file_data"), part.filename, f"{path}.file_data")


def _refuse_file_id(part: Part, path: str) -> None:
    if part.file_id is not None:
        raise BadRequest("There is no file store: send the data itself", param=f"{path}.file_id")


def _required(value: str | None, path: str) -> str:
    if value is None:
        raise BadRequest(f"{path.rpartition('.')[2]} is missing", param=path)
    return value
