"""Which idle child serves a turn best, and what it keeps of what it holds.

`Fleet` asks with its lock held. Invariants: a child is chosen only for the key whose texts it has seen; one that is
chosen is alive and silent; one that is found to be neither is retired on the way.
"""

from collections.abc import Callable, Sequence

from ...core.conversation import Message
from ...core.models import is_alias
from ..turn.connection import Connection
from ..wire.profile import Profile
from ..wire.recycling import Recycling, can_become
from .members import Limits, Members, Wanted


class Selection:
    """The choice among the members of a fleet."""

    def __init__(
        self,
        members: Members,
        limits: Limits,
        recycling: Recycling,
        clock: Callable[[], float],
        stale_call_interval: float,
    ) -> None:
        """
        Args:
            members: among whom.
            limits: how many conversations may be kept.
            recycling: what a used child can be made to become.
            clock: monotonic seconds, on which the members were last used.
            stale_call_interval: a parked child that has waited so long may lose its call to another conversation.
        """
        self._members = members
        self._limits = limits
        self._recycling = recycling
        self._clock = clock
        self._stale_call_interval = stale_call_interval

    def find(self, wanted: Wanted, *, fresh: bool) -> tuple[Connection, int] | None:
        """A child, still in its list, and how many of the turn's messages it keeps; None where a process is needed.

        fresh: only one that no turn has used.
        """
        spares = [spare for spare in self._members.spares if fits(spare, wanted.profile)]
        if fresh:
            candidates = spares
        else:
            holding = self.find_holding(wanted)
            if holding is not None:
                return holding
            given_up = self._convertible(self._dispensable(), wanted)
            candidates = [*self._convertible(self._members.free, wanted), *spares, *given_up]
        for connection in candidates:
            is_well = connection.is_running() if connection.profile is None else connection.is_quiet()
            if is_well:
                return connection, 0
            self._members.retire(connection, urgent=True)
        return None

    def find_holding(self, wanted: Wanted) -> tuple[Connection, int] | None:
        """The child that holds most of the conversation, in a state from which it can go on.

        A parked child whose conversation goes on without the results that it waits for is taken out of that turn, where
        it can be, and is retired otherwise.
        """
        held = [(one.history.common(wanted.chain[:-1]), one) for one in self._members.used()]
        for common, connection in sorted(held, key=_by_count, reverse=True):
            if common == 0 or connection.profile != wanted.profile or connection.owner != wanted.owner:
                continue
            keep = self._keepable(connection, common, wanted.messages)
            # The conversation went on without the results that the child waits for: its turn is worth nothing now.
            is_left = connection.is_parked and common == len(connection.history)
            if not connection.is_quiet() or (keep is None and is_left):
                self._members.retire(connection, urgent=True)
            elif keep or (keep == 0 and is_left):
                return connection, keep
        return None

    def can_forget(self, connection: Connection) -> bool:
        """True where a child can be rewound to its beginning, to serve another conversation."""
        can_rewind = self._recycling.abilities.rewind and not connection.agent
        return can_rewind and connection.history.reachable(0) == 0

    def _keepable(self, connection: Connection, common: int, messages: Sequence[Message]) -> int | None:
        """How many messages a child keeps that has `common` ones with a conversation; None for none."""
        is_whole = common == len(connection.history)
        if is_whole and not connection.is_parked:
            return common
        if is_whole and common == len(messages) - 1 and connection.can_answer(messages[-1]):
            return common
        if not self._recycling.abilities.rewind or connection.agent:
            return None
        return connection.history.reachable(min(common, len(connection.history) - 1))

    def _convertible(self, connections: Sequence[Connection], wanted: Wanted) -> list[Connection]:
        """Those that can become what is wanted, the ones that need least for it first."""
        abilities = self._recycling.abilities
        found = [
            one
            for one in connections
            if one.owner == wanted.owner
            and one.profile is not None
            and one.history.reachable(0) == 0
            and can_become(one.profile, wanted.profile, abilities)
        ]
        return sorted(found, key=lambda one: one.profile != wanted.profile)

    def _dispensable(self) -> list[Connection]:
        """Kept conversations that may be given up for another one, the one whose loss costs least first.

        Before a process is started: those with one answer, for most of them are never continued, and to replay one
        takes a tenth of a start; and calls that have waited for long. The others, the shortest first, and calls that
        began to wait just now, only where there is no room.
        """
        members, limits = self._members, self._limits
        stale_since = self._clock() - self._stale_call_interval
        cheap = [one for one in members.live if one.history.is_one_shot]
        cheap += [one for one in members.parked if one.last_used <= stale_since]
        is_full = members.count() >= limits.maximum
        if len(members.live) < limits.live and not is_full:
            return cheap
        others = [one for one in members.live if not one.history.is_one_shot]
        others.sort(key=lambda one: len(one.history))
        return cheap + others + (members.parked if is_full else [])


def _by_count(found: tuple[int, Connection]) -> int:
    return found[0]


def fits(spare: Connection, profile: Profile) -> bool:
    """True where a blank child can take on a profile: of its mode, and of its model where that cannot be set."""
    return may_start_as(Profile(spare.model, agent=spare.agent), profile)


def may_start_as(kind: Profile, profile: Profile) -> bool:
    """True where a child that was started as `kind` can be initialised as `profile`."""
    return kind.agent == profile.agent and (kind.model == profile.model or is_alias(profile.model))


def unmatched(kinds: Sequence[Profile], spares: Sequence[Connection]) -> list[Profile]:
    """The kinds for which no spare is left once each spare serves one of them."""
    left, missing = list(spares), []
    for kind in kinds:
        spare = next((one for one in left if fits(one, kind)), None)
        if spare is None:
            missing.append(kind)
        else:
            left.remove(spare)
    return missing
