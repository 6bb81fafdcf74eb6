"""What the requests of this proxy have used: one row a day for each owner, dialect, mode, model and session.

In: what a turn spent. Out: statements for the transaction that ends the turn, and reports of an owner's own use. Called
by the bookkeeping of turns and by `/v1/usage`.
Invariants: `statements` does no I/O; a day is a day in UTC, like every time that this proxy shows; the table holds
counts and names, not text.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from ..core.events import Usage
from ..core.session_key import SessionKey
from .store import Statement, Store

DAYS_KEPT = 400
MOST_SESSIONS = 1000

_KEYS = ("owner", "day", "dialect", "mode", "model", "session")
_COUNTS = ("requests", "failed", "input", "cache_read", "cache_creation", "output", "thinking")
_ADD = ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTS)
_COLUMNS = ", ".join((*_KEYS, *_COUNTS, "cost_usd"))
# A sum with NULL is NULL: what the CLI gave no estimate for leaves the sum as it is.
_ON_CONFLICT = (
    f"ON CONFLICT ({', '.join(_KEYS)}) DO UPDATE SET {_ADD},"
    " cost_usd = coalesce(cost_usd + excluded.cost_usd, cost_usd, excluded.cost_usd)"
)
_SUMS = ", ".join(f"sum({name})" for name in (*_COUNTS, "cost_usd"))


@dataclass(frozen=True, slots=True)
class Spent:
    """What one turn used. owner: digest of the API key. usage: the sums of all model calls of the turn.

    cost_usd: the CLI's own estimate in US dollars, None where it made none.
    """

    owner: str
    dialect: str
    mode: str
    model: str
    session: str
    usage: Usage
    cost_usd: float | None
    failed: bool


@dataclass(frozen=True, slots=True)
class Sums:
    """Requests and what they used. cost_usd: None where no request had an estimate."""

    requests: int = 0
    failed: int = 0
    usage: Usage = Usage()
    cost_usd: float | None = None

    def __add__(self, other: "Sums") -> "Sums":
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Sums(
            self.requests + other.requests,
            self.failed + other.failed,
            self.usage + other.usage,
            sum(costs) if costs else None,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """An owner's use. days: by `YYYY-MM-DD` in UTC, oldest first; models: by name; sessions: by id, last used first,
    at most `MOST_SESSIONS` of them."""

    total: Sums
    days: dict[str, Sums]
    models: dict[str, Sums]
    sessions: dict[str, Sums]


class Ledger:
    """The use of this proxy. `wall_clock` gives Unix seconds."""

    def __init__(self, store: Store, wall_clock: Callable[[], float]) -> None:
        self._store = store
        self._wall_clock = wall_clock

    def statements(self, spent: Spent) -> list[Statement]:
        """What must be written so that a turn counts, for today."""
        usage = spent.usage
        sql = f"INSERT INTO usage ({_COLUMNS}) VALUES ({', '.join('?' * 14)}) {_ON_CONFLICT}"
        keys = (spent.owner, str(self._today()), spent.dialect, spent.mode, spent.model, spent.session)
        counts = (
            *(1, int(spent.failed), usage.input_tokens, usage.cache_read_input_tokens),
            *(usage.cache_creation_input_tokens, usage.output_tokens, usage.thinking_tokens),
        )
        return [(sql, (*keys, *counts, spent.cost_usd))]

    def report(self, owner: str, since: date | None = None, until: date | None = None) -> Report:
        """The owner's use from one day to another, both included; without bounds of all days that are kept."""
        rows = self._store.read(
            f"SELECT day, model, session, {_SUMS} FROM usage WHERE owner = ? AND day BETWEEN ? AND ?"
            " GROUP BY day, model, session ORDER BY day DESC",
            (owner, str(since or date.min), str(until or date.max)),
        )
        sums = [(*row[:3], _sums(*row[3:])) for row in rows]
        days = _group((day, one) for day, _, _, one in sums)
        models = _group((model, one) for _, model, _, one in sums)
        sessions = _group((session, one) for _, _, session, one in sums if session)
        return Report(
            sum((one for *_, one in sums), Sums()),
            dict(sorted(days.items())),
            dict(sorted(models.items())),
            dict(list(sessions.items())[:MOST_SESSIONS]),
        )

    def forget_session(self, key: SessionKey) -> list[Statement]:
        """What must be written to forget a session's id; its use still counts for its owner."""
        if not key.id:
            return []
        nameless = ", ".join("''" if name == "session" else name for name in _KEYS)
        return [
            (
                f"INSERT INTO usage ({_COLUMNS}) SELECT {nameless}, {', '.join(_COUNTS)}, cost_usd FROM usage"
                f" WHERE owner = ? AND session = ? {_ON_CONFLICT}",
                (key.owner, key.id),
            ),
            ("DELETE FROM usage WHERE owner = ? AND session = ?", (key.owner, key.id)),
        ]

    def prune(self) -> None:
        """Forget days that are older than `DAYS_KEPT`."""
        self._store.write([("DELETE FROM usage WHERE day < ?", (str(self._today() - timedelta(DAYS_KEPT)),))])

    def _today(self) -> date:
        return datetime.fromtimestamp(self._wall_clock(), UTC).date()


def _sums(
    requests: int,
    failed: int,
    fresh: int,
    cache_read: int,
    cache_creation: int,
    output: int,
    thinking: int,
    cost_usd: float | None,
) -> Sums:
    return Sums(requests, failed, Usage(fresh, output, cache_read, cache_creation, thinking), cost_usd)


def _group(pairs: Iterable[tuple[str, Sums]]) -> dict[str, Sums]:
    """The sums by name, in the order of first appearance."""
    groups: dict[str, Sums] = {}
    for name, sums in pairs:
        groups[name] = groups.get(name, Sums()) + sums
    return groups
