"""What requests are doing: entries that advance with their notices, listeners, waiting, and what is forgotten."""

import pytest

from claude_proxy.core.errors import ChildSilent, ClientGone, Interrupted, ProxyError, RequestTimedOut, UpstreamError
from claude_proxy.core.events import Usage
from claude_proxy.monitoring.activity import Activity, Entry, Notice
from tests.clocks import Clock


@pytest.fixture
def activity() -> Activity:
    return Activity(Clock(1_000.0), kept=2)


def begin(activity: Activity, request_id: str = "req_1", owner: str = "me") -> None:
    activity.begin(request_id, owner=owner, dialect="chat", mode="agent", model="sonnet")


def entry_of(activity: Activity, request_id: str = "req_1") -> Entry:
    entry = activity.get("me", request_id)
    assert entry is not None
    return entry


def test_an_entry_advances_with_its_notices(activity: Activity) -> None:
    """From the queue to its end; a tool is there while it runs."""
    begin(activity)
    assert entry_of(activity).state == "queued"
    activity.note("req_1", "leased", session="auto_1", model="sonnet", how="new")
    activity.note("req_1", "first_token", model="claude-sonnet-5-5", usage=Usage(7))
    activity.note("req_1", "tool_started", tool_id="t", tool="Bash", label="Bash: ls")
    entry = entry_of(activity)
    assert (entry.state, entry.session, entry.how, entry.model) == ("running", "auto_1", "new", "claude-sonnet-5-5")
    assert (entry.usage, entry.tools, entry.leased_at) == (Usage(7), {"t": "Bash: ls"}, 1_000.0)
    activity.note("req_1", "tool_ended", tool_id="t", tool="Bash", label="Bash: ls", seconds=1.0, ok=True)
    assert entry_of(activity).tools == {}
    activity.done("req_1", None, usage=Usage(8), total=Usage(9))
    entry = entry_of(activity)
    assert (entry.state, entry.status, entry.error, entry.usage, entry.total) == (
        *("succeeded", 200, None, Usage(8), Usage(9)),
    )


@pytest.mark.parametrize(
    ("error", "state", "silent"),
    [
        (UpstreamError("x"), "failed", False),
        (ChildSilent("x"), "failed", True),
        (RequestTimedOut("x"), "failed", False),
        (ClientGone("x"), "interrupted", False),
        (Interrupted("x"), "interrupted", False),
    ],
)
def test_how_a_request_ended(error: ProxyError, state: str, silent: bool, activity: Activity) -> None:
    """Whoever stopped it did not make it fail; a child that was killed for its silence is no deadline."""
    begin(activity)
    activity.note("req_1", "tool_started", tool_id="t", tool="Bash", label="Bash")
    activity.done("req_1", error)
    entry = entry_of(activity)
    assert (entry.state, entry.status, entry.error, entry.tools) == (state, error.status, error.kind, {})
    (*_, last), over = activity.wait("req_1", 0, 0.0)
    assert over and last.kind == "done" and last.data.get("silent", False) is silent


def test_only_the_first_end_counts_and_nothing_comes_after_it(activity: Activity) -> None:
    """A late notice is nobody's, and one of an unknown request neither."""
    begin(activity)
    activity.done("req_1", None)
    activity.done("req_1", UpstreamError("late"))
    activity.note("req_1", "first_token", model="x")
    activity.note("req_2", "first_token", model="x")
    assert entry_of(activity).state == "succeeded"
    assert [notice.kind for notice in activity.wait("req_1", 0, 0.0)[0]] == ["queued", "done"]


def test_the_last_that_ended_are_kept_and_all_that_run(activity: Activity) -> None:
    """The oldest go first, newest come first; another owner's are none of one's business."""
    for number in range(5):
        begin(activity, f"req_{number}")
    begin(activity, "req_other", owner="you")
    for number in range(4):
        activity.done(f"req_{number}", None)
    assert [entry.id for entry in activity.entries("me")] == ["req_4", "req_3", "req_2"]
    assert activity.get("me", "req_other") is None and activity.get("me", "req_0") is None
    assert activity.wait("req_0", 0, 0.0) == ([], True)


class Recorder:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Entry, Notice]] = []

    def on_notice(self, entry: Entry, notice: Notice) -> None:
        self.heard.append((entry, notice))


class Broken:
    """A listener with a bug."""

    def on_notice(self, entry: Entry, notice: Notice) -> None:
        raise ZeroDivisionError


def test_a_listener_hears_everything_and_its_bug_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """The turn goes on, the next listener hears it, too."""
    recorder = Recorder()
    activity = Activity(Clock(), (Broken(), recorder))
    begin(activity)
    activity.note("req_1", "rate_limit", status="allowed_warning", type=None, utilization=0.9, resets_at=None)
    assert [(entry.state, notice.kind, notice.number) for entry, notice in recorder.heard] == [
        ("queued", "queued", 0),
        ("queued", "rate_limit", 1),
    ]
    assert caplog.text.count("A listener failed") == 2
