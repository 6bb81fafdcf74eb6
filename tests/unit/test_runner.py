"""Attempts of one turn on stand-ins for children: the order of the steps, what is tried again, what is given up.

The fleet, the books and the connections are the real ones; only the process is a stand-in, and the keeper is called by
hand.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from claude_proxy.claude.fleet.fleet import Fleet
from claude_proxy.claude.fleet.members import Counts, Limits
from claude_proxy.claude.process.child import Child
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.profile import Point
from claude_proxy.claude.wire.protocol import RateLimitInfo
from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Abilities, Recycling
from claude_proxy.core.conversation import Conversation, Message, Options, assistant, user
from claude_proxy.core.errors import (
    BadRequest,
    ChildDied,
    Interrupted,
    NotAuthenticated,
    PlanLimitReached,
    ProxyError,
)
from claude_proxy.core.events import Event, MessageEnd
from claude_proxy.core.models import Catalogue
from claude_proxy.core.timing import Timing
from claude_proxy.monitoring.activity import Activity, Entry, Notice
from claude_proxy.monitoring.permissions import Permissions
from claude_proxy.monitoring.plan import PlanLimits
from claude_proxy.storage.ledger import Ledger
from claude_proxy.storage.sessions import Name, Session, Sessions
from claude_proxy.storage.store import Store
from claude_proxy.turns.books import Books
from claude_proxy.turns.channel import Closed
from claude_proxy.turns.login import LoginState
from claude_proxy.turns.modes import build_modes
from claude_proxy.turns.observer import Observers
from claude_proxy.turns.runner import TurnRunner
from claude_proxy.turns.turn import Turn
from claude_proxy.turns.watchdog import Watch
from tests.cli_lines import MESSAGE_STOP, RESULT, Json, start, stopped, text
from tests.clocks import Clock
from tests.standins import make_turn

NOW = 1_700_000_000.0
HI = Conversation("sonnet", (user("hi"),))
INIT: Json = {"type": "system", "subtype": "init", "session_id": "s1"}
DIES: Json = {"type": "dies"}
ANSWER: list[Json] = [INIT, start(), *text(0, "Hello"), stopped("end_turn"), MESSAGE_STOP, RESULT]


def failed(status: int, **fields: Any) -> list[Json]:
    """The end of a turn that the API has refused with this status."""
    return [INIT, {**RESULT, "is_error": True, "api_error_status": status, "result": "refused", **fields}]


class Process:
    """What a connection sees of a child: the CLI with the answers of its turns, oldest first; it echoes the last."""

    def __init__(self, trace: list[str], pid: int, answers: Sequence[list[Json]]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.was_terminated = False
        self.sent: list[Json] = []
        self.on_ask: Callable[[], None] | None = None
        self._trace = trace
        self._answers = list(answers)
        self._lines: list[Json] = []

    def send(self, line: bytes) -> None:
        message = json.loads(line)
        self.sent.append(message)
        if message["type"] == "control_request":
            self._answer(message)
        elif message.get("shouldQuery") is False:
            self._lines += [RESULT] if message["type"] == "user" else []
        else:
            self._trace.append("asked")
            self._lines += self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if self.on_ask is not None:
                self.on_ask()

    def _answer(self, message: Json) -> None:
        is_rewind = message["request"]["subtype"] == "rewind_conversation"
        response = {"rewound": True, "precedingAssistantUuid": None} if is_rewind else {}
        answer = {"subtype": "success", "request_id": message["request_id"], "response": response}
        self._lines.append({"type": "control_response", "response": answer})
        if is_rewind:
            self._lines = self._lines[-1:]

    def try_send(self, line: bytes) -> bool:
        self.send(line)
        return True

    def receive(self, timeout: float | None = None) -> bytes:
        if not self._lines or self._lines[0] is DIES:
            self.returncode = 1
            raise ChildDied("It ended", returncode=1)
        return json.dumps(self._lines.pop(0)).encode()

    def has_output(self) -> bool:
        return bool(self._lines)

    def has_exited(self) -> bool:
        return self.returncode is not None

    def terminate(self) -> None:
        self.was_terminated = True

    def stop_now(self) -> None:
        self.returncode = -9

    @property
    def said(self) -> list[str]:
        """What it was sent beside control requests: the texts of the messages, oldest first."""
        return [_text_of(message) for message in self.sent if message["type"] in ("user", "assistant")]


def _text_of(message: Json) -> str:
    content = message["message"]["content"]
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


class TracedSessions(Sessions):
    """Says when it is asked."""

    trace: list[str]

    def begin(self, name: Name, chain: Sequence[bytes]) -> Session:
        self.trace.append("session")
        return super().begin(name, chain)


class LoginSource:
    """What the CLI says of its login."""

    def __init__(self) -> None:
        self.logged_in: bool | None = True

    def is_logged_in(self) -> bool | None:
        return self.logged_in

    def login_advice(self) -> str:
        return "claude auth login"


class Bench:
    """A runner, with a fleet whose orders are served at once; its children answer in turn as `answers` says."""

    def __init__(self, *answers: list[list[Json]], abilities: Abilities = NOTHING, fallback: str = "") -> None:
        self.trace: list[str] = []
        self.processes: list[Process] = []
        self.orders: list[tuple[str, Point | None]] = []
        self.clock = Clock()
        self.source = LoginSource()
        self.plan = PlanLimits(lambda: NOW)
        self.on_start: Callable[[Process], None] | None = None
        self._answers = answers or ([ANSWER],)
        self._recycling = Recycling(abilities)
        self.timing = Timing()
        self.fleet = Fleet(Limits(0, 4, 10, 900.0, 600.0), self.clock, self, self.timing, self._recycling)
        store = Store(None)
        self.sessions = TracedSessions(store, 100.0, lambda: NOW)
        self.sessions.trace = self.trace
        self.ledger = Ledger(store, lambda: NOW)
        self.activity = Activity(lambda: NOW, [self])
        self.permissions = Permissions(300.0, self.clock, lambda: NOW, self.activity)
        self.login = LoginState(self.source)
        observers = Observers(self.activity, self.permissions, self.plan)
        self.books = Books(observers, self.sessions, self.ledger)
        self.runner = TurnRunner(
            *(self.fleet, self.books, self.login, self.clock),
            timing=self.timing,
            silence_timeout=600.0,
            client_timeout=0.0,
            fallback_model=fallback,
        )

    def on_notice(self, entry: Entry, notice: Notice, /) -> None:
        self.trace.append(notice.kind)

    def wake(self) -> None:
        """The keeper, at once."""
        while (order := self.fleet.next_order()) is not None:
            number = len(self.processes)
            process = Process(self.trace, number + 1, self._answers[min(number, len(self._answers) - 1)])
            self.processes.append(process)
            self.orders.append((order.model, order.resume))
            if self.on_start is not None:
                self.on_start(process)
            connection = Connection(cast(Child, process), order.model, Catalogue(), self._recycling, self.timing)
            self.fleet.deliver(order, connection)

    def add_spare(self) -> Process:
        """A child that was started ahead."""
        process = Process(self.trace, 99, [ANSWER])
        self.fleet.add_spare(Connection(cast(Child, process), "sonnet", Catalogue(), self._recycling, self.timing))
        return process

    def turn(self, *messages: Message, options: Options = Options(), **about: Any) -> Turn:
        turn = make_turn(Conversation("sonnet", messages or HI.messages, options=options), **about)
        turn.watch_with(Watch(self.clock))
        self.books.begin(turn)
        return turn

    def run(self, *messages: Message, **about: Any) -> Turn:
        """One turn that ends well."""
        turn = self.turn(*messages, **about)
        self.finish(turn)
        return turn

    def finish(self, turn: Turn) -> None:
        """As the engine does."""
        spent: list[Connection] = []
        try:
            self.runner.run(turn, spent)
        finally:
            self.runner.take_back(spent)

    def fail(self, turn: Turn, kind: type[ProxyError]) -> ProxyError:
        """How it fails."""
        with pytest.raises(kind) as raised:
            self.finish(turn)
        return raised.value

    def retired(self) -> list[int]:
        """Numbers of the children that the keeper must end."""
        return [connection.child.pid for connection, _ in self.fleet.members.retired]


def events_of(turn: Turn) -> list[Event]:
    """All that the client got."""
    turn.channel.finish()
    found: list[Event] = []
    try:
        while (event := turn.channel.get(0.0)) is not None:
            found.append(event)
    except Closed:
        pass
    return found


def test_the_question_is_written_before_any_book_is_kept() -> None:
    """The model thinks meanwhile; and the child is given back before the client has the end."""
    bench = Bench()
    turn = bench.run()
    assert bench.trace == ["queued", "asked", "session", "leased", "first_token", "done"]
    assert isinstance(events_of(turn)[-1], MessageEnd) and bench.fleet.counts() == Counts(live=1)
    assert (turn.report.origin, turn.report.model) == ("new", "claude-x")
    assert bench.login.known.logged_in is True


def test_a_conversation_goes_on_in_the_child_that_holds_it() -> None:
    """Only what is new is sent."""
    bench = Bench()
    bench.run()
    turn = bench.run(user("hi"), assistant("Hello"), user("more"))
    assert turn.report.origin == "live" and len(bench.processes) == 1
    assert bench.processes[0].said == ["hi", "more"]


def test_a_conversation_whose_child_has_gone_is_replayed() -> None:
    """All of it, into a new one."""
    bench = Bench()
    bench.run()
    bench.fleet.retire_idle()
    turn = bench.run(user("hi"), assistant("Hello"), user("more"))
    assert turn.report.origin == "replayed"
    assert bench.processes[1].said == ["hi", "Hello", "more"]


def test_a_session_that_the_cli_keeps_is_resumed_or_else_replayed() -> None:
    """It may not know it any more; then nothing of it is used."""
    said: Json = {"type": "assistant", "uuid": "u1", "message": {"model": "claude-x", "content": []}}
    kept = [*ANSWER[:-1], said, RESULT]
    bench = Bench([kept], [failed(500)], [ANSWER])
    modes = build_modes(persist=True)
    bench.run(modes=modes)
    bench.fleet.retire_idle()
    turn = bench.run(user("hi"), assistant("Hello"), user("more"), modes=modes)
    assert [resume for _, resume in bench.orders] == [None, Point("s1", "u1"), None]
    assert [process.said for process in bench.processes[1:]] == [["more"], ["hi", "Hello", "more"]]
    assert turn.report.origin == "replayed"


def test_a_child_that_died_is_replaced_by_a_process_of_its_own() -> None:
    """Not by a spare, which what killed it may have killed, too; the dead one is retired."""
    bench = Bench([[DIES]], [ANSWER])
    turn = bench.turn()
    bench.on_start = lambda process: setattr(process, "on_ask", bench.add_spare)
    bench.finish(turn)
    assert len(bench.processes) == 2 and bench.retired() == [1]
    assert turn.report.origin == "new" and bench.trace.count("done") == 1


def test_a_child_that_dies_again_is_the_answer() -> None:
    """Nothing is tried twice for the same reason."""
    bench = Bench([[DIES]])
    turn = bench.turn()
    assert isinstance(bench.fail(turn, ChildDied), ChildDied)
    assert len(bench.processes) == 2 and bench.retired() == [1, 2] and bench.fleet.counts() == Counts()


def test_what_has_begun_is_not_run_again() -> None:
    """The client has seen a part of it."""
    bench = Bench([[INIT, start(), *text(0, "Hel"), DIES]], [ANSWER])
    bench.fail(bench.turn(), ChildDied)
    assert len(bench.processes) == 1 and bench.retired() == [1]


def test_a_login_that_was_refused_is_tried_once_in_a_fresh_child() -> None:
    """Children that wait may hold the old one: they go."""
    bench = Bench([ANSWER, failed(401)], [ANSWER])
    bench.run()
    idle = bench.add_spare()
    turn = bench.run(user("hi"), assistant("Hello"), user("more"))
    assert bench.processes[1].said == ["hi", "Hello", "more"] and turn.report.model == "claude-x"
    assert idle.pid in bench.retired() and 1 in bench.retired()


def test_a_cli_that_is_not_logged_in_is_not_asked_twice() -> None:
    """The client learns what to run."""
    bench = Bench([failed(401)])
    bench.source.logged_in = False
    error = bench.fail(bench.turn(), NotAuthenticated)
    assert "Run: claude auth login" in error.message and len(bench.processes) == 1
    assert bench.login.known.logged_in is False


def test_a_login_that_is_refused_again_is_remembered() -> None:
    """Whatever the CLI says of itself."""
    bench = Bench([failed(401)])
    error = bench.fail(bench.turn(), NotAuthenticated)
    assert "Run: claude auth login" in error.message and len(bench.processes) == 2
    assert bench.login.known.logged_in is False


def test_what_a_model_may_refuse_is_left_out_once() -> None:
    """What went well without it is remembered: the next turn begins without it."""
    bench = Bench([failed(400)], [ANSWER])
    first = bench.run(options=Options(temperature=0.5))
    assert len(bench.processes) == 2 and first.report.ignored == ("temperature",)
    second = bench.turn(user("another"), options=Options(temperature=0.5))
    assert bench.runner.ignored(second) == ("temperature",)
    bench.finish(second)
    assert len(bench.processes) <= 3 and second.report.ignored == ("temperature",)


def test_a_400_with_nothing_left_to_leave_out_is_the_answer() -> None:
    """It is the client's."""
    bench = Bench([failed(400)])
    bench.fail(bench.turn(), BadRequest)
    assert len(bench.processes) == 1


def refuse(bench: Bench, kind: str) -> None:
    """The plan refuses from now on."""
    bench.plan.note(RateLimitInfo(status="rejected", resets_at=NOW + 60.0, rate_limit_type=kind))


def test_a_model_that_the_plan_refuses_gives_way_to_the_other() -> None:
    """Before a child is asked."""
    bench = Bench(fallback="haiku")
    refuse(bench, "seven_day_sonnet")
    turn = bench.run()
    assert turn.profile.model == "haiku" and [model for model, _ in bench.orders] == ["haiku"]


@pytest.mark.parametrize("fallback", ["", "sonnet", "haiku"])
def test_a_plan_that_refuses_everything_is_the_answer(fallback: str) -> None:
    """No child is asked where there is no other model, or it is refused as well."""
    bench = Bench(fallback=fallback)
    refuse(bench, "five_hour")
    bench.fail(bench.turn(), PlanLimitReached)
    assert bench.processes == []


def test_an_aborted_turn_gets_no_child() -> None:
    """Its reason is the end."""
    bench, reason = Bench(), Interrupted("stop")
    turn = bench.turn()
    turn.abort(reason)
    assert bench.fail(turn, Interrupted) is reason and bench.processes == []


@pytest.mark.parametrize(("abilities", "counts"), [(NOTHING, Counts()), (EVERYTHING, Counts(spare=1))])
def test_a_turn_that_is_aborted_in_its_child_is_taken_out_of_it(abilities: Abilities, counts: Counts) -> None:
    """Where that can be done the child is free for others; it is retired where it cannot, and no attempt follows."""
    bench, reason = Bench(abilities=abilities), Interrupted("stop")
    turn = bench.turn()
    bench.on_start = lambda process: setattr(process, "on_ask", lambda: turn.abort(reason))
    assert bench.fail(turn, Interrupted) is reason
    assert len(bench.processes) == 1 and bench.fleet.counts() == counts
    assert bench.processes[0].was_terminated is (abilities == NOTHING)


def test_a_bug_of_ours_costs_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of it any more; it is not tried again."""
    bench = Bench(abilities=EVERYTHING)

    def begin(name: Name, chain: Sequence[bytes]) -> Session:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(bench.sessions, "begin", begin)
    with pytest.raises(ZeroDivisionError):
        bench.finish(bench.turn())
    assert bench.retired() == [1] and bench.fleet.counts() == Counts()
