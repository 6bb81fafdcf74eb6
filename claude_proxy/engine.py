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

from .claude.dialogue import Dialogue, Profile
from .claude.fleet import Fleet, Rehearsal
from .claude.parameters import Parameters, Refusals, build_parameters, is_open
from .claude.translator import Translator
from .claude.turn import answer_turn, prepare_turn
from .claude.watchdog import Watch, Watchdog
from .conversation import Message, digest_chain, digest_message, digest_profile
from .errors import (
    BadRequest,
    ChildDied,
    ChildSilent,
    InternalError,
    NotAuthenticated,
    ProxyError,
    RequestTimedOut,
    UpstreamError,
)
from .events import Collector, Completion, Event, MessageEnd, MessageStart
from .foresight import Foresight
from .schemas import find_problem
from .sessions import Sessions, without_thinking
from .turns import Turn
from .workers import WorkerPool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """Seconds: silence of the child; the whole request, 0 for none; a client that takes nothing."""

    inactivity_timeout: float
    request_timeout: float
    client_timeout: float


@dataclass(slots=True)
class _Attempts:
    """What must not be tried twice."""

    replaced: bool = False
    logged_in_again: bool = False
    fresh: bool = False
    newborn: bool = False
    before: Refusals = Refusals()
    remedies: list[Refusals] | None = None


@dataclass(slots=True)
class Engine:
    """Runs turns. `on_login` hears of every proof that the CLI is logged in, or is not; `check_login` asks the CLI
    itself, `login_advice` says what to run.

    persist: the CLI keeps its sessions on disk, and a long one is resumed instead of replayed.
    """

    fleet: Fleet
    watchdog: Watchdog
    workers: WorkerPool
    sessions: Sessions
    limits: TurnLimits
    clock: Callable[[], float]
    wall_clock: Callable[[], float] = time.time
    on_login: Callable[[bool], None] = lambda logged_in: None
    check_login: Callable[[], bool | None] = lambda: None
    login_advice: Callable[[], str] = lambda: "The Claude Code CLI is not logged in"
    persist: bool = False
    _refusals: dict[str, Refusals] = field(default_factory=dict)
    _marked: set[str] = field(default_factory=set)
    _foresight: Foresight = field(default_factory=Foresight)

    def submit(self, turn: Turn) -> None:
        """Queue a turn. Raises QueueFull, ShuttingDown; for a strict turn BadRequest for what is not honoured."""
        turn.report.ignored = turn.ignores(self._parameters(turn).ignored)
        if turn.strict and turn.report.ignored:
            raise BadRequest(f"Not honoured: {', '.join(turn.report.ignored)}", param=turn.report.ignored[0])
        turn.report.arrived = now = self.clock()
        limit = self.limits.request_timeout
        turn.watch = Watch(
            self.clock,
            silence_timeout=self.limits.inactivity_timeout,
            deadline=now + limit if limit else inf,
            on_silence=lambda: turn.abort(self._silent()),
            on_deadline=lambda: turn.abort(RequestTimedOut(f"The request took longer than {limit:g} s")),
        )
        self._enqueue(turn, turn.watch)

    def _enqueue(self, turn: Turn, watch: Watch) -> None:
        """Queue a turn; one that is aborted while it waits gives its place back at once."""

        def work() -> None:
            self._work(turn)

        def withdraw() -> None:
            if self.workers.withdraw(work):
                self.watchdog.remove(watch)

        turn.withdraw = withdraw
        self.watchdog.add(watch)
        try:
            self.workers.submit(work)
        except ProxyError:
            self.watchdog.remove(watch)
            raise

    def _silent(self) -> ChildSilent:
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
            if error is not None and turn.session is not None:
                self.sessions.release(turn.session)
            if turn.watch is not None:
                self.watchdog.remove(turn.watch)
            if error is not None and turn.report.first:
                error.no_retry()
            turn.channel.finish(error)

    def _run(self, turn: Turn) -> None:
        """Attempts until one ends well, or nothing is left to be tried. Raises the reason."""
        attempts = _Attempts()
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

    def _may_try_again(self, turn: Turn, error: ProxyError, attempts: _Attempts) -> bool:
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
                return self._note_refusal(turn, attempts)
        return False

    def _note_refusal(self, turn: Turn, attempts: _Attempts) -> bool:
        """Remember what the model seems to refuse; True when the turn can be run without it.

        Where leaving everything out does not help either, the 400 was about something else, and nothing is remembered.
        """
        model = turn.profile.model
        if attempts.remedies is None:
            attempts.before = self._known(turn)
            attempts.remedies = self._remedies(turn, attempts.before)
        if not attempts.remedies:
            self._refusals[model] = attempts.before
            return False
        self._refusals[model] = attempts.remedies.pop(0)
        return True

    def _remedies(self, turn: Turn, known: Refusals) -> list[Refusals]:
        """What may be left out, to be tried in this order: parameters, the schema, both, our cache breakpoint too."""
        parameters = self._parameters(turn)
        found = []
        if parameters.refusable and (parameters.tacit or not turn.strict):
            found.append(parameters.without(known))
        if turn.conversation.options.json_schema is not None and not known.schema:
            found += [replace(one, schema=True) for one in (known, *found)]
        if len(turn.conversation.messages) > 1 and not known.mark and turn.profile.model not in self._marked:
            found += [replace(one, mark=True) for one in (known, *found)]
        return found

    def _parameters(self, turn: Turn) -> Parameters:
        return build_parameters(turn.conversation.options, turn.profile.toolset, self._known(turn))

    def _known(self, turn: Turn) -> Refusals:
        """What the model of a turn was seen to refuse."""
        return self._refusals.get(turn.profile.model, Refusals())

    def _profile(self, turn: Turn) -> Profile:
        """What the child must be; with a schema of its own where the model does not take one per request."""
        schema = turn.conversation.options.json_schema
        if schema is None or not (self._known(turn).schema or is_open(schema)):
            return turn.profile
        return replace(turn.profile, json_schema=msgspec.json.encode(schema))

    def _attempt(self, turn: Turn, attempts: _Attempts) -> None:
        conversation = turn.conversation
        start = digest_profile(turn.name.partition, "chat", turn.profile.model, conversation)
        chain = digest_chain(start, conversation.messages)
        if turn.session is None:
            turn.session = self.sessions.begin(turn.name, chain)
            turn.report.session = turn.session.id
            turn.report.how = "replayed" if turn.session.known else "new"
        profile = self._profile(turn)
        dialogue, held = self._lease(turn, profile, chain, attempts)
        turn.report.leased = turn.report.asked = self.clock()
        _log_begin(turn, held)
        parameters = self._parameters(turn)
        turn.report.ignored = turn.ignores(parameters.ignored)
        collector = Collector()
        structured = profile.json_schema is not None
        stops = [stop for stop in conversation.options.stop_sequences if not stop.strip()]
        translator = Translator(self.wall_clock(), profile.toolset, structured=structured, stops=stops)
        assert turn.watch is not None
        alive = turn.watch.alive
        try:
            turn.attach(dialogue)
            new = conversation.messages[held:]
            prepare_turn(dialogue, profile, new, parameters.settings, alive, mark=not self._known(turn).mark)
            turn.report.asked = self.clock()
            for event in answer_turn(dialogue, new, translator, alive):
                collector.add(event)
                if not isinstance(event, MessageEnd):
                    self._hand_over(turn, event)
        except BaseException:
            turn.detach()
            self.fleet.retire(dialogue, urgent=True)
            raise
        answer = collector.completion()
        if conversation.options.json_schema is not None and answer.stop_reason == "end_turn":
            self._check_json(turn, dialogue, conversation.options.json_schema, answer.text)
        # Given back before the client knows that the turn has ended: its next request must find the child.
        self._release(turn, dialogue, chain[-1], answer, cut=translator.cut)
        self._hand_over(turn, event)

    def _check_json(self, turn: Turn, dialogue: Dialogue, schema: dict[str, Any], text: str) -> None:
        problem = find_problem(schema, text)
        if problem is not None:
            turn.detach()
            self.fleet.retire(dialogue, urgent=True)
            raise UpstreamError(f"The model's answer does not match the schema: {problem}")

    def _lease(
        self, turn: Turn, profile: Profile, chain: tuple[bytes, ...], attempts: _Attempts
    ) -> tuple[Dialogue, int]:
        """A child, and how many of the conversation's messages it holds. Raises the verdict of an aborted turn."""
        if turn.verdict is not None:
            raise turn.verdict
        if not attempts.fresh and profile.json_schema is None:
            found = self.fleet.lease_holding(chain, turn.conversation.messages)
            if found is not None:
                turn.report.how = "live"
                return found
        session = turn.session
        if self.persist and not attempts.fresh and session is not None and session.point is not None:
            turn.report.how = "resumed"
            dialogue = self.fleet.lease(profile, session.point)
            dialogue.holds = chain[session.known]
            return dialogue, session.known
        turn.report.how = "replayed" if session is not None and session.known else "new"
        return self.fleet.lease(profile, newborn=attempts.newborn), 0

    def _hand_over(self, turn: Turn, event: Event) -> None:
        if isinstance(event, MessageStart):
            if turn.report.how == "replayed" and not self._known(turn).mark:
                self._marked.add(turn.profile.model)  # the API takes our breakpoint
            turn.report.model = event.model
            turn.report.first = self.clock()
            self.on_login(True)
        watch = turn.watch
        assert watch is not None
        turn.channel.put(event, self.limits.client_timeout, on_wait=watch.pause)
        watch.alive()

    def _release(self, turn: Turn, dialogue: Dialogue, before: bytes, answer: Completion, *, cut: bool) -> None:
        """Give the child back with what it holds now, or retire it where its history is not the client's."""
        turn.report.usage = answer.usage
        turn.detach()
        if turn.watch is not None:
            turn.watch.pause()
        reply = Message("assistant", answer.blocks)
        head = digest_message(before, reply)
        expected = self._foresee(turn, reply) if answer.blocks else None
        heads = (head, *([expected.holds] if expected is not None else []))
        remembered = bool(answer.blocks) and self._remember(turn, dialogue, heads, reply)
        if cut or turn.verdict is not None or not remembered or (expected is not None and expected.certain):
            self.fleet.retire(dialogue, urgent=True)
        else:
            dialogue.holds = head
            self.fleet.give_back(dialogue)
        if expected is not None and remembered:
            self.fleet.rehearse(expected)

    def _foresee(self, turn: Turn, reply: Message) -> Rehearsal | None:
        """What to prepare for the next request of a client whose last messages move with every turn; else None.

        A first request that ends with two user messages in a row is taken for one of such a client's, to be on the safe
        side; its child is kept all the same.
        """
        assert turn.session is not None
        messages = turn.conversation.messages
        start = digest_profile(turn.name.partition, "chat", turn.profile.model, turn.conversation)
        opening = digest_message(start, messages[0])
        digests = [digest_message(b"", message) for message in messages]
        dropped = self._foresight.dropped(opening, digests)
        self._foresight.note(opening, digests, digest_message(b"", reply))
        certain = bool(dropped)
        if dropped is None and [message.role for message in messages[-2:]] == ["user", "user"]:
            dropped = 1
        kept = messages[: len(messages) - (dropped or 0)]
        if not dropped or not kept or self._profile(turn) is not turn.profile:
            return None
        history = (*kept, without_thinking(reply))
        return Rehearsal(turn.profile, history, digest_chain(start, history)[-1], turn.session.key, certain)

    def _remember(self, turn: Turn, dialogue: Dialogue, heads: Sequence[bytes], reply: Message) -> bool:
        """Note what the conversation is now. False where it must not go on in this child: it was deleted meanwhile."""
        assert turn.session is not None
        messages = turn.conversation.messages
        kept = (*messages[-turn.new_messages :], reply) if turn.keeps_history else ()
        dialogue.session = turn.session.key
        return self.sessions.finish(
            turn.session,
            heads,
            len(messages) + 1,
            model=turn.report.model,
            point=dialogue.point if self.persist else None,
            claude_session_id=dialogue.session_id,
            history=kept,
        )


def _log_begin(turn: Turn, held: int) -> None:
    """The family's line for what happens to a conversation."""
    assert turn.session is not None
    total = len(turn.conversation.messages)
    match turn.report.how:
        case "live":
            log.info("Session %s INCR: %d→%d (+%d)", turn.session.id, held, total, total - held)
        case "replayed":
            log.info("Session %s REPLAY: %d messages", turn.session.id, total)
        case "resumed":
            log.info("Session %s RESUME: %d→%d (+%d)", turn.session.id, held, total, total - held)
        case _:
            log.info("Session %s INIT: %d messages", turn.session.id, total)
