"""Runs one turn on children until an attempt ends well, or nothing is left to be tried.

`engine.py` calls `run` on a worker's thread. Out: the turn's events, on its channel.
Invariants: a child's state advances only when the turn's `result` has arrived; a turn that failed, was cut or was
interrupted is taken back out of its child, and where that cannot be done the child is never used again; the question is
written before any book is kept, for the model thinks meanwhile.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from ..claude.fleet.fleet import Fleet
from ..claude.fleet.members import Wanted
from ..claude.turn.ask import ask_question, prepare_turn, read_answer
from ..claude.turn.connection import Connection
from ..claude.turn.turn_translator import TurnTranslator
from ..claude.wire.parameters import is_open
from ..claude.wire.profile import Profile
from ..core.conversation import Message, digest_chain, digest_message, digest_profile, is_said
from ..core.errors import NotAuthenticated, ProxyError, UpstreamError
from ..core.events import Collector, Completion, Event, MessageEnd, MessageStart
from ..core.schemas import find_problem, simplify
from ..core.timing import Timing
from .books import Books
from .login import LoginState
from .observer import TurnObserver
from .quirks import ModelQuirks
from .retry import Attempts, Remedy, choose_remedy
from .turn import Turn
from .watchdog import Watch

log = logging.getLogger(__name__)


class TurnRunner:
    """Runs turns, one call each."""

    def __init__(
        self,
        fleet: Fleet,
        books: Books,
        login: LoginState,
        clock: Callable[[], float],
        *,
        timing: Timing,
        silence_timeout: float,
        client_timeout: float,
        fallback_model: str = "",
    ) -> None:
        """Args:
        fleet: where children are leased.
        books: what is written down about turns.
        login: what is known of the CLI's login; turns prove it.
        clock: monotonic seconds.
        timing: how long the CLI may take to end a turn.
        silence_timeout: seconds that a child may be silent while no tool of its own runs.
        client_timeout: seconds that a client may take nothing.
        fallback_model: the CLI's name of the model that answers while the plan refuses another; empty for none.
        """
        self._fleet = fleet
        self._books = books
        self._plan_limits = books.observers.plan_limits
        self._login = login
        self._clock = clock
        self._timing = timing
        self._silence_timeout = silence_timeout
        self._client_timeout = client_timeout
        self._fallback_model = fallback_model
        self._quirks = ModelQuirks()

    def ignored(self, turn: Turn) -> tuple[str, ...]:
        """What of a turn's request would not be honoured, as far as is known now."""
        return turn.ignores(self._quirks.parameters(turn, self._quirks.left_out(turn)).ignored)

    def run(self, turn: Turn, spent: list[Connection]) -> None:
        """Attempts until one ends well, or nothing is left to be tried. Raises the reason.

        spent: gets the children for `take_back`, which is to follow once the client has its answer.
        """
        attempts = Attempts()
        turn.leave_out(self._quirks.left_out(turn))
        while True:
            try:
                return self._attempt(turn, attempts, spent)
            except ProxyError as error:
                reason = turn.abort_reason
                if reason is not None:
                    raise reason from error
                if not self._try_again(turn, error, attempts):
                    raise
                log.info("%s is run once more: %s", turn.id, error.message)
                self.take_back(spent)

    def take_back(self, spent: list[Connection]) -> None:
        """Take the last turn out of these children and give them back; one that does not let it be taken is retired."""
        while spent:
            child = spent.pop()
            try:
                child.take_back()
            except ProxyError as error:
                log.info("Child %d is given up: %s", child.child.pid, error.message)
                self._fleet.retire(child, urgent=True)
            except BaseException:
                self._fleet.retire(child, urgent=True)
                raise
            else:
                self._fleet.give_back(child)

    def _try_again(self, turn: Turn, error: ProxyError, attempts: Attempts) -> bool:
        """True where the next attempt, set up differently, may end well."""
        report = turn.report
        remedy = choose_remedy(error, attempts, has_begun=report.has_begun, was_resumed=report.origin == "resumed")
        attempts.note(remedy)
        match remedy:
            case Remedy.LOG_IN_AGAIN if self._login.check().logged_in is not False:
                self._fleet.retire_idle()
                return True
            case Remedy.LEAVE_OUT:
                suspects = self._quirks.find_suspects(turn, turn.left_out)
                turn.leave_out(suspects or turn.left_out)
                return suspects is not None
            case Remedy.OTHER_MODEL:
                return self._fall_back(turn)
            case Remedy.FRESH_CHILD | Remedy.NEW_PROCESS:
                return True
        if isinstance(error, NotAuthenticated) and not report.has_begun:
            self._login.note(False)
            error.message = self._login.advice()
        return False

    def _fall_back(self, turn: Turn) -> bool:
        """Have the other model answer, where there is one that the plan does not refuse, too."""
        other = self._fallback_model
        if not other or turn.profile.model == other or self._plan_limits.check(other) is not None:
            return False
        self._books.release_session(turn)
        turn.use_model(other)
        return True

    def _profile(self, turn: Turn) -> Profile:
        """What the child must be; with a schema of its own where that cannot go with the request's parameters."""
        schema = turn.conversation.options.json_schema
        if schema is None:
            return turn.profile
        if turn.mode.schema_per_request and not turn.left_out.schema and not is_open(schema):
            return turn.profile
        return replace(turn.profile, json_schema=msgspec.json.encode(simplify(schema)))

    def _attempt(self, turn: Turn, attempts: Attempts, spent: list[Connection]) -> None:
        limit = self._plan_limits.check(turn.profile.model)
        if limit is not None and not self._fall_back(turn):
            raise limit
        wanted = self._wanted(turn)
        child, keep = self._lease(turn, wanted, attempts)
        with self._given_up_on_failure(turn, child, spent):
            answer, is_cut = self._converse(turn, wanted, child, keep)
        # A whole answer can still say it; a stream's headers are long gone.
        turn.report.note_plan_warning(self._plan_limits.warning(turn.profile.model))
        # Given back before the client knows that the turn has ended: its next request must find the child.
        self._give_back(turn, child, wanted.chain[-1], answer, spent, is_cut=is_cut)
        self._books.done(turn)
        if attempts.has_experimented:
            self._quirks.note_success(turn, turn.left_out)
        turn.end_answer()
        self._emit(turn, answer.end)

    def _wanted(self, turn: Turn) -> Wanted:
        start = digest_profile(turn.name.partition, turn.mode.digest_kind, turn.profile.model, turn.conversation)
        messages = turn.conversation.messages
        return Wanted(self._profile(turn), turn.name.owner, digest_chain(start, messages), messages)

    @contextmanager
    def _given_up_on_failure(self, turn: Turn, child: Connection, spent: list[Connection]) -> Iterator[None]:
        """Whatever fails, a bug of ours included: the turn is taken back, or the child retired; no other thread would
        ever do either."""
        try:
            yield
        except BaseException as error:
            turn.detach()
            self._books.withdraw_questions(turn)
            reason = turn.abort_reason or error
            is_sound = isinstance(reason, ProxyError) and not (reason.spoils_child or _spoils(error))
            if is_sound and child.is_recyclable and child.is_running():
                spent.append(child)
            else:
                self._fleet.retire(child, urgent=True)
            raise

    def _lease(self, turn: Turn, wanted: Wanted, attempts: Attempts) -> tuple[Connection, int]:
        """A child, and how many of the conversation's messages it keeps. Raises the reason of an aborted turn."""
        reason = turn.abort_reason
        if reason is not None:
            raise reason
        if turn.mode.persists and not attempts.fresh:
            self._books.begin_session(turn, wanted.chain)
            held = self._fleet.lease_held(wanted)
            session = turn.session
            if held is None and session is not None and session.point is not None:
                child = self._fleet.lease_resumed(wanted, session.point, session.known)
                turn.report.note_leased("resumed", self._clock())
                return child, session.known
            if held is not None:
                turn.report.note_leased("live", self._clock())
                return held
        child, keep = self._fleet.lease(wanted, fresh=attempts.fresh, skip_spares=attempts.skip_spares)
        turn.report.note_leased("live" if keep else "new", self._clock())
        return child, keep

    def _converse(self, turn: Turn, wanted: Wanted, child: Connection, keep: int) -> tuple[Completion, bool]:
        """The turn on a leased child, which keeps so many of its messages: every event is emitted but the last.

        True where the child's history is not the client's.
        """
        watch = _watch_of(turn)

        def alive() -> None:
            """The child was heard; a turn that was aborted meanwhile goes no further."""
            watch.alive()
            if turn.abort_reason is not None:
                raise turn.abort_reason

        translator = self._ask(turn, wanted, child, keep, alive)
        self._keep_books(turn, keep, wanted.chain)
        observer = TurnObserver(self._books.observers, turn, child, translator, silence_timeout=self._silence_timeout)
        collector = Collector()
        for event in read_answer(child, translator, alive, observer.on_message, self._timing.end_timeout):
            collector.add(event)
            if not isinstance(event, MessageEnd):
                self._emit(turn, event)
        answer = collector.completion()
        turn.report.note_usage(answer.usage, translator.total)
        schema = turn.conversation.options.json_schema
        if schema is not None and answer.stop_reason == "end_turn":
            _check_json(schema, answer.text)
        return answer, translator.cut

    def _ask(
        self, turn: Turn, wanted: Wanted, child: Connection, keep: int, alive: Callable[[], None]
    ) -> TurnTranslator:
        """Everything up to the question, which is written; returns what translates the answer."""
        parameters = self._quirks.parameters(turn, turn.left_out)
        turn.report.note_ignored(turn.ignores(parameters.ignored))
        options = turn.conversation.options
        translator = turn.mode.build_translator(wanted.profile, options, now=time.time(), clock=self._clock)
        turn.attach(child)
        messages, chain = wanted.messages, wanted.chain
        cache_breakpoint = not turn.left_out.cache_breakpoint
        prepare_turn(
            child,
            wanted.profile,
            messages,
            chain,
            parameters.settings,
            alive,
            keep=keep,
            cache_breakpoint=cache_breakpoint,
        )
        turn.report.note_asked(self._clock())
        ask_question(child, messages[-1], chain[-1])
        return translator

    def _keep_books(self, turn: Turn, held: int, chain: Sequence[bytes]) -> None:
        """What must be known before the client sees the first event, and was not needed to ask."""
        self._books.begin_session(turn, chain)
        assert turn.session is not None
        if turn.report.origin == "new" and turn.session.known:
            turn.report.note_origin("replayed")
        self._books.note_leased(turn, held)

    def _emit(self, turn: Turn, event: Event) -> None:
        """Hand an event to the client; waits while the client is slow. Raises what ended the turn."""
        if isinstance(event, MessageStart):
            if turn.report.origin == "replayed":
                self._quirks.note_cache_breakpoint(turn)
            turn.report.note_first(event.model, event.usage, self._clock())
            self._books.note_first(turn, event)
            self._login.note(True)
        watch = _watch_of(turn)
        turn.channel.put(event, self._client_timeout, on_wait=watch.pause)
        watch.alive()

    def _give_back(
        self,
        turn: Turn,
        child: Connection,
        before: bytes,
        answer: Completion,
        spent: list[Connection],
        *,
        is_cut: bool,
    ) -> None:
        """Give the child back with what it holds now, or have the turn taken back where that is not the client's.

        Args:
            before: the digest of the conversation up to the question.
            spent: gets a child whose turn must be taken back.
            is_cut: the CLI was stopped in its answer.
        """
        turn.detach()
        _watch_of(turn).pause()
        reply = Message("assistant", answer.blocks)
        # What a client cannot send back is no message of the conversation: it goes on from the question.
        is_part = is_said(reply.content)
        head = digest_message(before, reply)
        is_known = self._books.settle(turn, child, head, reply if is_part else None)
        is_aborted = turn.abort_reason is not None
        if is_known and not is_cut and not is_aborted:
            if is_part:
                child.note_reply(head)
            self._fleet.give_back(child)
        elif child.is_recyclable:
            spent.append(child)
        else:
            self._fleet.retire(child, urgent=is_aborted or turn.mode.kills_cut_child)


def _spoils(error: BaseException) -> bool:
    """True where a failure says that its child is not to be trusted; a bug of ours does."""
    return not isinstance(error, ProxyError) or error.spoils_child


def _watch_of(turn: Turn) -> Watch:
    assert turn.watch is not None  # the engine sets it before a worker can have the turn
    return turn.watch


def _check_json(schema: dict[str, Any], text: str) -> None:
    problem = find_problem(schema, text)
    if problem is not None:
        raise UpstreamError(f"The model's answer does not match the schema: {problem}")
