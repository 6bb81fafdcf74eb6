"""What the fleet keeps books of: which child is where, what was ordered, how many there may be.

`fleet.py` and `selection.py` alone change these objects, with the fleet's lock held; others read the frozen ones.
Invariant: a connection is in one list of `Members` at a time, and once it is retired it never comes back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...core.conversation import Message
from ...core.errors import ProxyError
from ..turn.connection import Connection
from ..wire.profile import Point, Profile


@dataclass(slots=True)
class Order:
    """A child that a lease cannot do without; one of `connection` and `error` comes from the keeper."""

    model: str
    resume: Point | None = None
    agent: bool = False
    connection: Connection | None = None
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
    """How many there are of each kind, those that are on their way out not counted; `spare` with the free ones."""

    spare: int = 0
    live: int = 0
    parked: int = 0
    leased: int = 0


@dataclass(slots=True)
class Tally:
    """Children since the start. ended: how many, by the words of `how_ended`."""

    started: int = 0
    ended: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Members:
    """Which connection is where; every list oldest first.

    spares: blank ones. free: used ones that hold nothing worth keeping. live: those that hold a conversation. parked:
    those that wait for results of the client's functions. leased: those that a turn has. retired: those that the keeper
    must end, each with whether at once.
    """

    spares: list[Connection] = field(default_factory=list)
    free: list[Connection] = field(default_factory=list)
    live: list[Connection] = field(default_factory=list)
    parked: list[Connection] = field(default_factory=list)
    leased: list[Connection] = field(default_factory=list)
    retired: list[tuple[Connection, bool]] = field(default_factory=list)

    def idle(self) -> list[Connection]:
        """Those that no turn has."""
        return self.spares + self.free + self.live + self.parked

    def used(self) -> list[Connection]:
        """The idle ones that may hold a conversation."""
        return self.free + self.live + self.parked

    def count(self) -> int:
        return len(self.idle()) + len(self.leased)

    def lease(self, connection: Connection, owner: str) -> None:
        """Take it from where it is, and note whose texts it sees from now on."""
        self.remove(connection)
        connection.owner = owner
        self.leased.append(connection)

    def retire(self, connection: Connection, *, urgent: bool = False) -> None:
        """Take it from where it is; the keeper ends it."""
        self.remove(connection)
        # A parked child takes the end of its input for the end of its call, and asks the API to go on without it.
        self.retired.append((connection, urgent or connection.is_parked))

    def retire_idle(self) -> None:
        for connection in self.idle():
            self.retire(connection)

    def make_room(self, maximum: int) -> None:
        """Get below the maximum, if any can go: a free child, the least recently used live one, a spare, the oldest
        parked one, whose conversation is then replayed."""
        while self.count() >= maximum:
            group = self.free or self.live or self.spares or self.parked
            if not group:
                return
            self.retire(group[0])

    def remove(self, connection: Connection) -> None:
        for group in (self.spares, self.free, self.live, self.parked, self.leased):
            if connection in group:
                group.remove(connection)
