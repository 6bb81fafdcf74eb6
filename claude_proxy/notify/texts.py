"""The texts of Telegram messages: plain, short, without anything of a prompt, an answer or a tool's output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..monitoring.activity import Entry

LONGEST_TEXT = 4096
LONGEST_LINE = 200
TOOLS_SHOWN = 6


@dataclass(slots=True)
class Tool:
    """A tool that runs; seconds and ok: None until it has ended."""

    id: str
    name: str
    label: str
    seconds: float | None = None
    ok: bool | None = None

    def end(self, seconds: float, ok: bool) -> None:
        """It has ended, after so many seconds. ok: without an error."""
        self.seconds, self.ok = seconds, ok

    def __str__(self) -> str:
        if self.seconds is None:
            outcome = "running"
        else:
            outcome = f"{'' if self.ok else 'failed, '}{self.seconds:.1f} s"
        return f"{name_tool(self.name, self.label)} ({outcome})"


def build_progress(entry: Entry, tools: Sequence[Tool], count: int) -> str:
    """The last tools of a request, of `count` in all."""
    earlier = count - len(tools)
    head = [f"Tools at work: {_describe(entry)}", *([f"({earlier} earlier)"] if earlier else [])]
    return "\n".join([*head, *(f"- {tool}" for tool in tools)])


def build_permission(entry: Entry, data: Mapping[str, Any]) -> str:
    """data: of a notice `permission_asked`."""
    return "\n".join(
        (
            f"Permission wanted: {name_tool(data['tool'], data['label'])}",
            _describe(entry),
            f"Decide with POST /v1/permissions/{data['permission_id']}",
            'and {"decision": "allow"}, "always" or "deny"',
        )
    )


def build_silence(entry: Entry, tools: Sequence[Tool]) -> str:
    """A turn was killed; the tools are those that are known to have run."""
    running = [f"Running then: {name_tool(tool.name, tool.label)}" for tool in tools if tool.seconds is None]
    return "\n".join([f"Killed after a long silence: {_describe(entry)}", *running])


def build_limit(data: Mapping[str, Any]) -> str:
    """data: of a notice `rate_limit` that is worth a message."""
    window = f"Plan limit{' ' + _one_line(data['type']) if data['type'] else ''}"
    used = f"{data['utilization']:.0%} used" if data["utilization"] is not None else "nearly used up"
    state = "reached" if data["status"] == "rejected" else used
    return f"{window}: {state}{_describe_reset(data['resets_at'])}"


def name_tool(tool: str, label: str) -> str:
    """`Bash: make test`, in one line; a label that begins with the tool's name stands for itself."""
    text = label if label.startswith(tool) else f"{tool}: {label}" if label else tool
    return _one_line(text)


def fit(text: str) -> str:
    """As Telegram takes it: at most 4096 characters, counted as UTF-16 units to be safe, and no half ones."""
    units = text.encode("utf-16-le", "replace")
    if len(units) <= 2 * LONGEST_TEXT:
        return units.decode("utf-16-le")
    return units[: 2 * LONGEST_TEXT - 2].decode("utf-16-le", "ignore") + "…"


def _describe(entry: Entry) -> str:
    session = f", session {_one_line(entry.session)}" if entry.session else ""
    return f"{_one_line(entry.model)}{session}, request {entry.id}"


def _describe_reset(resets_at: float | None) -> str:
    """In this machine's own time; nothing for what is no time."""
    try:
        return f"; resets {datetime.fromtimestamp(resets_at or 0).astimezone():%Y-%m-%d %H:%M %z}" if resets_at else ""
    except (OverflowError, ValueError, OSError):
        return ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…"
