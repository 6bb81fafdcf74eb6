"""Questions of the CLI's agent: who decides, once, in time, and what is remembered of it. No test waits for a time."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from claude_proxy.core.errors import AlreadyDecided, ChildDied, NotFound, ProxyError
from claude_proxy.core.session_key import SessionKey
from claude_proxy.monitoring.permissions import DECIDED_KEPT, DENIED, RULES_KEPT, Choice, Decision, Pending, Permissions

TIMEOUT = 300.0


class Desk:
    """A registry with clocks that stand still, and what it noted: the label of each question, and what happened to it.

    looks: called with each note, for tests that look at the registry then.
    """

    def __init__(self) -> None:
        self.now = 50.0
        self.noted: list[tuple[str, str]] = []
        self.looks: list[Callable[[], None]] = []
        self._labels: dict[str, str] = {}
        self.permissions = Permissions(TIMEOUT, lambda: self.now, lambda: 1_000_000.0 + self.now, self)

    def note(self, request_id: str, kind: str, /, **data: Any) -> None:
        if kind == "permission_asked":
            self._labels[data["permission_id"]] = data["label"]
        self.noted.append((self._labels[data["permission_id"]], data.get("decision", "asked")))
        for look in self.looks:
            look()

    def ask(self, label: str = "ls", decide: Callable[[Decision], None] = lambda decision: None, **fields: Any) -> str:
        given = {"request_id": "req_1", "session": SessionKey("me", "auto_1"), "tool": "Bash"}
        return self.permissions.ask(
            **{**given, "input": {"command": label}, "label": label, "decide": decide, **fields}
        )

    def events(self, owner: str = "me") -> list[tuple[str, str]]:
        return [(event.pending.label, event.kind) for event in self.permissions.wait(owner, 0, 0.0)[0]]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def ids(pending: Iterable[Pending]) -> list[str]:
    return [one.id for one in pending]


def test_a_question_waits_and_says_what_it_is_about(desk: Desk) -> None:
    """Until when, too."""
    name = desk.ask("ls", input={"command": "ls -l"})
    [pending] = desk.permissions.pending("me")
    assert name == pending.id and name.startswith("perm_") and len(name) == 37
    assert (pending.request_id, pending.session, pending.tool) == ("req_1", SessionKey("me", "auto_1"), "Bash")
    assert (pending.input, pending.label) == ({"command": "ls -l"}, "ls")
    assert (pending.created_at, pending.expires_at) == (1_000_050.0, 1_000_350.0)
    assert desk.noted == [("ls", "asked")]


@pytest.mark.parametrize(
    ("choice", "message", "decision", "kind"),
    [
        ("allow", "", Decision(True), "allowed"),
        ("always", "unheard", Decision(True), "allowed"),
        ("deny", "", Decision(False, DENIED), "denied"),
        ("deny", "Not here.", Decision(False, "Not here."), "denied"),
    ],
)
def test_a_decision_is_told_once_to_everybody(
    desk: Desk, choice: Choice, message: str, decision: Decision, kind: str
) -> None:
    """Who asked hears of it before who watches; a denial always has words for the model."""
    got: list[Decision] = []

    def decide(decision: Decision) -> None:
        assert desk.noted == [("ls", "asked")]
        got.append(decision)

    name = desk.ask("ls", decide)
    assert desk.permissions.decide("me", name, choice, message).id == name
    assert got == [decision]
    assert desk.noted == desk.events() == [("ls", "asked"), ("ls", kind)]
    assert desk.permissions.pending("me") == []


def test_a_second_decision_is_refused(desk: Desk) -> None:
    """Whatever became of the first question: decided, expired, withdrawn, taken back."""
    got: list[Decision] = []
    names = [desk.ask(str(number), got.append, request_id=f"req_{number}") for number in range(4)]
    desk.permissions.decide("me", names[0], "allow")
    desk.permissions.withdraw("req_1")
    desk.permissions.cancel(names[2])
    desk.now += TIMEOUT
    assert desk.permissions.sweep() == 1
    for name in names:
        with pytest.raises(AlreadyDecided):
            desk.permissions.decide("me", name, "allow")
    assert [decision.allow for decision in got] == [True, False]


def test_an_owner_neither_sees_nor_decides_what_is_not_its_own(desk: Desk) -> None:
    """Not even whether it was decided already."""
    name = desk.ask("mine")
    desk.ask("yours", session=SessionKey("you", "auto_1"))
    assert [one.label for one in desk.permissions.pending("you")] == ["yours"]
    assert desk.events("you") == [("yours", "asked")]
    for _ in range(2):
        with pytest.raises(NotFound):
            desk.permissions.decide("you", name, "allow")
        desk.permissions.cancel(name)
    assert desk.events("me") == [("mine", "asked"), ("mine", "withdrawn")]


def test_an_unknown_question_is_not_found(desk: Desk) -> None:
    """Nothing happens where one is taken back."""
    with pytest.raises(NotFound):
        desk.permissions.decide("me", "perm_none", "deny")
    desk.permissions.cancel("perm_none")
    desk.permissions.withdraw("req_none")
    assert desk.noted == []


def test_what_was_decided_is_remembered_for_a_while(desk: Desk) -> None:
    """The oldest is forgotten, and then unknown."""
    names = [desk.ask() for _ in range(DECIDED_KEPT + 1)]
    for name in names:
        desk.permissions.decide("me", name, "allow")
    with pytest.raises(NotFound):
        desk.permissions.decide("me", names[0], "allow")
    with pytest.raises(AlreadyDecided):
        desk.permissions.decide("me", names[1], "allow")


# In time


def test_what_nobody_decides_is_denied_in_the_end(desk: Desk) -> None:
    """Not a moment early; the model is told why."""
    got: list[Decision] = []
    desk.ask("old", got.append)
    desk.now += 1.0
    desk.ask("new", got.append)
    desk.now += TIMEOUT - 1.001
    assert desk.permissions.sweep() == 0
    desk.now += 0.001
    assert desk.permissions.sweep() == 1
    assert [one.label for one in desk.permissions.pending("me")] == ["new"]
    [decision] = got
    assert not decision.allow and "The user did not decide within 300 s" in decision.message
    assert desk.noted[-1] == desk.events()[-1] == ("old", "expired")
    assert desk.permissions.sweep() == 0


@pytest.mark.parametrize("error", [ChildDied("gone"), ValueError("our bug")])
def test_a_sweep_outlives_a_turn_that_cannot_be_told(desk: Desk, error: Exception) -> None:
    """The others are told all the same; an answer that reached nobody is none."""
    got: list[Decision] = []

    def fail(decision: Decision) -> None:
        raise error

    desk.ask("dead", fail)
    desk.ask("alive", got.append)
    desk.now += TIMEOUT
    assert desk.permissions.sweep() == 2
    assert len(got) == 1
    assert desk.noted[2:] == [("dead", "withdrawn"), ("alive", "expired")]


def test_a_decision_for_a_dead_child_is_the_childs_error(desk: Desk) -> None:
    """It cannot be repeated."""

    def fail(decision: Decision) -> None:
        raise ChildDied("gone")

    name = desk.ask("ls", fail)
    with pytest.raises(ChildDied):
        desk.permissions.decide("me", name, "allow")
    with pytest.raises(AlreadyDecided):
        desk.permissions.decide("me", name, "allow")
    assert desk.noted == [("ls", "asked"), ("ls", "withdrawn")]


def test_a_turn_that_is_over_asks_nothing_any_more(desk: Desk) -> None:
    """All of its questions, and no other turn's; nobody is told a decision."""
    got: list[Decision] = []
    for label in ("a", "b"):
        desk.ask(label, got.append)
    other = desk.ask("c", got.append, request_id="req_2")
    desk.permissions.withdraw("req_1")
    assert ids(desk.permissions.pending("me")) == [other]
    assert desk.noted[3:] == [("a", "withdrawn"), ("b", "withdrawn")]
    desk.now += TIMEOUT
    assert desk.permissions.sweep() == len(got) == 1


# Always


def test_always_is_this_input_of_this_tool_in_this_session(desk: Desk) -> None:
    """Whatever the order of its keys; nothing else is allowed by it, however similar."""
    given = {"command": "ls", "options": {"a": 1, "b": [True, None]}}
    desk.permissions.decide("me", desk.ask("first", input=given), "always")
    got: list[Decision] = []
    same = {"options": {"b": [True, None], "a": 1}, "command": "ls"}
    name = desk.ask("again", got.append, input=same)
    assert got == [Decision(True)]
    with pytest.raises(AlreadyDecided):
        desk.permissions.decide("me", name, "deny")
    desk.ask("more", got.append, input={**given, "command": "ls "})
    desk.ask("number", got.append, input={**given, "options": {"a": 1.0, "b": [True, None]}})
    desk.ask("truth", got.append, input={**given, "options": {"a": True, "b": [True, None]}})
    desk.ask("tool", got.append, input=given, tool="Read")
    desk.ask("session", got.append, input=given, session=SessionKey("me", "auto_2"))
    assert len(got) == 1
    assert [one.label for one in desk.permissions.pending("me")] == ["more", "number", "truth", "tool", "session"]
    assert "again" not in [label for label, _ in desk.noted]


@pytest.mark.parametrize("choice", ["allow", "deny"])
def test_once_is_once(desk: Desk, choice: Choice) -> None:
    """The same is asked again."""
    desk.permissions.decide("me", desk.ask(), choice)
    desk.ask()
    assert len(desk.permissions.pending("me")) == 1


def test_a_forgotten_session_has_no_rules(desk: Desk) -> None:
    """Those of the others stay."""
    for session in (SessionKey("me", "a"), SessionKey("me", "b")):
        desk.permissions.decide("me", desk.ask(session=session), "always")
    desk.permissions.forget_session(SessionKey("me", "a"))
    got: list[Decision] = []
    desk.ask("a", got.append, input={"command": "ls"}, session=SessionKey("me", "a"))
    desk.ask("b", got.append, input={"command": "ls"}, session=SessionKey("me", "b"))
    assert len(got) == 1 and [one.label for one in desk.permissions.pending("me")] == ["a"]


def test_the_rules_used_least_are_forgotten(desk: Desk) -> None:
    """Memory is bounded."""
    got: list[Decision] = []
    for number in range(RULES_KEPT + 1):
        desk.permissions.decide("me", desk.ask(str(number)), "always")
        if number == RULES_KEPT - 1:
            desk.ask("0", got.append)
    desk.ask("0", got.append)
    assert len(got) == 2
    desk.ask("1", got.append)
    assert [one.label for one in desk.permissions.pending("me")] == ["1"]


# Watching


def test_a_watcher_begins_with_what_waits_and_misses_nothing_after_it(desk: Desk) -> None:
    """The snapshot names the number of the first event that is not in it."""
    desk.permissions.decide("me", desk.ask("gone"), "allow")
    name = desk.ask("here")
    pending, number = desk.permissions.snapshot("me")
    assert ids(pending) == [name]
    assert desk.permissions.wait("me", number, 0.0) == ([], False)
    desk.permissions.decide("me", name, "deny")
    desk.ask("later")
    events, closed = desk.permissions.wait("me", number, 0.0)
    assert [(event.number, event.kind) for event in events] == [(number, "denied"), (number + 1, "asked")]
    assert not closed


def test_what_is_decided_keeps_no_input(desk: Desk) -> None:
    """Neither the event that asked, nor the one that says how it ended."""
    name, other = desk.ask("a"), desk.ask("b")
    desk.permissions.decide("me", name, "allow")
    events, _ = desk.permissions.wait("me", 0, 0.0)
    assert [event.pending.input for event in events] == [None, {"command": "b"}, None]
    assert [event.pending.id for event in events] == [name, other, name]


def test_a_watcher_wakes_up_when_something_happens_or_all_is_over(desk: Desk) -> None:
    """Not for what happens to others."""
    woken: list[tuple[list[str], bool]] = []

    def watch() -> None:
        for number in (0, 3):
            events, closed = desk.permissions.wait("me", number, 30.0)
            woken.append(([event.pending.label for event in events], closed))

    thread = threading.Thread(target=watch)
    thread.start()
    desk.ask("yours", session=SessionKey("you", "auto_1"))
    desk.ask("mine")
    desk.ask("yours", session=SessionKey("you", "auto_1"))
    desk.permissions.close()
    thread.join(10)
    assert not thread.is_alive()
    assert woken[0][0] == ["mine"] and woken[1] == ([], True)


def test_a_question_is_noted_before_it_can_be_decided(desk: Desk) -> None:
    """Its end never comes first."""
    seen: list[int] = []
    desk.looks.append(lambda: seen.append(len(desk.permissions.pending("me"))))
    desk.ask()
    assert (seen, len(desk.permissions.pending("me"))) == ([0], 1)


# Races


def run_at_once(*actions: Callable[[], Any]) -> list[BaseException | None]:
    """What each of them raised, all begun in the same moment in threads of their own."""
    barrier = threading.Barrier(len(actions))
    raised: list[BaseException | None] = [None] * len(actions)

    def run(index: int) -> None:
        barrier.wait(10)
        try:
            actions[index]()
        except ProxyError as error:
            raised[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not [thread for thread in threads if thread.is_alive()]
    return raised


def test_of_many_who_decide_at_once_one_wins(desk: Desk) -> None:
    """The others are told that they were late, and who asked hears one decision."""
    for _ in range(50):
        got: list[Decision] = []
        name = desk.ask("ls", got.append)
        choices: list[Choice] = ["allow", "deny"] * 4
        raised = run_at_once(*(lambda choice=choice: desk.permissions.decide("me", name, choice) for choice in choices))
        winners = [choice for choice, error in zip(choices, raised, strict=True) if error is None]
        assert len(winners) == 1
        assert [type(error) for error in raised if error is not None] == [AlreadyDecided] * 7
        assert [decision.allow for decision in got] == [winners[0] == "allow"]


def test_a_decision_an_expiry_and_an_end_at_once_are_one_end(desk: Desk) -> None:
    """One of them ends the question; watchers are told of one end."""
    for _ in range(50):
        got: list[Decision] = []
        name = desk.ask("ls", got.append)
        desk.now += TIMEOUT
        before = len(desk.noted)
        run_at_once(
            lambda: desk.permissions.decide("me", name, "allow"),
            desk.permissions.sweep,
            lambda: desk.permissions.withdraw("req_1"),
            lambda: desk.permissions.cancel(name),
        )
        [(_, kind)] = desk.noted[before:]
        assert len(got) == (kind != "withdrawn")
        assert desk.permissions.pending("me") == []


def test_nobody_is_called_with_the_lock_held(desk: Desk) -> None:
    """Neither who asked nor who watches: another thread can go on meanwhile."""
    seen: list[int] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(len(desk.permissions.pending("me"))))
        thread.start()
        thread.join(10)
        assert not thread.is_alive()

    desk.looks.append(look)
    desk.permissions.decide("me", desk.ask("a", lambda decision: look()), "always")
    desk.ask("a", lambda decision: look())
    desk.ask("b", lambda decision: look())
    desk.now += TIMEOUT
    desk.permissions.sweep()
    desk.ask("c")
    desk.permissions.withdraw("req_1")
    assert len(seen) == 9
