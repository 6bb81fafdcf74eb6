"""PURE: what the translators of both modes do the same way.

`translator.py` and `agent_translator.py` build on it; `ask.py` feeds it. In: typed messages of one turn. Out: canonical
events, or the error that a message means. Invariant: text of `<synthetic>` and of sub-agents is not an answer, and a
turn that ended without a whole answer is an error.
"""

from abc import ABC, abstractmethod
from typing import TypeVar

import msgspec

from ...core.errors import UpstreamError
from ...core.events import Event, Usage
from ..wire import protocol
from ..wire.protocol import (
    ApiEvent,
    ApiRetry,
    Assistant,
    Inbound,
    RateLimit,
    RateLimitInfo,
    Result,
    StreamEvent,
    StreamMessage,
)
from .failures import FINAL_STATUSES, classify_result, classify_retry

SYNTHETIC = "<synthetic>"

Stop = TypeVar("Stop")


class TurnTranslator(ABC):
    """The state of one turn.

    started: the answer has begun. done: the last event is out. cut: the child must not go on in this conversation.
    rate_limit: the newest state of the plan that the CLI has named.
    """

    def __init__(self, now: float, *, structured: bool = False) -> None:
        """now: Unix seconds, for what is left until a plan limit is reset. structured: the answer is what the CLI's own
        StructuredOutput tool is given, not what the model says beside it.
        """
        self._now = now
        self._structured = structured
        self.started = False
        self.done = False
        self.cut = False
        self.rate_limit: RateLimitInfo | None = None
        self._notice: Assistant | None = None

    def feed(self, inbound: Inbound) -> list[Event]:
        """The events that one message means, oldest first. Raises the ProxyError that it means instead."""
        match inbound:
            case StreamEvent(event, None):
                return self._translate(event)
            case Assistant() if inbound.message.model == SYNTHETIC:
                self._notice = inbound
                return []
            case RateLimit(info):
                self.rate_limit = info
            case ApiRetry() if self._is_final(inbound):
                raise classify_retry(inbound, self.rate_limit, self._now)
            case Result():
                return self._finish(inbound)
        return self._feed_rest(inbound)

    def _is_final(self, retry: ApiRetry) -> bool:
        return retry.error_status in FINAL_STATUSES and not self._outlives_retries() and not self.is_ending

    def _translate(self, event: ApiEvent) -> list[Event]:
        match event.type:
            case "message_start":
                if event.message is None:
                    raise protocol.ProtocolError("The CLI began a message without saying which")
                return self._start(event.message)
            case "content_block_start":
                return self._begin_block(event)
            case "content_block_delta":
                return self._delta(event)
            case "content_block_stop":
                return self._end_block(event)
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                return self._stop_message()
        return []

    @property
    @abstractmethod
    def total(self) -> Usage:
        """What all calls of the model took together so far."""

    @property
    def is_ending(self) -> bool:
        """True once the model has stopped, while the CLI has not: that takes milliseconds."""
        return False

    def cut_off(self) -> list[Event]:
        """The end of an answer whose model has stopped; the CLI says no more. Called only while `is_ending`."""
        raise NotImplementedError

    def _outlives_retries(self) -> bool:
        """True where a failed call that the CLI would make again does not end the turn."""
        return False

    @abstractmethod
    def _feed_rest(self, inbound: Inbound) -> list[Event]:
        """The messages that each mode takes in its own way."""

    @abstractmethod
    def _start(self, message: StreamMessage) -> list[Event]: ...

    @abstractmethod
    def _begin_block(self, event: ApiEvent) -> list[Event]: ...

    @abstractmethod
    def _delta(self, event: ApiEvent) -> list[Event]: ...

    @abstractmethod
    def _end_block(self, event: ApiEvent) -> list[Event]: ...

    @abstractmethod
    def _message_delta(self, event: ApiEvent) -> list[Event]: ...

    def _stop_message(self) -> list[Event]:
        return []

    @abstractmethod
    def _finish(self, result: Result) -> list[Event]: ...

    def _check_result(self, result: Result, stop: Stop | None) -> Stop:
        """What the model said of its end. Raises the error of a turn that ended badly, or before the model said so."""
        if result.is_error:
            raise classify_result(result, self._notice, self.rate_limit, self._now)
        if not self.started:
            raise UpstreamError("The Claude Code CLI ended the turn without an answer")
        if stop is None:
            raise UpstreamError("The answer broke off")
        return stop

    def _take_structured(self, result: Result) -> str:
        """The JSON that the client asked for. The history of its child holds a tool call instead: cut."""
        if result.structured_output is None:
            raise UpstreamError("The model did not answer with JSON of this schema")
        self.cut = True
        return msgspec.json.encode(result.structured_output).decode()


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
