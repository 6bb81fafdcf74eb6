"""Deadlines: one thread that ends whatever has been silent, or running, for too long.

In: watches, each with a limit on silence, a deadline, and what to call when one passes. Out: that call, once per limit.
Rules: the sweep is a method with an injected clock; it holds one leaf lock and neither reads, waits nor logs under it.
"""

import threading
from collections.abc import Callable
from math import inf

Clock = Callable[[], float]


def do_nothing() -> None:
    """What a limit does that is not set."""


class Watch:
    """One thing that is watched. Its owner calls `alive`, `pause` and `resume`; nothing here blocks.

    on_silence, on_deadline: called at most once each, by the watchdog's thread, without a lock held.
    """

    __slots__ = ("_clock", "_silence", "deadline", "on_deadline", "on_silence", "silence_timeout")

    def __init__(
        self,
        clock: Clock,
        *,
        silence_timeout: float = inf,
        deadline: float = inf,
        on_silence: Callable[[], None] = do_nothing,
        on_deadline: Callable[[], None] = do_nothing,
    ) -> None:
        self._clock = clock
        self._silence = inf
        self.silence_timeout = silence_timeout
        self.deadline = deadline
        self.on_silence = on_silence
        self.on_deadline = on_deadline

    def alive(self) -> None:
        """The child has been heard, or is waited for from now on: the silence starts anew. One attribute, no lock."""
        self._silence = self._clock() + self.silence_timeout

    def limit_silence(self, seconds: float) -> None:
        """Allow the child this much silence from now on; a limit that stays the same begins no new silence."""
        if seconds != self.silence_timeout:
            self.silence_timeout = seconds
            self.alive()

    def pause(self) -> None:
        """Nobody waits for the child now; its silence means nothing."""
        self._silence = inf

    def due(self, now: float) -> list[Callable[[], None]]:
        """What must be called now; a limit that has passed is not reported again."""
        calls: list[Callable[[], None]] = []
        if now >= self._silence:
            self._silence = inf
            calls.append(self.on_silence)
        if now >= self.deadline:
            self.deadline = inf
            calls.append(self.on_deadline)
        return calls


class Watchdog:
    """The watches and the thread that sweeps them every `interval` seconds."""

    def __init__(self, clock: Clock, interval: float = 0.5, housekeeping: Callable[[], object] = do_nothing) -> None:
        """`housekeeping`: what else has deadlines; called with every sweep, must never raise."""
        self._housekeeping = housekeeping
        self._clock = clock
        self._interval = interval
        self._lock = threading.Lock()  # guards: _watches
        self._watches: set[Watch] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread; watches that are left are no longer kept."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._watches.add(watch)

    def remove(self, watch: Watch) -> None:
        """Forget a watch; it may still be called once if a sweep has already found it due."""
        with self._lock:
            self._watches.discard(watch)

    def sweep(self) -> int:
        """Call what is due now; returns how many calls were made."""
        now = self._clock()
        with self._lock:
            calls = [call for watch in self._watches for call in watch.due(now)]
        for call in calls:
            call()
        self._housekeeping()
        return len(calls)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval):
            self.sweep()
