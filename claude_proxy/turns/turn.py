"""A turn: one request on its way from a view to a child and back.

`web/serving.py` builds it whole; a worker runs it (`engine.py`), the view drains its channel, and the thread that finds
the client gone ends it with `abort`. Invariant: the report is written by the turn's worker alone; the first reason to
abort counts, and after the turn's end there is none.
"""

import logging
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from ..claude.wire.parameters import Refusals
from ..claude.wire.profile import Profile
from ..core.conversation import Conversation
from ..core.errors import ClientGone, ProxyError
from ..core.events import Event, Usage
from ..storage.sessions import Name, Session
from .channel import Channel
from .modes import Mode
from .watchdog import Watch

log = logging.getLogger(__name__)

Origin = Literal["new", "live", "replayed", "resumed"]


class Terminable(Protocol):
    """The child of a turn, as far as an abort needs it. `interrupt` stops the turn, `terminate` the child."""

    def interrupt(self) -> None: ...

    def terminate(self) -> None: ...


class Queue(Protocol):
    """Where a turn may still wait for a worker."""

    def cancel_queued(self, turn: "Turn") -> None: ...


@dataclass(slots=True)
class Report:
    """What is known of a turn for headers and logs: written by its worker, read by others once they had an event.

    origin: new, live (a child held it), replayed (known, put into another child), resumed (from the CLI's own session).
    usage: what the client is told; total: what all model calls took together; cost_usd: the CLI's estimate, None where
    it made none. plan_warning: which of the plan's windows are nearly used up. Times on the engine's clock: arrived at
    the proxy, taken by a worker, child leased, question asked, first event, ended; 0 for what has not happened.
    """

    origin: Origin = "new"
    model: str = ""
    session: str = ""
    ignored: tuple[str, ...] = ()
    usage: Usage = Usage()
    total: Usage = Usage()
    cost_usd: float | None = None
    plan_warning: str | None = None
    arrived: float = 0.0
    taken: float = 0.0
    leased: float = 0.0
    asked: float = 0.0
    first: float = 0.0
    ended: float = 0.0

    def note_arrived(self, now: float) -> None:
        self.arrived = now

    def note_taken(self, now: float) -> None:
        self.taken = now

    def note_leased(self, origin: Origin, now: float) -> None:
        """A later attempt leases again: what followed the earlier lease is forgotten."""
        self.origin = origin
        self.leased = self.asked = now

    def note_origin(self, origin: Origin) -> None:
        """Known only once the conversation was looked up."""
        self.origin = origin

    def note_asked(self, now: float) -> None:
        self.asked = now

    def note_session(self, session: str) -> None:
        self.session = session

    def note_ignored(self, names: tuple[str, ...]) -> None:
        self.ignored = names

    def note_plan_warning(self, warning: str | None) -> None:
        self.plan_warning = warning

    def note_first(self, model: str, usage: Usage, now: float) -> None:
        """The answer has begun."""
        self.model, self.first = model, now
        self.note_usage(usage, usage)

    def note_usage(self, usage: Usage, total: Usage) -> None:
        self.usage, self.total = usage, total

    def note_total(self, total: Usage) -> None:
        self.total = total

    def note_cost(self, cost_usd: float) -> None:
        self.cost_usd = cost_usd

    def note_ended(self, now: float) -> None:
        self.ended = now

    @property
    def has_begun(self) -> bool:
        """True once the client may have seen a part of the answer."""
        return self.first > 0.0

    def timing(self) -> dict[str, float]:
        """Seconds that each step took, in order: queue, lease, replay, first token; those that have not ended are 0."""
        steps = (self.arrived, self.taken, self.leased, self.asked, self.first)
        names = ("queue", "lease", "replay", "first")
        return {name: max(0.0, end - start) for name, start, end in zip(names, steps, steps[1:], strict=False)}


@dataclass(frozen=True, slots=True)
class Request:
    """What a turn is asked to do; it does not change.

    conversation: already less what its mode does not take. cli_model: the CLI's name of the model. name: what the
    client calls the conversation. dialect: its name. ignored: what the dialect or the mode could not honour; names: the
    dialect's own names for what `Parameters` may call ignored. strict: what is not honoured is a 400.
    new_messages: how many of the last messages this request added; stores_history: the server keeps those.
    """

    conversation: Conversation
    cli_model: str
    mode: Mode
    name: Name = Name()
    dialect: str = ""
    ignored: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    strict: bool = False
    new_messages: int = 0
    stores_history: bool = False


def build_request(
    conversation: Conversation,
    cli_model: str,
    mode: Mode,
    *,
    name: Name = Name(),
    dialect: str = "",
    ignored: tuple[str, ...] = (),
    names: Mapping[str, str] | None = None,
    strict: bool = False,
    new_messages: int | None = None,
    stores_history: bool = False,
) -> Request:
    """A request less what its mode does not take, which is named as ignored.

    Args:
        new_messages: None for all of the conversation's.
        others: as the fields of `Request`.
    """
    stripped, dropped = mode.strip(conversation)
    return Request(
        stripped,
        cli_model,
        mode,
        name=name,
        dialect=dialect,
        ignored=(*ignored, *dropped),
        names=names or {},
        strict=strict,
        new_messages=len(conversation.messages) if new_messages is None else new_messages,
        stores_history=stores_history,
    )


class Turn:
    """One request on its way. The view drains `channel`; whichever thread finds the client gone calls `abort`.

    id: `req_` and 32 hex digits. profile, session, left_out: change only while the turn has no child. watch: set by the
    engine as it accepts the turn.
    """

    def __init__(self, request: Request, *, id: str | None = None, channel: Channel[Event] | None = None) -> None:
        """`channel`: where its events go; one of its own unless a background run listens."""
        conversation = request.conversation
        self.id = id or new_id()
        self.request = request
        self.channel: Channel[Event] = channel if channel is not None else Channel()
        self.profile = Profile(
            request.cli_model, conversation.system, conversation.tools, agent=request.mode.runs_agent
        )
        self.session: Session | None = None
        self.report = Report()
        self.watch: Watch | None = None
        self.busy_with = ""
        self.left_out = Refusals()
        self._lock = threading.Lock()  # guards: _child, _queue, _abort_reason, _has_ended
        self._child: Terminable | None = None
        self._queue: Queue | None = None
        self._abort_reason: ProxyError | None = None
        self._has_ended = False

    @property
    def conversation(self) -> Conversation:
        return self.request.conversation

    @property
    def mode(self) -> Mode:
        return self.request.mode

    @property
    def name(self) -> Name:
        return self.request.name

    @property
    def abort_reason(self) -> ProxyError | None:
        """Why the turn was ended from outside; None while it was not."""
        with self._lock:
            return self._abort_reason

    def abort(self, error: ProxyError) -> None:
        """End the turn for this reason, wherever it is; the first reason counts. Idempotent.

        After the answer's end it only frees a worker that still waits for the client to read it.
        """
        with self._lock:
            if self._abort_reason is not None:
                return
            has_ended, child, queue = self._has_ended, self._child, self._queue
            if not has_ended:
                self._abort_reason = error
                if child is not None and not error.spoils_child:
                    child.interrupt()  # with the lock held: a moment later the child may be another turn's
        if self.report.has_begun:
            error.no_retry()
        self.channel.abort(error)
        if has_ended:
            return
        if child is not None and error.spoils_child:
            child.terminate()
        elif child is None and queue is not None:
            queue.cancel_queued(self)

    def release(self) -> None:
        """The view is done with the turn: does nothing after its end; one that still runs has lost its client."""
        self.abort(ClientGone("The client has gone"))

    def end_answer(self) -> None:
        """The answer is whole and its child given back: from now on an abort has nothing to end."""
        with self._lock:
            self._has_ended = True

    def finish(self, error: ProxyError | None = None) -> None:
        """The turn has ended, well or with an error. Called once, by the thread that ends it."""
        self.end_answer()
        self.channel.finish(error)

    def wait_in(self, queue: Queue | None) -> None:
        """Where an abort finds the turn while it has no child; None once a worker has it."""
        with self._lock:
            self._queue = queue

    def watch_with(self, watch: Watch) -> None:
        """The engine's clock for this turn."""
        self.watch = watch

    def begin_session(self, session: Session) -> None:
        """Which conversation the turn belongs to."""
        self.session = session
        self.report.note_session(session.id)

    def leave_out(self, refusals: Refusals) -> None:
        """What the next attempt is made without, because the model refuses it or may do so."""
        self.left_out = refusals

    def use_model(self, cli_model: str) -> None:
        """Have another model answer; only before the turn has a child."""
        self.profile = replace(self.profile, model=cli_model)
        self.session = None

    def note_busy(self, label: str) -> None:
        """The tool that the turn waits for; empty for none."""
        self.busy_with = label

    def ignores(self, parameters: Iterable[str]) -> tuple[str, ...]:
        """All that is not honoured, sorted, in the client's names; `parameters` in those of `Parameters`."""
        names = self.request.names
        return tuple(sorted({*self.request.ignored, *(names.get(name, name) for name in parameters)}))

    def attach(self, child: Terminable) -> None:
        """The child that an abort must stop. Raises the reason when the turn was aborted before."""
        with self._lock:
            self._child = child
            if self._abort_reason is not None:
                raise self._abort_reason

    def detach(self) -> None:
        """The child is not the turn's any more."""
        with self._lock:
            self._child = None

    def log_begin(self, held: int) -> None:
        """The family's line for what happens to a conversation, of which a child holds so many messages."""
        name, total = self.report.session, len(self.conversation.messages)
        match self.report.origin:
            case "live":
                log.info("Session %s INCR: %d→%d (+%d)", name, held, total, total - held)
            case "replayed":
                log.info("Session %s REPLAY: %d messages", name, total)
            case "resumed":
                log.info("Session %s RESUME: %d→%d (+%d)", name, held, total, total - held)
            case _:
                log.info("Session %s INIT: %d messages", name, total)


def new_id() -> str:
    """`req_` and 32 hex digits."""
    return f"req_{uuid.uuid4().hex}"
