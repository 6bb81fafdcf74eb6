"""PURE: the CLI's messages of one turn -> canonical events, or the error that they mean.

In: typed messages, one at a time (`feed`). Out: events; `done` once the turn has ended. Failures are raised.
Invariant: the first stop reason of the model ends the answer, whatever the CLI does next. What it begins by itself then
(a reminder about an empty answer, a call that it answered itself, a retry) is not the answer, and the turn is cut.
Blocks of unknown types are left out and the indexes stay contiguous; an answer that begins anew after its first word,
and before its stop reason, is an error.
"""

from collections.abc import Callable, Sequence

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
from ..wire.protocol import (
    ApiEvent,
    ApiRetry,
    Inbound,
    Init,
    Result,
    StreamBlock,
    StreamMessage,
    ToolCall,
    UserLine,
)
from ..wire.toolset import Toolset
from .stops import StopScanner
from .turn_translator import TurnTranslator, merge_usage

# After these the CLI asks the API to go on, by itself and with a note of its own in the history.
CONTINUED_BY_CLI = frozenset(("max_tokens", "refusal", "model_context_window_exceeded"))


class Translator(TurnTranslator):
    """The state of one turn without an agent; `cut` when the child goes on by itself and must be ended."""

    def __init__(
        self,
        now: float,
        toolset: Toolset | None = None,
        *,
        structured: bool = False,
        stops: Sequence[str] = (),
        accepts: Callable[[str], bool] | None = None,
    ) -> None:
        """
        Args:
            now: see `TurnTranslator`.
            toolset: the client's functions.
            structured: see `TurnTranslator`.
            stops: stop sequences that the API does not look for.
            accepts: of a structured answer: True for a text that is what the schema asks for. A model may write it as
                text, where the CLI would remind it of its tool.
        """
        super().__init__(now, structured=structured)
        self._toolset = toolset or Toolset(())
        self._stops = tuple(stops)
        self._scanners: dict[int, StopScanner] = {}
        self._called: set[str] = set()
        self._pending: set[str] = set()
        self._spoke = False
        self._usage = Usage()
        self._accepts = accepts
        self._texts: list[str] = []
        self._stop: MessageEnd | None = None
        self._stopped = False
        self._is_answered = False
        self._indexes: dict[int, int] = {}
        self._next_index = 0

    @property
    def total(self) -> Usage:
        return self._usage if self._stop is None else self._stop.usage

    @property
    def is_ending(self) -> bool:
        return self._stop is not None and not self._awaits_json and not self.done

    @property
    def _awaits_json(self) -> bool:
        """The answer is what the CLI's own tool is given; unless the model has called a function of the client's."""
        return self._structured and not self._called

    def cut_off(self) -> list[Event]:
        return self._cut()

    def _feed_rest(self, inbound: Inbound) -> list[Event]:
        match inbound:
            case ToolCall():
                self._pending.add(inbound.tool_use_id)
                return self._park()
            case UserLine() if self._called.intersection(inbound.answered_ids()):
                self._is_answered = True
                return self._cut() if self.is_ending else []
            case ApiRetry() if self.is_ending:
                return self._cut()
            case Init():
                self._check_tools(inbound)
        return []

    def _start(self, message: StreamMessage) -> list[Event]:
        if self.is_ending:
            return self._cut()
        self._usage = merge_usage(Usage(), message.usage)
        self._stopped = False
        self._texts.clear()
        if self.started:
            if self._spoke and self._stop is None:
                raise UpstreamError("The answer broke off and was begun again")
            self._indexes.clear()
            return []
        self.started = True
        return [MessageStart(message.id, message.model, self._usage)]

    def _begin_block(self, event: ApiEvent) -> list[Event]:
        block = parse_block(event.content_block)
        if block is None:
            return []
        is_ours = isinstance(block, ToolUse) and self._structured and not self._toolset.offers(block.name)
        if isinstance(block, ToolUse) and not is_ours:
            self._called.add(block.id)
            block = ToolUse(block.id, self._toolset.client_name(block.name), {})
        elif self._structured:
            return []
        index = self._next_index
        self._next_index += 1
        self._indexes[event.index] = index
        self._spoke = True
        return [BlockStart(index, block)]

    def _delta(self, event: ApiEvent) -> list[Event]:
        index = self._indexes.get(event.index)
        if index is None:
            if self._structured:
                self._texts.append(event.delta.text)
            return []
        delta = event.delta
        match delta.type:
            case "text_delta":
                self._texts.append(delta.text)
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
            self._stop = MessageEnd("stop_sequence", scanner.found, self._usage)
            events += self._cut()
        return events

    def _end_block(self, event: ApiEvent) -> list[Event]:
        index = self._indexes.pop(event.index, None)
        if index is None:
            return []
        held = self._scanners[index].flush() if index in self._scanners else ""
        return [*([TextDelta(index, held)] if held else []), BlockStop(index)]

    def _message_delta(self, event: ApiEvent) -> list[Event]:
        self._usage = merge_usage(self._usage, event.usage)
        if event.delta.stop_reason is None or self.is_ending:
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
            return self._cut()
        if self._awaits_json:
            return self._take_text()
        # The CLI reminds a model that has shown nothing, and asks it again.
        is_blank = not self._called and not "".join(self._texts).strip()
        return self._cut() if is_blank or self._is_answered else []

    def _take_text(self) -> list[Event]:
        """The end of a structured answer that the model has written as text; nothing where it has not."""
        text = "".join(self._texts)
        if self._accepts is None or not self._accepts(text):
            return []
        self.cut = True
        return self._whole(text)

    def _stop_message(self) -> list[Event]:
        self._stopped = True
        return self._park()

    def _park(self) -> list[Event]:
        """The end of the answer once the model has stopped and the CLI waits for every call it made, which it does
        whatever the stop reason is."""
        is_parked = self._stopped and self.is_ending and self._pending and self._pending == self._called
        return self._end() if is_parked else []

    def _cut(self) -> list[Event]:
        """The end of the answer; the CLI goes on by itself, and must be stopped."""
        self.cut = True
        return self._end()

    def _check_tools(self, init: Init) -> None:
        missing = self._toolset.missing(init.tools)
        if missing:
            raise BadRequest(f"The CLI does not take the tools {', '.join(missing)[:200]}", param="tools")

    def _finish(self, result: Result) -> list[Event]:
        if self.is_ending:
            # What became of the CLI after the model's stop is not the answer; it may have spoilt the history.
            return self._cut() if result.is_error or self._called else self._end()
        self._check_result(result, self._stop)
        return self._whole(self._take_structured(result)) if self._awaits_json else self._end()

    def _whole(self, text: str) -> list[Event]:
        """A structured answer in one piece."""
        self._stop = MessageEnd("end_turn", None, self._usage)
        return [BlockStart(0, Text("")), TextDelta(0, text), BlockStop(0), *self._end()]

    def _end(self) -> list[Event]:
        self.done = True
        assert self._stop is not None
        closing: list[Event] = [BlockStop(index) for index in sorted(self._indexes.values())]
        return [*closing, self._stop]


def parse_block(raw: StreamBlock | None) -> AnswerBlock | None:
    match raw:
        case StreamBlock("text"):
            return Text(raw.text)
        case StreamBlock("thinking"):
            return Thinking(raw.thinking)
        case StreamBlock("tool_use"):
            return ToolUse(raw.id, raw.name, {})
    return None
