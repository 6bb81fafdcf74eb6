"""What an agent's child says beside its answer is passed on, what a chat's says is refused; where a session stands."""

import json
from typing import Any, cast

import pytest

from claude_proxy.claude.process.child import Child
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.profile import Point, Profile
from claude_proxy.claude.wire.protocol import ControlCancel, ControlRequest, PermissionAsk
from claude_proxy.core.conversation import user
from claude_proxy.core.errors import UpstreamError
from tests.cli_lines import RESULT, Json, read

INIT: Json = {"type": "system", "subtype": "init", "session_id": "s1"}
QUESTION: Json = {
    "type": "control_request",
    "request_id": "r1",
    "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, "tool_use_id": "t1"},
}
CANCEL: Json = {"type": "control_cancel_request", "request_id": "r1"}
HOOK: Json = {"type": "control_request", "request_id": "r2", "request": {"subtype": "hook_callback"}}


class Pretender:
    """What a connection sees of a child: lines that wait, lines that were sent."""

    pid = 7

    def __init__(self, *messages: Json) -> None:
        self.lines = [json.dumps(message).encode() for message in messages]
        self.sent: list[Json] = []

    def receive(self, timeout: float | None = None) -> bytes:
        return self.lines.pop(0)

    def has_output(self) -> bool:
        return bool(self.lines)

    def send(self, line: bytes) -> None:
        self.sent.append(json.loads(line))


def connection(*messages: Json, agent: bool = True) -> tuple[Connection, Pretender]:
    child = Pretender(*messages)
    return Connection(cast(Child, child), "sonnet", lambda models: None, agent=agent), child


def line(kind: str, uuid: str, parent: str | None = None, content: Any = ()) -> Json:
    message = {"role": kind, "content": content}
    return {"type": kind, "message": message, "parent_tool_use_id": parent, "uuid": uuid}


def test_questions_of_an_agent_are_passed_on() -> None:
    """And that they are taken back; everything else that is asked is refused."""
    talk, child = connection(QUESTION, CANCEL, HOOK, RESULT)
    asked = talk.receive(lambda: None)
    assert asked == PermissionAsk("r1", "Bash", {"command": "ls"}, "t1")
    assert talk.receive(lambda: None) == ControlCancel("r1")
    assert not isinstance(talk.receive(lambda: None), ControlRequest)
    assert [sent["response"]["subtype"] for sent in child.sent] == ["error"]
    assert isinstance(asked, PermissionAsk)
    talk.permit(asked, False, "Not here.")
    assert child.sent[-1]["response"]["response"] == {"behavior": "deny", "message": "Not here."}


def test_questions_of_a_chat_are_refused() -> None:
    """Nobody could decide them; the turn would wait for ever."""
    talk, child = connection(QUESTION, CANCEL, RESULT, agent=False)
    talk.receive(lambda: None)
    assert [(sent["response"]["subtype"], sent["response"]["request_id"]) for sent in child.sent] == [("error", "r1")]


def test_that_a_tool_still_runs_is_no_sign_of_life() -> None:
    """All else that is heard is one, also what is answered here."""
    heard: list[str] = []
    talk, _ = connection({"type": "tool_progress", "tool_use_id": "t1"}, HOOK, RESULT)
    for _ in range(2):
        talk.receive(lambda: heard.append("alive"))
    assert heard == ["alive"] * 2


@pytest.mark.parametrize("said", [QUESTION, RESULT, line("assistant", "u1")])
def test_an_idle_child_that_asks_or_talks_is_not_quiet(said: Json) -> None:
    """It would do something that nobody asked for."""
    assert not connection(said)[0].look()
    assert connection({"type": "tool_progress"})[0].look()


def test_a_session_stands_after_the_last_message_of_its_own() -> None:
    """An answer, or the result of a tool, after which nothing came; what a sub-agent says is another session's."""
    talk, child = connection(INIT)
    child.lines += connection(
        line("assistant", "u1"),
        line("user", "u2", content=[{"type": "tool_result", "tool_use_id": "t1"}]),
        line("assistant", "u3", parent="t1"),
        line("user", "u4", parent="t1"),
    )[1].lines
    assert talk.point is None
    stands: list[Point | None] = []
    for _ in range(5):
        talk.receive(lambda: None)
        stands.append(talk.point)
    assert stands == [None, Point("s1", "u1"), *[Point("s1", "u2")] * 3]


def test_the_recorded_limit_leaves_a_session_after_its_tool() -> None:
    """Resumed before that, the model would be told that its tool gave nothing, and might run it again."""
    messages = [message for message in read("agent_max_turns") if message["type"] != "control_response"]
    talk, child = connection(*messages)
    while child.lines:
        talk.receive(lambda: None)
    [answered] = [message["uuid"] for message in messages if message["type"] == "user"]
    assert talk.point is not None and talk.point.message_uuid == answered


@pytest.mark.parametrize(
    ("profile", "wanted"),
    [
        (Profile("sonnet", agent=True), {}),
        (Profile("sonnet", "You are MUSE.", agent=True), {"systemPrompt": ["You are MUSE."]}),
        (Profile("sonnet"), {"systemPrompt": []}),
    ],
)
def test_an_agent_keeps_the_clis_own_prompt(profile: Profile, wanted: Json) -> None:
    """Unless the client has one."""
    talk, child = connection()
    talk.prepare(profile)
    assert child.sent[0]["request"] == {"subtype": "initialize", **wanted}


def test_a_child_is_initialised_once() -> None:
    """For the same profile nothing is sent again; another needs another child."""
    talk, child = connection()
    talk.prepare(Profile("sonnet"))
    talk.prepare(Profile("sonnet"))
    assert len(child.sent) == 1
    with pytest.raises(ValueError):
        talk.prepare(Profile("sonnet", agent=True))


def test_an_earlier_message_that_was_not_taken_is_an_error() -> None:
    """The history would be another."""
    talk, child = connection({**RESULT, "is_error": True})
    with pytest.raises(UpstreamError):
        talk.replay(user("old"), lambda: None)
    assert child.sent[0]["shouldQuery"] is False


def test_a_request_that_the_cli_refuses_is_an_error() -> None:
    """It says which, and why."""
    talk, child = connection()
    talk.prepare(Profile("sonnet"))
    refused = {"subtype": "error", "request_id": child.sent[0]["request_id"], "error": "no"}
    child.lines += connection({"type": "control_response", "response": refused})[1].lines
    with pytest.raises(UpstreamError, match="refused initialize: no"):
        talk.receive(lambda: None)
