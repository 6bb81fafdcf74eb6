"""PURE: the CLI's messages of one agent turn -> canonical events, or the error that they mean.

In: typed messages, one at a time (`feed`). Out: events; what else happened is in `happened` until somebody takes it.
Rules: the texts of all model calls are one answer, a blank line between those of two calls; tools are shown as progress
and never as calls; what a sub-agent says is no answer; the turn ends when the CLI says so.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from ...core.conversation import Text, Thinking
from ...core.errors import Forbidden
from ...core.events import (
    BlockStart,
    BlockStop,
    Event,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    Usage,
)
from ..wire.protocol import (
    ApiEvent,
    Assistant,
    Inbound,
    ModelUsage,
    Result,
    StreamMessage,
    UserLine,
)
from .progress import Running, describe, ended_line, failure_of, started_line
from .turn_translator import TurnTranslator, merge_usage

Happening = tuple[Literal["tool_started", "tool_ended"], dict[str, Any]]
Shape = Literal["text", "thinking", "progress"]

BROKE_OFF = "the model's answer broke off here, and was begun again"

# The CLI stops by itself at these limits of the user's own; the answer is whole as far as it goes.
LIMITS = {
    "error_max_turns": "stopped: the limit of model calls for one request is reached",
    "error_max_budget_usd": "stopped: the budget of this conversation is used up",
}


class AgentTranslator(TurnTranslator):
    """The state of one turn of an agent.

    running: the tools under way, by id. happened: what else happened, until somebody takes it.
    """

    def __init__(
        self, now: float, clock: Callable[[], float], *, progress: str = "reasoning", structured: bool = False
    ) -> None:
        """
        Args:
            now: see `TurnTranslator`.
            clock: seconds, for how long tools take.
            progress: none, reasoning or content.
            structured: see `TurnTranslator`.
        """
        super().__init__(now, structured=structured)
        self._clock = clock
        # Between the braces of an answer that must be JSON there is no place for anything else.
        self._progress = "reasoning" if structured and progress == "content" else progress
        self.running: dict[str, Running] = {}
        self.happened: list[Happening] = []
        self._call = Usage()
        self._before = Usage()
        self._told: Usage | None = None
        self._stop: str | None = None
        self._explanation: str | None = None
        self._spoke = False
        self._arriving: Shape | None = None
        self._open: Shape | None = None
        self._next_index = 0
        self._has_text = False
        self._said_in_call = False
        self._line_is_open = False
        self._waiting: list[str] = []

    def _feed_rest(self, inbound: Inbound) -> list[Event]:
        match inbound:
            case Assistant():
                return self._note_calls(inbound)
            case UserLine():
                return self._note_results(inbound)
        return []

    def _outlives_retries(self) -> bool:
        """The work so far is worth the wait."""
        return self.started

    def take(self) -> list[Happening]:
        """What happened since the last time."""
        happened, self.happened = self.happened, []
        return happened

    def _message_delta(self, event: ApiEvent) -> list[Event]:
        self._call = merge_usage(self._call, event.usage)
        self._stop = event.delta.stop_reason or self._stop
        explanation = (event.delta.stop_details or {}).get("explanation")
        self._explanation = explanation if isinstance(explanation, str) else None
        return []

    def _start(self, message: StreamMessage) -> list[Event]:
        events: list[Event] = []
        if self._spoke and self._stop is None:
            # The work so far is worth more than a clean text: what was said stays, and is said to have broken off.
            events = [*self._flush(), *self._show(BROKE_OFF)]
        if self._spoke or self._stop is not None:
            self._before += self._call
        self._call = merge_usage(Usage(), message.usage)
        self._stop, self._spoke, self._said_in_call, self._arriving = None, False, False, None
        if self.started:
            return events
        self.started = True
        return [MessageStart(message.id, message.model, self._call)]

    @property
    def usage(self) -> Usage:
        """What the client is told: the input of the newest call, the output of all."""
        both = self._before + self._call
        return replace(self._call, output_tokens=both.output_tokens, thinking_tokens=both.thinking_tokens)

    @property
    def total(self) -> Usage:
        """What all calls of the model took together so far; at the end those of sub-agents included."""
        return self._before + self._call if self._told is None else self._told

    def _begin_block(self, event: ApiEvent) -> list[Event]:
        """Nothing is opened before its first words: an empty block would be all that a client sees of it."""
        kind = event.content_block.type if event.content_block is not None else ""
        self._spoke = True
        shown = kind == "thinking" or (kind == "text" and not self._structured)
        self._arriving = ("text" if kind == "text" else "thinking") if shown else None
        return []

    def _delta(self, event: ApiEvent) -> list[Event]:
        delta = event.delta
        match delta.type:
            case "text_delta" if delta.text and self._arriving == "text":
                return self._text(delta.text)
            case "thinking_delta" if delta.thinking and self._arriving == "thinking":
                opening = self._switch("thinking")
                self._line_is_open = not delta.thinking.endswith("\n")
                return [*opening, ThinkingDelta(self._next_index - 1, delta.thinking)]
            case "signature_delta" if self._open == "thinking":
                return [SignatureDelta(self._next_index - 1, delta.signature)]
        return []

    def _text(self, text: str) -> list[Event]:
        opening = self._switch("text")
        apart = "\n\n" if self._has_text and not self._said_in_call else ""
        self._has_text = self._said_in_call = True
        return [*opening, TextDelta(self._next_index - 1, apart + text)]

    def _end_block(self, event: ApiEvent) -> list[Event]:
        return self._flush()

    def _flush(self) -> list[Event]:
        """Close the block that arrives, and show the lines that waited for its end."""
        self._arriving = None
        events = self._close() if self._open != "progress" else []
        waiting, self._waiting = self._waiting, []
        return [*events, *(event for line in waiting for event in self._show(line))]

    def _switch(self, shape: Shape) -> list[Event]:
        """Close what is open, unless it is of this shape, and open a block of it."""
        if self._open == shape:
            return []
        closing = self._close()
        self._open = shape
        index = self._next_index
        self._next_index += 1
        is_text = shape == "text" or (shape == "progress" and self._progress == "content")
        return [*closing, BlockStart(index, Text("") if is_text else Thinking(""))]

    def _close(self) -> list[Event]:
        if self._open is None:
            return []
        self._open = None
        return [BlockStop(self._next_index - 1)]

    def _show(self, line: str) -> list[Event]:
        """A line of progress; one that comes in the middle of a block waits for its end."""
        if self._progress == "none" or not self.started:
            return []
        if self._arriving is not None and self._open == self._arriving:
            self._waiting.append(line)
            return []
        if self._progress == "content":
            apart = "\n\n" if self._has_text and self._open != "progress" else "\n" if self._has_text else ""
            opening = self._switch("progress")
            self._has_text, self._said_in_call = True, False
            return [*opening, TextDelta(self._next_index - 1, apart + line)]
        opening = self._switch("progress")
        apart = "\n" if self._line_is_open else ""
        self._line_is_open = False
        return [*opening, ThinkingDelta(self._next_index - 1, f"{apart}{line}\n")]

    def _note_calls(self, line: Assistant) -> list[Event]:
        events: list[Event] = []
        for block in line.message.content:
            if block.type not in ("tool_use", "server_tool_use") or block.name == "StructuredOutput":
                continue
            inner = line.parent_tool_use_id is not None
            running = Running(block.name, describe(block.name, block.input), self._clock(), inner)
            if block.type == "tool_use":  # of one that ran at the API no line tells the end
                self.running[block.id] = running
                about = {"tool_id": block.id, "tool": running.tool, "label": running.label}
                self.happened.append(("tool_started", about))
            events += self._show(started_line(running))
        return events

    def _note_results(self, line: UserLine) -> list[Event]:
        events: list[Event] = []
        for result in line.results():
            alone = len(self.running) == 1
            running = self.running.pop(result["tool_use_id"], None)
            if running is not None:
                events += self._end_tool(result["tool_use_id"], running, failure_of(result), alone)
        return events

    def _end_tool(self, tool_id: str, running: Running, reason: str | None, alone: bool) -> list[Event]:
        seconds = self._clock() - running.started
        data = {"tool_id": tool_id, "tool": running.tool, "label": running.label, "seconds": round(seconds, 3)}
        self.happened.append(("tool_ended", {**data, "ok": reason is None}))
        return self._show(ended_line(running, seconds, reason, alone=alone))

    def _finish(self, result: Result) -> list[Event]:
        if result.spent():
            self._told = sum(map(_usage, result.spent()), Usage())
        limit = LIMITS.get(result.subtype)
        if limit is not None and self.started:
            return [*self._flush(), *self._show(limit), *self._end("max_tokens")]
        if result.subtype == "error_max_budget_usd":  # the CLI counts all that its session has ever cost
            raise Forbidden("The budget of this conversation is used up (--max-budget-usd)")
        if result.is_error and self._stop == "refusal":
            self.cut = True
            return self._end("refusal", self._explanation)
        stop = self._check_result(result, self._stop)
        if self._structured:
            text = self._take_structured(result)
            return [*self._switch("text"), TextDelta(self._next_index - 1, text), *self._end("end_turn")]
        return self._end("end_turn" if stop == "tool_use" else stop)

    def _end(self, stop_reason: str, explanation: str | None = None) -> list[Event]:
        self.done = True
        self.running.clear()
        return [*self._close(), MessageEnd(stop_reason, None, self.usage, explanation)]


def _usage(spent: ModelUsage) -> Usage:
    return Usage(
        spent.input_tokens,
        spent.output_tokens,
        spent.cache_read_input_tokens,
        spent.cache_creation_input_tokens,
        spent.thinking_tokens,
    )
