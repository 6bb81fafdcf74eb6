"""Anthropic Messages: `POST /v1/messages` and `/v1/messages/count_tokens`.

In: the JSON body. Out: a `message`, or its events as server-sent events, each with an `event:` line (without it both
official SDKs deliver nothing). Shapes: https://docs.anthropic.com/en/api/messages-streaming. Optional keys are left out
where they would be null: `citations: null` makes Vercel's client refuse the whole answer.
"""

import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, assert_never

from ...core.conversation import AnswerBlock, Conversation, Message, Text, Thinking, ToolUse
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
from ...core.models import context_window
from ...core.tokens import estimate, estimate_conversation
from ..dialect import EVENT_STREAM, Context, Parsed, sse
from .request import parse_messages, parse_prompt

DEFAULT_VERSION = "2023-06-01"
LONGEST_BETA = 1000
SIGNATURES_KEPT = 10_000

# https://docs.anthropic.com/en/api/errors; a status that is not here is our failure, or that of what is behind us.
ERROR_TYPES: dict[int, str] = {
    **dict.fromkeys((400, 405, 409, 415), "invalid_request_error"),
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
OVERLOADED = frozenset(("overloaded", "shutting_down"))
# 529 is Anthropic's own status for it.
STATUSES = {"overloaded": 529}


class Signatures:
    """Which thinking this process has passed on, by digests of the signatures; the oldest are forgotten first.

    The API takes back only what it signed itself, and the CLI only what the current model thought.
    """

    def __init__(self, kept: int = SIGNATURES_KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()  # guards: _models
        self._models: OrderedDict[bytes, str] = OrderedDict()

    def note(self, signature: str, model: str) -> None:
        with self._lock:
            self._models[_digest(signature)] = model
            if len(self._models) > self._kept:
                self._models.popitem(last=False)

    def model_of(self, signature: str) -> str | None:
        """The id of the model that signed; None for a foreign or a forgotten signature."""
        with self._lock:
            return self._models.get(_digest(signature))


class Messages:
    """The dialect for one request; what outlives it is in `signatures`.

    version, betas: the request's `anthropic-version` and `anthropic-beta`, which its answer repeats.
    """

    name = "messages"
    content_type = EVENT_STREAM

    def __init__(self, signatures: Signatures, version: str = DEFAULT_VERSION, betas: str = "") -> None:
        self._signatures = signatures
        self._conversation: Conversation | None = None
        self.headers = {"anthropic-version": version, **({"anthropic-beta": betas[:LONGEST_BETA]} if betas else {})}

    def parse(self, body: bytes, before: tuple[Message, ...] = ()) -> Parsed:
        """See `messages_request`. Raises BadRequest with the path of what is wrong."""
        parsed = parse_messages(body, self._signatures.model_of, before)
        self._conversation = parsed.conversation
        return parsed

    def stream(self, events: Iterable[Event | None], context: Context) -> Iterator[bytes]:
        """`message_start` first, blocks one after another, `message_delta` once, `message_stop` last."""
        writer = _EventWriter(context, self._signatures)
        for event in events:
            piece = writer.render(event)
            yield self.heartbeat() if event is None and not piece else piece

    def heartbeat(self) -> bytes:
        return sse({"type": "ping"}, "ping")

    def body(self, completion: Completion, context: Context) -> dict[str, Any]:
        """A `message`; `model` is the one that answered."""
        for block in completion.blocks:
            if isinstance(block, Thinking) and block.signature:
                self._signatures.note(block.signature, completion.model)
        return {
            **_build_message(completion.id, completion.model, completion.usage),
            "content": [_build_block(block) for block in completion.blocks],
            **_build_stop(completion.end),
        }

    def error(self, error: ProxyError, request_id: str) -> tuple[int, dict[str, Any]]:
        """`{"type": "error", "error": {type, message}, "request_id"}`; the path stands before the message."""
        kind = "overloaded_error" if error.kind in OVERLOADED else ERROR_TYPES.get(error.status, "api_error")
        words = {"type": kind, "message": self._message(error)}
        status = STATUSES.get(error.kind, error.status)
        return status, {"type": "error", "error": words, "request_id": request_id}

    def error_event(self, error: ProxyError, request_id: str) -> bytes:
        """The last event of a stream that failed; the SDKs raise it."""
        return sse(self.error(error, request_id)[1], "error")

    def _message(self, error: ProxyError) -> str:
        """Claude Code looks for this very text before it makes its history shorter: /prompt is too long.*tokens > /.

        The CLI does not tell the counts: N is our own estimate, and at least one more than M, the model's context.
        """
        if error.kind == "context_length_exceeded" and self._conversation is not None:
            largest = context_window(self._conversation.model)
            tokens = max(largest + 1, estimate_conversation(self._conversation))
            return f"prompt is too long: {tokens} tokens > {largest} maximum"
        return f"{_dotted(error.param)}: {error.message}" if error.param else error.message


class _EventWriter:
    """Renders the events of one stream."""

    def __init__(self, context: Context, signatures: Signatures) -> None:
        self._context = context
        self._signatures = signatures
        self._opened = False
        self._model = context.model

    def render(self, event: Event | None) -> bytes:
        """The bytes of one event; None opens the stream, once. The first bytes are always `message_start`."""
        match event:
            case None:
                return b"" if self._opened else self._open_early()
            case MessageStart():
                self._model = event.model
                return b"" if self._opened else self._open(event)
            case BlockStart(index, block):
                return _event("content_block_start", index=index, content_block=_build_empty(block))
            case TextDelta(index, text):
                return _delta(index, {"type": "text_delta", "text": text})
            case ThinkingDelta(index, thinking):
                return _delta(index, {"type": "thinking_delta", "thinking": thinking})
            case SignatureDelta(index, signature):
                self._signatures.note(signature, self._model)
                return _delta(index, {"type": "signature_delta", "signature": signature})
            case ToolInputDelta(index, partial_json):
                return _delta(index, {"type": "input_json_delta", "partial_json": partial_json})
            case BlockStop(index):
                return _event("content_block_stop", index=index)
            case MessageEnd():
                end = _event("message_delta", delta=_build_stop(event), usage=build_usage(event.usage))
                return end + _event("message_stop")
            case _:
                assert_never(event)

    def _open(self, start: MessageStart) -> bytes:
        self._opened = True
        message = _build_message(start.id, start.model, start.usage)
        return _event("message_start", message={**message, "content": [], "stop_reason": None, "stop_sequence": None})

    def _open_early(self) -> bytes:
        """Nothing has come yet: an id of our own, the model that was asked for, and an input of 0 tokens, which
        `message_delta` puts right."""
        early = "msg_" + self._context.request_id.removeprefix("req_")
        return self._open(MessageStart(early, self._context.model, Usage(output_tokens=1)))


def count_tokens(body: bytes) -> int:
    """The answer to `count_tokens`, an estimate. Raises BadRequest with the path of what is wrong."""
    counted = parse_prompt(body)
    return estimate(counted.entries, counted.tools)


def build_usage(usage: Usage) -> dict[str, Any]:
    """`input_tokens` excludes what the cache took and gave; `output_tokens` is the total so far."""
    built: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.thinking_tokens:
        built["output_tokens_details"] = {"thinking_tokens": usage.thinking_tokens}
    return built


def _build_message(message_id: str, model: str, usage: Usage) -> dict[str, Any]:
    return {"id": message_id, "type": "message", "role": "assistant", "model": model, "usage": build_usage(usage)}


def _build_stop(end: MessageEnd) -> dict[str, Any]:
    stop: dict[str, Any] = {"stop_reason": end.stop_reason, "stop_sequence": end.stop_sequence}
    if end.explanation is not None:
        stop["stop_details"] = {"type": "refusal", "category": None, "explanation": end.explanation}
    return stop


def _build_block(block: AnswerBlock) -> dict[str, Any]:
    """`signature` is always there, if only as an empty string."""
    match block:
        case Text(text):
            return {"type": "text", "text": text}
        case Thinking(thinking, signature):
            return {"type": "thinking", "thinking": thinking, "signature": signature}
        case ToolUse(call_id, name, arguments):
            return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _build_empty(block: AnswerBlock) -> dict[str, Any]:
    """A block as it begins: a call's `input` comes in pieces."""
    match block:
        case ToolUse(call_id, name):
            return _build_block(ToolUse(call_id, name, {}))
    return _build_block(block)


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)


def _dotted(param: str) -> str:
    """`messages[0].content` as the API writes it: `messages.0.content`."""
    return re.sub(r"\[(\w*)\]", r".\1", param).strip(".")


def _digest(signature: str) -> bytes:
    return hashlib.blake2b(signature.encode("utf-8", "surrogatepass"), digest_size=16).digest()
