"""The process table: who descends from a child, how to end all of them, and which process a note on disk means.

`child` calls it to end a process with its descendants, the launcher to write down and to find again what a proxy has
started, the service to name this process in the store. Invariant: a signal goes only to a process that is certain to
be the one that was meant; where that is unclear, none is sent.

Bash commands of the CLI have sessions of their own, so that neither its process group nor its death reaches them: they
are looked up before the child is killed. A `psutil.Process` knows its pid from a later process's with the same number.
"""

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

# Linux tells the boot time in whole seconds, so that two readings may lie a second apart. A pid cannot come round in so
# short a time.
CLOCK_TOLERANCE = 2.0

_NAME = re.compile(r"([0-9]{1,10}):([0-9]+\.[0-9]{2}):(-?[0-9]+\.[0-9]{2})")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Which process a pid meant when it was written down.

    created: when it started, in Unix seconds. after_boot: the same, in seconds since the system started. Both, because
    someone may set the clock: that moves `created` on Linux, which counts from the boot, and `after_boot` on macOS,
    which notes the time of day. Neither depends on the locale or the time zone.
    """

    pid: int
    created: float
    after_boot: float

    def __str__(self) -> str:
        return f"{self.pid}:{self.created:.2f}:{self.after_boot:.2f}"

    def is_surely(self, other: "ProcessIdentity") -> bool:
        """True where both are the same process, by both clocks."""
        return self.pid == other.pid and all(self._agreements(other))

    def is_surely_not(self, other: "ProcessIdentity") -> bool:
        """True where they are two processes: by neither clock did they start at the same time."""
        return self.pid != other.pid or not any(self._agreements(other))

    def _agreements(self, other: "ProcessIdentity") -> tuple[bool, bool]:
        return (
            abs(self.created - other.created) <= CLOCK_TOLERANCE,
            abs(self.after_boot - other.after_boot) <= CLOCK_TOLERANCE,
        )


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has this pid now; None where there is none, or where the system does not say."""
    try:
        created = psutil.Process(pid).create_time()
        return ProcessIdentity(pid, created, created - psutil.boot_time())
    except (psutil.Error, OSError, RuntimeError):  # RuntimeError: no boot time in /proc
        return None


def name_self() -> str:
    """The name of this process; its bare number where the system does not say more."""
    return str(identify(os.getpid()) or os.getpid())


class ProcessNames:
    """What the store needs to know of processes, for a room that may not import this one."""

    def __init__(self) -> None:
        self.own = name_self()

    def has_ended(self, name: str) -> bool:
        """See `has_ended` of the module."""
        return has_ended(name)


def is_running(name: str) -> bool:
    """True where the process with this name, the text of a `ProcessIdentity`, certainly still runs."""
    noted = _parse(name)
    current = identify(noted.pid) if noted is not None else None
    return noted is not None and current is not None and noted.is_surely(current)


def has_ended(name: str) -> bool:
    """True where the process with this name has certainly ended; one that cannot be told from a later one has not."""
    digits = name.partition(":")[0]
    if not digits.isdecimal() or not _exists(int(digits)):
        return True
    noted, current = _parse(name), identify(int(digits))
    return noted is not None and current is not None and noted.is_surely_not(current)


def _parse(name: str) -> ProcessIdentity | None:
    """None for what is not such a text, such as a name that an older version wrote."""
    match = _NAME.fullmatch(name)
    return ProcessIdentity(int(match[1]), float(match[2]), float(match[3])) if match is not None else None


def _exists(pid: int) -> bool:
    """A zombie does not: it holds nothing and does nothing any more."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, OverflowError):
        return False
    except (psutil.Error, OSError):
        return True


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below `pid`, each before its own children; empty when it has none or is gone."""
    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).children(recursive=True)
    return []


def send_signal(pid: int, number: int) -> None:
    """A signal to one process; one that is gone is not an error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def send_group_signal(pid: int, number: int) -> None:
    """A signal to the group that `pid` leads; one that is gone is not an error."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    else:  # pragma: no cover - Windows has no process groups of this kind
        send_signal(pid, number)


def kill_family(pid: int, noted: Iterable[psutil.Process]) -> None:
    """SIGKILL to the group that `pid` leads and to the descendants noted before."""
    send_group_signal(pid, signal.SIGKILL)
    for descendant in noted:
        with contextlib.suppress(psutil.Error, OSError):
            descendant.kill()


def kill_by_tmpdir(folder: str) -> int:
    """SIGKILL to every process whose TMPDIR is `folder` or lies in it; returns how many there were.

    What a child's commands start inherits that variable, and keeps it when its parents are gone, whatever sessions and
    parents it has by then. A process whose environment the system does not show is left alone.
    """
    found = 0
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            place = process.environ().get("TMPDIR", "")
            if pid != os.getpid() and (place == folder or place.startswith(f"{folder}/")):
                process.kill()
                found += 1
    return found


def available_memory() -> int | None:
    """Bytes that new processes can use without swapping; None where the system does not say."""
    with contextlib.suppress(psutil.Error, OSError, RuntimeError):
        return int(psutil.virtual_memory().available)
    return None
