"""A turn: one request on its way from a view to a child and back.

In: a canonical conversation. Out: events on a channel, and a report for headers and logs. Whoever finds the client gone
ends the turn with `abort`, wherever it is.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from ..claude.turn.connection import Connection
from ..claude.wire.profile import Profile
from ..core.conversation import Conversation, Options
from ..core.errors import ProxyError
from ..core.events import Event, Usage
from ..storage.sessions import Name, Session
from .channel import Channel
from .watchdog import Watch

log = logging.getLogger(__name__)

How = Literal["new", "live", "replayed", "resumed"]
Mode = Literal["chat", "client-tools", "agent"]


@dataclass(slots=True)
class Report:
    """What is known of a turn for headers and logs. Written by the worker before the first event, then only read.

    how: new, live (a child held it), replayed (known, put into another child), resumed (from the CLI's own session).
    usage: what the client is told; total: what all model calls took together; cost_usd: the CLI's estimate, None where
    it made none. plan_warning: which of the plan's windows are nearly used up. Times on the engine's clock: arrived at
    the proxy, taken by a worker, child leased, question asked, first event, ended.
    """

    how: How = "new"
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

    def timing(self) -> dict[str, float]:
        """Seconds that each step took, in order: queue, lease, replay, first token; those that have not ended are 0."""
        steps = (self.arrived, self.taken, self.leased, self.asked, self.first)
        names = ("queue", "lease", "replay", "first")
        return {name: max(0.0, end - start) for name, start, end in zip(names, steps, steps[1:], strict=False)}


class Turn:
    """One request on its way. The view drains `channel`; whoever finds the client gone calls `abort`."""

    def __init__(
        self,
        conversation: Conversation,
        cli_model: str,
        *,
        name: Name = Name(),
        keeps_history: bool = False,
        ignored: tuple[str, ...] = (),
        names: Mapping[str, str] | None = None,
        strict: bool = False,
        agent: bool = False,
        dialect: str = "",
    ) -> None:
        """`ignored`: what the dialect itself could not honour. `name`: what the client calls the conversation.

        agent: the CLI's own tools run; what only concerns the client's is ignored. dialect: its name.
        names: the dialect's own names for what `Parameters` may call ignored.
        keeps_history: the server keeps the messages for a client that sends only what is new.
        """
        self.id = self.new_id()
        if agent:
            conversation, beside = strip_for_agent(conversation)
            ignored = (*ignored, *beside)
        self.conversation = conversation
        self.profile = Profile(cli_model, conversation.system, conversation.tools, agent=agent)
        self.dialect = dialect
        self.busy_with = ""
        self.name = name
        self.keeps_history = keeps_history
        self.new_messages = len(conversation.messages)
        self.session: Session | None = None
        self.ignored = ignored
        self.names = names or {}
        self.strict = strict
        self.channel: Channel[Event] = Channel()
        self.report = Report()
        self.watch: Watch | None = None
        self.withdraw: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # guards: _connection, _verdict
        self._connection: Connection | None = None
        self._verdict: ProxyError | None = None

    @property
    def mode(self) -> Mode:
        if self.profile.agent:
            return "agent"
        return "client-tools" if self.profile.tools else "chat"

    @property
    def kind(self) -> str:
        """What goes into the digest of a conversation: an agent's history is none of a chat's."""
        return "agent" if self.profile.agent else "chat"

    @staticmethod
    def new_id() -> str:
        """`req_` and 32 hex digits."""
        return f"req_{uuid.uuid4().hex}"

    def abort(self, error: ProxyError) -> None:
        """End the turn for this reason, wherever it is; the first reason counts. Idempotent."""
        with self._lock:
            if self._verdict is not None:
                return
            self._verdict = error
            connection = self._connection
        if self.report.first:
            error.no_retry()
        self.channel.abort(error)
        if connection is not None:
            connection.terminate()
        else:
            self.withdraw()

    def use_model(self, cli_model: str) -> None:
        """Have another model answer; only before the turn has a child."""
        self.profile = replace(self.profile, model=cli_model)
        self.session = None

    def ignores(self, parameters: Iterable[str]) -> tuple[str, ...]:
        """All that is not honoured, sorted, in the client's names; `parameters` in those of `Parameters`."""
        return tuple(sorted({*self.ignored, *(self.names.get(name, name) for name in parameters)}))

    @property
    def verdict(self) -> ProxyError | None:
        with self._lock:
            return self._verdict

    def log_begin(self, held: int) -> None:
        """The family's line for what happens to a conversation, of which a child holds so many messages."""
        name, total = self.report.session, len(self.conversation.messages)
        match self.report.how:
            case "live":
                log.info("Session %s INCR: %d→%d (+%d)", name, held, total, total - held)
            case "replayed":
                log.info("Session %s REPLAY: %d messages", name, total)
            case "resumed":
                log.info("Session %s RESUME: %d→%d (+%d)", name, held, total, total - held)
            case _:
                log.info("Session %s INIT: %d messages", name, total)

    def attach(self, connection: Connection) -> None:
        """The child that an abort must stop. Raises the reason when the turn was aborted before."""
        with self._lock:
            self._connection = connection
            if self._verdict is not None:
                raise self._verdict

    def detach(self) -> None:
        with self._lock:
            self._connection = None


def strip_for_agent(conversation: Conversation) -> tuple[Conversation, tuple[str, ...]]:
    """A conversation less what an agent does not take from a client, and OpenAI's names for what that is.

    The limits of one model call would cut an agent's work somewhere in the middle.
    """
    options = conversation.options
    dropped = {
        "tools": bool(conversation.tools),
        "tool_choice": options.tool_choice.mode != "auto" or options.tool_choice.allowed is not None,
        "parallel_tool_calls": not options.tool_choice.parallel,
        "max_tokens": options.max_tokens is not None,
        "stop": bool(options.stop_sequences),
    }
    thinking = options.thinking if options.thinking is not None and options.thinking.asked else None
    kept = Options(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        effort=options.effort,
        thinking=thinking,
        json_schema=options.json_schema,
    )
    stripped = msgspec.structs.replace(conversation, tools=(), options=kept)
    return stripped, tuple(name for name, is_dropped in dropped.items() if is_dropped)
