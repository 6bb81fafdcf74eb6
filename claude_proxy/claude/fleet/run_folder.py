"""The folder of one run under the system's temporary folder, and what the folders of earlier runs tell.

The launcher puts the folder of each child into it, and the name of each child's process; the service clears up after
proxies that were killed before it starts anything. Invariant: nothing of a proxy that may still run is touched, and
only processes that are certain to be what was written down are ended.
"""

import contextlib
import logging
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

from ..process import processes

log = logging.getLogger(__name__)

PREFIX = "claude-proxy-"


class RunFolder:
    """This run's; made when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _path, _children
        self._path: Path | None = None
        self._children = 0

    def path(self) -> Path:
        """Where it is. Raises OSError."""
        with self._lock:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
                with contextlib.suppress(OSError):
                    (self._path / "owner").write_text(processes.name_self(), encoding="ascii")
            return self._path

    def next_child(self) -> Path:
        """A place for the folder of another child. Raises OSError."""
        path = self.path()
        with self._lock:
            self._children += 1
            return path / str(self._children)

    def record(self, pid: int) -> None:
        """Write down which process must be ended if this one is killed; a full disk costs that, not the child."""
        with contextlib.suppress(OSError), open(self.path() / "pids", "a", encoding="ascii") as record:
            record.write(f"{processes.identify(pid)}\n")

    def remove(self) -> None:
        """With all that is in it; a later `path` makes another."""
        with self._lock:
            path, self._path = self._path, None
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)


def clear_leftovers(parent: Path | None = None) -> int:
    """End the children and remove the folders of proxies that were killed; returns how many processes were ended."""
    ended = 0
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        if not _is_ours(folder) or _is_owned(folder):
            continue
        ended += _end_recorded(folder)
        ended += processes.kill_by_tmpdir(str(folder))
        shutil.rmtree(folder, ignore_errors=True)
    if ended:
        log.warning("Ended %d processes that an earlier proxy had left behind", ended)
    return ended


def _is_owned(folder: Path) -> bool:
    """True unless the proxy that made the folder has certainly ended: its children would be killed under it."""
    pid = folder.name.removeprefix(PREFIX).split("-", 1)[0]
    if not pid.isdecimal():
        return True
    name = _read(folder / "owner")  # empty where the folder was made a moment ago
    return not processes.has_ended(name if name.startswith(f"{pid}:") else pid)


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()  # of the name itself: anyone may put a link into the system's temporary folder
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    except (OSError, AttributeError):
        return False


def _end_recorded(folder: Path) -> int:
    ended = 0
    for name in _read(folder / "pids").splitlines():
        if processes.is_running(name):
            pid = int(name.partition(":")[0])
            processes.kill_family(pid, processes.descendants(pid))
            ended += 1
    return ended


def _read(path: Path) -> str:
    """What a file holds, as far as it can be read: older versions wrote other texts, and a disk may have been full."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
