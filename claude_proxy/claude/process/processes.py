"""The process table: who descends from a child, and how to end all of them.

Bash commands of the CLI have sessions of their own, so that neither its process group nor its death reaches them:
they are looked up before the child is killed. Linux is read from /proc, other systems from `ps`.
"""

import contextlib
import os
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

PS_TIMEOUT = 5.0


def descendants(pid: int) -> tuple[int, ...]:
    """Every process below `pid`, children before grandchildren; empty when it has none or is gone."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for process, parent in _parents().items():
        children[parent].append(process)
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found.extend(below)
        queue.extend(below)
    return tuple(found)


def started_at(pid: int) -> str | None:
    """A text that tells this process from a later one with the same number; None when it is gone."""
    stat = _read_stat(Path("/proc", str(pid), "stat"))
    if stat is not None:
        return stat[19]
    if Path("/proc/self/stat").exists():
        return None
    return _ps("-o", "lstart=", "-p", str(pid)).strip() or None


def send_signal(pid: int, number: int) -> None:
    """A signal to one process; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group_signal(pid: int, number: int) -> None:
    """A signal to the group that `pid` leads; one that is gone is no error."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    else:  # pragma: no cover - Windows has no process groups of this kind
        send_signal(pid, number)


def kill_family(pid: int, noted: dict[int, str]) -> None:
    """SIGKILL to the group that `pid` leads and to the descendants noted before (pid -> `started_at`)."""
    send_group_signal(pid, signal.SIGKILL)
    for descendant, birth in noted.items():
        if started_at(descendant) == birth:
            send_signal(descendant, signal.SIGKILL)


def kill_marked(folder: str) -> int:
    """SIGKILL to every process whose TMPDIR is `folder` or lies in it; returns how many there were.

    What a child's commands start inherits that variable, and keeps it when its parents are gone, whatever sessions and
    parents it has by then. Linux only: elsewhere a process's environment cannot be relied on.
    """
    mark = b"TMPDIR=" + os.fsencode(folder)
    below = mark + b"/"
    found = 0
    for entry in _entries():
        with contextlib.suppress(OSError):
            variables = Path("/proc", entry, "environ").read_bytes().split(b"\0")
            if int(entry) != os.getpid() and any(one == mark or one.startswith(below) for one in variables):
                send_signal(int(entry), signal.SIGKILL)
                found += 1
    return found


def note(pids: tuple[int, ...]) -> dict[int, str]:
    """Processes with what tells them from later ones of the same number; those that are gone are left out."""
    births = {pid: started_at(pid) for pid in pids}
    return {pid: birth for pid, birth in births.items() if birth is not None}


def available_memory() -> int | None:
    """Bytes that new processes can use without swapping; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _parents() -> dict[int, int]:
    if not Path("/proc/self/stat").exists():
        rows = [line.split() for line in _ps("-axo", "pid=,ppid=").splitlines()]
        return {int(row[0]): int(row[1]) for row in rows if len(row) == 2}
    parents: dict[int, int] = {}
    for entry in _entries():
        stat = _read_stat(Path("/proc", entry, "stat"))
        if stat is not None:
            parents[int(entry)] = int(stat[1])
    return parents


def _entries() -> list[str]:
    """The numbers in /proc; none where there is no such thing."""
    try:
        return [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return []


def _read_stat(path: Path) -> list[str] | None:
    """Fields of /proc/PID/stat after the name, which may itself hold blanks and brackets: state, ppid, …"""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _ps(*arguments: str) -> str:
    try:
        done = subprocess.run(["ps", *arguments], capture_output=True, timeout=PS_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")
