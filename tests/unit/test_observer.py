"""What a turn's messages mean beside its answer, on clocks turned by hand: notices, questions, limits of silence."""

import json
import threading
from typing import Any

import pytest

from claude_proxy.claude.turn.agent_translator import AgentTranslator
from claude_proxy.claude.turn.translator import Translator
from claude_proxy.claude.wire.protocol import ControlCancel, PermissionAsk, parse_line
from claude_proxy.core.conversation import Conversation, user
from claude_proxy.core.errors import AlreadyDecided, ChildDied
from claude_proxy.core.events import Usage
from claude_proxy.core.session_key import SessionKey
from claude_proxy.monitoring.activity import Activity
from claude_proxy.monitoring.permissions import Permissions
from claude_proxy.monitoring.plan import PlanLimits
from claude_proxy.storage.sessions import Name, Session
from claude_proxy.turns.observer import Observers, TurnObserver
from claude_proxy.turns.watchdog import Watch
from tests.cli_lines import RESULT, Json, feed, start, stopped
from tests.clocks import Clock
from tests.standins import make_turn

SILENCE, TOOL, PATIENCE = 600.0, 3600.0, 300.0
NOW = 1_700_000_000.0
ASK = PermissionAsk("r1", "Bash", {"command": "rm -r build"}, "t1")


class Pretender:
    """What an observer sees of a connection."""

    def __init__(self) -> None:
        self.permitted: list[tuple[str, bool, str]] = []
        self.is_dead = False

    def permit(self, ask: PermissionAsk, allow: bool, message: str) -> None:
        if self.is_dead:
            raise ChildDied("It is dead", returncode=1)
        self.permitted.append((ask.request_id, allow, message))


class Bench:
    """A turn with its observer, and where it notes things."""

    def __init__(self, *, agent: bool = True) -> None:
        self.clock = Clock()
        self.activity = Activity(lambda: NOW)
        self.permissions = Permissions(PATIENCE, self.clock, lambda: NOW, self.activity)
        self.plan_limits = PlanLimits(lambda: NOW)
        self.turn = make_turn(Conversation("sonnet", (user("hi"),)), name=Name("me"), agent=agent)
        self.turn.begin_session(Session(SessionKey("me", "auto_1"), 0, 0))
        self.watch = Watch(self.clock, silence_timeout=SILENCE)
        self.turn.watch_with(self.watch)
        self.activity.begin(self.turn.id, owner="me", dialect="chat", mode=self.turn.mode.name, model="sonnet")
        self.translator = AgentTranslator(NOW, self.clock) if agent else Translator(NOW)
        self.connection = Pretender()
        self.observer = self.observe()
        self.watch.alive()

    def observe(self) -> TurnObserver:
        return TurnObserver(
            Observers(self.activity, self.permissions, self.plan_limits),
            self.turn,
            self.connection,
            self.translator,
            silence_timeout=SILENCE,
        )

    def hear(self, *messages: Json) -> None:
        """As a turn does: the translator first."""
        for message in messages:
            inbound = parse_line(json.dumps(message).encode())
            assert inbound is not None
            feed(self.translator, message)
            self.observer.on_message(inbound)

    def ask(self, ask: PermissionAsk = ASK) -> str:
        """A question; its id."""
        self.observer.on_message(ask)
        return self.permissions.pending("me")[-1].id

    def wait(self, seconds: float) -> bool:
        """True where so many seconds more are too long a silence."""
        self.clock.now += seconds
        return bool(self.watch.due(self.clock.now))

    def notices(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind and data, without that of the start."""
        return [(notice.kind, dict(notice.data)) for notice in self.activity.wait(self.turn.id, 1, 0.0)[0]]


def tool(call_id: str = "t1") -> Json:
    block = {"type": "tool_use", "id": call_id, "name": "Bash", "input": {"command": "make"}}
    return {"type": "assistant", "message": {"model": "claude-x", "content": [block]}}


def result(call_id: str = "t1") -> Json:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": "fine"}
    return {"type": "user", "message": {"role": "user", "content": [block]}}


def limit(status: str = "allowed_warning") -> Json:
    info = {"status": status, "resetsAt": NOW + 60, "rateLimitType": "five_hour", "utilization": 0.9}
    return {"type": "rate_limit_event", "rate_limit_info": info}


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Silence


def test_without_tools_and_questions_the_limit_of_silence_is_the_settings(bench: Bench) -> None:
    """To the second."""
    assert not bench.wait(SILENCE - 1) and bench.wait(1)


def test_a_tool_that_runs_has_a_limit_of_its_own(bench: Bench) -> None:
    """Until it has ended; the turn knows what it is busy with."""
    bench.wait(SILENCE - 1)
    bench.hear(tool("t1"), tool("t2"))
    assert bench.turn.busy_with == "Bash: make"
    bench.hear(result("t1"))
    assert not bench.wait(TOOL - 1)
    bench.hear(result("t2"))
    assert bench.turn.busy_with == ""
    assert not bench.wait(SILENCE - 1) and bench.wait(1)


def test_a_tool_is_not_given_time_anew_by_each_message(bench: Bench) -> None:
    """Only a change of the limit begins a silence."""
    bench.hear(tool())
    bench.wait(TOOL - 1)
    bench.observer.on_message(ControlCancel("unknown"))
    assert bench.wait(1)


def test_a_question_that_waits_for_a_person_is_no_silence(bench: Bench) -> None:
    """It has an end of its own; then the tool runs, and has all of its time."""
    bench.hear(tool())
    name = bench.ask()
    assert not bench.wait(1_000_000.0)
    bench.permissions.decide("me", name, "allow")
    assert not bench.wait(TOOL - 1) and bench.wait(1)


def test_the_clock_stands_until_every_question_is_decided(bench: Bench) -> None:
    """One of two is not enough."""
    first, second = bench.ask(), bench.ask(PermissionAsk("r2", "Read", {}))
    bench.permissions.decide("me", first, "deny")
    assert not bench.wait(1_000_000.0)
    bench.permissions.decide("me", second, "deny")
    assert not bench.wait(SILENCE - 1) and bench.wait(1)


def test_a_chat_has_one_limit_whatever_it_hears() -> None:
    """Its calls are the client's."""
    bench = Bench(agent=False)
    bench.hear(tool(), limit())
    assert not bench.wait(SILENCE - 1) and bench.wait(1)
    assert [kind for kind, _ in bench.notices()] == ["rate_limit"]


# Questions


def test_a_question_is_put_to_the_owner_of_the_session(bench: Bench) -> None:
    """With a label that a person reads."""
    bench.ask()
    [pending] = bench.permissions.pending("me")
    assert (pending.request_id, pending.session) == (bench.turn.id, SessionKey("me", "auto_1"))
    assert (pending.tool, pending.input, pending.label) == ("Bash", ASK.input, "Bash: rm -r build")


@pytest.mark.parametrize(
    ("choice", "allowed", "words"), [("allow", True, ""), ("always", True, ""), ("deny", False, "Not here.")]
)
def test_a_decision_goes_to_the_child(bench: Bench, choice: Any, allowed: bool, words: str) -> None:
    """From whichever thread it comes."""
    name = bench.ask()
    message = words or "unheard"
    thread = threading.Thread(target=lambda: bench.permissions.decide("me", name, choice, message))
    thread.start()
    thread.join(10)
    assert bench.connection.permitted == [("r1", allowed, words)]
    assert not bench.wait(SILENCE - 1) and bench.wait(1)


def test_what_is_always_allowed_is_decided_at_once(bench: Bench) -> None:
    """Nobody waits, and the clock goes on, for a tool that runs."""
    bench.permissions.decide("me", bench.ask(), "always")
    bench.hear(tool())
    bench.observer.on_message(PermissionAsk("r2", "Bash", {"command": "rm -r build"}))
    assert bench.permissions.pending("me") == []
    assert bench.connection.permitted == [("r1", True, ""), ("r2", True, "")]
    assert not bench.wait(TOOL - 1) and bench.wait(1)


def test_a_question_that_nobody_decides_is_denied(bench: Bench) -> None:
    """In its own time; the turn goes on."""
    bench.ask()
    bench.clock.now += PATIENCE
    assert bench.permissions.sweep() == 1
    [(_, allowed, words)] = bench.connection.permitted
    assert not allowed and "300 s" in words
    assert not bench.wait(SILENCE - 1) and bench.wait(1)


def test_the_cli_can_take_a_question_back(bench: Bench) -> None:
    """Nobody can decide it any more, and nothing is sent; one that is unknown or decided changes nothing."""
    name, other = bench.ask(), bench.ask(PermissionAsk("r2", "Read", {}))
    bench.observer.on_message(ControlCancel("r1"))
    bench.observer.on_message(ControlCancel("r1"))
    bench.observer.on_message(ControlCancel("unknown"))
    with pytest.raises(AlreadyDecided):
        bench.permissions.decide("me", name, "allow")
    assert [one.id for one in bench.permissions.pending("me")] == [other]
    bench.observer.on_message(ControlCancel("r2"))
    assert bench.connection.permitted == [] and not bench.wait(SILENCE - 1) and bench.wait(1)


def test_a_decision_for_a_dead_child_is_told_who_decided(bench: Bench) -> None:
    """The question is decided all the same."""
    name = bench.ask()
    bench.connection.is_dead = True
    with pytest.raises(ChildDied):
        bench.permissions.decide("me", name, "allow")
    with pytest.raises(AlreadyDecided):
        bench.permissions.decide("me", name, "allow")


# Notices


def test_tools_are_noted(bench: Bench) -> None:
    """When they start and when they end."""
    bench.hear(tool())
    bench.clock.now += 1.5
    bench.hear(result())
    about = {"tool_id": "t1", "tool": "Bash", "label": "Bash: make"}
    assert bench.notices() == [("tool_started", about), ("tool_ended", {**about, "seconds": 1.5, "ok": True})]


@pytest.mark.parametrize("status", ["allowed_warning", "rejected"])
def test_a_plan_that_runs_out_is_noted(bench: Bench, status: str) -> None:
    """And remembered."""
    bench.hear(limit(status))
    data = {"status": status, "type": "five_hour", "utilization": 0.9, "resets_at": NOW + 60}
    assert bench.notices() == [("rate_limit", data)]
    assert (bench.plan_limits.check("sonnet") is not None) is (status == "rejected")


def test_a_plan_that_lasts_is_remembered_without_a_notice(bench: Bench) -> None:
    """Every answer says so."""
    bench.hear(limit("allowed"))
    assert bench.notices() == [] and bench.plan_limits.snapshot().source == "rate_limit_event"


def test_what_a_turn_took_is_known_before_its_end(bench: Bench) -> None:
    """It may be ended at any time."""
    bench.hear(start(input_tokens=7, output_tokens=1))
    assert bench.turn.report.total == Usage(7, 1)
    bench.hear(stopped("tool_use"), start(input_tokens=8, output_tokens=1))
    assert bench.turn.report.total == Usage(15, 10)


def test_each_turn_has_the_costs_of_its_own() -> None:
    """Of all models; nothing where none was asked. What the CLI says of all its turns is not looked at."""
    for used, wanted in (({"a": 0.25, "b": 0.5}, 0.75), ({"a": 0.125}, 0.125), ({}, None)):
        bench = Bench()
        by_model = {name: {"costUSD": cost} for name, cost in used.items()}
        done = {**RESULT, "total_cost_usd": 99.0, "model_usage_since_last_result": by_model}
        inbound = parse_line(json.dumps(done).encode())
        assert inbound is not None
        bench.observe().on_message(inbound)
        assert bench.turn.report.cost_usd == wanted
