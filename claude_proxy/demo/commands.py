"""The words by which a prompt asks the demo for something special, such as `demo:delay=50`.

In goes the newest text of the user, out come that text without its commands and a frozen `Commands`.
`COMMANDS` is the whole list: what is not in it, or has a value that cannot be, stays in the text and is
echoed like any other word.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping

# What a reader makes of the text right behind a command's name: the value and how many characters it took, or
# None.
Reading = tuple[Any, int] | None
Reader = Callable[[str], Reading]

_WORD = re.compile(r"(?<!\S)demo:([a-z-]+)")
_END = re.compile(r"(?!\S)")
_NUMBER = re.compile(r"=(\d{1,9}(?:\.\d{1,6})?)(?!\S)")
_NAME = re.compile(r"=([A-Za-z0-9_-]{1,128})")
_LINE = re.compile(r"=([^\r\n]*)")
_BLANKS = re.compile(r"[ \t]*")

MAX_TOKENS = 100_000
MAX_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class CallCommand:
    """A tool call that was asked for.

    arguments: the JSON object given, or None for an instance of the tool's schema. broken: send arguments
    that are not JSON.
    """

    name: str
    arguments: Mapping[str, Any] | None = None
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Commands:
    """All that one prompt asked for. Times are seconds; `math.inf` is for ever; None is "not asked"."""

    delay: float = 0.0
    words: int | None = None
    say: tuple[str, ...] = ()
    think: int = 0
    calls: tuple[CallCommand, ...] = ()
    rounds: int = 1
    status: int | None = None
    retry_after: int | None = None
    silence: float = 0.0
    stall: int | None = None
    cut: int | None = None
    error: int | None = None
    refusal: bool = False
    toolong: bool = False
    limit: str | None = None
    reset: int = 3600


@dataclass(frozen=True, slots=True)
class Command:
    """One line of the list: the word, an example, what it does, and how its value is read.

    target: the field of `Commands` that it sets; a tuple there collects several of the same word.
    """

    name: str
    example: str
    meaning: str
    read: Reader = field(repr=False)
    target: str = ""


def parse_commands(text: str) -> tuple[str, Commands]:
    """Split a text into what is left of it for the echo and the commands found in it."""
    kept: list[str] = []
    found: dict[str, Any] = {}
    position = 0
    while match := _WORD.search(text, position):
        command = _BY_NAME.get(match[1])
        reading = command.read(text[match.end() :]) if command else None
        if command is None or reading is None:
            kept.append(text[position : match.end()])
            position = match.end()
            continue
        kept.append(text[position : match.start()])
        _note(found, command, reading[0])
        position = _skip_gap(text, match.end() + reading[1], at_line_start=_ends_line(kept))
    kept.append(text[position:])
    return "".join(kept).strip(), Commands(**found)


def _note(found: dict[str, Any], command: Command, value: Any) -> None:
    target = command.target or command.name
    if target in ("calls", "say"):
        value = (*found.get(target, ()), value)
    found[target] = value


def _ends_line(kept: list[str]) -> bool:
    before = "".join(kept)
    return not before or before.endswith("\n")


def _skip_gap(text: str, position: int, *, at_line_start: bool) -> int:
    """Pass the blanks behind a command, and the end of a line that held nothing else."""
    blanks = _BLANKS.match(text, position)
    position = blanks.end() if blanks else position
    if at_line_start and text.startswith("\n", position):
        position += 1
    return position


def _read_flag(tail: str) -> Reading:
    return (True, 0) if _END.match(tail) else None


def _number(low: int, high: int, *, default: float | None = None, scale: float | None = None) -> Reader:
    """A reader of whole numbers, or with `scale` of decimal ones multiplied by it."""

    def read(tail: str) -> Reading:
        if default is not None and _END.match(tail):
            return default, 0
        match = _NUMBER.match(tail)
        if match is None or not low <= float(match[1]) <= high:
            return None
        if scale is not None:
            return float(match[1]) * scale, match.end()
        return (int(match[1]), match.end()) if match[1].isdigit() else None

    return read


def _read_line(tail: str) -> Reading:
    match = _LINE.match(tail)
    return (match[1], match.end()) if match else None


def _choice(*choices: str) -> Reader:
    pattern = re.compile(f"=({'|'.join(choices)})(?!\\S)")

    def read(tail: str) -> Reading:
        match = pattern.match(tail)
        return (match[1], match.end()) if match else None

    return read


def _read_broken_call(tail: str) -> Reading:
    match = _NAME.match(tail)
    return (CallCommand(match[1], broken=True), match.end()) if match and _END.match(tail, match.end()) else None


def _read_call(tail: str) -> Reading:
    """`=NAME`, or `=NAME{…}` with a JSON object that may contain blanks and line ends."""
    match = _NAME.match(tail)
    if match is None:
        return None
    if _END.match(tail, match.end()):
        return CallCommand(match[1]), match.end()
    if not tail.startswith("{", match.end()):
        return None
    try:
        arguments, end = json.JSONDecoder().raw_decode(tail, match.end())
    except (ValueError, RecursionError):
        return None
    return (CallCommand(match[1], arguments), end) if _END.match(tail, end) else None


COMMANDS: tuple[Command, ...] = (
    Command("delay", "demo:delay=50", "milliseconds before each token", _number(0, 60_000, scale=0.001)),
    Command("words", "demo:words=400", "an answer of that many words", _number(0, MAX_TOKENS)),
    Command("say", "demo:say=TEXT", "exactly this answer, up to the end of the line", _read_line),
    Command(
        "think",
        "demo:think=20",
        "a thinking block of that many words first (10 without a number), if the request has thinking on",
        _number(1, MAX_TOKENS, default=10),
    ),
    Command(
        "call",
        'demo:call=NAME{"json":1}',
        "a call of that tool, without JSON one made from its schema; several words are parallel calls",
        _read_call,
        target="calls",
    ),
    Command("rounds", "demo:rounds=10", "with a call: the same call again after each result", _number(1, 10_000)),
    Command(
        "badargs",
        "demo:badargs=NAME",
        "a call of that tool whose arguments are not JSON",
        _read_broken_call,
        target="calls",
    ),
    Command("status", "demo:status=529", "this error status instead of an answer", _number(400, 599)),
    Command(
        "retry-after",
        "demo:retry-after=7",
        "a `retry-after` header of so many seconds",
        _number(0, MAX_SECONDS),
        target="retry_after",
    ),
    Command(
        "silence",
        "demo:silence=3",
        "so many seconds of silence before the first byte (without a number: for ever)",
        _number(0, MAX_SECONDS, default=math.inf, scale=1.0),
    ),
    Command("stall", "demo:stall=5", "silence for ever after so many words", _number(0, MAX_TOKENS)),
    Command("cut", "demo:cut=5", "the connection is cut after so many words", _number(0, MAX_TOKENS)),
    Command("error", "demo:error=5", "an `error` event in the stream after so many words", _number(0, MAX_TOKENS)),
    Command("refusal", "demo:refusal", "an answer that ends with stop reason `refusal`", _read_flag),
    Command("toolong", "demo:toolong", "the error for a prompt that is too long", _read_flag),
    Command(
        "limit",
        "demo:limit=rejected",
        "the headers of a plan limit: `allowed`, `allowed_warning`, or `rejected` with status 429",
        _choice("allowed", "allowed_warning", "rejected"),
    ),
    Command("reset", "demo:reset=3600", "with a limit: seconds until it is lifted", _number(1, 10 * MAX_SECONDS)),
)

_BY_NAME: Mapping[str, Command] = {command.name: command for command in COMMANDS}
