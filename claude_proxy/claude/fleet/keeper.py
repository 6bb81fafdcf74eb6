"""The thread that starts every child and ends every retired one.

In: the fleet's orders, gaps and retirements. Out: running children, reaped ones.
It must start them all: the parent-death signal of Linux follows the *thread* that forked, so that this thread lives
until the last child is gone, and no error may end it.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...core.errors import ProxyError
from ...core.models import Catalogue
from ...core.timing import Timing
from ..process import processes
from ..process.child import Child
from ..turn.connection import Connection
from ..wire.profile import Point, Profile
from .fleet import Fleet, Order, fits, may_start_as
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
    """Starts, prepares, looks after and ends the children of a fleet."""

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
                if self._stopping.is_set() and self._all_gone():
                    return  # before the wait: nothing would end it but its timeout
                self._poller.wait(self._descriptors(), self._pause())
                self._look_after_idle()
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

    def _serve_orders(self) -> None:
        fleet = self._fleet
        while True:
            with fleet.changed:
                if not fleet.orders:
                    return
                order = fleet.orders.popleft()
                fleet.make_room()
            self._serve(order)

    def _serve(self, order: Order) -> None:
        fleet = self._fleet
        try:
            connection = self._start_child(order.model, order.resume, agent=order.agent)
        except ProxyError as error:
            with fleet.changed:
                order.error = error
                fleet.changed.notify_all()
            return
        with fleet.changed:
            if order.abandoned or fleet.closing:
                fleet.members.retired.append((connection, False))
            else:
                fleet.members.leased.append(connection)
                order.child = connection
            fleet.changed.notify_all()

    def _fill_gaps(self) -> None:
        """One spare at a time, not right after a lease, not while starts fail, not without memory."""
        kind = self._missing_spare()
        if kind is None or self._clock() < self._start_after:
            return
        try:
            connection = self._start_child(kind.model, agent=kind.agent)
        except ProxyError as error:
            self._put_off(str(error))
            return
        with self._fleet.changed:
            if self._fleet.closing:
                self._fleet.members.retired.append((connection, False))
            else:
                self._fleet.members.spares.append(connection)

    def _missing_spare(self) -> Profile | None:
        """The kind of a blank spare that is missing: the server's own, and that of the last lease where it needs
        another: an agent's child, or a model that cannot be set. Those that neither needs are given up."""
        fleet = self._fleet
        with fleet.changed:
            members, limits = fleet.members, fleet.limits
            if not limits.warm or fleet.closing or self._clock() < fleet.last_lease + self._timing.top_up_interval:
                return None
            kinds = [self._default] * limits.warm
            if fleet.last_kind is not None and not may_start_as(self._default, fleet.last_kind):
                kinds.append(fleet.last_kind)
            stale = [child for child in members.spares if not any(fits(child, kind) for kind in kinds)]
            for child in stale:
                members.spares.remove(child)
                members.retired.append((child, False))
            missing = _unmatched(kinds, members.spares)
            is_full = members.count() >= limits.maximum
        return None if is_full or not missing or self._memory_is_short() else missing[0]

    def _start_child(self, model: str, resume: Point | None = None, *, agent: bool = False) -> Connection:
        child = self._launcher.start(model, resume, agent=agent)
        self._fleet.tally.started += 1
        return Connection(child, model, self._catalogue, self._fleet.recycling, self._timing, agent=agent)

    def _put_off(self, reason: str) -> None:
        log.warning("No spare could be started (%s); next try in %g s", reason, self._backoff)
        self._start_after = self._clock() + self._backoff
        self._backoff = min(self._backoff * 2, self._timing.longest_backoff_interval)

    def _expire(self) -> None:
        """Children that nobody came back to, and, when memory is short, the least recently used live one."""
        fleet, now = self._fleet, self._clock()
        short = bool(fleet.members.live) and self._memory_is_short()
        with fleet.changed:
            members = fleet.members
            limits = fleet.limits
            groups = (
                (members.free, self._timing.free_interval),
                (members.live, limits.idle_ttl),
                (members.parked, limits.park_ttl),
            )
            for group, ttl in groups:
                for child in [child for child in group if child.last_used <= now - ttl]:
                    group.remove(child)
                    members.retired.append((child, child.is_parked))
            if short and members.live:
                members.retired.append((members.live.pop(0), False))

    def _look_after_idle(self) -> None:
        """A spare that ended is replaced, a live child that speaks unasked is retired."""
        fleet = self._fleet
        with fleet.changed:
            for group in (fleet.members.spares, fleet.members.free, fleet.members.live, fleet.members.parked):
                for child in [child for child in group if not child.poll_idle()]:
                    group.remove(child)
                    fleet.members.retired.append((child, True))
                    if group is fleet.members.spares:
                        self._put_off(child.child.stderr_tail() or "it ended by itself")
                    else:
                        log.warning("Child %d ended or spoke unasked while idle", child.child.pid)
            if any(child.ready for child in fleet.members.spares):
                self._backoff = self._timing.first_backoff_interval

    def _take_retired(self) -> None:
        with self._fleet.changed:
            fresh, self._fleet.members.retired = self._fleet.members.retired, []
        now = self._clock()
        for connection, urgent in fresh:
            child = connection.child
            if not urgent:
                child.end_input()
            steps: list[tuple[float, Callable[[], None]]] = [
                (now if urgent else now + self._timing.grace_interval, child.terminate),
                (now + self._timing.grace_interval * (1 if urgent else 2), child.kill),
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
                how = how_ended(child.returncode)
                self._fleet.tally.ended[how] = self._fleet.tally.ended.get(how, 0) + 1
                continue
            while retirement.steps and retirement.steps[0][0] <= now:
                retirement.steps.pop(0)[1]()

    def _end_terminating(self) -> None:
        """SIGKILL to a leased child that was told to end and did not: its worker waits for it, and cannot."""
        with self._fleet.changed:
            leased = self._fleet.members.leased
            told = [one.child for one in leased if one.child.was_terminated or one.was_interrupted]
        now = self._clock()
        self._terminating = {child: self._terminating.get(child, now) for child in told}
        for child, since in self._terminating.items():
            if now >= since + self._timing.grace_interval:
                child.kill()

    def _all_gone(self) -> bool:
        fleet = self._fleet
        with fleet.changed:
            return not (self._retiring or fleet.members.retired or fleet.members.leased)

    def _descriptors(self) -> list[int]:
        """stdout of every child that should be silent; a retired one's ends with it."""
        with self._fleet.changed:
            return [child.child.fileno() for child in self._fleet.members.idle()]

    def _pause(self) -> float:
        """Seconds until something must be done without being asked."""
        return self._timing.retiring_interval if self._retiring else self._timing.tick_interval

    def _memory_is_short(self) -> bool:
        available = processes.available_memory()
        return available is not None and available < self._timing.memory_floor_bytes


def _unmatched(kinds: Sequence[Profile], spares: Sequence[Connection]) -> list[Profile]:
    """The kinds for which no spare is left once each spare serves one of them."""
    left, missing = list(spares), []
    for kind in kinds:
        spare = next((child for child in left if fits(child, kind)), None)
        if spare is None:
            missing.append(kind)
        else:
            left.remove(spare)
    return missing


def how_ended(returncode: int | None) -> str:
    """`closed` at the end of its input, `terminated` by SIGTERM, `killed` by SIGKILL, whoever sent it; `crashed`."""
    return _ENDS.get(returncode, "crashed")


_ENDS: dict[int | None, str] = {0: "closed", -15: "terminated", 143: "terminated", -9: "killed"}
