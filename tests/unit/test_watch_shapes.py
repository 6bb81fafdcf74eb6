"""The JSON of `/v1/requests` and `/v1/permissions`: entries, notices, questions, decisions."""

import json
from typing import Any

import pytest

from claude_proxy.core.errors import BadRequest, ChildDied
from claude_proxy.core.events import Usage
from claude_proxy.core.session_key import SessionKey
from claude_proxy.monitoring.activity import Activity
from claude_proxy.monitoring.permissions import Permissions
from claude_proxy.web import permissions, requests
from tests.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def activity(clock: Clock) -> Activity:
    activity = Activity(clock)
    activity.begin("req_1", owner="me", dialect="chat", mode="agent", model="sonnet")
    return activity


def build(activity: Activity, now: float) -> dict[str, Any]:
    entry = activity.get("me", "req_1")
    assert entry is not None
    return requests.build_one(entry, now)


def read_event(event: bytes) -> tuple[str, dict[str, Any]]:
    kind, data, *rest = event.decode().split("\n")
    assert rest == ["", ""]
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_a_request_that_waits_knows_little(activity: Activity, clock: Clock) -> None:
    """What has not come is null; its seconds run."""
    assert build(activity, clock.now + 1.23456) == {
        "id": "req_1",
        "state": "queued",
        "dialect": "chat",
        "mode": "agent",
        "model": "sonnet",
        "sessionId": None,
        "how": None,
        "seconds": 1.235,
        "firstTokenSeconds": None,
        "tokens": {"input": 0, "cached": 0, "output": 0},
        "tools": [],
        "status": None,
        "error": None,
        "createdAt": "2023-11-14T22:13:20.000Z",
        "startedAt": None,
        "firstTokenAt": None,
        "endedAt": None,
    }


def test_a_request_that_ended_says_what_it_took(activity: Activity, clock: Clock) -> None:
    """Its seconds stand still; tools ran as long as they did."""
    clock.now += 1
    activity.note("req_1", "leased", session="hdr_a", model="sonnet", how="live")
    clock.now += 1
    activity.note("req_1", "first_token", model="claude-sonnet-5-5")
    activity.note("req_1", "tool_started", tool_id="t1", tool="Bash", label="Bash: ls")
    assert build(activity, clock.now)["tools"] == ["Bash: ls"]
    clock.now += 1
    usage = Usage(input_tokens=10, cache_read_input_tokens=7, cache_creation_input_tokens=3, output_tokens=5)
    activity.done("req_1", ChildDied("gone"), usage=usage)
    built = build(activity, clock.now + 100)
    assert (built["state"], built["status"], built["error"]) == ("failed", 502, "upstream_error")
    assert (built["sessionId"], built["how"], built["model"]) == ("hdr_a", "live", "claude-sonnet-5-5")
    assert (built["seconds"], built["firstTokenSeconds"]) == (3.0, 2.0)
    assert built["tokens"] == {"input": 20, "cached": 7, "output": 5}
    assert built["tools"] == []
    assert [built[name][17:] for name in ("startedAt", "firstTokenAt", "endedAt")] == ["21.000Z", "22.000Z", "23.000Z"]


def test_a_clock_that_was_set_back_makes_no_time_negative(activity: Activity, clock: Clock) -> None:
    """Nothing takes less than nothing."""
    assert build(activity, clock.now - 5)["seconds"] == 0


def test_a_list_counts_what_it_holds(activity: Activity, clock: Clock) -> None:
    """The newest first."""
    activity.begin("req_2", owner="me", dialect="messages", mode="chat", model="opus")
    activity.begin("req_3", owner="you", dialect="messages", mode="chat", model="opus")
    listed = requests.build_list(activity.entries("me"), clock.now)
    assert ([one["id"] for one in listed["requests"]], listed["total"]) == (["req_2", "req_1"], 2)


def test_notices_are_events_with_names_and_numbers(activity: Activity) -> None:
    """In camel case, as everything that is not a dialect's."""
    activity.note("req_1", "permission_asked", permission_id="perm_1", tool="Bash", label="ls")
    told = [read_event(requests.render_notice(notice)) for notice in activity.wait("req_1", 0, 0.0)[0]]
    head = {"requestId": "req_1", "at": "2023-11-14T22:13:20.000Z"}
    assert told == [
        ("queued", {**head, "number": 0}),
        ("permission_asked", {**head, "number": 1, "permissionId": "perm_1", "tool": "Bash", "label": "ls"}),
    ]


@pytest.mark.parametrize(("query", "number"), [({}, 0), ({"after": "0"}, 1), ({"after": "41"}, 42)])
def test_after_names_the_last_event_that_is_known(query: dict[str, str], number: int) -> None:
    """What comes is the next one."""
    assert requests.parse_after(query) == number


@pytest.mark.parametrize("raw", ["", "-1", "x", "1.5", "²"])
def test_a_wrong_after_is_a_bad_request(raw: str) -> None:
    """By its name."""
    with pytest.raises(BadRequest) as raised:
        requests.parse_after({"after": raw})
    assert raised.value.param == "after"


def test_a_question_is_shown_until_it_is_decided(clock: Clock) -> None:
    """The session is named as in `/v1/sessions`; what is decided has no input any more."""
    registry = Permissions(60.0, clock, clock, Activity(clock))
    name = registry.ask(
        request_id="req_1",
        session=SessionKey("me", "hdr_a"),
        tool="Bash",
        input={"command": "ls"},
        label="Bash: ls",
        decide=lambda decision: None,
    )
    shown = {
        "id": name,
        "requestId": "req_1",
        "sessionId": "hdr_a",
        "tool": "Bash",
        "input": {"command": "ls"},
        "label": "Bash: ls",
        "createdAt": "2023-11-14T22:13:20.000Z",
        "expiresAt": "2023-11-14T22:14:20.000Z",
    }
    listed = {"permissions": [shown], "total": 1}
    assert permissions.build_list(registry.pending("me")) == listed
    assert read_event(permissions.render_snapshot(registry.pending("me"))) == ("snapshot", listed)
    [asked] = registry.wait("me", 0, 0.0)[0]
    assert read_event(permissions.render_event(asked)) == ("asked", shown)
    pending = registry.decide("me", name, "always")
    assert permissions.build_decided(pending, "always") == {
        "ok": True,
        "id": name,
        "decision": "always",
        "message": "Bash: always",
    }
    decided = registry.wait("me", 1, 0.0)[0][0]
    assert read_event(permissions.render_event(decided)) == ("decided", {**shown, "input": None, "decision": "allowed"})


@pytest.mark.parametrize(
    ("body", "parsed"),
    [
        ({"decision": "allow"}, ("allow", "")),
        ({"decision": "deny", "message": "No."}, ("deny", "No.")),
        ({"decision": "always", "message": None, "more": 1}, ("always", "")),
    ],
)
def test_a_decision_is_read(body: dict[str, Any], parsed: tuple[str, str]) -> None:
    """Fields that nobody knows do no harm."""
    assert permissions.parse_decision(json.dumps(body).encode()) == parsed


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "decision"),
        (b'{"decision": "yes"}', "decision"),
        (b'{"decision": true}', "decision"),
        (b'{"decision": "deny", "message": 1}', "message"),
        (b'{"decision": "deny", "message": "' + b"x" * 10_001 + b'"}', "message"),
        (b'["allow"]', None),
        (b"allow", None),
    ],
)
def test_a_wrong_decision_is_a_bad_request(body: bytes, param: str | None) -> None:
    """That says which field is wrong."""
    with pytest.raises(BadRequest) as raised:
        permissions.parse_decision(body)
    assert raised.value.param == param
