"""PURE: what a person is shown of a tool: one short line when it starts, one when it has ended.

In: a tool's name and input, its raw result. Out: text without line breaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

LONGEST_LABEL = 160
LONGEST_REASON = 200

# Which field of its input says best what a tool is about.
TELLING = {
    "Bash": "command",
    "Read": "file_path",
    "Write": "file_path",
    "Edit": "file_path",
    "NotebookEdit": "notebook_path",
    "Glob": "pattern",
    "Grep": "pattern",
    "WebFetch": "url",
    "WebSearch": "query",
    "Task": "description",
    "Agent": "description",
    "Skill": "skill",
}


@dataclass(frozen=True, slots=True)
class Running:
    """A tool under way; `started` on the clock of whoever asks for its seconds. inner: of a sub-agent."""

    tool: str
    label: str
    started: float
    inner: bool = False


def describe(tool: str, arguments: Any) -> str:
    """`Bash: pytest -q`: the name, and the telling part of the input, on one line."""
    values = arguments if isinstance(arguments, Mapping) else {}
    telling = values.get(TELLING.get(tool, ""))
    if not isinstance(telling, str):
        telling = msgspec.json.encode(values).decode() if values else ""
    return shorten(f"{tool}: {telling}" if telling else tool, LONGEST_LABEL)


def started_line(running: Running) -> str:
    return f"{_indent(running)}▸ {running.label}"


def ended_line(running: Running, seconds: float, reason: str | None, *, alone: bool) -> str:
    """reason: why it failed, None where it did not. alone: no other tool ran beside it, so that its name is enough."""
    mark = "✓" if reason is None else "✗"
    head = f"{_indent(running)}{mark} {running.tool if alone else running.label} ({seconds:.1f} s)"
    return f"{head}: {reason}" if reason else head


def failure_of(result: Mapping[str, Any]) -> str | None:
    """The first line of a `tool_result` that is an error; None for one that is none."""
    if not result.get("is_error"):
        return None
    content = result.get("content")
    if isinstance(content, list):
        content = "\n".join(str(block.get("text", "")) for block in content if isinstance(block, Mapping))
    text = str(content or "").removeprefix("<tool_use_error>").removesuffix("</tool_use_error>")
    return shorten(text.strip(), LONGEST_REASON) or "failed"


def shorten(text: str, longest: int) -> str:
    """The first line, cut to so many characters; `…` stands for what is left out."""
    lines = text.splitlines() or [""]
    first = "".join(character for character in lines[0] if character.isprintable())
    if len(first) > longest:
        return f"{first[: longest - 1]}…"
    return f"{first} …" if len(lines) > 1 else first


def _indent(running: Running) -> str:
    return "  " if running.inner else ""
