"""OpenAI Chat Completions, the request: what is read of it, and how it becomes canonical.

In: the JSON body. Out: `Parsed`. Never strict about what the official schema demands: clients leave required fields
out, send null for absent, and mix the shapes of three APIs.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from ...core.conversation import (
    ContentBlock,
    Conversation,
    Effort,
    Image,
    Message,
    Options,
    Text,
    ToolChoice,
    ToolResult,
    ToolUse,
    parse_tool_input,
)
from ...core.errors import BadRequest
from ...core.schemas import find_flaw
from ..content import build_image, parse_file, parse_image_url
from ..dialect import Parsed, convert
from ..openai_tools import FunctionSpec, ToolSpec, parse_functions, parse_tool_choice, parse_tools
from ..transcript import AnyRole, Entry, arrange

T = TypeVar("T")

ROLES: dict[str, AnyRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}

# Values that ask for nothing beyond what happens anyway; anything else in these fields is named as ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "functions": ([],),
    "metadata": ({},),
    "modalities": ([], ["text"]),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}


class ImageUrl(msgspec.Struct):
    url: str
    detail: str | None = None


class FilePart(msgspec.Struct):
    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class Source(msgspec.Struct):
    """An image of the Messages API, as Cursor sends it."""

    type: str
    media_type: str = ""
    data: str = ""
    url: str = ""


class Part(msgspec.Struct):
    """One part of a message's content, in OpenAI's shapes and in the Messages API's."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None
    file: FilePart | None = None
    source: Source | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    tool_use_id: str | None = None
    content: Any = None
    is_error: bool | None = None


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(msgspec.Struct):
    function: CalledFunction
    id: str | None = None


class ChatMessage(msgspec.Struct):
    """`content` may be null, absent, a string or parts; `reasoning_content` is ours, and not read back."""

    role: str
    content: str | list[Part] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class JsonSchema(msgspec.Struct):
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    type: str
    json_schema: JsonSchema | None = None


class ChatRequest(msgspec.Struct):
    """What is read of a request; null means absent everywhere. Other fields are named as ignored."""

    messages: list[ChatMessage]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: Effort | None = None
    n: int | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionSpec] | None = None
    function_call: Any = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @property
    def is_legacy(self) -> bool:
        """True where the client knows `functions` only, and must be answered with `function_call`."""
        return bool(self.functions) and not self.tools


def parse_chat(fields: dict[str, Any], before: tuple[Message, ...] = ()) -> Parsed:
    """See `Dialect.parse`; `fields`: the decoded body. Raises BadRequest with the path of what is wrong."""
    request = convert(fields, ChatRequest)
    _check(request)
    tools = parse_functions(request.functions or []) if request.is_legacy else parse_tools(request.tools or [])
    wish = request.function_call if request.is_legacy else request.tool_choice
    name = "function_call" if request.is_legacy else "tool_choice"
    choice = parse_tool_choice(wish, tools, request.parallel_tool_calls is not False and not request.is_legacy, name)
    system, messages = arrange(_parse_messages(request.messages), before=before)
    conversation = Conversation(request.model or "", messages, system, tools, _parse_options(request, choice))
    hints = (request.prompt_cache_key, request.user)
    return Parsed(conversation, bool(request.stream), request, _ignored(fields), hints)


def _parse_messages(messages: list[ChatMessage]) -> Iterator[Entry]:
    """Entries in order; legacy calls, which have no ids, get some by their position."""
    called: dict[str, str] = {}
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = ROLES.get(message.role)
        if role is None:
            known = ", ".join(ROLES)
            raise BadRequest(f"Unknown role {message.role[:40]!r}; known are {known}", param=f"{path}.role")
        blocks = _parse_content(message.content, f"{path}.content")
        if message.role == "tool":
            blocks = (_parse_result(message, message.tool_call_id, blocks, f"{path}.tool_call_id"),)
        elif message.role == "function":
            call_id = called.get(message.name or "")
            blocks = (_parse_result(message, call_id, blocks, f"{path}.name"),)
        elif role == "assistant":
            if not blocks and message.refusal:
                blocks = (Text(message.refusal),)
            blocks += tuple(_parse_calls(message, index))
            if message.function_call is not None:
                called[message.function_call.name] = f"call_legacy_{index}"
        yield role, blocks


def _parse_calls(message: ChatMessage, index: int) -> Iterator[ToolUse]:
    for number, call in enumerate(message.tool_calls or ()):
        yield _build_call(call.id or f"call_{index}_{number}", call.function)
    if message.function_call is not None:
        yield _build_call(f"call_legacy_{index}", message.function_call)


def _build_call(call_id: str, function: CalledFunction) -> ToolUse:
    arguments = function.arguments
    return ToolUse(
        call_id, function.name, arguments if isinstance(arguments, dict) else parse_tool_input(arguments or "")
    )


def _parse_result(message: ChatMessage, call_id: str | None, blocks: tuple[ContentBlock, ...], path: str) -> ToolResult:
    if not call_id:
        raise BadRequest(f"A {message.role} message must say which call it answers", param=path)
    kept = tuple(block for block in blocks if isinstance(block, (Text, Image)))
    return ToolResult(call_id, tuple(block for block in kept if not isinstance(block, Text) or block.text))


def _parse_content(content: str | list[Part] | None, path: str) -> tuple[ContentBlock, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    blocks = (_parse_part(part, f"{path}[{index}]") for index, part in enumerate(content))
    return tuple(block for block in blocks if block is not None)


def _parse_part(part: Part, path: str) -> ContentBlock | None:
    match part.type:
        case "text" | "input_text" | "output_text":
            return Text(_required(part.text, f"{path}.text"))
        case "refusal":
            return Text(_required(part.refusal, f"{path}.refusal"))
        case "image_url" | "input_image":
            url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
            return parse_image_url(_required(url, f"{path}.image_url"), f"{path}.image_url.url")
        case "file":
            return _parse_file(_required(part.file, f"{path}.file"), f"{path}.file")
        case "image":
            return _parse_source(_required(part.source, f"{path}.source"), f"{path}.source")
        case "tool_use":
            call_id, name = _required(part.id, f"{path}.id"), _required(part.name, f"{path}.name")
            return ToolUse(call_id, name, part.input if isinstance(part.input, dict) else {})
        case "tool_result":
            return _parse_result_part(part, path)
        case "thinking" | "redacted_thinking" | "reasoning":
            return None
    raise BadRequest(f"Parts of type {part.type[:40]!r} are not supported", param=f"{path}.type")


def _parse_result_part(part: Part, path: str) -> ToolResult:
    inner = part.content
    if isinstance(inner, list):
        inner = convert(inner, list[Part], f"{path}.content")
    blocks = _parse_content(inner if isinstance(inner, (str, list)) else None, f"{path}.content")
    kept = tuple(b for b in blocks if isinstance(b, Image) or (isinstance(b, Text) and b.text))
    return ToolResult(_required(part.tool_use_id, f"{path}.tool_use_id"), kept, bool(part.is_error))


def _parse_file(file: FilePart, path: str) -> ContentBlock:
    if file.file_id is not None:
        raise BadRequest("There is no file store: send the file as file_data", param=f"{path}.file_id")
    return parse_file(_required(file.file_data, f"{path}.file_data"), file.filename, f"{path}.file_data")


def _parse_source(source: Source, path: str) -> ContentBlock:
    if source.type == "base64":
        return build_image(source.media_type, source.data, f"{path}.data")
    return parse_image_url(source.url, f"{path}.url")


def _required(value: T | None, path: str) -> T:
    if value is None:
        raise BadRequest(f"{path.rpartition('.')[2]} is missing", param=path)
    return value


def _parse_options(request: ChatRequest, choice: ToolChoice) -> Options:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Options(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stop_sequences=tuple(text for text in stop if text),
        temperature=request.temperature,
        top_p=request.top_p,
        effort=request.reasoning_effort,
        tool_choice=choice,
        json_schema=_parse_format(request.response_format),
    )


def _parse_format(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The schema that the answer must have; `json_object` is any object."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.type != "json_schema":
        raise BadRequest(f"Unknown response format {wanted.type[:40]!r}", param="response_format.type")
    if wanted.json_schema is None or wanted.json_schema.schema is None:
        raise BadRequest("json_schema needs a schema", param="response_format.json_schema.schema")
    problem = find_flaw(wanted.json_schema.schema)
    if problem is not None:
        raise BadRequest(f"This is not a JSON schema: {problem}", param="response_format.json_schema.schema")
    return wanted.json_schema.schema


def _check(request: ChatRequest) -> None:
    """What is not a matter of types. Raises BadRequest."""
    limits = request.max_tokens, request.max_completion_tokens
    rules = (
        (bool(request.messages), "messages", "messages must not be empty"),
        ((request.model or "").isprintable(), "model", "The model's name holds characters that no name has"),
        (request.n in (None, 1), "n", "Only one choice can be made: n must be 1"),
        (not request.logprobs, "logprobs", "logprobs are not available"),
        ("audio" not in (request.modalities or ()), "modalities", "Audio is not available"),
        (limits[0] is None or limits[0] >= 1, "max_tokens", "max_tokens must be at least 1"),
        (limits[1] is None or limits[1] >= 1, "max_completion_tokens", "max_completion_tokens must be at least 1"),
        (0 <= (request.temperature or 0) <= 2, "temperature", "temperature must be between 0 and 2"),
        (0 <= (request.top_p or 0) <= 1, "top_p", "top_p must be between 0 and 1"),
    )
    for holds, param, message in rules:
        if not holds:
            raise BadRequest(message, param=param)


def _ignored(fields: dict[str, Any]) -> tuple[str, ...]:
    """Fields that were sent, ask for something, and are not read."""
    half_read = ("modalities", *(("functions",) if fields.get("tools") else ()))
    unread = (name for name in fields if name not in ChatRequest.__struct_fields__ or name in half_read)
    return tuple(name for name in unread if fields[name] is not None and fields[name] not in NEUTRAL.get(name, ()))
