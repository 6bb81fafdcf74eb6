"""OpenAI Chat Completions: `POST /v1/chat/completions`.

In: the JSON body. Out: `chat.completion`, or `chat.completion.chunk`s as server-sent events. Shapes: the official
document (https://github.com/openai/openai-openapi), and what the SDKs were seen to choke on, beside each line.
"""

from collections.abc import Iterable, Iterator
from typing import Any, assert_never

from ...core.conversation import Message, ToolUse
from ...core.errors import ProxyError
from ...core.events import (
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
from ..dialect import EVENT_STREAM, KEEP_ALIVE, NO_HEADERS, Context, Parsed, decode_object, encode, sse
from ..openai_errors import build_error
from ..openai_tools import build_arguments
from .request import parse_chat

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


class ChatCompletions:
    """The dialect; it keeps nothing between requests."""

    name = "chat"
    content_type = EVENT_STREAM
    headers = NO_HEADERS

    def parse(self, body: bytes, before: tuple[Message, ...] = ()) -> Parsed:
        """See `chat_request`. Raises BadRequest with the path of what is wrong."""
        return parse_chat(decode_object(body), before)

    def stream(self, events: Iterable[Event | None], context: Context) -> Iterator[bytes]:
        """Role chunk first, `finish_reason` once, usage only when asked for, `[DONE]` last."""
        writer = _ChunkWriter(context)
        for event in events:
            piece = writer.render(event)
            yield self.heartbeat() if event is None and not piece else piece

    def heartbeat(self) -> bytes:
        return KEEP_ALIVE

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
        calls = [_build_call(block) for block in completion.blocks if isinstance(block, ToolUse)]
        if calls:
            message["content"] = message["content"] or None
            message.update(self._calls(calls, context))
        reason = finish_reason(completion.stop_reason, has_calls=bool(calls), legacy=context.request.is_legacy)
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": reason,
        }
        return {
            "id": completion_id(context),
            "object": "chat.completion",
            "created": context.created,
            "model": context.model,
            "choices": [choice],
            "usage": build_usage(completion.usage),
        }

    def _calls(self, calls: list[dict[str, Any]], context: Context) -> dict[str, Any]:
        """`tool_calls`, or for a client of the legacy `functions` its one `function_call`."""
        return {"function_call": calls[0]["function"]} if context.request.is_legacy else {"tool_calls": calls}

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
        self._legacy = context.request.is_legacy
        self._opened = False
        self._calls: dict[int, int] = {}
        self._without_arguments: set[int] = set()

    def render(self, event: Event | None) -> bytes:
        """The bytes of one event; None opens the stream, once. The first bytes are always the role chunk."""
        opening = b"" if self._opened else self._chunk({"role": "assistant", "content": "", "refusal": None})
        self._opened = True
        match event:
            case None:
                return opening
            case TextDelta(_, text):
                return opening + self._chunk({"content": text})
            case ThinkingDelta(_, thinking):
                return opening + self._chunk({"reasoning_content": thinking})
            case BlockStart(index, ToolUse() as call):
                self._calls[index] = len(self._calls)
                self._without_arguments.add(index)
                return opening + self._call(index, {"name": call.name, "arguments": ""}, call.id)
            case ToolInputDelta(index, partial_json):
                if partial_json.strip():
                    self._without_arguments.discard(index)
                return opening + self._call(index, {"arguments": partial_json})
            case BlockStop(index) if index in self._without_arguments:
                return opening + self._call(index, {"arguments": "{}"})  # clients parse what the pieces add up to
            case MessageEnd():
                return opening + self._end(event)
            case MessageStart() | BlockStart() | BlockStop() | SignatureDelta():
                return opening
            case _:
                assert_never(event)

    def _call(self, index: int, function: dict[str, Any], call_id: str | None = None) -> bytes:
        """A piece of a call. Its id, type and name come once: openai-python joins what is repeated."""
        number = self._calls[index]
        if self._legacy:
            return self._chunk({"function_call": function}) if number == 0 else b""
        first = {"id": call_id, "type": "function"} if call_id is not None else {}
        return self._chunk({"tool_calls": [{"index": number, **first, "function": function}]})

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._data({"choices": [choice]}, None)

    def _end(self, event: MessageEnd) -> bytes:
        closing = self._chunk({"refusal": event.explanation}) if event.explanation else b""
        closing += self._chunk({}, finish_reason(event.stop_reason, has_calls=bool(self._calls), legacy=self._legacy))
        if self._with_usage:
            closing += self._data({"choices": []}, build_usage(event.usage))
        return closing + DONE

    def _data(self, rest: dict[str, Any], usage: dict[str, Any] | None) -> bytes:
        counted = {"usage": usage} if self._with_usage else {}
        return b"data: " + encode({**self._head, **rest, **counted}) + b"\n\n"


def completion_id(context: Context) -> str:
    """`chatcmpl-…`, from the request's own id, so that a log line can be found by it."""
    return "chatcmpl-" + context.request_id.removeprefix("req_")


def finish_reason(stop_reason: str, *, has_calls: bool = False, legacy: bool = False) -> str:
    """OpenAI's word; a stop reason that is not known here has ended the answer all the same.

    has_calls: a client looks here for whether there are calls to make, also where a stop sequence was met after them.
    """
    reason = FINISH_REASONS.get(stop_reason, "stop")
    reason = "tool_calls" if has_calls and reason == "stop" else reason
    return "function_call" if legacy and reason == "tool_calls" else reason


def _build_call(block: ToolUse) -> dict[str, Any]:
    """`arguments` is a string, never an object."""
    function = {"name": block.name, "arguments": build_arguments(block)}
    return {"id": block.id, "type": "function", "function": function}


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
