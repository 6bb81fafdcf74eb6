"""What sinks share: a bounded queue of notices, the thread that takes from it, an end with a deadline.

In: notices, from any thread, by `Activity`. Out: the same, in their order, in the sink's own thread.
Invariants: `on_notice` never waits: a full queue drops its oldest notice, which is logged once and counted. A failing
sink is logged once a minute, and never with the text of a library's exception: that may hold a secret URL.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from ..monitoring.activity import Entry, Notice

log = logging.getLogger(__name__)

WAITING = 1000
WARNING_INTERVAL = 60.0

Clock = Callable[[], float]


class Item(NamedTuple):
    """A notice, the request as it was then, and when it came, on the sink's clock."""

    at: float
    entry: Entry
    notice: Notice


class Sink:
    """A thread of this name, which does `run`. `waiting`: how many notices may wait for it. `clock` is monotonic."""

    def __init__(self, name: str, clock: Clock = time.monotonic, waiting: int = WAITING) -> None:
        self.name = name
        self._clock = clock
        self._size = waiting
        self._changed = threading.Condition()  # guards: _waiting, _deadline, dropped
        self._waiting: deque[Item] = deque()
        self._deadline = inf
        self.dropped = 0
        self._warned_at = -inf  # only the thread uses it
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def run(self) -> None:
        """The thread's work: `deliver_next` until the sink is closed."""
        raise NotImplementedError

    def deliver(self, item: Item) -> None:
        """Pass on one notice; called in the thread."""
        raise NotImplementedError

    def on_notice(self, entry: Entry, notice: Notice, /) -> None:
        """Queue a notice and return at once; a closed sink ignores it."""
        with self._changed:
            if self._deadline < inf:
                return
            is_full = len(self._waiting) >= self._size
            if is_full:
                self._waiting.popleft()
                self.dropped += 1
            is_first = is_full and self.dropped == 1
            self._waiting.append(Item(self._clock(), entry, notice))
            self._changed.notify_all()
        if is_first:
            log.warning("%s does not keep up: the oldest of the notices that wait for it are dropped", self.name)

    def start(self) -> None:
        self._thread.start()

    def close(self, grace: float) -> None:
        """Take no more notices; deliver what waits for up to `grace` seconds. Returns at once."""
        with self._changed:
            self._deadline = min(self._deadline, self._clock() + grace)
            self._changed.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the thread's end; one that hangs in a call is left behind."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    @property
    def is_closing(self) -> bool:
        with self._changed:
            return self._deadline < inf

    @property
    def time_left(self) -> float:
        """Seconds in which something may still be sent: infinite while the sink is not closed, 0 at its end."""
        with self._changed:
            return max(0.0, self._deadline - self._clock())

    def deliver_next(self, timeout: float = inf, limit: int = WAITING) -> bool:
        """Deliver up to `limit` notices, oldest first; waits up to `timeout` seconds for the first.

        False when none came, and at the end: closed, and nothing left or no time left.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._deadline < inf, None if timeout == inf else max(0.0, timeout)
            )
            is_over = self._deadline <= self._clock()
            items = [] if is_over else [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        for item in items:
            try:
                self.deliver(item)
            except Exception:  # a bug of ours must not cost the other notices
                log.exception("%s failed over a notice", self.name)
        return bool(items)

    def pause(self, seconds: float) -> bool:
        """Wait so long; False, and at once, when the sink is closed."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._deadline < inf, seconds)

    def warn_throttled(self, message: str, *args: object) -> None:
        """Log a failure, but not each one: a sink that is down fails every time. Only the sink's thread may call it."""
        now = self._clock()
        if now - self._warned_at >= WARNING_INTERVAL:
            self._warned_at = now
            log.warning(message, *args)

    def _run(self) -> None:
        self.run()
        with self._changed:
            lost = len(self._waiting) + self.dropped
        if lost:
            log.warning("%s: %d notices were not delivered", self.name, lost)
