"""The children of the proxy: spares that wait, live ones that hold a conversation, leased ones that work.

In: leases and what comes back. Out: children, each to one owner at a time. The keeper (`keeper.py`) starts and ends
them; here is only who has what.
Rules: a child leaves a list before anybody else touches it; whatever is not leased may be looked at under the lock.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...core.conversation import Message
from ...core.errors import CliUnavailable, ProxyError, ShuttingDown
from ...core.models import is_alias
from ...core.session_key import SessionKey
from ...core.timing import Timing
from ..turn.connection import Connection
from ..wire.profile import Point, Profile
from ..wire.recycling import Recycling, can_become
from .waker import Waker

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Order:
    """A child that a lease cannot do without; the keeper fills in one of the two."""

    model: str
    resume: Point | None = None
    agent: bool = False
    child: Connection | None = None
    error: ProxyError | None = None
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a turn needs of a child. owner: the digest of the API key whose texts it will see. chain: H₀ … Hₙ of the
    messages, of which the last one is new."""

    profile: Profile
    owner: str
    chain: Sequence[bytes]
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many of each kind: `warm` blank spares, `live` finished conversations, `maximum` of all kinds together.

    idle_ttl, park_ttl: seconds until a live child, or one that waits for tool results, is given up.
    """

    warm: int
    live: int
    maximum: int
    idle_ttl: float
    park_ttl: float


@dataclass(frozen=True, slots=True)
class Counts:
    spare: int = 0
    live: int = 0
    parked: int = 0
    leased: int = 0


@dataclass(slots=True)
class Tally:
    """Children since the start; written by the keeper's thread alone. ended: how many, by the words of `how_ended`."""

    started: int = 0
    ended: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Members:
    """Who is where; every list oldest first. spares: blank ones; free: used ones that hold nothing worth keeping; live:
    those that hold a conversation; parked: those that wait for results of the client's functions."""

    spares: list[Connection] = field(default_factory=list)
    free: list[Connection] = field(default_factory=list)
    live: list[Connection] = field(default_factory=list)
    parked: list[Connection] = field(default_factory=list)
    leased: list[Connection] = field(default_factory=list)
    retired: list[tuple[Connection, bool]] = field(default_factory=list)

    def idle(self) -> list[Connection]:
        """Everyone whom no turn has."""
        return self.spares + self.free + self.live + self.parked

    def count(self) -> int:
        return len(self.spares) + len(self.free) + len(self.live) + len(self.parked) + len(self.leased)


class Fleet:
    """Leases and returns. The keeper is woken without the lock held."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        waker: Waker,
        timing: Timing,
        recycling: Recycling | None = None,
    ) -> None:
        """`recycling`: what a used child can be made to become; nothing by default."""
        self.recycling = recycling or Recycling()
        self.limits = limits
        self._waker = waker
        self._clock = clock
        self._timing = timing
        self.changed = threading.Condition()  # guards: members, orders, last_lease, last_kind, closing
        self.members = Members()
        self.tally = Tally()
        self.orders: deque[Order] = deque()
        self.last_lease = float("-inf")
        self.last_kind: Profile | None = None
        self.closing = False

    def lease(self, wanted: Wanted, *, fresh: bool = False, skip_spares: bool = False) -> tuple[Connection, int]:
        """A child for a turn, and how many of the turn's messages it holds and keeps.

        In this order: the one that holds most of the conversation; a free one that can become it; a blank spare; one
        whose conversation may be given up; a new process. Raises CliUnavailable when none can be started,
        ShuttingDown.

        Args:
            wanted: what the turn needs.
            fresh: only a child that no turn has used.
            skip_spares: a process started for this turn: a spare that was killed just now may not look dead yet.
        """
        order = Order(wanted.profile.model, None, wanted.profile.agent)
        with self.changed:
            self._begin_lease(wanted.profile)
            found = None if skip_spares else self._find(wanted, fresh=fresh)
            if found is None:
                self.orders.append(order)
            else:
                self._take(found[0], wanted.owner)
        self._waker.wake()
        if found is not None:
            return found
        child = self._await(order)
        child.owner = wanted.owner
        return child, 0

    def lease_held(self, wanted: Wanted) -> tuple[Connection, int] | None:
        """The child that holds most of the conversation, and how much of it; None where none does."""
        with self.changed:
            self._begin_lease(wanted.profile)
            found = self._find_holding(wanted)
            if found is not None:
                self._take(found[0], wanted.owner)
        return found

    def lease_resumed(self, wanted: Wanted, point: Point, known: int) -> Connection:
        """A new child that has loaded a stored session of the CLI's, which holds the first `known` messages.

        It dies at once when the CLI does not know the session. Raises CliUnavailable, ShuttingDown.
        """
        order = Order(wanted.profile.model, point, wanted.profile.agent)
        with self.changed:
            self._begin_lease(wanted.profile)
            self.orders.append(order)
        self._waker.wake()
        child = self._await(order)
        child.owner = wanted.owner
        child.hold(wanted.chain[: known + 1])
        return child

    def _begin_lease(self, profile: Profile) -> None:
        if self.closing:
            raise ShuttingDown("The proxy is shutting down")
        self.last_lease = self._clock()
        self.last_kind = Profile(profile.model, agent=profile.agent)

    def _find(self, wanted: Wanted, *, fresh: bool) -> tuple[Connection, int] | None:
        """An idle child that is well, still in its list, and how many messages it keeps. The lock must be held."""
        if not fresh:
            holding = self._find_holding(wanted)
            if holding is not None:
                return holding
        candidates = [child for child in self.members.spares if fits(child, wanted.profile)]
        if not fresh:
            kept = self._convertible(self._dispensable(), wanted)
            candidates = [*self._convertible(self.members.free, wanted), *candidates, *kept]
        for child in candidates:
            is_well = child.is_running() if child.profile is None else child.is_quiet()
            if is_well:
                return child, 0
            self._discard(child)
        return None

    def _find_holding(self, wanted: Wanted) -> tuple[Connection, int] | None:
        """The child that holds most of the conversation, in a state from which it can go on.

        A parked child whose conversation goes on without the results that it waits for is taken out of that turn, where
        it can be, and is retired otherwise.
        """
        members = self.members
        children = members.free + members.live + members.parked
        held = [(child.history.common(wanted.chain[:-1]), child) for child in children]
        for common, child in sorted(held, key=_by_count, reverse=True):
            if common == 0 or child.profile != wanted.profile or child.owner != wanted.owner:
                continue
            keep = self._keepable(child, common, wanted.messages)
            # The conversation went on without the results that the child waits for: its turn is worth nothing now.
            is_left = child.is_parked and common == len(child.history)
            if not child.is_quiet() or (keep is None and is_left):
                self._discard(child)
            elif keep or (keep == 0 and is_left):
                return child, keep
        return None

    def _keepable(self, child: Connection, common: int, messages: Sequence[Message]) -> int | None:
        """How many messages a child keeps that has `common` ones with a conversation; None for none."""
        is_whole = common == len(child.history)
        if is_whole and not child.is_parked:
            return common
        if is_whole and common == len(messages) - 1 and child.can_answer(messages[-1]):
            return common
        if not self.recycling.abilities.rewind or child.agent:
            return None
        return child.history.reachable(min(common, len(child.history) - 1))

    def _convertible(self, children: Sequence[Connection], wanted: Wanted) -> list[Connection]:
        """Those that can become what is wanted, the ones that need least for it first."""
        abilities = self.recycling.abilities
        found = [
            child
            for child in children
            if child.owner == wanted.owner
            and child.profile is not None
            and child.history.reachable(0) == 0
            and can_become(child.profile, wanted.profile, abilities)
        ]
        return sorted(found, key=lambda child: child.profile != wanted.profile)

    def _dispensable(self) -> list[Connection]:
        """Kept conversations that may be given up for another one, the one whose loss costs least first.

        Before a process is started: those with one answer, for most of them are never continued, and to replay one
        takes a tenth of a start; and calls that have waited for long. The others, the shortest first, and calls that
        began to wait just now, only where there is no room.
        """
        members, limits = self.members, self.limits
        one_shot = [child for child in members.live if child.history.is_one_shot]
        stale = [
            child for child in members.parked if child.last_used <= self._clock() - self._timing.stale_call_interval
        ]
        is_full = members.count() >= limits.maximum
        if len(members.live) < limits.live and not is_full:
            return one_shot + stale
        others = [child for child in members.live if not child.history.is_one_shot]
        others.sort(key=lambda child: len(child.history))
        return one_shot + stale + others + (members.parked if is_full else [])

    def _take(self, child: Connection, owner: str) -> None:
        """Out of its list, into the leased ones. The lock must be held."""
        self._remove(child)
        child.owner = owner
        self.members.leased.append(child)

    def _discard(self, child: Connection) -> None:
        """Out of its list, to be ended. The lock must be held."""
        self._remove(child)
        self._retire(child, urgent=True)

    def _remove(self, child: Connection) -> None:
        members = self.members
        for group in (members.spares, members.free, members.live, members.parked):
            if child in group:
                group.remove(child)

    def give_back(self, child: Connection) -> None:
        """A leased child whose turn is over: it holds what its history says, and may go on with it."""
        with self.changed:
            self.members.leased.remove(child)
            child.last_used = self._clock()
            if child.is_parked:
                self.members.parked.append(child)
            elif len(child.history):
                self.members.live.append(child)
                self._free_surplus()
            else:
                self.members.free.append(child)
            if self.closing:
                self._retire_all_idle()
            self.changed.notify_all()
        self._waker.wake()

    def _free_surplus(self) -> None:
        """Above the limit of kept conversations the least recently used one is given up: its child is free for another,
        where it can be rewound, and ends otherwise. The lock must be held."""
        members = self.members
        while len(members.live) > self.limits.live:
            child = members.live.pop(0)
            if self.recycling.abilities.rewind and not child.agent and child.history.reachable(0) == 0:
                members.free.append(child)
            else:
                self._retire(child, urgent=False)

    def retire(self, child: Connection, *, urgent: bool) -> None:
        """A leased child that must not be used again; `urgent` where a turn is still running in it."""
        if urgent:
            child.terminate()
        with self.changed:
            if child in self.members.leased:
                self.members.leased.remove(child)
            self._retire(child, urgent)
            self.changed.notify_all()
        self._waker.wake()

    def retire_idle(self) -> None:
        """Every child that is not leased: what they know of the login, or of the CLI's version, is out of date."""
        with self.changed:
            self._retire_all_idle()
        self._waker.wake()

    def retire_session(self, key: SessionKey) -> int:
        """Every child that holds a conversation of this session, and is in no turn; returns how many."""
        with self.changed:
            members = self.members
            found = [child for child in members.free + members.live + members.parked if child.session == key]
            for child in found:
                self._remove(child)
                self._retire(child, urgent=False)
        self._waker.wake()
        return len(found)

    def request_usage(self, take: Callable[[Mapping[str, Any] | None], None]) -> bool:
        """Have an idle child asked how much of the plan is used; False where there is none. take: see `Connection`."""
        return self.ask_idle(lambda child: child.request_usage(take))

    def ask_idle(self, ask: Callable[[Connection], None]) -> bool:
        """Have a child that no turn has asked something that changes nothing in it; False where there is none."""
        with self.changed:
            for child in self.members.spares + self.members.free + self.members.live:
                listens = child.ready if child.profile is not None else child.is_running()
                with contextlib.suppress(ProxyError):
                    if listens:
                        ask(child)
                        return True
        return False

    def counts(self) -> Counts:
        """How many there are of each kind; retired ones are not counted."""
        with self.changed:
            members = self.members
            spare = len(members.spares) + len(members.free)
            return Counts(spare, len(members.live), len(members.parked), len(members.leased))

    def close(self) -> None:
        """No more leases; everything that is not leased goes."""
        with self.changed:
            self.closing = True
            while self.orders:
                self.orders.popleft().error = ShuttingDown("The proxy is shutting down")
            self.changed.notify_all()
        self.retire_idle()

    def make_room(self) -> None:
        """Below the maximum again, if any can go: a free child, the least recently used live one, a spare, the oldest
        parked one, whose conversation is then replayed. The lock must be held."""
        members = self.members
        while members.count() >= self.limits.maximum:
            group = members.free or members.live or members.spares or members.parked
            if not group:
                return
            self._retire(group.pop(0), urgent=False)

    def _retire(self, child: Connection, urgent: bool) -> None:
        # A parked child takes the end of its input for the end of its call, and asks the API to go on without it.
        self.members.retired.append((child, urgent or child.is_parked))

    def _retire_all_idle(self) -> None:
        for child in self.members.idle():
            self._retire(child, urgent=False)
        self.members.spares.clear()
        self.members.free.clear()
        self.members.live.clear()
        self.members.parked.clear()

    def _await(self, order: Order) -> Connection:
        timeout = self._timing.start_timeout
        with self.changed:
            self.changed.wait_for(lambda: order.child or order.error, timeout)
            if order.child is not None:
                return order.child
            order.abandoned = True
            if order in self.orders:
                self.orders.remove(order)
            raise order.error or CliUnavailable(f"The Claude Code CLI did not start within {timeout:g} s")


def _by_count(found: tuple[int, Connection]) -> int:
    return found[0]


def fits(child: Connection, profile: Profile) -> bool:
    """True where a blank child can take on a profile: of its mode, and of its model where that cannot be set."""
    return may_start_as(Profile(child.model, agent=child.agent), profile)


def may_start_as(kind: Profile, profile: Profile) -> bool:
    """True where a child that was started as `kind` can be initialised as `profile`."""
    return kind.agent == profile.agent and (kind.model == profile.model or is_alias(profile.model))
