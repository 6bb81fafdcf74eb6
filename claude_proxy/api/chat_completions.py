"""OpenAI Chat Completions: `POST /v1/chat/completions`.

In: the JSON body. Out: `chat.completion`, or `chat.completion.chunk`s as server-sent events. Shapes: the official
document (https://github.com/openai/openai-openapi), and what the SDKs were seen to choke on, beside each line.
"""

from collections.abc import Iterable, Iterator
from typing import Any, assert_never

import msgspec

from ..conversation import Conversation, Effort, Options, Text
from ..errors import BadRequest, ProxyError
from ..events import (
    BlockStart,
    BlockStop,
    Completion,
    Event,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
)
from .dialect import Context, Parsed, decode, encode, sse
from .openai import build_error
from .transcript import AnyRole, Entry, arrange

KEEP_ALIVE = b": keep-alive\n\n"  # never ": ping": Continue takes it for the end of a chunk
DONE = b"data: [DONE]\n\n"

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
ROLES: dict[str, AnyRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}

# Values that ask for nothing beyond what happens anyway; anything else in these fields is named as ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
}


class Part(msgspec.Struct):
    """One part of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct):
    """`content` may be null, absent, a string or parts; `reasoning_content` is ours, and not read back."""

    role: str
    content: str | list[Part] | None = None
    refusal: str | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


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
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None


class ChatCompletions:
    """The dialect; it keeps nothing between requests."""

    name = "chat"

    def parse(self, body: bytes) -> Parsed:
        """Raises BadRequest with the path of what is wrong."""
        request = decode(body, ChatRequest)
        _check(request)
        system, messages = arrange(_parse_message(message, i) for i, message in enumerate(request.messages))
        conversation = Conversation(request.model or "", messages, system, options=_parse_options(request))
        return Parsed(conversation, bool(request.stream), request, _ignored(body))

    def stream(self, events: Iterable[Event | None], context: Context) -> Iterator[bytes]:
        """Role chunk first, `finish_reason` once, usage only when asked for, `[DONE]` last."""
        writer = _ChunkWriter(context)
        for event in events:
            yield writer.render(event)

    def body(self, completion: Completion, context: Context) -> dict[str, Any]:
        """A `chat.completion`; `content` and `refusal` are always there, `tool_calls` only where there are some."""
        refused = completion.stop_reason == "refusal"
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if refused else completion.text,
            "refusal": completion.text or completion.end.explanation or "" if refused else None,
        }
        if completion.thinking:
            message["reasoning_content"] = completion.thinking
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(completion.stop_reason),
        }
        return {
            "id": completion_id(context),
            "object": "chat.completion",
            "created": context.created,
            "model": context.model,
            "choices": [choice],
            "usage": build_usage(completion.usage),
        }

    def error(self, error: ProxyError, request_id: str) -> tuple[int, dict[str, Any]]:
        return error.status, build_error(error)

    def error_event(self, error: ProxyError, request_id: str) -> bytes:
        """One event without an event line; what follows it would be taken for success by nobody."""
        return sse(build_error(error))


class _ChunkWriter:
    """Renders the events of one stream. Every chunk has the same id, created and model."""

    def __init__(self, context: Context) -> None:
        self._head = {
            "id": completion_id(context),
            "object": "chat.completion.chunk",
            "created": context.created,
            "model": context.model,
        }
        options = context.request.stream_options
        self._with_usage = bool(options and options.include_usage)
        self._opened = False

    def render(self, event: Event | None) -> bytes:
        """The bytes of one event; None is a sign of life. The first bytes are always the role chunk."""
        opening = b"" if self._opened else self._chunk({"role": "assistant", "content": "", "refusal": None})
        self._opened = True
        match event:
            case None:
                return opening + (b"" if opening else KEEP_ALIVE)
            case TextDelta(_, text):
                return opening + self._chunk({"content": text})
            case ThinkingDelta(_, thinking):
                return opening + self._chunk({"reasoning_content": thinking})
            case MessageEnd():
                return opening + self._end(event)
            case MessageStart() | BlockStart() | BlockStop() | SignatureDelta() | ToolInputDelta():
                return opening
            case _:
                assert_never(event)

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._data({"choices": [choice]}, None)

    def _end(self, event: MessageEnd) -> bytes:
        closing = self._chunk({"refusal": event.explanation}) if event.explanation else b""
        closing += self._chunk({}, finish_reason(event.stop_reason))
        if self._with_usage:
            closing += self._data({"choices": []}, build_usage(event.usage))
        return closing + DONE

    def _data(self, rest: dict[str, Any], usage: dict[str, Any] | None) -> bytes:
        counted = {"usage": usage} if self._with_usage else {}
        return b"data: " + encode({**self._head, **rest, **counted}) + b"\n\n"


def completion_id(context: Context) -> str:
    """`chatcmpl-…`, from the request's own id, so that a log line can be found by it."""
    return "chatcmpl-" + context.request_id.removeprefix("req_")


def finish_reason(stop_reason: str) -> str:
    """OpenAI's word; a stop reason that is not known here has ended the answer all the same."""
    return FINISH_REASONS.get(stop_reason, "stop")


def build_usage(usage: Usage) -> dict[str, Any]:
    """OpenAI counts what the cache served inside `prompt_tokens`, Anthropic beside it."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "cache_write_tokens": usage.cache_creation_input_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.thinking_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _parse_message(message: ChatMessage, index: int) -> Entry:
    path = f"messages[{index}]"
    role = ROLES.get(message.role)
    if role is None:
        known = ", ".join(ROLES)
        raise BadRequest(f"Unknown role {message.role[:40]!r}; known are {known}", param=f"{path}.role")
    if message.content is None:
        return role, _texts([message.refusal or ""])
    if isinstance(message.content, str):
        return role, _texts([message.content])
    return role, _texts([_parse_part(part, f"{path}.content[{i}]") for i, part in enumerate(message.content)])


def _parse_part(part: Part, path: str) -> str:
    if part.type != "text":
        raise BadRequest(f"Parts of type {part.type[:40]!r} are not supported", param=f"{path}.type")
    if part.text is None:
        raise BadRequest("A text part needs its text", param=f"{path}.text")
    return part.text


def _texts(texts: list[str]) -> tuple[Text, ...]:
    return tuple(Text(text) for text in texts)


def _parse_options(request: ChatRequest) -> Options:
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Options(
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stop_sequences=tuple(text for text in stop if text),
        temperature=request.temperature,
        top_p=request.top_p,
        effort=request.reasoning_effort,
    )


def _check(request: ChatRequest) -> None:
    """What is not a matter of types. Raises BadRequest."""
    limits = request.max_tokens, request.max_completion_tokens
    rules = (
        (bool(request.messages), "messages", "messages must not be empty"),
        (request.n in (None, 1), "n", "Only one choice can be made: n must be 1"),
        (not request.logprobs, "logprobs", "logprobs are not available"),
        ("audio" not in (request.modalities or ()), "modalities", "Audio is not available"),
        (limits[0] is None or limits[0] >= 1, "max_tokens", "max_tokens must be at least 1"),
        (
            limits[1] is None or limits[1] >= 1,
            "max_completion_tokens",
            "max_completion_tokens must be at least 1",
        ),
        (0 <= (request.temperature or 0) <= 2, "temperature", "temperature must be between 0 and 2"),
        (0 <= (request.top_p or 0) <= 1, "top_p", "top_p must be between 0 and 1"),
    )
    for holds, param, message in rules:
        if not holds:
            raise BadRequest(message, param=param)


def _ignored(body: bytes) -> tuple[str, ...]:
    """Fields that were sent, ask for something, and are not read."""
    fields = msgspec.json.decode(body, type=dict[str, Any])
    unread = (name for name in fields if name not in ChatRequest.__struct_fields__ or name in NEUTRAL)
    return tuple(name for name in unread if fields[name] is not None and fields[name] not in NEUTRAL.get(name, ()))
