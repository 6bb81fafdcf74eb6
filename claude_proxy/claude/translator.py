"""PURE: the CLI's messages of one turn -> canonical events, or the error that they mean.

In: typed messages, one at a time (`feed`). Out: events; `done` once the turn has ended. Failures are raised.
Rules: text of `<synthetic>` and of sub-agents is no answer; blocks of unknown types are left out and the indexes stay
contiguous; what was said is never said again: an answer that begins anew after its first word is an error.
"""

from ..conversation import AnswerBlock, Text, Thinking, ToolUse
from ..errors import (
    BadRequest,
    BodyTooLarge,
    ContextTooLong,
    ModelNotFound,
    NotAuthenticated,
    Overloaded,
    PlanLimitReached,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from ..events import (
    BlockStart,
    BlockStop,
    Event,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
)
from . import protocol
from .locate import LOGIN
from .protocol import (
    ApiEvent,
    ApiRetry,
    Assistant,
    Inbound,
    RateLimit,
    RateLimitInfo,
    Result,
    StreamBlock,
    StreamEvent,
)

SYNTHETIC = "<synthetic>"

# After these the CLI asks the API to go on, by itself and with a note of its own in the history.
CONTINUED_BY_CLI = frozenset(("max_tokens", "refusal", "model_context_window_exceeded"))
TOO_LONG = frozenset(("blocking_limit", "prompt_too_long"))

# The CLI tries these again for a while; another try cannot mend them, or the client must be told when to come back.
FINAL_STATUSES = frozenset((400, 401, 403, 404, 413, 429))


class Translator:
    """The state of one turn. `done` after the last event; `cut` when the child goes on by itself and must be ended.

    now: Unix time in seconds, for what is left until a plan limit is reset.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self.started = False
        self.spoke = False
        self.done = False
        self.cut = False
        self.rate_limit: RateLimitInfo | None = None
        self._usage = Usage()
        self._stop: MessageEnd | None = None
        self._indexes: dict[int, int] = {}
        self._next_index = 0
        self._notice: Assistant | None = None

    def feed(self, inbound: Inbound) -> list[Event]:
        """The events that one message means, oldest first. Raises the ProxyError that it means instead."""
        match inbound:
            case StreamEvent(event, None):
                return self._translate(event)
            case Assistant() if inbound.message.model == SYNTHETIC:
                self._notice = inbound
            case RateLimit(info):
                self.rate_limit = info
            case ApiRetry() if inbound.error_status in FINAL_STATUSES:
                raise self._classify(inbound.error_status, f"The API answered {inbound.error_status}", inbound)
            case Result():
                return self._finish(inbound)
        return []

    def _translate(self, event: ApiEvent) -> list[Event]:
        match event.type:
            case "message_start":
                return self._start(event)
            case "content_block_start":
                return self._open(event.index, event.content_block)
            case "content_block_delta":
                return self._delta(event)
            case "content_block_stop":
                index = self._indexes.pop(event.index, None)
                return [] if index is None else [BlockStop(index)]
            case "message_delta":
                return self._message_delta(event)
        return []

    def _start(self, event: ApiEvent) -> list[Event]:
        if event.message is None:
            raise protocol.ProtocolError("The CLI began a message without saying which")
        self._usage = merge_usage(Usage(), event.message.usage)
        if self.started:
            if self.spoke and self._stop is None:
                raise UpstreamError("The answer broke off and was begun again")
            self._indexes.clear()
            return []
        self.started = True
        return [MessageStart(event.message.id, event.message.model, self._usage)]

    def _open(self, upstream_index: int, raw: StreamBlock | None) -> list[Event]:
        block = _parse_block(raw)
        if block is None:
            return []
        index = self._next_index
        self._next_index += 1
        self._indexes[upstream_index] = index
        self.spoke = True
        return [BlockStart(index, block)]

    def _delta(self, event: ApiEvent) -> list[Event]:
        index = self._indexes.get(event.index)
        if index is None:
            return []
        delta = event.delta
        match delta.type:
            case "text_delta":
                return [TextDelta(index, delta.text)] if delta.text else []
            case "thinking_delta":
                return [ThinkingDelta(index, delta.thinking)] if delta.thinking else []
            case "signature_delta":
                return [SignatureDelta(index, delta.signature)]
            case "input_json_delta":
                return [ToolInputDelta(index, delta.partial_json)] if delta.partial_json else []
        return []

    def _message_delta(self, event: ApiEvent) -> list[Event]:
        self._usage = merge_usage(self._usage, event.usage)
        if event.delta.stop_reason is None:
            return []
        details = event.delta.stop_details or {}
        explanation = details.get("explanation")
        self._stop = MessageEnd(
            event.delta.stop_reason,
            event.delta.stop_sequence,
            self._usage,
            explanation if isinstance(explanation, str) else None,
        )
        if event.delta.stop_reason not in CONTINUED_BY_CLI:
            return []
        self.cut = True
        return self._end()

    def _finish(self, result: Result) -> list[Event]:
        if result.is_error:
            raise self._classify(result.api_error_status, result.result or "The Claude Code CLI failed", result)
        if not self.started:
            raise UpstreamError("The Claude Code CLI ended the turn without an answer")
        if self._stop is None:
            raise UpstreamError("The answer broke off")
        return self._end()

    def _end(self) -> list[Event]:
        self.done = True
        assert self._stop is not None
        closing: list[Event] = [BlockStop(index) for index in sorted(self._indexes.values())]
        return [*closing, self._stop]

    def _classify(self, status: int | None, message: str, source: Result | ApiRetry) -> ProxyError:
        notice = self._notice.error if self._notice is not None else None
        if isinstance(source, Result) and source.terminal_reason in TOO_LONG:
            return ContextTooLong("The conversation is longer than the model's context: prompt is too long")
        if status in (401, 403) or (status is None and notice == "authentication_failed"):
            return NotAuthenticated(f"The Claude Code CLI is not logged in. Run: {LOGIN}")
        if status == 429:
            return self._limit(source)
        known, own_message = _BY_STATUS.get(status or 0, (UpstreamError, None))
        return known(own_message or message)

    def _limit(self, source: Result | ApiRetry) -> ProxyError:
        info = self.rate_limit
        if info is not None and info.status == "rejected":
            left = max(1.0, info.resets_at - self._now) if info.resets_at is not None else None
            return PlanLimitReached(
                "The plan's limit is reached; the API takes no more until it is reset", retry_after=left
            )
        wait = source.retry_delay_ms / 1000 if isinstance(source, ApiRetry) else None
        return RateLimited("The API takes no more requests at the moment", retry_after=max(1.0, wait or 0.0))


_OVERLOADED = "The API is overloaded; try again in a moment"
_BY_STATUS: dict[int, tuple[type[ProxyError], str | None]] = {
    400: (BadRequest, None),
    404: (ModelNotFound, "The model does not exist, or this account has no access to it"),
    413: (BodyTooLarge, "The conversation is larger than the API takes (32 MB)"),
    503: (Overloaded, _OVERLOADED),
    529: (Overloaded, _OVERLOADED),
}


def merge_usage(known: Usage, update: protocol.Usage | None) -> Usage:
    """Counts of a later event replace those of an earlier one, where it has them."""
    if update is None:
        return known
    details = update.output_tokens_details or {}
    thinking = details.get("thinking_tokens")
    return Usage(
        input_tokens=_first(update.input_tokens, known.input_tokens),
        output_tokens=_first(update.output_tokens, known.output_tokens),
        cache_read_input_tokens=_first(update.cache_read_input_tokens, known.cache_read_input_tokens),
        cache_creation_input_tokens=_first(update.cache_creation_input_tokens, known.cache_creation_input_tokens),
        thinking_tokens=_first(thinking if isinstance(thinking, int) else None, known.thinking_tokens),
    )


def _first(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _parse_block(raw: StreamBlock | None) -> AnswerBlock | None:
    match raw:
        case StreamBlock("text"):
            return Text(raw.text)
        case StreamBlock("thinking"):
            return Thinking(raw.thinking)
        case StreamBlock("tool_use"):
            return ToolUse(raw.id, raw.name, {})
    return None
