"""Which conversation a request belongs to, what it is called, and what is remembered of it.

In: a name the client gave, if any, and the digest chain of its messages. Out: a `Session`: its id, and how much of the
conversation is known already. Called by the bookkeeping of turns and by the routes of sessions.
Invariants: content decides what continues what, a name only keeps conversations apart; a name is a key, never a path.
The table holds digests, counts and times but not text, except for sessions whose client asked the server to keep the
history (`X-Session-History: server`); that text is deleted with them.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from ..claude.wire.profile import Point
from ..core.conversation import Message, Thinking
from ..core.session_key import SessionKey
from .store import Statement, Store

log = logging.getLogger(__name__)

LONGEST_ID = 64
HEADS_KEPT = 400
LOOKUP_BATCH = 400
HEAD_COLUMNS = "digest, external_id, claude_session_id, claude_message_uuid, position, created_at"
COLUMNS = "external_id, claude_session_id, model, mode, message_count, created_at, last_used_at"


@dataclass(frozen=True, slots=True)
class Name:
    """What the client calls its conversation. `owner`: digest of its API key, empty without one. `given`: the id under
    which it is listed, `hdr_…` or `usr_…`, or None where the client named nothing."""

    owner: str = ""
    given: str | None = None

    @property
    def key(self) -> SessionKey:
        """The key of the session that has this name; without a name an id that no session has."""
        return SessionKey(self.owner, self.given or "")

    @property
    def partition(self) -> str:
        """A part of every digest, so that equal conversations of two names stay two."""
        return str(self.key)


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation under way. `known`: how many of its messages were seen before; 0 for a new one. `point`: where
    the CLI's own session, if it keeps one, holds just these."""

    key: SessionKey
    known: int
    generation: int
    point: Point | None = None

    @property
    def id(self) -> str:
        return self.key.id


@dataclass(frozen=True, slots=True)
class Record:
    """A row of the sessions API. Times in Unix seconds."""

    id: str
    claude_session_id: str | None
    model: str
    mode: str
    message_count: int
    created_at: float
    last_used_at: float


def make_owner(api_key: str) -> str:
    """Names a key without holding it."""
    return hashlib.blake2b(api_key.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest() if api_key else ""


def make_id(kind: str, name: str) -> str:
    """`hdr_my-chat`: percent-encoded, at most 64 characters and the prefix; longer names keep apart by a digest."""
    encoded = quote(name, safe="", errors="surrogateescape")
    if len(encoded) > LONGEST_ID:
        mark = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        encoded = f"{encoded[: LONGEST_ID - 17]}~{mark}"
    return f"{kind}_{encoded}"


class CliSessions(Protocol):
    """Files of the CLI, by its own session ids."""

    def forget_sessions(self, session_ids: Sequence[str], /) -> object:
        """Delete what the CLI keeps of these."""


class Sessions:
    """The conversations of this proxy."""

    def __init__(
        self, store: Store, ttl: float, clock: Callable[[], float], cli_sessions: CliSessions | None = None
    ) -> None:
        """
        Args:
            ttl: seconds after its last use until a session is deleted.
            clock: Unix seconds.
            cli_sessions: the sessions that the CLI itself keeps, if it does; deleted together with ours.
        """
        self._store = store
        self._ttl = ttl
        self._clock = clock
        self._lock = threading.Lock()  # guards: _generations, _reserved
        self._generations: dict[SessionKey, int] = {}
        self._reserved: set[SessionKey] = set()
        self._cli_sessions = cli_sessions

    def begin(self, name: Name, chain: Sequence[bytes]) -> Session:
        """The session of a conversation whose digests are H₀ … Hₙ."""
        found = self._find(chain)
        if name.given is not None:
            key = name.key
        elif found is not None and found.is_newest:
            key = found.key
        else:
            key = self._new_key(name.owner, chain[-1])
        with self._lock:
            generation = self._generations.get(key, 0)
        if found is None:
            return Session(key, 0, generation)
        return Session(key, found.known, generation, found.point)

    def finish(
        self,
        session: Session,
        heads: Sequence[bytes],
        count: int,
        *,
        model: str,
        mode: str = "chat",
        point: Point | None = None,
        claude_session_id: str | None = None,
        history: Sequence[Message] = (),
        more: Sequence[Statement] = (),
    ) -> bool:
        """A turn has ended: remember from where its conversation may be continued.

        False where the session was deleted meanwhile; then nothing is written.

        Args:
            heads: digests from any of which the conversation continues.
            count: messages that it has now.
            model, mode: what the sessions API shows.
            point: where the CLI's own session stands, if it keeps one; it belongs to the first of the heads.
            claude_session_id: the CLI's id of that session.
            history: messages to add to what the server keeps for the client.
            more: statements for the same transaction; one of its own would cost a second wait for the disk.
        """
        with self._lock:
            self._reserved.discard(session.key)
            if self._generations.get(session.key, 0) != session.generation:
                return False
        now = self._clock()
        statements: list[Statement] = [
            (
                f"INSERT INTO sessions ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (external_id) DO UPDATE SET"
                " claude_session_id = excluded.claude_session_id, model = excluded.model, mode = excluded.mode,"
                " message_count = excluded.message_count, last_used_at = excluded.last_used_at",
                (str(session.key), claude_session_id, model, mode, count, now, now),
            ),
            *(
                (
                    f"INSERT OR REPLACE INTO heads ({HEAD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
                    (head, str(session.key), *_columns_of(point if head == heads[0] else None), count, now),
                )
                for head in heads
            ),
            (
                "DELETE FROM heads WHERE external_id = ? AND digest NOT IN"
                " (SELECT digest FROM heads WHERE external_id = ? ORDER BY created_at DESC LIMIT ?)",
                (str(session.key), str(session.key), HEADS_KEPT),
            ),
            *self._append(session, history),
            *more,
        ]
        self._store.write(statements)  # a full disk costs the memory of the turn, not the turn
        return True

    def write(self, statements: Sequence[Statement]) -> None:
        """Only the statements that `finish` takes as `more`, for a turn that adds nothing to its conversation."""
        self._store.write(statements)

    def history(self, key: SessionKey) -> tuple[Message, ...]:
        """What the server keeps of a conversation for its client, oldest first."""
        sql = "SELECT message FROM history WHERE external_id = ? ORDER BY position"
        rows = self._store.read(sql, (str(key),))
        return tuple(msgspec.json.decode(message, type=Message) for (message,) in rows)

    def records(self, owner: str) -> list[Record]:
        """The owner's sessions, last used first."""
        sql = f"SELECT {COLUMNS} FROM sessions WHERE external_id LIKE ? ORDER BY last_used_at DESC"
        rows = self._store.read(sql, (str(SessionKey(owner, "%")),))
        return [_record(row) for row in rows]

    def get(self, key: SessionKey) -> Record | None:
        rows = self._store.read(f"SELECT {COLUMNS} FROM sessions WHERE external_id = ?", (str(key),))
        return _record(rows[0]) if rows else None

    def delete(self, key: SessionKey) -> bool:
        """Forget a session and all it holds; a turn that still runs in it is not remembered. False where unknown."""
        known = self.get(key) is not None
        with self._lock:
            self._generations[key] = self._generations.get(key, 0) + 1
        self._forget("external_id = ?", str(key))
        return known

    def prune(self) -> int:
        """Delete what was not used for longer than the ttl; returns how many sessions that were."""
        return self._forget("last_used_at < ?", self._clock() - self._ttl)

    def _forget(self, condition: str, value: str | float) -> int:
        """Delete sessions with all that hangs on them, the CLI's own files included; returns how many."""
        doomed = f"SELECT external_id FROM sessions WHERE {condition}"
        files = self._store.read(
            f"SELECT DISTINCT claude_session_id FROM heads WHERE external_id IN ({doomed})", (value,)
        )
        count = len(self._store.read(doomed, (value,)))
        if count and self._store.erase([(f"DELETE FROM sessions WHERE {condition}", (value,))]):
            if self._cli_sessions is not None:
                self._cli_sessions.forget_sessions([session_id for (session_id,) in files if session_id])
        return count

    def count(self) -> int:
        """How many sessions are remembered, of all owners."""
        rows = self._store.read("SELECT count(*) FROM sessions")
        return int(rows[0][0]) if rows else 0

    def _find(self, chain: Sequence[bytes]) -> "_Found | None":
        """The longest beginning that is known; None for a new conversation.

        The last message is always new, although an answer that said nothing leaves the digest before it as a head.
        """
        deepest_first = list(enumerate(chain[:-1]))[:0:-1]
        for start in range(0, len(deepest_first), LOOKUP_BATCH):
            batch = dict((digest, count) for count, digest in deepest_first[start : start + LOOKUP_BATCH])
            marks = ",".join("?" * len(batch))
            rows = self._store.read(f"SELECT {HEAD_COLUMNS} FROM heads WHERE digest IN ({marks})", [*batch])
            if rows:
                digest, key, claude_id, uuid, _, noted = max(rows, key=lambda row: batch[bytes(row[0])])
                newest = self._store.read("SELECT max(created_at) FROM heads WHERE external_id = ?", (key,))
                point = Point(claude_id, uuid) if claude_id and uuid else None
                is_newest = bool(newest) and newest[0][0] == noted
                return _Found(SessionKey.parse(key), batch[bytes(digest)], is_newest, point)
        return None

    def _new_key(self, owner: str, digest: bytes) -> SessionKey:
        """Its id is `auto_` and 16 hex digits of the conversation's digest; two that open alike get two ids."""
        number = 0
        while True:
            salted = hashlib.blake2b(digest + number.to_bytes(4, "big"), digest_size=8).hexdigest()
            key = SessionKey(owner, f"auto_{salted}")
            with self._lock:
                taken = key in self._reserved
                self._reserved.add(key)
            if not taken and self.get(key) is None:
                return key
            number += 1

    def _append(self, session: Session, messages: Sequence[Message]) -> list[Statement]:
        sql = (
            "INSERT INTO history (external_id, position, message)"
            " SELECT ?, coalesce(max(position), 0) + 1, ? FROM history WHERE external_id = ?"
        )
        key = str(session.key)
        return [(sql, (key, msgspec.json.encode(without_thinking(m)), key)) for m in messages]

    def release(self, session: Session) -> None:
        """A turn has failed: its id may be used again."""
        with self._lock:
            self._reserved.discard(session.key)


def without_thinking(message: Message) -> Message:
    """A message as it is kept: thinking cannot be sent again under another model."""
    return Message(message.role, tuple(block for block in message.content if not isinstance(block, Thinking)))


@dataclass(frozen=True, slots=True)
class _Found:
    """A known beginning: of which session, how many messages, whether that is its newest point, and the CLI's place."""

    key: SessionKey
    known: int
    is_newest: bool
    point: Point | None


def _columns_of(point: Point | None) -> tuple[str | None, str | None]:
    return (None, None) if point is None else (point.session_id, point.message_uuid)


def _record(row: tuple[Any, ...]) -> Record:
    return Record(SessionKey.parse(row[0]).id, *row[1:])
