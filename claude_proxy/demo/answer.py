"""The answer to a request, made from its newest turn, before any of it becomes bytes.

In go a request and its newest turn, out comes a frozen `Answer`: blocks made of
tokens. A token is a word with the white space behind it, or a few characters of JSON. `max_tokens` and
`stop_sequences` are already applied; an answer with just as many tokens as `max_tokens` allows ends
normally.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, Mapping, Sequence

import msgspec

from .commands import CallCommand
from .instances import build_instance
from .request import MessagesRequest
from .turn import NewestTurn, Result, make_tool_use_id, read_rounds_left

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]

_WORDS = re.compile(r"\S+\s*|\s+")
_JSON_PIECES = re.compile(r".{1,12}", re.DOTALL)
_BROKEN_ARGUMENTS = '{"broken": '


@dataclass(frozen=True, slots=True)
class AnswerBlock:
    """One block of an answer. id and name belong to tool calls."""

    kind: Literal["thinking", "text", "tool_use"]
    tokens: tuple[str, ...]
    id: str = ""
    name: str = ""

    @property
    def text(self) -> str:
        """All tokens joined."""
        return "".join(self.tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer and why it ends. show_thinking: false hides the words of thinking, not its tokens."""

    blocks: tuple[AnswerBlock, ...]
    stop_reason: StopReason
    stop_sequence: str | None = None
    show_thinking: bool = True

    @property
    def output_tokens(self) -> int:
        """All tokens, thinking included."""
        return sum(len(block.tokens) for block in self.blocks)

    @property
    def thinking_tokens(self) -> int:
        """The tokens of thinking alone."""
        return sum(len(block.tokens) for block in self.blocks if block.kind == "thinking")


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: str
    rounds_left: int


def build_answer(request: MessagesRequest, turn: NewestTurn) -> Answer:
    """The answer to a request."""
    calls = _choose_calls(request, turn)
    text, stopped_by = _cut_at_stop(_choose_text(request, turn, calls), request.stop_sequences or ())
    if stopped_by is not None:
        calls = ()
    blocks = [*_build_thinking(request, turn), *_build_text(request, text), *map(_build_call, calls)]
    shown = request.thinking is None or request.thinking.display != "omitted"
    reason: StopReason = "tool_use" if calls else "end_turn"
    if turn.commands.refusal:
        reason = "refusal"
    elif stopped_by is not None:
        reason = "stop_sequence"
    answer = Answer(tuple(blocks), reason, stopped_by, shown)
    return answer if request.max_tokens is None else _cut_at_length(answer, request.max_tokens)


def _choose_calls(request: MessagesRequest, turn: NewestTurn) -> tuple[_Call, ...]:
    """Calls asked for by commands, else those to be made again, else one that `tool_choice` forces."""
    choice = request.tool_choice
    if turn.commands.refusal or (choice is not None and choice.type == "none"):
        return ()
    calls = tuple(_plan_call(request, call, turn.commands.rounds - 1) for call in turn.commands.calls)
    calls = calls or tuple(call for result in turn.results for call in _repeat(result))
    if not calls and choice is not None and choice.type in ("any", "tool") and request.tools:
        name = choice.name or request.tools[0].name
        calls = (_plan_call(request, CallCommand(name), 0),)
    return calls[:1] if choice is not None and choice.disable_parallel_tool_use else calls


def _plan_call(request: MessagesRequest, wanted: CallCommand, rounds_left: int) -> _Call:
    """A name that no tool has may be the end of one (`weather` for `mcp__client__weather`)."""
    tools = {tool.name: tool for tool in request.tools or ()}
    ending = next((name for name in tools if name.endswith(f"__{wanted.name}")), wanted.name)
    name = wanted.name if wanted.name in tools else ending
    if wanted.broken:
        return _Call(name, _BROKEN_ARGUMENTS, rounds_left)
    schema = tools[name].input_schema if name in tools else None
    arguments = wanted.arguments if wanted.arguments is not None else build_instance(schema or {"type": "object"})
    return _Call(name, _dump(arguments), rounds_left)


def _repeat(result: Result) -> tuple[_Call, ...]:
    left = read_rounds_left(result.call.id)
    return (_Call(result.call.name, _dump(result.call.input), left - 1),) if left else ()


def _choose_text(request: MessagesRequest, turn: NewestTurn, calls: Sequence[_Call]) -> str:
    commands = turn.commands
    if commands.say or commands.refusal:
        return "\n".join(commands.say)
    if commands.words is not None:
        return " ".join(f"word{number}" for number in range(1, commands.words + 1))
    forced = request.tool_choice is not None and request.tool_choice.type in ("any", "tool")
    if calls:
        return "" if forced else " ".join(f"Calling {call.name}." for call in calls)
    if request.format is not None:
        return _dump(build_instance(request.format.schema or {}))
    return _echo(turn)


def _echo(turn: NewestTurn) -> str:
    lines = []
    for result in turn.results:
        verb = "failed" if result.is_error else "said"
        lines.append(f"Tool {result.call.name} {verb}: {result.text}")
    said = " ".join(part for part in (turn.text, *turn.attachments) if part)
    if said:
        lines.append(f"You said: {said}")
    return "\n".join(lines) or "You said nothing."


def _cut_at_stop(text: str, sequences: Sequence[str]) -> tuple[str, str | None]:
    """The text before the first stop sequence in it, and that sequence."""
    found = [(text.index(sequence), sequence) for sequence in sequences if sequence in text]
    if not found:
        return text, None
    position, sequence = min(found)
    return text[:position], sequence


def _build_thinking(request: MessagesRequest, turn: NewestTurn) -> list[AnswerBlock]:
    if not (turn.commands.think and request.thinking_on):
        return []
    words = " ".join(f"thought{number}" for number in range(1, turn.commands.think + 1))
    return [AnswerBlock("thinking", tuple(_WORDS.findall(words)))]


def _build_text(request: MessagesRequest, text: str) -> list[AnswerBlock]:
    pattern = _JSON_PIECES if request.format is not None else _WORDS
    return [AnswerBlock("text", tuple(pattern.findall(text)))] if text else []


def _build_call(call: _Call) -> AnswerBlock:
    identity = make_tool_use_id(call.rounds_left)
    return AnswerBlock("tool_use", tuple(_JSON_PIECES.findall(call.arguments)), identity, call.name)


def _cut_at_length(answer: Answer, max_tokens: int) -> Answer:
    """The first `max_tokens` tokens; a block of which none is left is dropped."""
    if answer.output_tokens <= max_tokens:
        return answer
    left = max_tokens
    blocks = []
    for block in answer.blocks:
        if left > 0:
            blocks.append(replace(block, tokens=block.tokens[:left]))
        left -= len(block.tokens)
    return replace(answer, blocks=tuple(blocks), stop_reason="max_tokens", stop_sequence=None)


def _dump(value: Mapping[str, Any] | Any) -> str:
    return msgspec.json.encode(value).decode()
