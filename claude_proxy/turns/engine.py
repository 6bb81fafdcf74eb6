"""Runs turns: queue, session, lease, run, give back, or tell what went wrong.

In: `Turn`s from the views. Out: their events, on their channels.
Rules: a child's state advances only when the turn's `result` has arrived; a child that failed, was cut or interrupted
is never used again; a turn is run a second time only where nothing of it was said.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import msgspec

from ..claude.fleet.fleet import Fleet
from ..claude.turn.agent_translator import AgentTranslator
from ..claude.turn.ask import answer_turn, prepare_turn
from ..claude.turn.connection import Connection
from ..claude.turn.translator import Translator
from ..claude.wire.parameters import is_open
from ..claude.wire.profile import Profile
from ..core.conversation import Message, digest_chain, digest_message, digest_profile
from ..core.errors import (
    BadRequest,
    ChildDied,
    ChildSilent,
    InternalError,
    NotAuthenticated,
    PlanLimitReached,
    ProxyError,
    RequestTimedOut,
    UpstreamError,
)
from ..core.events import Collector, Completion, Event, MessageEnd, MessageStart
from ..core.schemas import find_problem
from ..monitoring.activity import Activity
from ..storage.ledger import Ledger, Spent
from ..storage.sessions import Sessions
from .foresight import Foresight
from .observer import Circle, Listener
from .quirks import Attempts, Remedies
from .rehearsing import foresee
from .turn import Turn
from .watchdog import Watch, Watchdog
from .workers import WorkerPool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Seconds: silence of the child; the whole request, 0 for none, and never for an agent's; a client that takes
    nothing; one tool of an agent."""

    inactivity_timeout: float
    request_timeout: float
    client_timeout: float
    tool_timeout: float = inf


@dataclass(slots=True)
class Engine:
    """Runs turns. `on_login` hears of every proof that the CLI is logged in, or is not; `check_login` asks the CLI
    itself, `login_advice` says what to run.

    persist: the CLI keeps its sessions on disk, and a long one is resumed instead of replayed; agent_persist: so it
    does in agent mode. progress: how a client sees an agent's tools. fallback_model: the CLI's name of the model that
    answers while the plan refuses the one that was asked for; empty for none.
    """

    fleet: Fleet
    watchdog: Watchdog
    workers: WorkerPool
    sessions: Sessions
    circle: Circle
    ledger: Ledger
    limits: TurnLimits
    clock: Callable[[], float]
    wall_clock: Callable[[], float] = time.time
    on_login: Callable[[bool], None] = lambda logged_in: None
    check_login: Callable[[], bool | None] = lambda: None
    login_advice: Callable[[], str] = lambda: "The Claude Code CLI is not logged in"
    persist: bool = False
    agent_persist: bool = True
    progress: str = "reasoning"
    fallback_model: str = ""
    _remedies: Remedies = field(default_factory=Remedies)
    _foresight: Foresight = field(default_factory=Foresight)

    @property
    def activity(self) -> Activity:
        return self.circle.activity

    def submit(self, turn: Turn) -> None:
        """Queue a turn. Raises QueueFull, ShuttingDown; for a strict turn BadRequest for what is not honoured."""
        turn.report.ignored = turn.ignores(self._remedies.parameters(turn).ignored)
        if turn.strict and turn.report.ignored:
            raise BadRequest(f"Not honoured: {', '.join(turn.report.ignored)}", param=turn.report.ignored[0])
        turn.report.arrived = now = self.clock()
        limit = self.limits.request_timeout if turn.mode != "agent" else 0.0
        turn.watch = Watch(
            self.clock,
            silence_timeout=self.limits.inactivity_timeout,
            deadline=now + limit if limit else inf,
            on_silence=lambda: turn.abort(self._silent(turn)),
            on_deadline=lambda: turn.abort(RequestTimedOut(f"The request took longer than {limit:g} s")),
        )
        self.activity.begin(
            turn.id, owner=turn.name.owner, dialect=turn.dialect, mode=turn.mode, model=turn.profile.model
        )
        try:
            self._enqueue(turn, turn.watch)
        except ProxyError as error:
            self.activity.done(turn.id, error)
            raise

    def _enqueue(self, turn: Turn, watch: Watch) -> None:
        """Queue a turn; one that is aborted while it waits gives its place back at once."""

        def work() -> None:
            self._work(turn)

        def withdraw() -> None:
            if self.workers.withdraw(work):
                self.watchdog.remove(watch)
                self.activity.done(turn.id, turn.verdict)
                turn.channel.finish(turn.verdict)

        turn.withdraw = withdraw
        self.watchdog.add(watch)
        try:
            self.workers.submit(work)
        except ProxyError:
            self.watchdog.remove(watch)
            raise
        if turn.verdict is not None:  # aborted before it had a place to give back
            withdraw()

    def _silent(self, turn: Turn) -> ChildSilent:
        if turn.busy_with:
            return ChildSilent(f"A tool ran for longer than {self.limits.tool_timeout:g} s ({turn.busy_with})")
        return ChildSilent(f"The Claude Code CLI was silent for {self.limits.inactivity_timeout:g} s")

    def _work(self, turn: Turn) -> None:
        """One job of a worker: the turn to its end, whatever happens."""
        error: ProxyError | None = None
        turn.report.taken = self.clock()
        try:
            self._run(turn)
        except ProxyError as raised:
            error = raised
        except Exception:  # our own bug: the client is told so, the log holds the traceback
            log.exception("%s failed for a reason of our own", turn.id)
            error = InternalError("The proxy failed; its log says where")
        finally:
            turn.report.ended = self.clock()
            self.circle.permissions.withdraw(turn.id)
            if error is not None:
                self._fail(turn, error)
            if turn.watch is not None:
                self.watchdog.remove(turn.watch)
            turn.channel.finish(error)

    def _fail(self, turn: Turn, error: ProxyError) -> None:
        if turn.session is not None:
            self.sessions.release(turn.session)
        if turn.report.first:
            error.no_retry()
        self.sessions.write(self.ledger.statements(_spent(turn, failed=True)))
        self.activity.done(turn.id, error, usage=turn.report.usage, total=turn.report.total)

    def _run(self, turn: Turn) -> None:
        """Attempts until one ends well, or nothing is left to be tried. Raises the reason."""
        attempts = Attempts()
        while True:
            try:
                return self._attempt(turn, attempts)
            except ProxyError as error:
                verdict = turn.verdict
                if verdict is not None:
                    raise verdict from error
                if turn.report.first or not self._may_try_again(turn, error, attempts):
                    raise
                log.info("%s is run once more: %s", turn.id, error.message)

    def _may_try_again(self, turn: Turn, error: ProxyError, attempts: Attempts) -> bool:
        """True where a second run, set up differently, can mend it; nothing has been said yet."""
        match error:
            case UpstreamError() if not attempts.replaced and (
                isinstance(error, ChildDied) or turn.report.how == "resumed"  # a session that the CLI does not know
            ):
                attempts.replaced = attempts.fresh = True
                attempts.newborn = isinstance(error, ChildDied)
                return True
            case NotAuthenticated():
                if attempts.logged_in_again or self.check_login() is False:
                    self.on_login(False)
                    error.message = self.login_advice()
                    return False
                self.fleet.retire_idle()
                attempts.logged_in_again = attempts.fresh = True
                return True
            case BadRequest() if error.kind == "invalid_request" and error.param is None:
                return self._remedies.note_refusal(turn, attempts)
            case PlanLimitReached() if self._fall_back(turn):
                return True
        return False

    def _profile(self, turn: Turn) -> Profile:
        """What the child must be; with a schema of its own where the model does not take one per request, and for an
        agent, whose other calls must not be bound by it."""
        schema = turn.conversation.options.json_schema
        if schema is None or not (turn.profile.agent or self._remedies.known(turn).schema or is_open(schema)):
            return turn.profile
        return replace(turn.profile, json_schema=msgspec.json.encode(schema))

    def _fall_back(self, turn: Turn) -> bool:
        """Have the other model answer, where there is one that the plan does not refuse, too."""
        other = self.fallback_model
        if not other or turn.profile.model == other or self.circle.plan_limits.check(other) is not None:
            return False
        if turn.session is not None:
            self.sessions.release(turn.session)
        turn.use_model(other)
        return True

    def _attempt(self, turn: Turn, attempts: Attempts) -> None:
        limit = self.circle.plan_limits.check(turn.profile.model)
        if limit is not None and not self._fall_back(turn):
            raise limit
        conversation = turn.conversation
        start = digest_profile(turn.name.partition, turn.kind, turn.profile.model, conversation)
        chain = digest_chain(start, conversation.messages)
        if turn.session is None:
            turn.session = self.sessions.begin(turn.name, chain)
            turn.report.session = turn.session.id
            turn.report.how = "replayed" if turn.session.known else "new"
        profile = self._profile(turn)
        connection, held = self._lease(turn, profile, chain, attempts)
        try:
            answer, cut = self._converse(turn, profile, connection, held)
        except BaseException:
            turn.detach()
            self.circle.permissions.withdraw(turn.id)
            self.fleet.retire(connection, urgent=True)
            raise
        # A whole answer can still say it; a stream's headers are long gone.
        turn.report.plan_warning = self.circle.plan_limits.warning(turn.profile.model)
        # Given back before the client knows that the turn has ended: its next request must find the child.
        self._release(turn, connection, chain[-1], answer, cut=cut)
        self.activity.done(turn.id, None, usage=turn.report.usage, total=turn.report.total)
        self._hand_over(turn, answer.end)

    def _converse(self, turn: Turn, profile: Profile, connection: Connection, held: int) -> tuple[Completion, bool]:
        """The turn on a leased child, which holds so many of its messages: everything is handed over but the end.
        True where the child's history is not the client's."""
        self._note_lease(turn, held)
        parameters = self._remedies.parameters(turn)
        turn.report.ignored = turn.ignores(parameters.ignored)
        collector = Collector()
        translator = self._translator(turn, profile)
        assert turn.watch is not None
        alive = turn.watch.alive
        listener = Listener(
            *(self.circle, turn, connection, translator),
            silence_timeout=self.limits.inactivity_timeout,
            tool_timeout=self.limits.tool_timeout,
        )
        turn.attach(connection)
        new = turn.conversation.messages[held:]
        mark = not self._remedies.known(turn).mark
        prepare_turn(connection, profile, new, parameters.settings, alive, mark=mark)
        turn.report.asked = self.clock()
        for event in answer_turn(connection, new, translator, alive, listener.heed):
            collector.add(event)
            if not isinstance(event, MessageEnd):
                self._hand_over(turn, event)
        answer = collector.completion()
        turn.report.usage = answer.usage
        turn.report.total = translator.total if isinstance(translator, AgentTranslator) else answer.usage
        schema = turn.conversation.options.json_schema
        if schema is not None and answer.stop_reason == "end_turn":
            _check_json(schema, answer.text)
        return answer, translator.cut

    def _note_lease(self, turn: Turn, held: int) -> None:
        report = turn.report
        report.leased = report.asked = self.clock()
        report.plan_warning = self.circle.plan_limits.warning(turn.profile.model)
        self.activity.note(turn.id, "leased", session=report.session, model=turn.profile.model, how=report.how)
        turn.log_begin(held)

    def _translator(self, turn: Turn, profile: Profile) -> Translator | AgentTranslator:
        structured = profile.json_schema is not None
        now = self.wall_clock()
        if profile.agent:
            return AgentTranslator(now, self.clock, progress=self.progress, structured=structured)
        stops = [stop for stop in turn.conversation.options.stop_sequences if not stop.strip()]
        return Translator(now, profile.toolset, structured=structured, stops=stops)

    def _lease(
        self, turn: Turn, profile: Profile, chain: tuple[bytes, ...], attempts: Attempts
    ) -> tuple[Connection, int]:
        """A child, and how many of the conversation's messages it holds. Raises the verdict of an aborted turn."""
        if turn.verdict is not None:
            raise turn.verdict
        if not attempts.fresh and profile.json_schema is None:
            found = self.fleet.lease_holding(chain, turn.conversation.messages)
            if found is not None:
                turn.report.how = "live"
                return found
        session = turn.session
        persist = self.agent_persist if profile.agent else self.persist
        if persist and not attempts.fresh and session is not None and session.point is not None:
            turn.report.how = "resumed"
            connection = self.fleet.lease(profile, session.point)
            connection.holds = chain[session.known]
            return connection, session.known
        turn.report.how = "replayed" if session is not None and session.known else "new"
        return self.fleet.lease(profile, newborn=attempts.newborn), 0

    def _hand_over(self, turn: Turn, event: Event) -> None:
        if isinstance(event, MessageStart):
            if turn.report.how == "replayed" and not self._remedies.known(turn).mark:
                self._remedies.takes_mark(turn)
            turn.report.model = event.model
            turn.report.first = self.clock()
            turn.report.usage = turn.report.total = event.usage
            self.activity.note(turn.id, "first_token", model=event.model, usage=event.usage)
            self.on_login(True)
        watch = turn.watch
        assert watch is not None
        turn.channel.put(event, self.limits.client_timeout, on_wait=watch.pause)
        watch.alive()

    def _release(self, turn: Turn, connection: Connection, before: bytes, answer: Completion, *, cut: bool) -> None:
        """Give the child back with what it holds now, or retire it where its history is not the client's."""
        turn.detach()
        if turn.watch is not None:
            turn.watch.pause()
        reply = Message("assistant", answer.blocks)
        head = digest_message(before, reply)
        foreseen = answer.blocks and not turn.profile.agent and self._profile(turn) is turn.profile
        expected = foresee(self._foresight, turn, reply) if foreseen else None
        heads = (head, *([expected.holds] if expected is not None else []))
        remembered = bool(answer.blocks) and self._remember(turn, connection, heads, reply)
        if not remembered:
            self.sessions.write(self.ledger.statements(_spent(turn)))
        if cut or turn.verdict is not None or not remembered or (expected is not None and expected.certain):
            self.fleet.retire(connection, urgent=turn.verdict is not None or not connection.agent)
        else:
            connection.holds = head
            self.fleet.give_back(connection)
        if expected is not None and remembered:
            self.fleet.rehearse(expected)

    def _remember(self, turn: Turn, connection: Connection, heads: Sequence[bytes], reply: Message) -> bool:
        """Note what the conversation is now. False where it must not go on in this child: it was deleted meanwhile."""
        assert turn.session is not None
        messages = turn.conversation.messages
        kept = (*messages[-turn.new_messages :], reply) if turn.keeps_history else ()
        connection.session = turn.session.key
        connection.is_remembered = self.sessions.finish(
            turn.session,
            heads,
            len(messages) + 1,
            model=turn.report.model,
            mode=turn.mode,
            point=connection.point if (self.agent_persist if connection.agent else self.persist) else None,
            claude_session_id=connection.session_id,
            history=kept,
            beside=self.ledger.statements(_spent(turn)),
        )
        return connection.is_remembered


def _spent(turn: Turn, *, failed: bool = False) -> Spent:
    """What goes into the ledger."""
    report = turn.report
    return Spent(
        *(turn.name.owner, turn.dialect, turn.mode, report.model or turn.profile.model, report.session),
        usage=report.total,
        cost_usd=report.cost_usd,
        failed=failed,
    )


def _check_json(schema: dict[str, Any], text: str) -> None:
    problem = find_problem(schema, text)
    if problem is not None:
        raise UpstreamError(f"The model's answer does not match the schema: {problem}")
