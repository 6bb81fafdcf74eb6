"""The thread that starts every child and ends every retired one.

The service starts and stops it; the fleet says what there is to do, and wakes it. Invariant: it starts them all, lives
until the last one is gone, and no error ends it: the parent-death signal of Linux follows the *thread* that forked.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...core.errors import ProxyError
from ...core.models import Catalogue
from ...core.timing import Timing
from ..process import processes
from ..process.child import Child
from ..turn.connection import Connection
from ..wire.profile import Point, Profile
from .fleet import Fleet
from .launcher import Launcher
from .waker import Poller

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Retirement:
    """A child on its way out: what comes next, and when."""

    connection: Connection
    steps: list[tuple[float, Callable[[], None]]]


class Housekeeping(Protocol):
    """What the keeper's thread does besides, for it is there and mostly sleeps."""

    def prune(self) -> None:
        """Forget what is out of date."""


class Keeper:
    """Starts, watches and ends the children of a fleet."""

    def __init__(
        self,
        fleet: Fleet,
        poller: Poller,
        launcher: Launcher,
        catalogue: Catalogue,
        housekeeping: Housekeeping,
        default: Profile,
        clock: Callable[[], float],
        timing: Timing,
    ) -> None:
        """
        Args:
            fleet: whose children they are.
            poller: what the keeper sleeps with, and `fleet` wakes.
            launcher: starts them, and clears up after them.
            catalogue: learns the models of every child that has been initialised.
            housekeeping: what else is to be done at the start and every hour.
            default: what the first spare is started for.
            clock: monotonic seconds.
            timing: how long a child may take to end, and how often the keeper looks around.
        """
        self._fleet = fleet
        self._timing = timing
        self._launcher = launcher
        self._default = default
        self._clock = clock
        self._catalogue = catalogue
        self._housekeeping = housekeeping
        self._next_housekeeping = float("-inf")
        self._retiring: list[Retirement] = []
        self._terminating: dict[Child, float] = {}
        self._stopping = threading.Event()
        self._start_after = float("-inf")
        self._backoff = self._timing.first_backoff_interval
        self._poller = poller
        self._thread = threading.Thread(target=self.run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End every child that is left, then the thread; what is still there after `timeout` seconds is killed."""
        self._fleet.close()
        self._stopping.set()
        self._poller.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        for retirement in list(self._retiring):
            retirement.connection.child.kill()
        if self._thread.ident is not None:
            self._thread.join(self._timing.grace_interval)

    def run(self) -> None:
        """The thread's loop; returns once `stop` has been called and every child is gone."""
        while True:
            try:
                self.sweep()
                if self._is_done():
                    return  # before the wait: nothing would end it but its timeout
                self._poller.wait(self._fleet.idle_descriptors(), self._pause())
                self.look_after_idle()
            except Exception:  # this thread must outlive its children: the kernel ends them when it ends
                log.exception("The keeper failed; it goes on")
                self._stopping.wait(self._timing.tick_interval)

    def sweep(self) -> None:
        """Everything that is due now; starts of children take their time, nothing else is waited for."""
        self._serve_orders()
        self._expire()
        self._fill_gaps()
        if self._clock() >= self._next_housekeeping:
            self._next_housekeeping = self._clock() + self._timing.housekeeping_interval
            self._housekeeping.prune()
        self._take_retired()
        self._end_retired()
        self._end_terminating()

    def look_after_idle(self) -> None:
        """Retire idle children that ended or speak unasked; a spare that ended is replaced later."""
        for connection, was_spare in self._fleet.retire_unquiet():
            if was_spare:
                self._put_off(connection.child.stderr_tail() or "it ended by itself")
            else:
                log.warning("Child %d ended or spoke unasked while idle", connection.child.pid)
        if self._fleet.has_ready_spare():
            self._backoff = self._timing.first_backoff_interval

    def _serve_orders(self) -> None:
        while (order := self._fleet.next_order()) is not None:
            try:
                connection = self._start_child(order.model, order.resume, agent=order.agent)
            except ProxyError as error:
                self._fleet.refuse(order, error)
            else:
                self._fleet.deliver(order, connection)

    def _expire(self) -> None:
        """Children that were not used in time, and, when memory is short, the least recently used live one."""
        self._fleet.expire()
        if self._fleet.counts().live and self._memory_is_short():
            self._fleet.retire_oldest_live()

    def _fill_gaps(self) -> None:
        """One spare at a time, not right after a lease, not while starts fail, not without memory."""
        kind = self._fleet.missing_spare(self._default)
        if kind is None or self._clock() < self._start_after or self._memory_is_short():
            return
        try:
            connection = self._start_child(kind.model, agent=kind.agent)
        except ProxyError as error:
            self._put_off(str(error))
        else:
            self._fleet.add_spare(connection)

    def _start_child(self, model: str, resume: Point | None = None, *, agent: bool = False) -> Connection:
        child = self._launcher.start(model, resume, agent=agent)
        self._fleet.note_started()
        return Connection(child, model, self._catalogue, self._fleet.recycling, self._timing, agent=agent)

    def _put_off(self, reason: str) -> None:
        log.warning("No spare could be started (%s); next try in %g s", reason, self._backoff)
        self._start_after = self._clock() + self._backoff
        self._backoff = min(self._backoff * 2, self._timing.longest_backoff_interval)

    def _take_retired(self) -> None:
        now, grace = self._clock(), self._timing.grace_interval
        for connection, urgent in self._fleet.take_retired():
            child = connection.child
            if not urgent:
                child.end_input()
            steps: list[tuple[float, Callable[[], None]]] = [
                (now if urgent else now + grace, child.terminate),
                (now + grace * (1 if urgent else 2), child.kill),
            ]
            self._retiring.append(Retirement(connection, steps))

    def _end_retired(self) -> None:
        now = self._clock()
        for retirement in list(self._retiring):
            child = retirement.connection.child
            if child.has_exited():
                child.reap()
                self._launcher.clear_after(retirement.connection)
                self._retiring.remove(retirement)
                self._fleet.note_ended(how_ended(child.returncode))
                continue
            while retirement.steps and retirement.steps[0][0] <= now:
                retirement.steps.pop(0)[1]()

    def _end_terminating(self) -> None:
        """SIGKILL to a leased child that was asked to stop and did not: its worker waits for it, and cannot."""
        now = self._clock()
        self._terminating = {child: self._terminating.get(child, now) for child in self._fleet.stopping()}
        for child, since in self._terminating.items():
            if now >= since + self._timing.grace_interval:
                child.kill()

    def _is_done(self) -> bool:
        return self._stopping.is_set() and not self._retiring and self._fleet.is_empty()

    def _pause(self) -> float:
        """Seconds until something must be done without being asked."""
        return self._timing.retiring_interval if self._retiring else self._timing.tick_interval

    def _memory_is_short(self) -> bool:
        available = processes.available_memory()
        return available is not None and available < self._timing.memory_floor_bytes


def how_ended(returncode: int | None) -> str:
    """`closed` at the end of its input, `terminated` by SIGTERM, `killed` by SIGKILL, whoever sent it; `crashed`."""
    return _ENDS.get(returncode, "crashed")


_ENDS: dict[int | None, str] = {0: "closed", -15: "terminated", 143: "terminated", -9: "killed"}
