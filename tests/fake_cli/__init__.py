"""Install the scripted stand-in for the `claude` binary, and read back what it saw.

    claude = install(tmp_path, Script(directives=("crash@delta:2#2",), texts={"hi": ("delay=0.1",)}))
    … start `claude` as the real one would be started …
    (child,) = read_log(claude)

The directives are the table in `claude.py`. The wrapper needs nothing from its environment: script and log lie beside
it.
"""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .claude import VERSION, parse_directive

SOURCE = Path(__file__).with_name("claude.py")


@dataclass(frozen=True, slots=True)
class Script:
    """How the installed CLI behaves. A process does all that applies to it, in the order of these fields."""

    directives: tuple[str, ...] = ()
    """In every process."""
    processes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Only in the n-th stream-json process, counted from 1 over the life of the folder."""
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Only in turns whose user text contains the key."""
    version: str = VERSION
    logged_in: bool = True
    plan: Mapping[str, Any] | str | None = None
    """`rate_limits` as `get_usage` answers them; None: no plan; `refused`: an error; `silent`: no answer."""
    recorded_variables: tuple[str, ...] = ()
    """Names of environment variables whose values go into the log."""


@dataclass(frozen=True, slots=True)
class Process:
    """What one process of the fake saw, as far as it came."""

    kind: str
    """`stream` or `command` (`--version`, `auth status`)."""
    number: int
    pid: int
    argv: tuple[str, ...]
    folder: str
    environment: frozenset[str]
    """Names; without those that a shell or Python sets by itself."""
    variables: Mapping[str, str]
    lines: tuple[str, ...]
    """Every line of stdin, without its end, oldest first."""
    signals: tuple[str, ...]
    grandchildren: tuple[int, ...]
    end: str | None
    """eof, crash, kill, SIGTERM, SIGINT, bad line, bad directive, stdout closed; None: running or killed."""
    status: int | None

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The lines of stdin, parsed; ValueError when one is no JSON."""
        return tuple(json.loads(line) for line in self.lines)

    @property
    def user_messages(self) -> tuple[dict[str, Any], ...]:
        """The `user` lines that start a turn."""
        return tuple(m for m in self.messages if m["type"] == "user" and m.get("shouldQuery") is not False)


def install(folder: Path, script: Script | Mapping[str, Any] | None = None) -> Path:
    """Write an executable `claude` into the folder; its path. ValueError for an unknown directive.

    Once more on the same folder: replaces the script for the processes to come and keeps the log.
    """
    if not isinstance(script, Script):
        script = Script(**(script or {}))
    for directives in (script.directives, *script.processes.values(), *script.texts.values()):
        for directive in directives:
            parse_directive(directive)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "claude.log"
    log.mkdir(exist_ok=True)
    _replace(folder / "claude.json", json.dumps(asdict(script) | {"log": str(log)}), 0o600)
    command = shlex.join([sys.executable, "-I", "-S", str(SOURCE), "--fake-script", str(folder / "claude.json")])
    _replace(folder / "claude", f'#!/bin/sh\nexec {command} "$@"\n', 0o700)
    return folder / "claude"


def _replace(path: Path, text: str, mode: int) -> None:
    # A rename: a process that starts meanwhile reads the old file or the new one, never half of it.
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    os.replace(new, path)


def read_log(claude: Path, kind: str = "stream") -> tuple[Process, ...]:
    """The processes of this kind that were started from this wrapper, in the order of their start."""
    files = claude.with_name("claude.log").glob(f"{kind}-*.jsonl")
    numbered = sorted((int(file.stem.rpartition("-")[2]), file) for file in files)
    found = (_read_process(kind, number, file) for number, file in numbered)
    return tuple(process for process in found if process is not None)


def _read_process(kind: str, number: int, file: Path) -> Process | None:
    """None before its first event; an event that is still being written is left out."""
    events = [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if not events:
        return None
    start = events[0]
    last = events[-1] if events[-1]["event"] == "end" else {}

    def each(event: str, name: str) -> Iterator[Any]:
        return (one[name] for one in events if one["event"] == event)

    return Process(
        kind=kind,
        number=number,
        pid=start["pid"],
        argv=tuple(start["argv"]),
        folder=start["folder"],
        environment=frozenset(start["environment"]),
        variables=start["variables"],
        lines=tuple(each("line", "text")),
        signals=tuple(each("signal", "name")),
        grandchildren=tuple(each("grandchild", "pid")),
        end=last.get("reason"),
        status=last.get("status"),
    )


def wait_for_log(
    claude: Path, seen: Callable[[tuple[Process, ...]], bool], timeout: float = 10.0
) -> tuple[Process, ...]:
    """The log as soon as it shows what is waited for; TimeoutError after that many seconds."""
    deadline = time.monotonic() + timeout
    while not seen(processes := read_log(claude)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the fake CLI's log never showed it: {processes}")
        time.sleep(0.005)
    return processes


def kill_everything(claude: Path) -> None:
    """SIGKILL by pid for every process and grandchild of this wrapper that is still there."""
    for process in read_log(claude):
        alive = () if process.end is not None else (process.pid,)
        for pid in (*alive, *process.grandchildren):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
