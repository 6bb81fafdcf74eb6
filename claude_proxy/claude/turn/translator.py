"""PURE: the CLI's messages of one turn -> canonical events, or the error that they mean.

In: typed messages, one at a time (`feed`). Out: events; `done` once the turn has ended. Failures are raised.
Rules: text of `<synthetic>` and of sub-agents is no answer; blocks of unknown types are left out and the indexes stay
contiguous; what was said is never said again: an answer that begins anew after its first word is an error.
"""

from collections.abc import Sequence

import msgspec

from ...core.conversation import AnswerBlock, Text, Thinking, ToolUse
from ...core.errors import BadRequest, UpstreamError
from ...core.events import (
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
from ..wire import protocol
from ..wire.protocol import (
    ApiEvent,
    ApiRetry,
    Assistant,
    Inbound,
    Init,
    RateLimit,
    RateLimitInfo,
    Result,
    StreamBlock,
    StreamEvent,
    ToolCall,
    UserLine,
)
from ..wire.toolset import Toolset
from .failures import FINAL_STATUSES, classify_result, classify_retry
from .stops import StopScanner

SYNTHETIC = "<synthetic>"

# After these the CLI asks the API to go on, by itself and with a note of its own in the history.
CONTINUED_BY_CLI = frozenset(("max_tokens", "refusal", "model_context_window_exceeded"))


class Translator:
    """The state of one turn. `done` after the last event; `cut` when the child goes on by itself and must be ended.

    now: Unix time in seconds, for what is left until a plan limit is reset. toolset: the client's functions.
    structured: the answer is what the CLI's own StructuredOutput tool is given, not what the model says beside it.
    stops: stop sequences that the API does not look for.
    """

    def __init__(
        self, now: float, toolset: Toolset | None = None, *, structured: bool = False, stops: Sequence[str] = ()
    ) -> None:
        self._now = now
        self._toolset = toolset or Toolset(())
        self._structured = structured
        self._stops = tuple(stops)
        self._scanners: dict[int, StopScanner] = {}
        self._called: set[str] = set()
        self._pending: set[str] = set()
        self.started = False
        self.spoke = False
        self.done = False
        self.cut = False
        self.rate_limit: RateLimitInfo | None = None
        self._usage = Usage()
        self._stop: MessageEnd | None = None
        self._stopped = False
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
            case ToolCall():
                self._pending.add(inbound.tool_use_id)
                return self._park()
            case UserLine() if self._called and self._called.intersection(inbound.answered_ids()):
                return self._answered_by_cli()
            case Init():
                self._check_tools(inbound)
            case ApiRetry() if inbound.error_status in FINAL_STATUSES:
                raise classify_retry(inbound, self.rate_limit, self._now)
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
                return self._close(event.index)
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                self._stopped = True
                return self._park()
        return []

    def _start(self, event: ApiEvent) -> list[Event]:
        if event.message is None:
            raise protocol.ProtocolError("The CLI began a message without saying which")
        self._usage = merge_usage(Usage(), event.message.usage)
        self._stopped = False
        if self.started:
            if self.spoke and self._stop is None:
                raise UpstreamError("The answer broke off and was begun again")
            self._indexes.clear()
            return []
        self.started = True
        return [MessageStart(event.message.id, event.message.model, self._usage)]

    def _open(self, upstream_index: int, raw: StreamBlock | None) -> list[Event]:
        block = parse_block(raw)
        if block is None:
            return []
        if isinstance(block, ToolUse):
            self._called.add(block.id)
            block = ToolUse(block.id, self._toolset.client_name(block.name), {})
        if self._structured:
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
                return self._text(index, delta.text)
            case "thinking_delta":
                return [ThinkingDelta(index, delta.thinking)] if delta.thinking else []
            case "signature_delta":
                return [SignatureDelta(index, delta.signature)]
            case "input_json_delta":
                return [ToolInputDelta(index, delta.partial_json)] if delta.partial_json else []
        return []

    def _text(self, index: int, text: str) -> list[Event]:
        """Text that can be shown; the end of the answer where one of our own stop sequences is met in it."""
        if not self._stops:
            return [TextDelta(index, text)] if text else []
        scanner = self._scanners.setdefault(index, StopScanner(self._stops))
        shown = scanner.feed(text)
        events: list[Event] = [TextDelta(index, shown)] if shown else []
        if scanner.found is not None:
            self.cut = True
            self._stop = MessageEnd("stop_sequence", scanner.found, self._usage)
            events += self._end()
        return events

    def _close(self, upstream_index: int) -> list[Event]:
        index = self._indexes.pop(upstream_index, None)
        if index is None:
            return []
        held = self._scanners[index].flush() if index in self._scanners else ""
        return [*([TextDelta(index, held)] if held else []), BlockStop(index)]

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
        if event.delta.stop_reason in CONTINUED_BY_CLI:
            self.cut = True
            return self._end()
        return []

    def _park(self) -> list[Event]:
        """The end of the answer once the model has stopped and the CLI waits for every call it made."""
        stopped = self._stopped and self._stop is not None and self._stop.stop_reason == "tool_use"
        return self._end() if stopped and self._pending and self._pending == self._called else []

    def _answered_by_cli(self) -> list[Event]:
        """The CLI has answered a call itself (arguments that are no JSON, a name that was not offered), and asks the
        API again. The client has seen the call, and answers it: what the CLI made of it must go."""
        if self._structured or self._stop is None:
            return []
        self.cut = True
        return self._end()

    def _check_tools(self, init: Init) -> None:
        missing = self._toolset.missing(init.tools)
        if missing:
            raise BadRequest(f"The CLI does not take the tools {', '.join(missing)[:200]}", param="tools")

    def _finish(self, result: Result) -> list[Event]:
        if result.is_error:
            raise classify_result(result, self._notice, self.rate_limit, self._now)
        if not self.started:
            raise UpstreamError("The Claude Code CLI ended the turn without an answer")
        if self._stop is None:
            raise UpstreamError("The answer broke off")
        if self._structured:
            return self._end_structured(result)
        return self._end()

    def _end_structured(self, result: Result) -> list[Event]:
        """The one text block that the client asked for. Its child's history holds a tool call instead: cut."""
        if result.structured_output is None:
            raise UpstreamError("The model did not answer with JSON of this schema")
        self.cut = True
        self._stop = MessageEnd("end_turn", None, self._usage)
        text = msgspec.json.encode(result.structured_output).decode()
        return [BlockStart(0, Text("")), TextDelta(0, text), BlockStop(0), *self._end()]

    def _end(self) -> list[Event]:
        self.done = True
        assert self._stop is not None
        closing: list[Event] = [BlockStop(index) for index in sorted(self._indexes.values())]
        return [*closing, self._stop]


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


def parse_block(raw: StreamBlock | None) -> AnswerBlock | None:
    match raw:
        case StreamBlock("text"):
            return Text(raw.text)
        case StreamBlock("thinking"):
            return Thinking(raw.thinking)
        case StreamBlock("tool_use"):
            return ToolUse(raw.id, raw.name, {})
    return None
