"""What is written down about a turn: real books in a store of the memory, and a stand-in for the child."""

from typing import Any

import pytest

from claude_proxy.claude.wire.profile import Point
from claude_proxy.core.conversation import Conversation, assistant, digest_chain, digest_message, user
from claude_proxy.core.errors import ChildDied
from claude_proxy.core.events import Usage
from claude_proxy.core.session_key import SessionKey
from claude_proxy.monitoring.activity import Activity
from claude_proxy.monitoring.permissions import Permissions
from claude_proxy.monitoring.plan import PlanLimits
from claude_proxy.storage.ledger import Ledger
from claude_proxy.storage.sessions import Name, Sessions
from claude_proxy.storage.store import Store
from claude_proxy.turns.books import Books
from claude_proxy.turns.modes import build_modes
from claude_proxy.turns.observer import Observers
from claude_proxy.turns.turn import Turn
from tests.standins import make_turn

NOW = 1_700_000_000.0
HI = Conversation("sonnet", (user("hi"),))
CHAIN = digest_chain(b"0", HI.messages)
REPLY = assistant("Hello")
HEAD = digest_message(CHAIN[-1], REPLY)
PERSISTS = build_modes(persist=True)


class Child:
    """What the books see of a child."""

    session: SessionKey | None = None
    is_remembered = False
    session_id: str | None = "s1"
    point: Point | None = Point("s1", "u1")


class Bench:
    """Books, and one turn that they were begun for."""

    def __init__(self) -> None:
        store = Store(None)
        self.activity = Activity(lambda: NOW)
        self.sessions = Sessions(store, 100.0, lambda: NOW)
        self.ledger = Ledger(store, lambda: NOW)
        permissions = Permissions(300.0, lambda: NOW, lambda: NOW, self.activity)
        self.books = Books(Observers(self.activity, permissions, PlanLimits(lambda: NOW)), self.sessions, self.ledger)
        self.child = Child()

    def turn(self, **about: Any) -> Turn:
        turn = make_turn(HI, name=Name("me"), **about)
        self.books.begin(turn)
        self.books.begin_session(turn, CHAIN)
        turn.report.note_first("claude-x", Usage(3, 1), 1.0)
        turn.report.note_usage(Usage(3, 5), Usage(3, 5))
        return turn

    def state(self, turn: Turn) -> str:
        entry = self.activity.get("me", turn.id)
        assert entry is not None
        return entry.state


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_turn_that_went_well_can_be_gone_on_from(bench: Bench) -> None:
    """Its child knows its session, and its use counts there."""
    turn = bench.turn()
    assert bench.books.settle(turn, bench.child, HEAD, REPLY)
    bench.books.done(turn)
    assert turn.session is not None and bench.child.session == turn.session.key and bench.child.is_remembered
    again = bench.sessions.begin(turn.name, (*CHAIN, HEAD, b"next"))
    assert (again.key, again.known, again.point) == (turn.session.key, 2, None)
    sums = bench.ledger.report("me").sessions[turn.session.id]
    assert (sums.requests, sums.failed, sums.usage) == (1, 0, Usage(3, 5)) and bench.state(turn) == "succeeded"


def test_where_the_clis_session_stands_is_kept_if_the_cli_keeps_it(bench: Bench) -> None:
    """Otherwise nothing could be resumed there."""
    turn = bench.turn(modes=PERSISTS)
    assert bench.books.settle(turn, bench.child, HEAD, REPLY)
    assert bench.sessions.begin(turn.name, (*CHAIN, HEAD, b"next")).point == bench.child.point


def test_a_session_is_looked_for_once(bench: Bench) -> None:
    """A further attempt goes on in the same one."""
    turn = bench.turn()
    session = turn.session
    bench.books.begin_session(turn, (*CHAIN, b"other"))
    assert turn.session is session


def test_a_blank_answer_of_a_chat_ends_its_child_and_counts(bench: Bench) -> None:
    """No client can send it back; an agent has done its work all the same."""
    turn = bench.turn()
    assert not bench.books.settle(turn, bench.child, CHAIN[-1], None)
    assert bench.sessions.count() == 0 and bench.ledger.report("me").total.requests == 1
    agent = bench.turn(agent=True, id="req_2")
    assert bench.books.settle(agent, bench.child, CHAIN[-1], None)
    assert bench.sessions.count() == 1


def test_a_session_that_was_deleted_meanwhile_does_not_come_back(bench: Bench) -> None:
    """The use counts, the conversation ends."""
    turn = bench.turn()
    assert turn.session is not None
    bench.sessions.delete(turn.session.key)
    assert not bench.books.settle(turn, bench.child, HEAD, REPLY)
    assert bench.sessions.count() == 0 and bench.ledger.report("me").total.requests == 1


@pytest.mark.parametrize("stores", [False, True])
def test_text_is_kept_only_for_who_asked_for_it(bench: Bench, stores: bool) -> None:
    """What the request added, and the answer."""
    turn = bench.turn(stores_history=stores, new_messages=1)
    bench.books.settle(turn, bench.child, HEAD, REPLY)
    assert turn.session is not None
    assert bench.sessions.history(turn.session.key) == ((*HI.messages, REPLY) if stores else ())


def test_a_turn_that_failed_counts_and_leaves_no_session(bench: Bench) -> None:
    """The id that it was given is free again."""
    turn = bench.turn()
    bench.books.failed(turn, ChildDied("gone"))
    sums = bench.ledger.report("me").total
    assert (sums.requests, sums.failed, sums.usage) == (1, 1, Usage(3, 5)) and bench.state(turn) == "failed"
    assert turn.session is not None and bench.sessions.begin(turn.name, CHAIN).key == turn.session.key
