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
from .waker import Waker

log = logging.getLogger(__name__)

MOST_PRELOADS = 4


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
class Preload:
    """A history to put into a child ahead of the request that probably begins with it.

    history_digest: of `messages`. session: the key of its session. certain: what the last turn's child holds will not
    be continued.
    """

    profile: Profile
    messages: tuple[Message, ...]
    history_digest: bytes
    session: SessionKey
    certain: bool


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
    """Who is where; every list oldest first."""

    spares: list[Connection] = field(default_factory=list)
    live: list[Connection] = field(default_factory=list)
    parked: list[Connection] = field(default_factory=list)
    leased: list[Connection] = field(default_factory=list)
    retired: list[tuple[Connection, bool]] = field(default_factory=list)

    def idle(self) -> list[Connection]:
        """Everyone whom no turn has."""
        return self.spares + self.live + self.parked

    def count(self) -> int:
        return len(self.spares) + len(self.live) + len(self.parked) + len(self.leased)


class Fleet:
    """Leases and returns. The keeper is woken without the lock held."""

    def __init__(self, limits: Limits, clock: Callable[[], float], waker: Waker, timing: Timing) -> None:
        self.limits = limits
        self._waker = waker
        self._timing = timing
        self._clock = clock
        self.changed = threading.Condition()  # guards: members, orders, preloads, last_profile, last_lease, closing
        self.members = Members()
        self.tally = Tally()
        self.orders: deque[Order] = deque()
        self.preloads: deque[Preload] = deque(maxlen=MOST_PRELOADS)
        self.last_profile: Profile | None = None
        self.last_lease = float("-inf")
        self.closing = False

    def lease(self, profile: Profile, resume: Point | None = None, *, skip_spares: bool = False) -> Connection:
        """A child that holds no conversation and fits `profile`: prepared, blank, or new.

        resume: a new one that has loaded this session of the CLI's; it dies at once when the CLI does not know it.
        skip_spares: no spare, whatever they look like: one that was killed just now may not look dead yet.
        Raises CliUnavailable when none can be started, ShuttingDown.
        """
        order = Order(profile.model, resume, profile.agent)
        with self.changed:
            self._refuse_when_closing()
            self.last_profile = profile
            self.last_lease = self._clock()
            child = self._take_spare(profile) if resume is None and not skip_spares else None
            if child is None:
                self.orders.append(order)
            else:
                self.members.leased.append(child)
        self._waker.wake()
        return child or self._await(order)

    def lease_holding(self, chain: Sequence[bytes], messages: Sequence[Message]) -> tuple[Connection, int] | None:
        """The child that holds most of a conversation, and how many of its messages; None when there is none.

        chain: H₀ … Hₙ of the messages. The last message is always new, so Hₙ itself is not looked for. A parked child
        fits only when what it does not hold are the results it waits for; any other goes, because the conversation
        went on without it.
        """
        known = {digest: count for count, digest in enumerate(chain[:-1]) if count}
        with self.changed:
            if self.closing:
                return None
            found = [child for child in self.members.live + self.members.parked if child.history_digest in known]
            for child in sorted(found, key=lambda child: known[child.history_digest or b""], reverse=True):
                held = known[child.history_digest or b""]
                group = self.members.parked if child.is_parked else self.members.live
                group.remove(child)
                answers = held == len(messages) - 1 and child.can_answer(messages[-1])
                if (child.is_parked and not answers) or not child.is_quiet():
                    self._retire(child, urgent=True)
                    continue
                self.members.leased.append(child)
                return child, held
        return None

    def give_back(self, child: Connection) -> None:
        """A finished answer: the child now holds what `child.history_digest` says, and may go on with it."""
        with self.changed:
            self.members.leased.remove(child)
            if child.is_parked:
                child.last_used = self._clock()
                self.members.parked.append(child)
            else:
                self.add_live(child)
            if self.closing:
                self._retire_all_idle()
            self.changed.notify_all()
        self._waker.wake()

    def preload(self, expected: Preload) -> None:
        """Have a child prepared with a history that a next request will probably begin with."""
        with self.changed:
            if not self.closing and self.limits.live:
                self.preloads.append(expected)
        self._waker.wake()

    def add_live(self, child: Connection) -> None:
        """A child that is no turn's, and holds, or soon holds, a conversation. The lock must be held."""
        child.last_used = self._clock()
        self.members.live.append(child)
        while len(self.members.live) > self.limits.live:
            self._retire(self.members.live.pop(0), urgent=False)

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
            found = [child for child in self.members.live + self.members.parked if child.session == key]
            for child in found:
                (self.members.parked if child in self.members.parked else self.members.live).remove(child)
                self._retire(child, urgent=False)
        self._waker.wake()
        return len(found)

    def request_usage(self, take: Callable[[Mapping[str, Any] | None], None]) -> bool:
        """Have an idle child asked how much of the plan is used; False where there is none. take: see `Connection`."""
        return self.ask_idle(lambda child: child.request_usage(take))

    def ask_idle(self, ask: Callable[[Connection], None]) -> bool:
        """Have a child that no turn has asked something that changes nothing in it; False where there is none."""
        with self.changed:
            for child in self.members.spares + self.members.live:
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
            return Counts(len(members.spares), len(members.live), len(members.parked), len(members.leased))

    def close(self) -> None:
        """No more leases; everything that is not leased goes."""
        with self.changed:
            self.closing = True
            while self.orders:
                self.orders.popleft().error = ShuttingDown("The proxy is shutting down")
            self.changed.notify_all()
        self.retire_idle()

    def make_room(self) -> None:
        """Below the maximum again, if anyone can go: the least recently used live child, a spare, the oldest parked
        one, whose conversation is then replayed. The lock must be held."""
        members = self.members
        while members.count() >= self.limits.maximum:
            group = members.live or members.spares or members.parked
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
        self.members.live.clear()
        self.members.parked.clear()

    def _refuse_when_closing(self) -> None:
        if self.closing:
            raise ShuttingDown("The proxy is shutting down")

    def _take_spare(self, profile: Profile) -> Connection | None:
        """The prepared spare for this very profile, else a blank one that can become it; dead ones are retired."""
        spares = self.members.spares
        prepared = [child for child in spares if child.profile == profile]
        blank = [child for child in spares if child.profile is None and fits(child, profile)]
        for child in prepared + blank:
            spares.remove(child)
            if child.is_running():
                return child
            self._retire(child, urgent=True)
        return None

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


def fits(child: Connection, profile: Profile) -> bool:
    """True where a blank child can take on a profile: of its mode, and of its model where that cannot be set."""
    return child.agent == profile.agent and (child.model == profile.model or is_alias(profile.model))
