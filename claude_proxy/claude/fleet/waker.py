"""How the keeper sleeps, and how other threads end that sleep.

The service makes one `PipePoller` and hands it to both: the fleet calls `wake` after each change that means work for
the keeper, the keeper calls `wait`. Invariant: a wake is never lost; one that comes before the wait ends it at once.
"""

import contextlib
import os
import select
import threading
from collections.abc import Sequence
from typing import Protocol


class Waker(Protocol):
    """What the fleet needs of it."""

    def wake(self) -> None:
        """Make the keeper look for work. Never blocks; does nothing once it is closed."""


class Poller(Waker, Protocol):
    """What the keeper needs of it."""

    def wait(self, descriptors: Sequence[int], timeout: float) -> None:
        """Return once a descriptor can be read, `wake` is called, or `timeout` seconds have passed."""


class PipePoller:
    """A pipe among the descriptors: the one way to end a poll from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _write, against a wake after close
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes it as well
            if self._write >= 0:
                os.write(self._write, b"!")

    def wait(self, descriptors: Sequence[int], timeout: float) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.poll(timeout * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        """Give the pipe back; nothing may wait any more. Idempotent."""
        with self._lock:
            if self._write >= 0:
                os.close(self._read)
                os.close(self._write)
                self._read = self._write = -1
