"""The plan's windows: what refuses whom and until when, what only warns, what is told once."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest

from claude_proxy.claude.wire.protocol import RateLimit, RateLimitInfo, parse_line
from claude_proxy.monitoring.plan import ANSWER_TIMEOUT, ASK_INTERVAL, PlanLimits, PlanQuestion, concerns
from tests.clocks import Clock

NOW = 1_000_000.0
LATER = NOW + 3600


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def limits(clock: Clock) -> PlanLimits:
    return PlanLimits(clock)


def rejected(kind: str | None = "five_hour", resets_at: float | None = LATER, **more: Any) -> RateLimitInfo:
    return RateLimitInfo("rejected", resets_at, kind, **more)


def allowed(kind: str | None = "five_hour", **more: Any) -> RateLimitInfo:
    return RateLimitInfo("allowed", LATER, kind, **more)


def warning(kind: str = "five_hour", utilization: float | None = 0.914, **more: Any) -> RateLimitInfo:
    return RateLimitInfo("allowed_warning", LATER, kind, utilization, **more)


def refuses(limits: PlanLimits, model: str = "sonnet") -> bool:
    return limits.check(model) is not None


def test_nothing_is_refused_before_anything_was_told(limits: PlanLimits) -> None:
    """Nor is anything warned of."""
    assert limits.check("sonnet") is None
    assert limits.warning() is None
    snapshot = limits.snapshot()
    assert (snapshot.windows, snapshot.source, snapshot.as_of) == ((), None, None)


@pytest.mark.parametrize("kind", ["five_hour", "seven_day", "overage", "of_tomorrow", None])
@pytest.mark.parametrize("model", ["opus", "sonnet", "claude-haiku-4-5", "opus[1m]"])
def test_a_rejected_window_of_the_plan_refuses_every_model(kind: str | None, model: str, limits: PlanLimits) -> None:
    """With the seconds that are left until it is reset, and without a retry by the SDKs."""
    limits.note(rejected(kind))
    error = limits.check(model)
    assert error is not None
    assert (error.status, error.kind, error.retry_after, error.should_retry) == (429, "plan_limit", 3600.0, False)
    assert "until it resets" in error.message


@pytest.mark.parametrize(
    "kind, refused, free",
    [
        ("seven_day_opus", ("opus", "claude-opus-5-5", "opus[1m]"), ("sonnet", "claude-haiku-4-5")),
        ("seven_day_sonnet", ("sonnet", "claude-sonnet-5-5"), ("opus", "haiku")),
        ("seven_day_haiku", ("haiku",), ("opus", "sonnet")),
        ("seven_day_overage_included", ("fable", "claude-fable-5-2"), ("opus", "sonnet", "haiku")),
    ],
)
def test_a_model_s_own_window_refuses_only_that_model(
    kind: str, refused: tuple[str, ...], free: tuple[str, ...], limits: PlanLimits
) -> None:
    """Under an alias and under its id."""
    limits.note(rejected(kind))
    assert [refuses(limits, model) for model in refused] == [True] * len(refused)
    assert [refuses(limits, model) for model in free] == [False] * len(free)
    assert all(concerns(kind, model) for model in refused)


def test_a_refusal_ends_when_its_window_is_reset(limits: PlanLimits, clock: Clock) -> None:
    """To the second; the last wait told is one second."""
    limits.note(rejected(resets_at=NOW + 100))
    clock.now = NOW + 99.9
    error = limits.check("sonnet")
    assert error is not None and error.retry_after == 1.0
    clock.now = NOW + 100
    assert not refuses(limits)
    assert limits.snapshot().windows == ()


def test_the_longest_of_two_refusals_is_told(limits: PlanLimits) -> None:
    """It helps nobody to come back after the first."""
    limits.note(rejected("seven_day", NOW + 9000))
    limits.note(rejected("five_hour", NOW + 100))
    error = limits.check("opus")
    assert error is not None and error.retry_after == 9000.0 and "weekly limit" in error.message


def test_a_plain_429_is_not_remembered(limits: PlanLimits) -> None:
    """It names no end of its window."""
    limits.note(rejected(resets_at=None))
    assert not refuses(limits)
    assert limits.snapshot().windows == ()


def test_a_window_that_is_reset_already_refuses_nothing(limits: PlanLimits) -> None:
    """The event was late."""
    limits.note(rejected(resets_at=NOW))
    assert not refuses(limits)


@pytest.mark.parametrize("paid", [{"is_using_overage": True}, {"overage_in_use": True}])
def test_paid_use_goes_on_beyond_a_rejected_window(paid: dict[str, Any], limits: PlanLimits) -> None:
    """It is warned of instead, and ends an earlier refusal."""
    limits.note(rejected())
    limits.note(rejected(utilization=1.02, overage_status="allowed", **paid))
    assert not refuses(limits)
    assert limits.warning() == "five_hour 102% until 1970-01-12T14:46:40Z"
    assert (limits.snapshot().overage, limits.snapshot().using_overage) == ("allowed", True)


def test_the_limit_of_paid_use_itself_refuses(limits: PlanLimits) -> None:
    """`overage` with paid use going on is the window that refuses it."""
    limits.note(rejected("overage", overage_in_use=True))
    assert refuses(limits)


def test_an_allowed_event_of_the_same_window_ends_a_refusal(limits: PlanLimits) -> None:
    """That of another window does not."""
    limits.note(rejected("seven_day"))
    limits.note(allowed("five_hour"))
    assert refuses(limits)
    limits.note(allowed("seven_day"))
    assert not refuses(limits)


def test_an_allowed_event_of_no_window_ends_what_refuses_every_model(limits: PlanLimits) -> None:
    """What is one model's own stays."""
    limits.note(rejected("five_hour"))
    limits.note(rejected("seven_day_opus"))
    limits.note(allowed(None))
    assert not refuses(limits, "sonnet")
    assert refuses(limits, "opus")


def test_a_warning_of_no_window_says_nothing(limits: PlanLimits) -> None:
    """Nor does it end a refusal."""
    limits.note(rejected())
    limits.note(RateLimitInfo("allowed_warning", LATER))
    assert [one.type for one in limits.snapshot().windows] == ["five_hour"]
    assert refuses(limits)


def test_a_window_s_own_rejected_refuses_nothing(limits: PlanLimits) -> None:
    """The state of the whole answer says whether requests are refused."""
    windows = {"five_hour": {"status": "rejected", "resetsAt": LATER, "utilization": 1.0}}
    limits.note(allowed("seven_day", windows=windows))
    assert not refuses(limits)
    limits.note(rejected("seven_day", windows=windows))
    assert [(one.type, one.refuses) for one in limits.snapshot().windows] == [("five_hour", False), ("seven_day", True)]


def test_a_refusing_window_stays_so_while_another_one_refuses_too(limits: PlanLimits) -> None:
    """Its own status keeps a refusal that was told, until it says otherwise or requests are served."""
    own = {"status": "rejected", "resetsAt": LATER}
    limits.note(rejected("five_hour", windows={"five_hour": own}))
    limits.note(rejected("seven_day_opus", windows={"five_hour": own}))
    assert refuses(limits, "sonnet")
    limits.note(rejected("seven_day_opus", windows={"five_hour": {"status": "allowed", "resetsAt": LATER + 9}}))
    assert not refuses(limits, "sonnet")


def test_every_window_of_an_event_is_known_afterwards(limits: PlanLimits) -> None:
    """The one that the event is about has what the event says of it."""
    line = {
        "type": "rate_limit_event",
        "rate_limit_info": {
            "status": "allowed_warning",
            "resetsAt": int(LATER),
            "rateLimitType": "seven_day",
            "utilization": 0.8,
            "isUsingOverage": False,
            "overageStatus": "rejected",
            "unifiedWindows": {
                "five_hour": {"utilization": 0.25, "resetsAt": int(NOW + 60), "status": "allowed"},
                "seven_day": {"utilization": 0.8, "resetsAt": int(LATER), "status": "allowed_warning"},
                "of_tomorrow": {"utilization": "?"},
                "gone": None,
            },
        },
    }
    event = parse_line(msgspec.json.encode(line))
    assert isinstance(event, RateLimit)
    limits.note(event.rate_limit_info)
    snapshot = limits.snapshot()
    assert [(one.type, one.status, one.utilization, one.resets_at) for one in snapshot.windows] == [
        ("five_hour", "allowed", 0.25, NOW + 60),
        ("seven_day", "allowed_warning", 0.8, LATER),
    ]
    assert (snapshot.overage, snapshot.using_overage) == ("rejected", False)
    assert (snapshot.source, snapshot.as_of) == ("rate_limit_event", NOW)


def test_windows_of_no_shape_are_left_out() -> None:
    """No turn fails for them."""
    assert RateLimitInfo(windows=["five_hour"]).all_windows() == {}


def test_what_an_event_leaves_open_is_kept(limits: PlanLimits) -> None:
    """An event that names no use does not make it unknown, unless the window is a new one."""
    limits.note(warning(utilization=0.9))
    limits.note(allowed())
    assert [(one.status, one.utilization) for one in limits.snapshot().windows] == [("allowed", 0.9)]
    limits.note(RateLimitInfo("allowed", LATER + 18000, "five_hour"))
    assert [(one.status, one.utilization) for one in limits.snapshot().windows] == [("allowed", None)]


def test_the_warning_names_each_window_with_its_use_and_its_end(limits: PlanLimits, clock: Clock) -> None:
    """Until it is reset; of one model only what concerns it."""
    limits.note(warning())
    limits.note(warning("seven_day_opus", None))
    both = "five_hour 91% until 1970-01-12T14:46:40Z; seven_day_opus until 1970-01-12T14:46:40Z"
    assert limits.warning() == limits.warning("opus") == both
    assert limits.warning("haiku") == "five_hour 91% until 1970-01-12T14:46:40Z"
    clock.now = LATER
    assert limits.warning() is None


def test_a_change_of_state_is_told_once(limits: PlanLimits, caplog: pytest.LogCaptureFixture) -> None:
    """However many requests are told of it."""
    caplog.set_level(logging.INFO)
    events = (allowed(), warning(), warning(utilization=0.95), rejected(), rejected(), rejected(), allowed(), allowed())
    for info in events:
        limits.note(info)
        limits.check("sonnet")
    assert [(record.levelname, record.message.partition(":")[0]) for record in caplog.records] == [
        ("WARNING", "The plan's 5-hour limit is nearly reached"),
        ("WARNING", "The plan's 5-hour limit is reached"),
        ("INFO", "The plan's 5-hour limit is free"),
    ]


USAGE: dict[str, Any] = {
    "subscription_type": "max",
    "rate_limits_available": True,
    "rate_limits": {
        "five_hour": {"utilization": 42.0, "resets_at": "1970-01-12T14:46:40+00:00"},
        "seven_day": {"utilization": None, "resets_at": None},
        "seven_day_opus": None,
        "model_scoped": [{"display_name": "Fable", "utilization": 7, "resets_at": "1970-01-12T14:46:40Z"}, "?"],
        "extra_usage": {"is_enabled": False, "utilization": None},
    },
}


def test_the_cli_s_own_word_tells_the_use_of_windows(limits: PlanLimits) -> None:
    """In parts of one, not in percent; what a turn was told of a window's state stays."""
    limits.note(warning(utilization=0.4))
    limits.note_usage(USAGE)
    snapshot = limits.snapshot()
    assert [(one.type, one.status, one.utilization, one.resets_at) for one in snapshot.windows] == [
        ("five_hour", "allowed_warning", 0.42, LATER),
        ("seven_day_fable", None, 0.07, LATER),
    ]
    assert (snapshot.subscription, snapshot.source) == ("max", "get_usage")


def test_the_cli_s_own_word_does_not_refuse(limits: PlanLimits) -> None:
    """Only an answer to a request does; and its end is the one that the refusal named."""
    full = {"five_hour": {"utilization": 100, "resets_at": "1970-01-12T14:46:40Z"}}
    limits.note_usage({"rate_limits": full})
    assert not refuses(limits)
    limits.note(rejected())
    limits.note_usage({"rate_limits": {"five_hour": {"utilization": 90, "resets_at": "1970-02-12T14:46:40Z"}}})
    error = limits.check("sonnet")
    assert error is not None and error.retry_after == 3600.0


def test_a_window_that_is_far_from_used_up_refuses_no_more(limits: PlanLimits) -> None:
    """The plan, or the login, is another one by now."""
    limits.note(rejected())
    limits.note_usage({"rate_limits": {"five_hour": {"utilization": 12, "resets_at": "1970-02-12T14:46:40Z"}}})
    assert not refuses(limits)
    (window,) = limits.snapshot().windows
    assert (window.status, window.utilization, window.refuses) == ("allowed", 0.12, False)


@pytest.mark.parametrize("answer", [{}, {"rate_limits": None, "subscription_type": None}, {"rate_limits": [1]}])
def test_an_answer_without_a_plan_changes_nothing(answer: dict[str, Any], limits: PlanLimits) -> None:
    """So it is for an API key, and where the API cannot be reached."""
    limits.note(warning())
    before = limits.snapshot()
    limits.note_usage(answer)
    assert limits.snapshot() == before


class Cli:
    """Is asked, and answers at once, later or never."""

    def __init__(self) -> None:
        self.asked: list[Callable[[Mapping[str, Any] | None], None]] = []
        self.answer: Mapping[str, Any] | None = USAGE
        self.is_there = True
        self.answers = True

    def request_usage(self, take: Callable[[Mapping[str, Any] | None], None]) -> bool:
        if self.is_there:
            self.asked.append(take)
            if self.answers:
                take(self.answer)
        return self.is_there


def test_the_cli_is_asked_once_in_a_while(limits: PlanLimits) -> None:
    """Whoever asks in between is given what is known."""
    cli, ticks = Cli(), Clock(NOW)
    question = PlanQuestion(limits, cli, ticks)
    assert question.refresh() and question.refresh()
    ticks.now += ASK_INTERVAL - 0.1
    assert question.refresh()
    assert len(cli.asked) == 1
    ticks.now += 0.1
    assert question.refresh()
    assert len(cli.asked) == 2
    assert limits.snapshot().source == "get_usage"


def test_without_a_child_to_ask_the_next_one_tries_again(limits: PlanLimits) -> None:
    """And nobody waits."""
    cli, ticks = Cli(), Clock(NOW)
    cli.is_there = False
    question = PlanQuestion(limits, cli, ticks)
    assert not question.refresh()
    cli.is_there = True
    assert question.refresh()


def test_a_cli_that_does_not_answer_is_waited_for_once(limits: PlanLimits) -> None:
    """The wait is over for everybody as many seconds after the question; the answer counts when it comes after all."""
    cli, ticks = Cli(), Clock(NOW)
    cli.answers = False
    question = PlanQuestion(limits, cli, ticks)
    assert not question.refresh(timeout=0.0)
    ticks.now += ANSWER_TIMEOUT
    begun = time.monotonic()
    assert not question.refresh()
    assert time.monotonic() - begun < ANSWER_TIMEOUT
    assert len(cli.asked) == 1
    cli.asked[0](USAGE)
    assert question.refresh()
    assert limits.snapshot().subscription == "max"


def test_a_cli_that_cannot_say_has_answered(limits: PlanLimits) -> None:
    """An error of its own is no reason to wait."""
    cli = Cli()
    cli.answer = None
    assert PlanQuestion(limits, cli, Clock(NOW)).refresh()
    assert limits.snapshot().source is None
