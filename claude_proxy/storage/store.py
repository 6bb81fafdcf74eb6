"""What survives a restart: one SQLite file in the state folder, in WAL mode, readable by its owner alone.

In: SQL of the other modules of this room, each of which owns its tables. Out: rows.
Invariants: a failing store never fails a turn (`write` says whether it worked, the log why); a corrupt file is renamed
and logged, never deleted; two proxies may share a file, SQLite keeps them apart. Migrations are listed here, so that
all tables have one order.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE_NAME = "state.db"
BUSY_TIMEOUT = 5.0
WARNING_INTERVAL = 60.0

Statement = tuple[str, Sequence[Any]]

# Each entry brings the schema one version further. A released entry never changes: files exist that have run it.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sessions (
        external_id TEXT PRIMARY KEY,
        claude_session_id TEXT,
        model TEXT NOT NULL,
        mode TEXT NOT NULL,
        message_count INTEGER NOT NULL,
        created_at REAL NOT NULL,
        last_used_at REAL NOT NULL
    );
    CREATE INDEX sessions_by_use ON sessions (last_used_at);
    CREATE TABLE heads (
        digest BLOB PRIMARY KEY,
        external_id TEXT NOT NULL REFERENCES sessions (external_id) ON DELETE CASCADE,
        claude_session_id TEXT,
        claude_message_uuid TEXT,
        position INTEGER NOT NULL,
        created_at REAL NOT NULL
    );
    CREATE INDEX heads_by_session ON heads (external_id, created_at);
    CREATE TABLE history (
        external_id TEXT NOT NULL REFERENCES sessions (external_id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        message BLOB NOT NULL,
        PRIMARY KEY (external_id, position)
    );
    """,
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        conversation_id TEXT,
        previous_id TEXT,
        status TEXT NOT NULL,
        background INTEGER NOT NULL,
        runner TEXT,
        body BLOB NOT NULL,
        input_items BLOB NOT NULL,
        events BLOB,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL
    );
    CREATE INDEX responses_by_use ON responses (used_at);
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        metadata BLOB NOT NULL,
        created_at REAL NOT NULL,
        used_at REAL NOT NULL
    );
    CREATE INDEX conversations_by_use ON conversations (used_at);
    CREATE TABLE conversation_items (
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        item_id TEXT NOT NULL,
        item BLOB NOT NULL,
        PRIMARY KEY (conversation_id, position)
    );
    CREATE INDEX conversation_items_by_id ON conversation_items (item_id);
    """,
    """
    CREATE TABLE usage (
        owner TEXT NOT NULL,
        day TEXT NOT NULL,
        dialect TEXT NOT NULL,
        mode TEXT NOT NULL,
        model TEXT NOT NULL,
        session TEXT NOT NULL,
        requests INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        input INTEGER NOT NULL,
        cache_read INTEGER NOT NULL,
        cache_creation INTEGER NOT NULL,
        output INTEGER NOT NULL,
        thinking INTEGER NOT NULL,
        cost_usd REAL,
        PRIMARY KEY (owner, day, dialect, mode, model, session)
    ) WITHOUT ROWID;
    """,
)


class Store:
    """One connection behind one lock. `path` is None for a store in memory, which forgets everything at the end."""

    def __init__(self, folder: Path | None) -> None:
        """Open or create the file in `folder`. Never raises: a file that cannot be used leaves a store in memory."""
        self._lock = threading.Lock()  # guards: _connection, _warned_at
        self._warned_at = float("-inf")
        self.path = None if folder is None else folder / FILE_NAME
        self._connection = self._open()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows; none where the store fails."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                self._warn_throttled(error)
                return []

    def write(self, statements: Iterable[Statement]) -> bool:
        """All statements in one transaction, or none of them; False where that failed."""
        with self._lock:
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    for sql, parameters in statements:
                        self._connection.execute(sql, parameters)
                return True
            except sqlite3.Error as error:
                self._warn_throttled(error)
                return False

    def erase(self, statements: Iterable[Statement]) -> bool:
        """`write` for statements that delete text: when this returns, the write-ahead log does not hold it either."""
        done = self.write(statements)
        if done:
            self.read("PRAGMA wal_checkpoint(TRUNCATE)")
        return done

    def close(self) -> None:
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        if self.path is None:
            return _connect(":memory:")
        try:
            _make_private(self.path)
            return _connect(str(self.path))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                return self._without_file(error)
            return self._set_aside(error)
        except OSError as error:
            return self._without_file(error)

    def _set_aside(self, error: Exception) -> sqlite3.Connection:
        assert self.path is not None
        aside = self.path.with_name(f"{FILE_NAME}.corrupt-{int(time.time())}")
        log.error("%s is corrupt (%s); it is kept as %s, and a new one is begun", self.path, error, aside.name)
        try:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
            _make_private(self.path)
            return _connect(str(self.path))
        except (OSError, sqlite3.Error) as again:
            return self._without_file(again)

    def _without_file(self, error: Exception) -> sqlite3.Connection:
        log.error("%s cannot be used (%s); nothing is kept beyond this run", self.path, error)
        self.path = None
        return _connect(":memory:")

    def _warn_throttled(self, error: sqlite3.Error) -> None:
        """Log a failure, but not each one: a full disk fails the last step of every turn."""
        now = time.monotonic()
        if now - self._warned_at >= WARNING_INTERVAL:
            self._warned_at = now
            log.error("The store failed (%s); turns go on, but are not remembered", error)


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What a client has deleted is overwritten, in the file and in its log.
        connection.execute("PRAGMA secure_delete = ON")
        (state,) = connection.execute("PRAGMA quick_check").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        _migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema to the newest version; each step is one transaction, so that a kill leaves a whole version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise sqlite3.OperationalError(f"its schema {version} is newer than this program")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


def _make_private(path: Path) -> None:
    """The folder and the file belong to their owner alone, from the first byte."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.chmod(path, 0o600)
