"""The queue of turns: what is accepted, what is refused, and that each one ends once."""

from typing import Any, cast

import pytest

from claude_proxy.core.conversation import Conversation, user
from claude_proxy.core.errors import (
    BadRequest,
    ChildSilent,
    InternalError,
    Interrupted,
    ProxyError,
    QueueFull,
    RequestTimedOut,
    ShuttingDown,
)
from claude_proxy.core.events import TextDelta, Usage
from claude_proxy.monitoring.activity import Activity
from claude_proxy.monitoring.permissions import Permissions
from claude_proxy.monitoring.plan import PlanLimits
from claude_proxy.storage.ledger import Ledger
from claude_proxy.storage.sessions import Sessions
from claude_proxy.storage.store import Store
from claude_proxy.turns.books import Books
from claude_proxy.turns.channel import Closed
from claude_proxy.turns.engine import Engine
from claude_proxy.turns.modes import build_modes
from claude_proxy.turns.observer import Observers
from claude_proxy.turns.runner import TurnRunner
from claude_proxy.turns.turn import Turn
from claude_proxy.turns.watchdog import Watchdog
from claude_proxy.turns.workers import WorkerPool
from tests.clocks import Clock
from tests.standins import make_turn

HI = Conversation("sonnet", (user("hi"),))
NOW = 1_700_000_000.0


class Runner:
    """What the engine sees of a runner: it does as it is told."""

    def __init__(self) -> None:
        self.fails: BaseException | None = None
        self.ran: list[str] = []
        self.taken_back = 0
        self.not_honoured: tuple[str, ...] = ()

    def ignored(self, turn: Turn) -> tuple[str, ...]:
        return self.not_honoured

    def run(self, turn: Turn, spent: list[object]) -> None:
        self.ran.append(turn.id)
        if self.fails is not None:
            raise self.fails

    def take_back(self, spent: list[object]) -> None:
        self.taken_back += 1


class Bench:
    """An engine whose workers never start: jobs are run by hand."""

    def __init__(self, queue_size: int = 1) -> None:
        self.clock = Clock()
        self.runner = Runner()
        self.activity = Activity(lambda: NOW)
        store = Store(None)
        observers = Observers(
            self.activity, Permissions(300.0, self.clock, lambda: NOW, self.activity), PlanLimits(lambda: NOW)
        )
        books = Books(observers, Sessions(store, 100.0, lambda: NOW), Ledger(store, lambda: NOW))
        self.workers = WorkerPool(1, queue_size)
        self.watchdog = Watchdog(self.clock)
        runner = cast(TurnRunner, self.runner)
        self.engine = Engine(runner, books, self.watchdog, self.workers, 600.0, self.clock)

    def submit(self, name: str = "req_1", **about: Any) -> Turn:
        modes = build_modes(request_timeout=60.0, tool_timeout=3600.0)
        turn = make_turn(HI, id=name, modes=modes, **about)
        self.engine.submit(turn)
        return turn

    def state(self, turn: Turn) -> str:
        entry = self.activity.get("", turn.id)
        assert entry is not None
        return entry.state


@pytest.fixture
def bench() -> Bench:
    return Bench()


def end_of(turn: Turn) -> ProxyError | None:
    """How its channel ended."""
    try:
        turn.channel.get(0.0)
    except Closed:
        return None
    except ProxyError as error:
        return error
    raise AssertionError("it goes on")


def test_a_turn_that_was_accepted_waits_for_a_worker(bench: Bench) -> None:
    """And is listed from then on."""
    turn = bench.submit()
    assert (bench.workers.queued, bench.state(turn), turn.report.arrived) == (1, "queued", bench.clock.now)


def test_what_is_not_honoured_is_a_400_for_a_strict_turn(bench: Bench) -> None:
    """Before it takes a place."""
    bench.runner.not_honoured = ("seed", "user")
    with pytest.raises(BadRequest) as raised:
        bench.submit(strict=True)
    assert raised.value.param == "seed" and bench.workers.queued == 0
    turn = bench.submit("req_2")
    assert turn.report.ignored == ("seed", "user")


@pytest.mark.parametrize("closing", [False, True])
def test_a_turn_that_finds_no_place_ends_at_once(bench: Bench, closing: bool) -> None:
    """It is listed as failed, and nothing watches it."""
    for number in range(2):
        bench.submit(f"req_{number}")
    if closing:
        bench.workers.refuse()
    with pytest.raises(ShuttingDown if closing else QueueFull):
        bench.submit("req_more")
    entry = bench.activity.get("", "req_more")
    assert entry is not None and entry.state == "failed"


def test_a_turn_that_is_aborted_while_it_waits_gives_its_place_back(bench: Bench) -> None:
    """At once; it has ended, and its client is told."""
    first, second = bench.submit("req_1"), bench.submit("req_2")
    error = Interrupted("stop")
    second.abort(error)
    assert bench.workers.queued == 1 and end_of(second) is error and bench.state(second) == "interrupted"
    bench.submit("req_3")
    assert bench.state(first) == "queued"


def test_a_turn_that_a_worker_has_ends_there(bench: Bench) -> None:
    """An abort finds no place to give back."""
    turn = bench.submit()
    bench.engine.work(turn)
    turn.abort(Interrupted("too late"))
    assert end_of(turn) is None and bench.runner.ran == ["req_1"] and bench.runner.taken_back == 1
    assert turn.report.ended == bench.clock.now


@pytest.mark.parametrize(
    ("failure", "wanted"), [(Interrupted("stop"), Interrupted), (ZeroDivisionError("ours"), InternalError)]
)
def test_a_failure_is_told_to_the_client(bench: Bench, failure: BaseException, wanted: type[ProxyError]) -> None:
    """A bug of ours without its words; the children are seen to all the same."""
    bench.runner.fails = failure
    turn = bench.submit()
    bench.engine.work(turn)
    error = end_of(turn)
    assert isinstance(error, wanted) and "ours" not in error.message
    assert bench.runner.taken_back == 1 and bench.state(turn) in ("failed", "interrupted")


def test_what_fails_after_the_first_word_must_not_be_asked_again(bench: Bench) -> None:
    """It would cost twice."""
    bench.runner.fails = Interrupted("stop")
    turn = bench.submit()
    turn.report.note_first("m", Usage(), 1.0)
    turn.channel.put(TextDelta(0, "a"), 1.0)
    bench.engine.work(turn)
    turn.channel.get(0.0)
    error = end_of(turn)
    assert error is not None and error.should_retry is False


def test_a_turn_has_a_limit_from_its_arrival_on(bench: Bench) -> None:
    """The queue counts."""
    turn = bench.submit()
    bench.clock.now += 59.0
    assert bench.watchdog.sweep() == 0
    bench.clock.now += 1.0
    assert bench.watchdog.sweep() == 1
    assert isinstance(turn.abort_reason, RequestTimedOut)


def test_a_child_that_is_silent_ends_its_turn(bench: Bench) -> None:
    """With a word about the tool that it waited for, where there is one."""
    for label, words in (
        ("", "was silent for 600 s"),
        ("Bash: make", "A tool ran for longer than 3600 s (Bash: make)"),
    ):
        turn = Bench().submit(agent=bool(label))
        assert turn.watch is not None
        turn.note_busy(label)
        turn.watch.on_silence()
        assert isinstance(turn.abort_reason, ChildSilent) and words in turn.abort_reason.message
