"""The canonical stream of an answer, in the Messages API's own words, and the fold that makes it one object.

In: what a turn yields, in order: `MessageStart`, then for each content block `BlockStart`, deltas, `BlockStop`, at the
end `MessageEnd`. Out of `collect`: a `Completion`. Failures are exceptions, never events.
Rule: indexes are 0, 1, 2, …, blocks never overlap, and `MessageEnd` comes exactly once, last.
Source of the shapes: https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from .conversation import AnswerBlock, Text, Thinking, ToolUse, parse_tool_input
from .json_text import mend_text


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the CLI reports them. `input_tokens` excludes both cache counts; `output_tokens` includes thinking."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    thinking_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        """All that was read: fresh, from the cache and into the cache, as OpenAI counts it."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_creation_input_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            self.thinking_tokens + other.thinking_tokens,
        )


@dataclass(frozen=True, slots=True)
class MessageStart:
    """`model` is the id that really answers; `usage` holds the input counts."""

    id: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class BlockStart:
    """`block` is empty so far: a `Text`, a `Thinking`, or a `ToolUse` with its id and name."""

    index: int
    block: AnswerBlock


@dataclass(frozen=True, slots=True)
class TextDelta:
    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    index: int
    thinking: str


@dataclass(frozen=True, slots=True)
class SignatureDelta:
    index: int
    signature: str


@dataclass(frozen=True, slots=True)
class ToolInputDelta:
    index: int
    partial_json: str


@dataclass(frozen=True, slots=True)
class BlockStop:
    index: int


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """`stop_reason` in the Messages API's words: `end_turn`, `max_tokens`, `stop_sequence`, `tool_use`, `refusal`, ….

    explanation: why the model refused, where it said so.
    """

    stop_reason: str
    stop_sequence: str | None
    usage: Usage
    explanation: str | None = None


Delta = TextDelta | ThinkingDelta | SignatureDelta | ToolInputDelta
Event = MessageStart | BlockStart | Delta | BlockStop | MessageEnd


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: `blocks` in order, thinking included."""

    id: str
    model: str
    blocks: tuple[AnswerBlock, ...]
    end: MessageEnd

    @property
    def stop_reason(self) -> str:
        return self.end.stop_reason

    @property
    def usage(self) -> Usage:
        return self.end.usage

    @property
    def text(self) -> str:
        return "".join(block.text for block in self.blocks if isinstance(block, Text))

    @property
    def thinking(self) -> str:
        return "".join(block.thinking for block in self.blocks if isinstance(block, Thinking))


@dataclass(slots=True)
class Collector:
    """Folds events into a `Completion`, one `add` at a time, so that a stream can be kept and passed on at once."""

    start: MessageStart | None = None
    end: MessageEnd | None = None
    _open: dict[int, tuple[AnswerBlock, list[str], list[str]]] = field(default_factory=dict)
    _closed: dict[int, AnswerBlock] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        match event:
            case MessageStart():
                self.start = event
            case BlockStart(index, block):
                self._open[index] = (block, [], [])
            case TextDelta(index, piece) | ThinkingDelta(index, piece) | ToolInputDelta(index, piece):
                self._open[index][1].append(piece)
            case SignatureDelta(index, signature):
                self._open[index][2].append(signature)
            case BlockStop(index):
                self._closed[index] = _finish_block(*self._open.pop(index))
            case MessageEnd():
                self.end = event

    def completion(self) -> Completion:
        """The answer so far; raises ValueError before `MessageStart` and `MessageEnd` have been added."""
        if self.start is None or self.end is None:
            raise ValueError("the stream has not ended")
        blocks = tuple(self._closed[index] for index in sorted(self._closed))
        return Completion(self.start.id, self.start.model, blocks, self.end)


def collect(events: Iterable[Event]) -> Completion:
    """Fold a whole stream; what a non-streaming answer is made of."""
    collector = Collector()
    for event in events:
        collector.add(event)
    return collector.completion()


def _finish_block(block: AnswerBlock, pieces: list[str], signatures: list[str]) -> AnswerBlock:
    match block:
        case Text():
            return Text(block.text + "".join(pieces))
        case Thinking():
            return Thinking(block.thinking + "".join(pieces), signatures[-1] if signatures else block.signature)
        case ToolUse():
            arguments = mend_text("".join(pieces))
            return ToolUse(block.id, block.name, parse_tool_input(arguments), arguments)
