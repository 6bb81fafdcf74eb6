"""What the CLI's agent asks before it uses a tool, until a person decides, the time is over, or the turn is.

In: questions of turns, decisions of people. Out: each decision, once, to the turn that asked; what is pending, and what
happened, for the routes that watch it; notices for `Activity`. The watchdog's thread calls `sweep`.
Invariants: an owner sees and decides only its own questions; of several decisions at once exactly one counts; the lock
is never held during a call into another object. `always` means this tool with this very input in this session. The
input is dropped with the decision.
"""

import hashlib
import json
import logging
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from ..core.errors import AlreadyDecided, NotFound, ProxyError
from ..core.session_key import SessionKey

log = logging.getLogger(__name__)

DECIDED_KEPT = 200
EVENTS_KEPT = 500
RULES_KEPT = 1000
DENIED = "The user does not allow this use of the tool."

Choice = Literal["allow", "deny", "always"]
Kind = Literal["asked", "allowed", "denied", "expired", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Decision:
    """message: what the model reads of a denial; never empty then."""

    allow: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Pending:
    """One question. Times in Unix seconds.

    input: what the tool would be given; None once it is decided.
    """

    id: str
    request_id: str
    session: SessionKey
    tool: str
    input: Mapping[str, Any] | None
    label: str
    created_at: float
    expires_at: float

    @property
    def owner(self) -> str:
        return self.session.owner


@dataclass(frozen=True, slots=True)
class PermissionEvent:
    """Something that happened to a question. `number` counts those of all owners from 0."""

    number: int
    kind: Kind
    pending: Pending


@dataclass(frozen=True, slots=True)
class _Waiting:
    pending: Pending
    deadline: float
    decide: Callable[[Decision], None]


Rule = tuple[SessionKey, bytes]


class Notices(Protocol):
    """Where it is noted that a request was asked for a permission, and how that ended."""

    def note(self, request_id: str, kind: Literal["permission_asked", "permission_decided"], /, **data: Any) -> None:
        """Return at once and never raise. data: see `activity.Notice`."""


class Permissions:
    """The questions of this proxy."""

    def __init__(
        self, timeout: float, clock: Callable[[], float], wall_clock: Callable[[], float], notices: Notices
    ) -> None:
        """
        Args:
            timeout: seconds that a question waits.
            clock: monotonic.
            wall_clock: Unix seconds.
            notices: of the requests that ask.
        """
        self._notices = notices
        self._timeout = timeout
        self._clock = clock
        self._wall_clock = wall_clock
        self._changed = threading.Condition()  # guards: everything below
        self._waiting: dict[str, _Waiting] = {}
        self._decided: OrderedDict[str, str] = OrderedDict()
        self._rules: OrderedDict[Rule, None] = OrderedDict()
        self._events: deque[PermissionEvent] = deque(maxlen=EVENTS_KEPT)
        self._count = 0
        self._closed = False

    def ask(
        self,
        *,
        request_id: str,
        session: SessionKey,
        tool: str,
        input: Mapping[str, Any],
        label: str,
        decide: Callable[[Decision], None],
    ) -> str:
        """A question; returns its id, `perm_` and 32 hex digits. Raises what `decide` raises at once.

        Args:
            request_id, session: who asks.
            tool, input: what it wants to do.
            label: the same as a person reads it.
            decide: called once, by any thread, unless the question is withdrawn; at once where the user said `always`.
        """
        now = self._wall_clock()
        name = f"perm_{uuid.uuid4().hex}"
        pending = Pending(name, request_id, session, tool, input, label, now, now + self._timeout)
        rule = _make_rule(pending)
        with self._changed:
            is_ruled = rule in self._rules
            if is_ruled:
                self._rules.move_to_end(rule)
                self._remember(pending)
        if is_ruled:
            decide(Decision(True))
            return name
        # Noted before it can be decided, so that its end is never noted first.
        about = {"tool": tool, "label": label}
        self._notices.note(request_id, "permission_asked", permission_id=name, **about)
        with self._changed:
            self._waiting[name] = _Waiting(pending, self._clock() + self._timeout, decide)
            self._note(pending, "asked")
        return name

    def decide(self, owner: str, permission_id: str, decision: Choice, message: str = "") -> Pending:
        """Decide one, for good. Raises NotFound, AlreadyDecided, and what `decide` of `ask` raises: the CLI may have
        ended meanwhile.

        Args:
            owner: of the API key that decides.
            permission_id: as `ask` returned it.
            decision: `always` also allows the same use in this session from now on.
            message: what the model reads of a denial.
        """
        with self._changed:
            waiting = self._waiting.get(permission_id)
            if waiting is None or waiting.pending.owner != owner:
                raise self._missing(owner, permission_id)
            self._take(waiting)
            if decision == "always":
                self._rules[_make_rule(waiting.pending)] = None
                if len(self._rules) > RULES_KEPT:
                    self._rules.popitem(last=False)
        if decision == "deny":
            self._settle(waiting, Decision(False, message or DENIED), "denied")
        else:
            self._settle(waiting, Decision(True), "allowed")
        return waiting.pending

    def sweep(self) -> int:
        """Deny what has waited for too long; returns how many. Never raises: the thread that calls it must not die."""
        now = self._clock()
        with self._changed:
            due = [waiting for waiting in self._waiting.values() if now >= waiting.deadline]
            for waiting in due:
                self._take(waiting)
        message = f"The user did not decide within {self._timeout:g} s whether this tool may be used: it was denied."
        for waiting in due:
            try:
                self._settle(waiting, Decision(False, message), "expired")
            except Exception as error:  # the failure of one turn must not cost all others their deadlines
                is_bug = not isinstance(error, ProxyError)
                log.warning("%s did not get the denial of its tool", waiting.pending.request_id, exc_info=is_bug)
        return len(due)

    def withdraw(self, request_id: str) -> None:
        """The turn is over: what it asked cannot be decided any more. A decision that is being delivered just now may
        still arrive."""
        self._drop(lambda pending: pending.request_id == request_id)

    def cancel(self, permission_id: str) -> None:
        """The CLI took a question back; nothing where that is unknown, or decided."""
        self._drop(lambda pending: pending.id == permission_id)

    def forget_session(self, session: SessionKey) -> None:
        """Ask again for what the user had always allowed in this session."""
        with self._changed:
            for rule in [rule for rule in self._rules if rule[0] == session]:
                del self._rules[rule]

    def pending(self, owner: str) -> list[Pending]:
        """What the owner may decide, oldest first."""
        return self.snapshot(owner)[0]

    def snapshot(self, owner: str) -> tuple[list[Pending], int]:
        """What is pending, oldest first, and the number of the first event after it."""
        with self._changed:
            found = [waiting.pending for waiting in self._waiting.values() if waiting.pending.owner == owner]
            return found, self._count

    def wait(self, owner: str, number: int, timeout: float) -> tuple[list[PermissionEvent], bool]:
        """The owner's kept events from `number` on, and whether no more will come; waits `timeout` seconds for the
        first."""

        def news() -> list[PermissionEvent]:
            return [event for event in self._events if event.number >= number and event.pending.owner == owner]

        with self._changed:
            self._changed.wait_for(lambda: self._closed or news(), timeout)
            return news(), self._closed

    def close(self) -> None:
        """No turn is left that could ask: end every wait for events."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _drop(self, matches: Callable[[Pending], bool]) -> None:
        with self._changed:
            dropped = [waiting for waiting in self._waiting.values() if matches(waiting.pending)]
            for waiting in dropped:
                self._take(waiting)
                self._note(waiting.pending, "withdrawn")
        for waiting in dropped:
            self._note_end(waiting.pending, "withdrawn")

    def _take(self, waiting: _Waiting) -> None:
        """From here on no other thread can decide it. Called with the lock held."""
        del self._waiting[waiting.pending.id]
        self._remember(waiting.pending)

    def _remember(self, pending: Pending) -> None:
        """Called with the lock held."""
        self._decided[pending.id] = pending.owner
        if len(self._decided) > DECIDED_KEPT:
            self._decided.popitem(last=False)

    def _missing(self, owner: str, permission_id: str) -> ProxyError:
        """Called with the lock held."""
        if self._decided.get(permission_id) == owner:
            return AlreadyDecided("This permission request was already decided, or its turn has ended")
        return NotFound(f"There is no permission request {permission_id[:80]!r}")

    def _settle(self, waiting: _Waiting, decision: Decision, kind: Kind) -> None:
        """Deliver the decision, then note it: one that did not reach the turn is noted as withdrawn."""
        try:
            waiting.decide(decision)
        except BaseException:
            kind = "withdrawn"
            raise
        finally:
            with self._changed:
                self._note(waiting.pending, kind)
            self._note_end(waiting.pending, kind)

    def _note(self, pending: Pending, kind: Kind) -> None:
        """Called with the lock held."""
        if kind != "asked":
            pending = replace(pending, input=None)
            for index, event in enumerate(self._events):
                if event.pending.id == pending.id:
                    self._events[index] = replace(event, pending=pending)
        self._events.append(PermissionEvent(self._count, kind, pending))
        self._count += 1
        self._changed.notify_all()

    def _note_end(self, pending: Pending, kind: Kind) -> None:
        self._notices.note(pending.request_id, "permission_decided", permission_id=pending.id, decision=kind)


def _make_rule(pending: Pending) -> Rule:
    """The session, and a digest of the tool with its input; equal JSON values are equal, whatever their order."""
    text = json.dumps([pending.tool, pending.input], sort_keys=True, separators=(",", ":"))
    return pending.session, hashlib.blake2b(text.encode(), digest_size=16).digest()
