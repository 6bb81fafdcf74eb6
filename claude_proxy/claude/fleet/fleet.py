"""The children of the proxy: spares that wait, live ones that hold a conversation, leased ones that work.

Turns lease and give back; the keeper (`keeper.py`) asks what to start and what to end, and does both. Here is only
which child is whose. Invariants: a child leaves a list before anything else touches it; whatever is not leased may be
looked at under the lock; the keeper is woken without the lock held.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ...core.errors import CliUnavailable, ProxyError, ShuttingDown
from ...core.session_key import SessionKey
from ...core.timing import Timing
from ..process.child import Child
from ..turn.connection import Connection
from ..wire.profile import Point, Profile
from ..wire.recycling import Recycling
from .members import Counts, Limits, Members, Order, Tally, Wanted
from .selection import Selection, fits, may_start_as, unmatched
from .waker import Waker


class Fleet:
    """Leases and returns, and what the keeper must do about them."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float], waker: Waker, timing: Timing, recycling: Recycling
    ) -> None:
        """
        Args:
            limits: how many of each kind, and for how long.
            clock: monotonic seconds.
            waker: makes the keeper look for work.
            timing: how long a lease waits for a start, and a spare for its turn.
            recycling: what a used child can be made to become.
        """
        self.recycling = recycling
        self._limits = limits
        self._clock = clock
        self._waker = waker
        self._timing = timing
        self.changed = threading.Condition()  # guards: members, tally, _orders, _last_lease, _last_kind, _closing
        self.members = Members()
        self.tally = Tally()
        self._selection = Selection(self.members, limits, recycling, clock, timing.stale_call_interval)
        self._orders: deque[Order] = deque()
        self._last_lease = float("-inf")
        self._last_kind: Profile | None = None
        self._closing = False

    # For turns

    def lease(self, wanted: Wanted, *, fresh: bool = False, skip_spares: bool = False) -> tuple[Connection, int]:
        """A child for a turn, and how many of the turn's messages it holds and keeps.

        In this order: the one that holds most of the conversation; a free one that can become it; a blank spare; one
        whose conversation may be given up; a new process.

        Args:
            wanted: what the turn needs.
            fresh: only a child that no turn has used.
            skip_spares: a process started for this turn: a spare that was killed just now may not look dead yet.

        Raises:
            CliUnavailable: none can be started.
            ShuttingDown: the fleet is closed.
        """
        order = Order(wanted.profile.model, None, wanted.profile.agent)
        with self.changed:
            self._begin_lease(wanted.profile)
            found = None if skip_spares else self._selection.find(wanted, fresh=fresh)
            if found is None:
                self._orders.append(order)
            else:
                self.members.lease(found[0], wanted.owner)
        self._waker.wake()
        if found is not None:
            return found
        connection = self._await(order)
        connection.owner = wanted.owner
        return connection, 0

    def lease_held(self, wanted: Wanted) -> tuple[Connection, int] | None:
        """The child that holds most of the conversation, and how much of it; None where none does."""
        with self.changed:
            self._begin_lease(wanted.profile)
            found = self._selection.find_holding(wanted)
            if found is not None:
                self.members.lease(found[0], wanted.owner)
        return found

    def lease_resumed(self, wanted: Wanted, point: Point, known: int) -> Connection:
        """A new child that has loaded a stored session of the CLI's.

        Args:
            wanted: what the turn needs.
            point: where the session stands; the child dies at once when the CLI does not know it.
            known: how many of the turn's messages the session holds, counted from the first.

        Raises:
            CliUnavailable: it cannot be started.
            ShuttingDown: the fleet is closed.
        """
        order = Order(wanted.profile.model, point, wanted.profile.agent)
        with self.changed:
            self._begin_lease(wanted.profile)
            self._orders.append(order)
        self._waker.wake()
        connection = self._await(order)
        connection.owner = wanted.owner
        connection.hold(wanted.chain[: known + 1])
        return connection

    def give_back(self, connection: Connection) -> None:
        """A leased child whose turn is over: it holds what its history says, and may go on with it."""
        with self.changed:
            self.members.leased.remove(connection)
            connection.last_used = self._clock()
            if connection.is_parked:
                self.members.parked.append(connection)
            elif len(connection.history):
                self.members.live.append(connection)
                self._free_surplus()
            else:
                self.members.free.append(connection)
            if self._closing:
                self.members.retire_idle()
            self.changed.notify_all()
        self._waker.wake()

    def retire(self, connection: Connection, *, urgent: bool) -> None:
        """A leased child that must not be used again; `urgent` where a turn is still running in it."""
        if urgent:
            connection.terminate()
        with self.changed:
            self.members.retire(connection, urgent=urgent)
            self.changed.notify_all()
        self._waker.wake()

    def retire_idle(self) -> None:
        """Every child that is not leased: what they know of the login, or of the CLI's version, is out of date."""
        with self.changed:
            self.members.retire_idle()
        self._waker.wake()

    def retire_session(self, key: SessionKey) -> int:
        """Every child that holds a conversation of this session, and is in no turn; returns how many."""
        with self.changed:
            found = [one for one in self.members.used() if one.session == key]
            for connection in found:
                self.members.retire(connection)
        self._waker.wake()
        return len(found)

    def request_usage(self, take: Callable[[Mapping[str, Any] | None], None]) -> bool:
        """Have an idle child asked how much of the plan is used; False where there is none. take: see `Connection`."""
        with self.changed:
            for connection in self.members.spares + self.members.free + self.members.live:
                listens = connection.ready if connection.profile is not None else connection.is_running()
                with contextlib.suppress(ProxyError):
                    if listens:
                        connection.request_usage(take)
                        return True
        return False

    def counts(self) -> Counts:
        with self.changed:
            members = self.members
            spare = len(members.spares) + len(members.free)
            return Counts(spare, len(members.live), len(members.parked), len(members.leased))

    def close(self) -> None:
        """No more leases; everything that is not leased goes."""
        with self.changed:
            self._closing = True
            while self._orders:
                self._orders.popleft().error = _shutting_down()
            self.changed.notify_all()
        self.retire_idle()

    def kill_all(self) -> None:
        """SIGKILL to every child, leased or not; nothing is waited for."""
        with self.changed:
            connections = self.members.idle() + self.members.leased
        for connection in connections:
            connection.child.kill()

    # For the keeper

    def next_order(self) -> Order | None:
        """The child that a lease waits for longest; there is room for it."""
        with self.changed:
            if not self._orders:
                return None
            self.members.make_room(self._limits.maximum)
            return self._orders.popleft()

    def deliver(self, order: Order, connection: Connection) -> None:
        """The child of an order. One that comes too late, or into a closed fleet, goes."""
        with self.changed:
            if order.abandoned or self._closing:
                self.members.retire(connection)
            else:
                self.members.leased.append(connection)
                order.connection = connection
            self.changed.notify_all()

    def refuse(self, order: Order, error: ProxyError) -> None:
        """The order's child cannot be started."""
        with self.changed:
            order.error = error
            self.changed.notify_all()

    def missing_spare(self, default: Profile) -> Profile | None:
        """The kind of a blank spare that is missing; those that are of no use any more are given up.

        Kinds are `default`, the server's own, and that of the last lease where it needs another: an agent's child, or a
        model that cannot be set.
        """
        with self.changed:
            is_early = self._clock() < self._last_lease + self._timing.top_up_interval
            if not self._limits.warm or self._closing or is_early:
                return None
            kinds = [default] * self._limits.warm
            if self._last_kind is not None and not may_start_as(default, self._last_kind):
                kinds.append(self._last_kind)
            for spare in list(self.members.spares):
                if not any(fits(spare, kind) for kind in kinds):
                    self.members.retire(spare)
            missing = unmatched(kinds, self.members.spares)
            return missing[0] if missing and self.members.count() < self._limits.maximum else None

    def add_spare(self, connection: Connection) -> None:
        """A child that was started ahead."""
        with self.changed:
            if self._closing:
                self.members.retire(connection)
            else:
                self.members.spares.append(connection)

    def has_ready_spare(self) -> bool:
        """True where a spare has been initialised: the CLI can be started."""
        with self.changed:
            return any(spare.ready for spare in self.members.spares)

    def expire(self) -> None:
        """Retire the children that were not used in time."""
        now, members = self._clock(), self.members
        with self.changed:
            groups = (
                (members.free, self._timing.free_interval),
                (members.live, self._limits.idle_ttl),
                (members.parked, self._limits.park_ttl),
            )
            for group, ttl in groups:
                for connection in [one for one in group if one.last_used <= now - ttl]:
                    members.retire(connection)

    def retire_oldest_live(self) -> None:
        """Give back the memory of the least recently used child."""
        with self.changed:
            if self.members.live:
                self.members.retire(self.members.live[0])

    def retire_unquiet(self) -> list[tuple[Connection, bool]]:
        """Read what the idle children say, and retire those that ended or act unasked: each, and whether it was a
        spare."""
        with self.changed:
            found = [(one, one in self.members.spares) for one in self.members.idle() if not one.poll_idle()]
            for connection, _ in found:
                self.members.retire(connection, urgent=True)
        return found

    def take_retired(self) -> list[tuple[Connection, bool]]:
        """Those that were retired since the last time, each with whether it is to end at once."""
        with self.changed:
            retired, self.members.retired = self.members.retired, []
        return retired

    def stopping(self) -> list[Child]:
        """Leased children that were asked to stop their turn, or to end: the worker of each waits for that."""
        with self.changed:
            leased = self.members.leased
            return [one.child for one in leased if one.child.was_terminated or one.was_interrupted]

    def idle_descriptors(self) -> list[int]:
        """stdout of every child that should be silent."""
        with self.changed:
            return [one.child.fileno() for one in self.members.idle()]

    def is_empty(self) -> bool:
        """True where no child is leased, and none waits to be ended."""
        with self.changed:
            return not (self.members.leased or self.members.retired)

    def note_started(self) -> None:
        with self.changed:
            self.tally.started += 1

    def note_ended(self, how: str) -> None:
        """how: a word of `how_ended`."""
        with self.changed:
            self.tally.ended[how] = self.tally.ended.get(how, 0) + 1

    def _begin_lease(self, profile: Profile) -> None:
        if self._closing:
            raise _shutting_down()
        self._last_lease = self._clock()
        self._last_kind = Profile(profile.model, agent=profile.agent)

    def _free_surplus(self) -> None:
        """Above the limit of kept conversations the least recently used one is given up: its child is free for another,
        where it can be rewound, and ends otherwise."""
        members = self.members
        while len(members.live) > self._limits.live:
            if self._selection.can_forget(members.live[0]):
                members.free.append(members.live.pop(0))
            else:
                members.retire(members.live[0])

    def _await(self, order: Order) -> Connection:
        timeout = self._timing.start_timeout
        with self.changed:
            self.changed.wait_for(lambda: order.connection or order.error, timeout)
            if order.connection is not None:
                return order.connection
            order.abandoned = True
            if order in self._orders:
                self._orders.remove(order)
            raise order.error or CliUnavailable(f"The Claude Code CLI did not start within {timeout:g} s")


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The proxy is shutting down")
