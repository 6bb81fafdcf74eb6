"""What an agent's child says beside its answer is passed on, what a chat's says is refused; where a session stands."""

import json
from typing import Any, cast, get_args

import pytest

from claude_proxy.claude.process.child import Child
from claude_proxy.claude.turn.connection import ANYTIME_MESSAGES, TURN_MESSAGES, Connection
from claude_proxy.claude.wire.profile import Point, Profile
from claude_proxy.claude.wire.protocol import (
    ApiRetry,
    Assistant,
    ControlCancel,
    ControlRequest,
    ControlResponse,
    Inbound,
    Init,
    PermissionAsk,
    RateLimit,
    Result,
    StreamEvent,
    ToolCall,
    ToolProgress,
    UserLine,
    parse_line,
)
from claude_proxy.claude.wire.recycling import Recycling
from claude_proxy.core.conversation import user
from claude_proxy.core.errors import UpstreamError
from claude_proxy.core.models import Catalogue
from claude_proxy.core.timing import Timing
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
    return Connection(cast(Child, child), "sonnet", Catalogue(), Recycling(), Timing(), agent=agent), child


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


SAID: dict[type, Json] = {
    StreamEvent: {"type": "stream_event", "event": {"type": "message_start"}},
    Assistant: line("assistant", "u1"),
    UserLine: line("user", "u1"),
    ToolCall: {
        "type": "control_request",
        "request_id": "r3",
        "request": {
            "subtype": "mcp_message",
            "message": {"method": "tools/call", "id": 1, "params": {"_meta": {"claudecode/toolUseId": "t1"}}},
        },
    },
    PermissionAsk: QUESTION,
    ControlCancel: CANCEL,
    Init: INIT,
    ApiRetry: {"type": "system", "subtype": "api_retry"},
    Result: RESULT,
    ControlResponse: {"type": "control_response", "response": {"request_id": "r1", "subtype": "success"}},
    ControlRequest: HOOK,
    RateLimit: {"type": "rate_limit_event", "rate_limit_info": {}},
    ToolProgress: {"type": "tool_progress", "tool_use_id": "t1"},
}


def test_every_message_of_the_protocol_is_of_a_turn_or_may_come_at_any_time() -> None:
    """Whoever adds one must decide it: an idle child that is not retired could do what no request asked for, and one
    that is retired for nothing costs each conversation its child."""
    assert set(TURN_MESSAGES).isdisjoint(ANYTIME_MESSAGES)
    assert {*TURN_MESSAGES, *ANYTIME_MESSAGES} == set(get_args(Inbound)) == set(SAID)


@pytest.mark.parametrize("kind", SAID, ids=lambda kind: kind.__name__)
def test_an_idle_child_is_quiet_unless_it_begins_a_turn(kind: type) -> None:
    """It would do something that no request asked for; a type that is not known yet is not a sign of it."""
    said = json.dumps(SAID[kind]).encode()
    assert isinstance(parse_line(said), kind)
    assert connection(SAID[kind])[0].poll_idle() is (kind in ANYTIME_MESSAGES)
    assert connection({"type": "new in the next release"})[0].poll_idle()


def add_lines(child: Pretender, *messages: Json) -> None:
    child.lines += [json.dumps(message).encode() for message in messages]


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
        (Profile("sonnet"), {"systemPrompt": [], "systemPromptSnapshot": False}),
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
        talk.replay(user("old"), b"1", lambda: None)
    assert child.sent[0]["shouldQuery"] is False


def test_a_request_that_the_cli_refuses_is_an_error() -> None:
    """It says which, and why."""
    talk, child = connection()
    talk.prepare(Profile("sonnet"))
    refused = {"subtype": "error", "request_id": child.sent[0]["request_id"], "error": "no"}
    child.lines += connection({"type": "control_response", "response": refused})[1].lines
    with pytest.raises(UpstreamError, match="refused initialize: no"):
        talk.receive(lambda: None)


def test_each_question_for_the_use_of_the_plan_has_its_own_answer() -> None:
    """None where the CLI has none; a second question before the first answer takes nothing from the first."""
    talk, child = connection()
    taken: list[tuple[str, Any]] = []
    talk.request_usage(lambda answer: taken.append(("first", answer)))
    talk.request_usage(lambda answer: taken.append(("second", answer)))
    first, second = [sent["request_id"] for sent in child.sent]
    refused = {"subtype": "error", "request_id": second, "error": "no"}
    answered = {"subtype": "success", "request_id": first, "response": {"used": 1}}
    add_lines(child, *({"type": "control_response", "response": one} for one in (refused, answered, answered)))
    assert talk.poll_idle() and taken == [("second", None), ("first", {"used": 1})]


def test_the_models_that_a_child_names_go_into_the_catalogue() -> None:
    """Each `initialize` answer has them."""
    child = Pretender()
    catalogue = Catalogue()
    talk = Connection(cast(Child, child), "sonnet", catalogue, Recycling(), Timing())
    talk.prepare(Profile("sonnet"))
    rows = [{"value": "opus", "resolvedModel": "claude-opus-9"}, {"value": "odd"}, "odd"]
    answer = {"subtype": "success", "request_id": child.sent[0]["request_id"], "response": {"models": rows}}
    add_lines(child, {"type": "control_response", "response": answer})
    assert talk.poll_idle() and [model.id for model in catalogue.models()] == ["claude-opus-9"]
