"""One CLI process: the only Popen of a turn. Start, send, receive, terminate, kill, reap.

In: an argv, an environment, a folder. Out: lines of stdout, one at a time.
Rules: one owner at a time listens to a child; only `send`, `terminate` and `kill` may be called by others. stderr goes
to a file in the child's own folder, so that it can never fill a pipe. The keeper reaps it.
"""

import contextlib
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from ...core.errors import ChildDied
from ...core.timing import Timing
from ..wire.protocol import LineBuffer
from . import processes

log = logging.getLogger(__name__)

READ_BYTES = 1 << 16
STDERR_TAIL_BYTES = 2000

# Linux: ask the kernel for SIGTERM when the thread that forked us ends, make sure that it has not ended already, then
# become the CLI. preexec_fn would do the same, but Python code between fork and exec of a threaded program can hang.
PARENT_DEATH_SHIM = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1,15)\n"
    "os.getppid()==int(sys.argv[1]) or os._exit(1)\n"
    "os.execv(sys.argv[2],sys.argv[2:])\n"
)


class Child:
    """A running CLI and its pipes. `folder` is its own, and its TMPDIR; it is removed once the child is reaped."""

    def __init__(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        cwd: Path,
        folder: Path,
        timing: Timing,
        *,
        has_commands: bool = False,
    ) -> None:
        """Start it. Must be called by a thread that lives as long as the child.

        Args:
            argv: the CLI and its flags.
            environ: all of its environment.
            cwd: where it works.
            folder: its own, made here.
            timing: how often it is looked at where its end cannot be waited for.
            has_commands: it runs commands of its own, which must end with a turn that is ended.

        Raises:
            OSError: it cannot be started.
        """
        self._timing = timing
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(folder / "stderr", "wb") as stderr:
            self._process = subprocess.Popen(
                _with_parent_death_signal(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=dict(environ),
                cwd=cwd,
                bufsize=0,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self.pid = self._process.pid
        self._buffer = LineBuffer()
        self._lines: deque[bytes] = deque()
        self._waiter = _Waiter(self._stdout.fileno(), self.pid, self.has_exited, timing.exit_check_interval)
        self._has_commands = has_commands
        self._sending = threading.Lock()  # guards: stdin, for whole lines
        self._ending = threading.Lock()  # guards: _noted, and that no signal is sent after the pid was given back
        self._noted: set[psutil.Process] = set()
        self._reaped = False
        self.was_terminated = False

    def fileno(self) -> int:
        """The descriptor of stdout, for a selector."""
        return self._stdout.fileno()

    def has_exited(self) -> bool:
        """True once the process has ended, whoever still holds its pipes."""
        return self._process.poll() is not None

    def send(self, line: bytes) -> None:
        """Write one line; blocks while the pipe is full. Raises ChildDied when nobody reads any more."""
        view = memoryview(line)
        try:
            with self._sending:
                while view:
                    view = view[self._stdin.write(view) or 0 :]
        except (OSError, ValueError) as error:
            raise self._died() from error

    def try_send(self, line: bytes) -> bool:
        """Write a short line if that cannot block; False where the pipe is full, in use, or at its end. Any thread."""
        if len(line) > select.PIPE_BUF or not self._sending.acquire(blocking=False):
            return False
        try:
            poll = select.poll()
            poll.register(self._stdin.fileno(), select.POLLOUT)
            # A pipe that takes anything takes a line of this size whole.
            if not any(ready & select.POLLOUT for _, ready in poll.poll(0)):
                return False
            return self._stdin.write(line) == len(line)
        except (OSError, ValueError):
            return False
        finally:
            self._sending.release()

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next line; None when `timeout` seconds pass without one. Raises ChildDied at the end, ProtocolError."""
        while not self._lines:
            if not self._waiter.wait(timeout):
                return None
            piece = self._read()
            if not piece:
                raise self._died()
            self._lines.extend(self._buffer.feed(piece))
        return self._lines.popleft()

    def has_output(self) -> bool:
        """True where a line, or the end, can be read at once."""
        return bool(self._lines) or self._waiter.wait(0.0)

    def terminate(self) -> None:
        """SIGTERM to the child alone, its descendants are noted first. One with commands is killed with all of them at
        once: it would report them to the API as ended, and ask it to go on."""
        if self._has_commands:
            self.was_terminated = True
            self.kill()
            return
        with self._ending:
            self.was_terminated = True
            if not self._reaped and not self.has_exited():
                self._noted.update(processes.descendants(self.pid))
                processes.send_signal(self.pid, signal.SIGTERM)

    def stop_now(self) -> None:
        """SIGKILL to the child alone, as the first thing: whatever it is about to ask the API for is too much.

        Only for a child without commands of its own, which is what every chat child is.
        """
        with self._ending:
            if not self._reaped:
                processes.send_signal(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to the child, its group, and every descendant known now or noted before."""
        with self._ending:
            if not self._reaped:
                self._noted.update(processes.descendants(self.pid))
                processes.kill_family(self.pid, self._noted)

    def end_input(self) -> None:
        """EOF on stdin: an idle child ends by itself, in about a tenth of a second."""
        with contextlib.suppress(OSError):
            self._stdin.close()

    def reap(self) -> None:
        """Give back the pipes and the folder, and end what a dead child left running. Idempotent."""
        with self._ending:
            if self._reaped:
                return
            self._reaped = True
            if self._noted:
                processes.kill_family(self.pid, self._noted)
            if self._has_commands and self.returncode != 0:
                processes.kill_by_tmpdir(str(self.folder))  # what its commands have started lost its parents with it
        self._waiter.close()
        self.end_input()
        self._stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def stderr_tail(self) -> str:
        """The end of what it wrote to stderr, for the log."""
        with contextlib.suppress(OSError):
            return (self.folder / "stderr").read_bytes()[-STDERR_TAIL_BYTES:].decode("utf-8", "replace").strip()
        return ""

    def _read(self) -> bytes:
        """What stdout holds now; empty at its end, or when the child is dead and a grandchild holds the pipe."""
        try:
            return os.read(self._stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        except (OSError, ValueError):
            return b""

    def _died(self) -> ChildDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._timing.exit_check_interval)
        code = self._process.poll()
        how = "stopped answering" if code is None else f"ended with signal {-code}" if code < 0 else f"ended ({code})"
        return ChildDied(f"The Claude Code CLI {how} in the middle of its work", returncode=code)


class _Waiter:
    """Waits until stdout has something, or the process has ended, whichever comes first."""

    def __init__(self, stdout: int, pid: int, has_exited: Callable[[], bool], check_interval: float) -> None:
        self._has_exited = has_exited
        self._check_interval = check_interval
        self._pidfd = -1
        self._poll: select.poll | None = None
        if not hasattr(select, "poll"):  # pragma: no cover - Windows: reads block, the watchdog's kill ends them
            return
        os.set_blocking(stdout, False)
        self._poll = select.poll()
        self._poll.register(stdout, select.POLLIN)
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(pid)
                self._poll.register(self._pidfd, select.POLLIN)

    def wait(self, timeout: float | None) -> bool:
        """True when a read will not block; None waits for ever."""
        if self._poll is None:  # pragma: no cover - Windows: as above, the read itself waits
            return True
        if self._pidfd >= 0 or timeout == 0:
            return bool(self._poll.poll(None if timeout is None else timeout * 1000)) or self._has_exited()
        return self._wait_in_slices(self._poll, timeout)

    def _wait_in_slices(self, poll: "select.poll", timeout: float | None) -> bool:
        """Without pidfd (macOS): look at the process now and then, for the grandchild that holds stdout open."""
        left = timeout
        while True:
            piece = self._check_interval if left is None else min(left, self._check_interval)
            if poll.poll(piece * 1000) or self._has_exited():
                return True
            if left is not None:
                left -= piece
                if left <= 0:
                    return False

    def close(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _with_parent_death_signal(argv: Sequence[str]) -> list[str]:
    if not sys.platform.startswith("linux"):
        return list(argv)
    return [sys.executable, "-I", "-S", "-c", PARENT_DEATH_SHIM, str(os.getpid()), *argv]
