"""What every request is doing: the running ones and the last that ended, each with what happened to it.

In: notices of turns, by the id of their request. Out: entries, the notices of one request for the routes that watch it,
all notices for the listeners (metrics, sinks).
Invariants: `note` never waits, and neither does a listener: it may only put a notice into a queue of its own. A notice
never holds a prompt, an answer or the output of a tool; of a tool's input it holds the short `label` that the user sees
as progress.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from ..core.errors import ChildSilent, ProxyError, RequestTimedOut
from ..core.events import Usage

log = logging.getLogger(__name__)

KEPT = 200
NOTICES_KEPT = 500

Kind = Literal[
    "queued",
    "leased",
    "first_token",
    "tool_started",
    "tool_ended",
    "permission_asked",
    "permission_decided",
    "rate_limit",
    "done",
]
State = Literal["queued", "running", "succeeded", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened to a request, at Unix second `at`; `number` counts those of the request from 0.

    data, by kind: queued {}; leased {session, model, how}; first_token {model}; tool_started {tool_id, tool, label};
    tool_ended {tool_id, tool, label, seconds, ok}; permission_asked {permission_id, tool, label}; permission_decided
    {permission_id, decision}; rate_limit {status, type, utilization, resets_at}, each None where it is unknown;
    done {state, status, error} (`error`: a kind of `errors`, None after success), and for a child that was killed for
    its silence {silent: True}.
    """

    request_id: str
    number: int
    kind: Kind
    at: float
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. owner: digest of its API key. Times in Unix seconds, None while they have not come.

    tools: labels of the tools that run now, by their id, oldest first. status: the HTTP status it ended with; error:
    the kind of its failure. total: what all model calls of the turn took together, `usage` what the client sees.
    """

    id: str
    owner: str
    dialect: str
    mode: str
    model: str
    created_at: float
    session: str = ""
    how: str = ""
    state: State = "queued"
    leased_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    usage: Usage = Usage()
    total: Usage = Usage()
    tools: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None
    error: str | None = None


@dataclass(slots=True)
class _Record:
    entry: Entry
    count: int = 0
    notices: deque[Notice] = field(default_factory=lambda: deque(maxlen=NOTICES_KEPT))

    def add(self, notice: Notice, counts: Mapping[str, Any]) -> Entry:
        """Keep a notice; returns the entry as it is after it. counts: fields of the entry that hold Usages."""
        self.count += 1
        self.notices.append(notice)
        self.entry = replace(_advance(self.entry, notice), **counts)
        return self.entry


class Listener(Protocol):
    """What is called with every notice, by the thread that noted it."""

    def on_notice(self, entry: Entry, notice: Notice, /) -> None:
        """Return at once. entry: as it is after the notice."""


class Activity:
    """The requests of this proxy."""

    def __init__(self, clock: Callable[[], float], listeners: Sequence[Listener] = (), kept: int = KEPT) -> None:
        """
        Args:
            clock: Unix seconds.
            listeners: called in this order.
            kept: how many requests that have ended are kept.
        """
        self._listeners = tuple(listeners)
        self._clock = clock
        self._kept = kept
        self._changed = threading.Condition()  # guards: _records
        self._records: dict[str, _Record] = {}

    def begin(self, request_id: str, *, owner: str, dialect: str, mode: str, model: str) -> None:
        """A request that waits to be run."""
        entry = Entry(request_id, owner, dialect, mode, model, self._clock())
        with self._changed:
            self._records[request_id] = _Record(entry)
            self._drop_old()
        self.note(request_id, "queued")

    def note(self, request_id: str, kind: Kind, /, **data: Any) -> None:
        """Something happened to a request; nothing where it is unknown or has ended. `usage` and `total`, Usages that
        may come with any kind, go into the entry only."""
        now = self._clock()
        counts: dict[str, Any] = {name: data.pop(name) for name in ("usage", "total") if name in data}
        with self._changed:
            record = self._records.get(request_id)
            if record is None or record.entry.ended_at is not None:
                return
            notice = Notice(request_id, record.count, kind, now, data)
            entry = record.add(notice, counts)
            if kind == "done":
                self._drop_old()
            self._changed.notify_all()
        for listener in self._listeners:
            try:
                listener.on_notice(entry, notice)
            except Exception:  # a bug of a listener must not fail the turn
                log.exception("A listener failed")

    def done(self, request_id: str, error: ProxyError | None, **counts: Usage) -> None:
        """The request has ended; only the first end counts. counts: `usage`, `total`."""
        state: State = "succeeded"
        if error is not None:
            state = "interrupted" if error.kind in ("client_gone", "interrupted") else "failed"
        was_silent = isinstance(error, ChildSilent) and not isinstance(error, RequestTimedOut)
        silent = {"silent": True} if was_silent else {}
        status, kind = (200, None) if error is None else (error.status, error.kind)
        self.note(request_id, "done", state=state, status=status, error=kind, **silent, **counts)

    def entries(self, owner: str) -> list[Entry]:
        """The owner's requests, newest first."""
        with self._changed:
            return [record.entry for record in reversed(self._records.values()) if record.entry.owner == owner]

    def get(self, owner: str, request_id: str) -> Entry | None:
        with self._changed:
            record = self._records.get(request_id)
            return record.entry if record is not None and record.entry.owner == owner else None

    def wait(self, request_id: str, number: int, timeout: float) -> tuple[list[Notice], bool]:
        """The kept notices from `number` on, and whether no more will come; waits `timeout` seconds for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_news(request_id, number), timeout)
            record = self._records.get(request_id)
            if record is None:
                return [], True
            return [notice for notice in record.notices if notice.number >= number], record.entry.ended_at is not None

    def _has_news(self, request_id: str, number: int) -> bool:
        record = self._records.get(request_id)
        return record is None or record.count > number or record.entry.ended_at is not None

    def _drop_old(self) -> None:
        ended = [key for key, record in self._records.items() if record.entry.ended_at is not None]
        for key in ended[: max(0, len(ended) - self._kept)]:
            del self._records[key]


def _advance(entry: Entry, notice: Notice) -> Entry:
    """The entry as it is after a notice."""
    data = notice.data
    match notice.kind:
        case "leased":
            return replace(
                entry,
                state="running",
                leased_at=notice.at,
                session=data["session"],
                model=data["model"],
                how=data["how"],
            )
        case "first_token":
            return replace(entry, model=data["model"], first_token_at=notice.at)
        case "tool_started":
            return replace(entry, tools={**entry.tools, data["tool_id"]: data["label"]})
        case "tool_ended":
            return replace(entry, tools=_without(entry.tools, data["tool_id"]))
        case "done":
            return replace(
                entry, state=data["state"], ended_at=notice.at, status=data["status"], error=data["error"], tools={}
            )
    return entry


def _without(tools: Mapping[str, str], tool_id: str) -> dict[str, str]:
    return {key: label for key, label in tools.items() if key != tool_id}
