"""What a Telegram chat is sent and when: notices and answers by hand, on a clock turned by hand."""

import time
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from claude_proxy.core.errors import InternalError
from claude_proxy.monitoring.activity import Entry, Notice
from claude_proxy.notify import board as module
from claude_proxy.notify.board import Board, Call, Outcome
from tests.clocks import Clock
from tests.notices import Requests

OK = Outcome(200)
GONE = Outcome(400)
UNREACHABLE = Outcome(0)
TIMED_OUT = Outcome(0, may_have_arrived=True)


class Bench:
    """A board, requests that it hears of, and a chat that answers as told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.board = Board()
        self.requests = Requests(self)
        self.sent = 0
        self.heard: list[tuple[Entry, Notice]] = []

    def on_notice(self, entry: Entry, notice: Notice) -> None:
        self.heard.append((entry, notice))
        self.board.note(self.clock.now, entry, notice)

    def next(self, seconds: float) -> Call | None:
        """The call that is due so many seconds after the beginning."""
        self.clock.now = 100.0 + seconds
        assert (self.board.due() <= self.clock.now) == (self.board.next_call(self.clock.now) is not None)
        return self.board.next_call(self.clock.now)

    def settle(self, call: Call, outcome: Outcome) -> None:
        self.board.settle(self.clock.now, call, outcome)

    def make(self, seconds: float, outcome: Outcome | None = None) -> Call:
        """The call that is due then, made; it succeeds unless an outcome is given."""
        call = self.next(seconds)
        assert call is not None
        if outcome is None and call.method == "sendMessage":
            self.sent += 1
            outcome = Outcome(200, message_id=self.sent)
        self.settle(call, outcome or OK)
        return call

    def make_all(self, seconds: float) -> list[Call]:
        """Everything that is due then."""
        calls = []
        while self.next(seconds) is not None:
            calls.append(self.make(seconds))
        return calls


@pytest.fixture
def bench() -> Bench:
    """A board with one request that runs."""
    bench = Bench()
    bench.requests.begin()
    return bench


@pytest.fixture
def utc() -> Iterator[None]:
    """A machine in that time zone."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def text_of(call: Call | None) -> str:
    assert call is not None
    return str(call.parameters["text"])


def test_a_request_without_tools_is_never_told_of(bench: Bench) -> None:
    """Neither while it runs nor when it has ended, well or not."""
    bench.requests.note("first_token", model="sonnet")
    assert bench.board.due() == inf
    bench.requests.end(InternalError("oops"))
    assert bench.next(1e6) is None


def test_tools_are_told_of_five_seconds_after_the_first_began(bench: Bench) -> None:
    """In one message, which makes no noise and shows no preview of a link."""
    bench.requests.start_tool()
    assert bench.board.due() == 105.0
    assert bench.next(4.9) is None
    call = bench.make(5.0)
    assert (call.method, call.parameters["disable_notification"]) == ("sendMessage", True)
    assert call.parameters["link_preview_options"] == {"is_disabled": True} and "parse_mode" not in call.parameters
    assert text_of(call) == "Tools at work: sonnet, session hdr_chat, request req_1\n- Bash: make test (running)"
    assert bench.board.due() == inf


def test_tools_that_have_ended_meanwhile_are_told_of_too(bench: Bench) -> None:
    """The request still runs: its next tool may come at any time."""
    bench.requests.start_tool()
    bench.requests.end_tool(seconds=0.24)
    assert text_of(bench.next(5.0)).splitlines()[1:] == ["- Bash: make test (0.2 s)"]


def test_a_request_that_ends_within_five_seconds_is_not_told_of(bench: Bench) -> None:
    """There is nothing to delete either."""
    bench.requests.start_tool()
    bench.requests.end()
    assert bench.board.due() == inf and bench.next(100.0) is None


def test_the_message_is_edited_at_most_every_three_seconds(bench: Bench) -> None:
    """And then shows the newest state alone."""
    bench.requests.start_tool()
    bench.make(5.0)
    bench.requests.end_tool(ok=False, seconds=3.14)
    bench.requests.start_tool("t2", "make lint")
    assert bench.next(7.9) is None
    call = bench.make(8.0)
    assert (call.method, call.parameters["message_id"]) == ("editMessageText", 1)
    assert text_of(call).splitlines()[1:] == ["- Bash: make test (failed, 3.1 s)", "- Bash: make lint (running)"]
    assert bench.next(1000.0) is None
    bench.requests.end_tool("t2")
    assert bench.make(1000.0).method == "editMessageText"


def test_only_the_last_six_tools_are_shown(bench: Bench) -> None:
    """With the number of those before them; what a tool shown no more comes to is not told."""
    for number in range(9):
        bench.requests.start_tool(f"t{number}", f"step {number}")
    bench.requests.end_tool("t0")
    lines = text_of(bench.next(5.0)).splitlines()
    assert lines[1] == "(3 earlier)"
    assert lines[2:] == [f"- Bash: step {number} (running)" for number in range(3, 9)]


def test_the_message_is_deleted_at_the_end(bench: Bench) -> None:
    """At once, whenever it was edited last."""
    bench.requests.start_tool()
    bench.make(5.0)
    bench.requests.end()
    call = bench.make(5.1)
    assert (call.method, call.parameters) == ("deleteMessage", {"message_id": 1})
    assert bench.board.due() == inf


def test_each_request_has_a_message_of_its_own(bench: Bench) -> None:
    """The end of one leaves the other."""
    bench.requests.begin("req_2", session="")
    bench.requests.start_tool()
    bench.requests.start_tool(request_id="req_2")
    first, second = bench.make_all(5.0)
    assert "req_1" in text_of(first) and "req_2" in text_of(second) and "session" not in text_of(second)
    bench.requests.end()
    assert [call.method for call in bench.make_all(6.0)] == ["deleteMessage"]
    assert bench.board.due() == inf


def test_a_turn_killed_for_silence_is_told_of_at_once_and_for_good(bench: Bench) -> None:
    """With noise, and with the tool that ran then; the message of its tools goes."""
    bench.requests.start_tool()
    bench.requests.end_tool()
    bench.requests.start_tool("t2", "sleep")
    bench.make(5.0)
    bench.requests.kill_for_silence()
    deleted, told = bench.make_all(60.0)[::-1]
    assert deleted.method == "deleteMessage"
    assert (told.method, told.parameters["disable_notification"]) == ("sendMessage", False)
    assert text_of(told).splitlines() == [
        "Killed after a long silence: sonnet, session hdr_chat, request req_1",
        "Running then: Bash: sleep",
    ]
    bench.board.close()
    assert bench.board.due() == inf


def test_a_question_is_told_of_at_once_and_deleted_when_it_is_decided(bench: Bench) -> None:
    """With its id, and how to decide."""
    bench.requests.ask()
    call = bench.make(0.0)
    assert (call.method, call.parameters["disable_notification"]) == ("sendMessage", False)
    assert text_of(call).splitlines() == [
        "Permission wanted: Bash: rm -r build",
        "sonnet, session hdr_chat, request req_1",
        "Decide with POST /v1/permissions/perm_1",
        'and {"decision": "allow"}, "always" or "deny"',
    ]
    bench.requests.decide()
    assert bench.make(0.1).method == "deleteMessage"
    bench.requests.decide("perm_other")
    assert bench.next(100.0) is None


def test_a_question_goes_with_its_request(bench: Bench) -> None:
    """Nobody waits for a decision any more."""
    bench.requests.ask()
    bench.requests.ask("perm_2")
    bench.make_all(0.0)
    bench.requests.end()
    assert [call.method for call in bench.make_all(1.0)] == ["deleteMessage", "deleteMessage"]


def test_a_question_that_is_decided_before_it_was_sent_is_not_sent(bench: Bench) -> None:
    """While the server wanted peace, for example."""
    bench.requests.ask()
    bench.requests.decide()
    assert bench.next(0.0) is None


def test_a_question_goes_before_everything_else(bench: Bench) -> None:
    """Somebody must decide it; tools can wait."""
    bench.requests.start_tool()
    bench.requests.limit()
    bench.requests.ask()
    words = [text_of(call).split()[0] for call in bench.make_all(5.0)]
    assert words == ["Permission", "Plan", "Tools"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "Plan limit five_hour: 91% used; resets 2023-11-14 23:13 +0000"),
        ({"status": "rejected"}, "Plan limit five_hour: reached; resets 2023-11-14 23:13 +0000"),
        ({"utilization": None, "resets_at": None, "type": None}, "Plan limit: nearly used up"),
        ({"resets_at": 1e300}, "Plan limit five_hour: 91% used"),
    ],
)
def test_a_plan_limit_is_told_of(bench: Bench, utc: None, data: dict[str, Any], words: str) -> None:
    """As far as it is known; the time is this machine's own."""
    bench.requests.limit(**data)
    assert text_of(bench.make(0.0)) == words
    assert bench.next(100.0) is None


def test_a_plan_limit_is_told_of_once_for_each_window_and_state(bench: Bench) -> None:
    """The CLI reports it with every answer."""
    bench.requests.limit("allowed")
    assert bench.next(0.0) is None
    for _ in range(3):
        bench.requests.limit()
    assert len(bench.make_all(0.0)) == 1
    bench.requests.limit("rejected")
    bench.requests.limit(type="seven_day")
    bench.requests.limit(resets_at=1_800_000_000.0)
    bench.requests.limit(utilization=0.99)
    assert len(bench.make_all(0.0)) == 3


def test_nothing_is_sent_while_the_server_wants_peace(bench: Bench) -> None:
    """Then the newest state alone."""
    bench.requests.start_tool()
    bench.make(5.0, Outcome(429, retry_after=30.0))
    for number in range(20):
        bench.requests.start_tool(f"x{number}", f"step {number}")
    bench.requests.ask()
    assert bench.board.due() == 135.0 and bench.next(34.9) is None
    asked, told = bench.make_all(35.0)
    assert asked.method == told.method == "sendMessage"
    assert "step 19" in text_of(told)
    assert bench.next(100.0) is None


def test_peace_without_a_length_lasts_five_seconds(bench: Bench) -> None:
    """A server on the way may say 429 too."""
    bench.requests.ask()
    bench.make(0.0, Outcome(429))
    assert bench.next(4.9) is None and bench.next(5.0) is not None


def test_peace_applies_to_edits_and_deletions(bench: Bench) -> None:
    """Each is tried again in the state that is then the newest."""
    bench.requests.start_tool()
    bench.make(5.0)
    bench.requests.end_tool()
    bench.make(8.0, Outcome(429, retry_after=10.0))
    bench.requests.end()
    assert bench.next(17.9) is None
    bench.make(18.0, Outcome(429, retry_after=10.0))
    assert bench.make(28.0).method == "deleteMessage"
    assert bench.board.due() == inf


def test_a_server_that_is_down_is_tried_ever_more_rarely(bench: Bench) -> None:
    """After 2, 4, 8 … and at most 60 seconds; an answer ends that."""
    bench.requests.start_tool()
    at, waits = 5.0, []
    for number in range(8):
        bench.make(at, Outcome(502) if number % 2 else UNREACHABLE)
        waits.append(bench.board.due() - bench.clock.now)
        at += waits[-1]
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    bench.make(at)
    bench.requests.end_tool()
    bench.make(at + 3.0, UNREACHABLE)
    assert bench.board.due() - bench.clock.now == 2.0


def test_a_message_that_may_have_arrived_is_not_sent_again(bench: Bench) -> None:
    """A second one would stay in the chat for ever; the end of the request has nothing to delete."""
    bench.requests.start_tool()
    bench.make(5.0, TIMED_OUT)
    bench.requests.end_tool()
    assert bench.next(100.0) is None
    bench.requests.end()
    assert bench.next(200.0) is None


@pytest.mark.parametrize("outcome", [TIMED_OUT, GONE, Outcome(200)])
def test_a_kept_message_is_sent_at_most_once(bench: Bench, outcome: Outcome) -> None:
    """Whatever became of it."""
    bench.requests.limit()
    bench.make(0.0, outcome)
    assert bench.next(1000.0) is None


def test_an_edit_or_deletion_without_an_answer_is_made_again(bench: Bench) -> None:
    """That does no harm; "not modified" then says that the first one arrived."""
    bench.requests.start_tool()
    bench.make(5.0)
    bench.requests.end_tool()
    bench.make(8.0, TIMED_OUT)
    bench.make(10.0, Outcome(400, is_same=True))
    assert bench.next(100.0) is None
    bench.requests.end()
    bench.make(100.0, TIMED_OUT)
    bench.make(102.0, GONE)
    assert bench.board.due() == inf


def test_a_message_that_the_user_has_deleted_does_not_come_back(bench: Bench) -> None:
    """For this request."""
    bench.requests.start_tool()
    bench.make(5.0)
    bench.requests.end_tool()
    bench.make(8.0, GONE)
    bench.requests.start_tool("t2")
    assert bench.next(100.0) is None
    bench.requests.end()
    assert bench.next(100.0) is None
    bench.requests.begin("req_2")
    bench.requests.start_tool(request_id="req_2")
    assert bench.make(200.0).method == "sendMessage"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_bot_that_may_not_write_is_tried_again_after_a_minute(bench: Bench, status: int) -> None:
    """With what is there to tell then; what was refused is not told again."""
    bench.requests.ask()
    bench.requests.ask("perm_2")
    bench.make(0.0, Outcome(status))
    assert bench.next(59.9) is None
    assert "perm_2" in text_of(bench.make(60.0))
    assert bench.next(1000.0) is None


def test_other_refusals_concern_one_message_alone(bench: Bench) -> None:
    """The next one is sent at once."""
    bench.requests.ask()
    bench.requests.ask("perm_2")
    bench.make(0.0, Outcome(400))
    assert bench.make(0.0).method == "sendMessage"


def test_what_was_sent_without_an_id_is_left_alone(bench: Bench) -> None:
    """An answer that is none: nothing can be edited or deleted."""
    bench.requests.start_tool()
    bench.make(5.0, Outcome(200))
    bench.requests.end_tool()
    bench.requests.end()
    assert bench.next(100.0) is None


def test_at_the_end_what_goes_on_is_deleted_and_what_is_to_stay_is_sent(bench: Bench) -> None:
    """And what was not sent is not sent any more."""
    bench.requests.begin("req_2")
    bench.requests.start_tool()
    bench.make(5.0)
    bench.requests.start_tool(request_id="req_2")
    bench.requests.ask()
    bench.requests.limit()
    bench.board.close()
    calls = bench.make_all(6.0)
    assert sorted(call.method for call in calls) == ["deleteMessage", "sendMessage"]
    assert "Plan limit" in text_of(next(call for call in calls if call.method == "sendMessage"))
    assert bench.board.due() == inf


def test_a_notice_after_the_end_changes_nothing(bench: Bench) -> None:
    """Notices of several threads may overtake one another."""
    bench.requests.start_tool()
    started = bench.heard[-1]
    bench.requests.end()
    bench.board.note(bench.clock.now, *started)
    assert bench.board.due() == inf


def test_the_end_of_a_tool_whose_start_was_not_heard_is_no_news(bench: Bench) -> None:
    """It was dropped from the queue."""
    bench.requests.end_tool()
    assert bench.board.due() == inf


def test_a_request_whose_end_was_never_heard_is_given_up_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its notice was dropped from the queue: the oldest goes, with its message, when there are too many."""
    monkeypatch.setattr(module, "REQUESTS_KEPT", 2)
    bench.requests.start_tool()
    bench.make(5.0)
    for name in ("req_2", "req_3"):
        bench.requests.begin(name)
        bench.requests.start_tool(request_id=name)
    calls = bench.make_all(20.0)
    assert [call.method for call in calls].count("deleteMessage") == 1
    assert ["req_1" in text_of(call) for call in calls if call.method == "sendMessage"] == [False, False]


def test_messages_that_cannot_be_sent_are_forgotten_in_the_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first; what comes to them later is no news."""
    monkeypatch.setattr(module, "MESSAGES_KEPT", 3)
    bench.requests.start_tool()
    for number in range(10):
        bench.requests.ask(f"perm_{number}")
    bench.requests.end_tool()
    shown = [text_of(call).splitlines()[2].rpartition("/")[2] for call in bench.make_all(100.0)]
    assert shown == ["perm_7", "perm_8", "perm_9"]
    bench.requests.end()
    assert len(bench.make_all(100.0)) == 3


def test_what_is_kept_against_repetition_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest states of limits, and the oldest requests that ended, are forgotten."""
    for name in ("ENDED_KEPT", "LIMITS_KEPT"):
        monkeypatch.setattr(module, name, 3)
    for number in range(5):
        bench.requests.limit(resets_at=float(number + 1))
    bench.requests.limit(resets_at=5.0)
    bench.requests.limit(resets_at=1.0)
    assert len(bench.make_all(0.0)) == 6
    for number in range(2, 7):
        bench.requests.begin(f"req_{number}")
        bench.requests.end(request_id=f"req_{number}")
    assert len(bench.board._ended) == 3
