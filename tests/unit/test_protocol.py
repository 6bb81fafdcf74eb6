"""Lines of the CLI become typed messages, whatever the pieces are that they come in; what we send is what it takes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.claude.wire import outbound, protocol
from claude_proxy.claude.wire.outbound import build_message, build_tool_answer, is_deliverable
from claude_proxy.claude.wire.protocol import (
    ApiRetry,
    Assistant,
    ControlCancel,
    ControlRequest,
    ControlResponse,
    Inbound,
    Init,
    LineBuffer,
    PermissionAsk,
    ProtocolError,
    RateLimit,
    Result,
    StreamEvent,
    ToolCall,
    ToolProgress,
    UserLine,
    parse_line,
)
from claude_proxy.core.conversation import (
    Base64Source,
    Document,
    Image,
    Message,
    Text,
    TextSource,
    Thinking,
    ToolResult,
    ToolUse,
    UrlSource,
    user,
)

TRANSCRIPTS = sorted((Path(__file__).parent.parent / "data" / "transcripts").glob("*.jsonl"))
KINDS: dict[str, type] = {
    "stream_event": StreamEvent,
    "control_response": ControlResponse,
    "rate_limit_event": RateLimit,
    "assistant": Assistant,
    "user": UserLine,
    "result": Result,
    "control_cancel_request": ControlCancel,
    "tool_progress": ToolProgress,
}
SUBTYPES: dict[str, type] = {"init": Init, "api_retry": ApiRetry}
IMAGE = Image(Base64Source("image/png", "cG5n"))


def recorded(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """What the CLI wrote, each parsed by the standard library, and as a line."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [(line["msg"], json.dumps(line["msg"]).encode()) for line in lines if line["dir"] == "out"]


def expected_type(message: dict[str, Any]) -> type | None:
    """The struct for a recorded message."""
    if message["type"] == "system":
        return SUBTYPES.get(message["subtype"])
    if message["type"] == "control_request":
        rpc = message["request"].get("message", {})
        if message["request"]["subtype"] == "can_use_tool":
            return PermissionAsk
        return ToolCall if rpc.get("method") == "tools/call" else ControlRequest
    return KINDS.get(message["type"])


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_every_recorded_line_is_understood(path: Path) -> None:
    """Each has the type that its own fields say, or none where the type is not read."""
    for message, line in recorded(path):
        parsed = parse_line(line)
        wanted = expected_type(message)
        assert type(parsed) is (wanted or type(None)), message["type"]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_recording_fed_one_byte_at_a_time_gives_the_same_lines(path: Path) -> None:
    """Characters of several bytes are cut in the middle, too."""
    lines = [json.dumps(message, ensure_ascii=False).encode() for message, _ in recorded(path)]
    stream = b"\n".join(lines) + b"\n"
    buffer = LineBuffer()
    assert [line for at in range(len(stream)) for line in buffer.feed(stream[at : at + 1])] == lines


@given(st.lists(st.binary(max_size=20), max_size=20), st.data())
def test_lines_are_the_same_however_they_are_cut(pieces: list[bytes], data: st.DataObject) -> None:
    """Blank lines are dropped, an unended rest is kept back."""
    stream = b"\n".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    buffer = LineBuffer()
    edges = [0, *cuts, len(stream)]
    found = [line for start, end in zip(edges, edges[1:], strict=False) for line in buffer.feed(stream[start:end])]
    assert found == [line for line in stream.split(b"\n")[:-1] if line.strip()]


def test_an_endless_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is not."""
    monkeypatch.setattr(protocol, "MAX_LINE_BYTES", 10)
    buffer = LineBuffer()
    assert buffer.feed(b"123456789\n12345") == [b"123456789"]
    with pytest.raises(ProtocolError):
        buffer.feed(b"678901")


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"null", b"7", b"[]", b'"text"', b"{}", b'{"type":7}', b'{"type":"result","is_error":"maybe"}'],
)
def test_a_line_that_is_not_the_protocol_is_an_error(line: bytes) -> None:
    """Also one of a known type that has another shape."""
    with pytest.raises(ProtocolError):
        parse_line(line)


@pytest.mark.parametrize("line", [b'{"type":"result","result":"\xff\xfe"}', b'{"type":"\xff"}'])
def test_a_line_that_is_not_utf8_is_an_error(line: bytes) -> None:
    """In whatever place."""
    with pytest.raises(ProtocolError):
        parse_line(line)


def test_half_a_surrogate_pair_is_mended() -> None:
    """A model may write one in its arguments; nothing else of the line changes."""
    parsed = parse_line(rb'{"type":"result","is_error":false,"result":"a\ud800 \ud83d\ude00 \\ud800"}')
    assert isinstance(parsed, Result) and parsed.result == "a\ufffd \U0001f600 \\ud800"


@pytest.mark.parametrize("line", [b'{"type":"of_tomorrow"}', b'{"type":"system","subtype":"of_tomorrow"}'])
def test_a_type_that_is_not_known_is_nothing(line: bytes) -> None:
    """New ones appear with almost every release."""
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}}, PermissionAsk),
        ({"subtype": "hook_callback"}, ControlRequest),
        ({"subtype": "mcp_message"}, ControlRequest),
        ({"subtype": "mcp_message", "message": "text"}, ControlRequest),
        ({"subtype": "mcp_message", "message": {"method": "notifications/cancelled"}}, ControlRequest),
        (
            {
                "subtype": "mcp_message",
                "message": {
                    "method": "tools/call",
                    "id": 3,
                    "params": {"_meta": {"claudecode/toolUseId": "toolu_1"}},
                },
            },
            ToolCall,
        ),
    ],
)
def test_a_control_request_is_a_call_or_a_question_only_where_it_is_one(request_: dict[str, Any], wanted: type) -> None:
    """Everything else is refused by its request id."""
    parsed = parse_line(json.dumps({"type": "control_request", "request_id": "r", "request": request_}).encode())
    assert type(parsed) is wanted and getattr(parsed, "request_id") == "r"


@pytest.mark.parametrize("message", [{"method": "tools/call"}, {"method": "tools/call", "id": 1, "params": None}])
def test_a_tool_call_that_does_not_say_which_is_an_error(message: dict[str, Any]) -> None:
    """It could never be answered."""
    request = {"subtype": "mcp_message", "message": message}
    with pytest.raises(ProtocolError):
        parse_line(json.dumps({"type": "control_request", "request_id": "r", "request": request}).encode())


@pytest.mark.parametrize("fields", [{}, {"tool_name": "Bash"}, {"tool_name": 7, "input": {}}, {"input": {}}])
def test_a_question_that_does_not_say_which_tool_is_an_error(fields: dict[str, Any]) -> None:
    """Nobody could decide it."""
    request = {"subtype": "can_use_tool", **fields}
    with pytest.raises(ProtocolError):
        parse_line(json.dumps({"type": "control_request", "request_id": "r", "request": request}).encode())


@pytest.mark.parametrize(("named", "wanted"), [({"tool_use_id": "t"}, "t"), ({"tool_use_id": 7}, ""), ({}, "")])
def test_a_question_may_name_its_call(named: dict[str, Any], wanted: str) -> None:
    """It is decided without, too."""
    request = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}, **named}
    parsed = parse_line(json.dumps({"type": "control_request", "request_id": "r", "request": request}).encode())
    assert parsed == PermissionAsk("r", "Bash", {"command": "ls"}, wanted)


@pytest.mark.parametrize(
    ("allow", "wanted"),
    [
        (True, {"behavior": "allow", "updatedInput": {"command": "ls"}}),
        (False, {"behavior": "deny", "message": "no"}),
    ],
)
def test_a_question_is_answered_as_in_the_recording(allow: bool, wanted: dict[str, Any]) -> None:
    """With the very input that was asked about, or with what the model is told."""
    line = json.loads(outbound.build_permission(PermissionAsk("r", "Bash", {"command": "ls"}), allow, "no"))
    assert line == {
        "type": "control_response",
        "response": {"subtype": "success", "request_id": "r", "response": wanted},
    }


@pytest.mark.parametrize(
    ("system", "keeps_own", "wanted"),
    [
        (None, True, {}),
        (None, False, {"systemPrompt": [], "systemPromptSnapshot": False}),
        ("Hi", True, {"systemPrompt": ["Hi"]}),
    ],
)
def test_an_agent_keeps_the_prompt_of_the_cli_unless_it_is_given_one(
    system: str | None, keeps_own: bool, wanted: dict[str, Any]
) -> None:
    """An empty list would take it away."""
    line = json.loads(outbound.build_initialize("r", system, {}, keeps_own=keeps_own))
    assert line["request"] == {"subtype": "initialize", **wanted}


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("text", ()),
        (None, ()),
        ([{"type": "text", "text": "x"}, "y"], ()),
        ([{"type": "tool_result", "tool_use_id": "a"}, {"type": "tool_result", "tool_use_id": "b"}], ("a", "b")),
    ],
)
def test_a_user_line_names_the_calls_it_answers(content: Any, ids: tuple[str, ...]) -> None:
    """Whatever its content is."""
    assert UserLine({"content": content}).answered_ids() == ids


def test_control_requests_are_what_the_recordings_hold() -> None:
    """Initialise, model, settings, refusal: field by field."""
    built = [
        outbound.build_initialize("r1", "You are MUSE.", {"jsonSchema": {}}),
        outbound.build_initialize("r2", None, {}),
        outbound.build_set_model("r3", "opus"),
        outbound.build_settings("r4", {"effortLevel": None}),
        outbound.build_refusal("r5", "no"),
    ]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in built)
    bodies = [json.loads(line) for line in built]
    snapshot = {"systemPromptSnapshot": False}  # with one, `set_model` could not change the prompt later
    assert [body.get("request") for body in bodies] == [
        {"subtype": "initialize", "systemPrompt": ["You are MUSE."], **snapshot, "jsonSchema": {}},
        {"subtype": "initialize", "systemPrompt": [], **snapshot},
        {"subtype": "set_model", "model": "opus"},
        {"subtype": "apply_flag_settings", "settings": {"effortLevel": None}},
        None,
    ]
    assert bodies[4] == {
        "type": "control_response",
        "response": {"subtype": "error", "request_id": "r5", "error": "no"},
    }


def test_a_message_is_one_line_whatever_is_in_it() -> None:
    """Line breaks are escaped; only the last one asks for an answer."""
    asked = json.loads(build_message(user("a\nb\u2028c"), "u-1", query=True))
    assert asked["message"] == {"role": "user", "content": [{"type": "text", "text": "a\nb\u2028c"}]}
    assert asked["client_composed"] is True and "shouldQuery" not in asked
    replayed = json.loads(build_message(user("x"), "u-1", query=False))
    assert replayed["shouldQuery"] is False
    call = ToolUse("a", "f", {"b": 1}, '{"b": 1}')
    answer = json.loads(build_message(Message("assistant", (Text("x"), call)), "u-1", query=False))
    assert answer["type"] == "assistant" and "client_composed" not in answer
    assert answer["message"]["content"][1] == {"type": "tool_use", "id": "a", "name": "f", "input": {"b": 1}}
    assert build_message(user("a\r\nb"), "u-1", query=True).count(b"\n") == 1


@pytest.mark.parametrize(
    ("ttl", "mark"), [("1h", {"type": "ephemeral", "ttl": "1h"}), ("5m", {"type": "ephemeral"}), (None, None)]
)
def test_a_cache_breakpoint_is_on_the_last_block(ttl: str | None, mark: dict[str, str] | None) -> None:
    """And only there."""
    line = build_message(Message("user", (Text("a"), Text("b"))), "u-1", query=False, cache_ttl=ttl)
    first, last = json.loads(line)["message"]["content"]
    assert "cache_control" not in first and last.get("cache_control") == mark


def test_thinking_goes_back_with_the_model_that_thought_it() -> None:
    """The CLI keeps it only where it names the current model."""
    content = (Thinking("hmm", "sig", "claude-x"), Text("ok"))
    message = json.loads(build_message(Message("assistant", content), "u-1", query=False))["message"]
    assert message["model"] == "claude-x"
    assert message["content"][0] == {"type": "thinking", "thinking": "hmm", "signature": "sig"}
    two = (Thinking("a", "s", "claude-x"), Thinking("b", "s", "claude-y"))
    assert "model" not in json.loads(build_message(Message("assistant", two), "u-1", query=False))["message"]


RESULTS = (
    ("text", ToolResult("a", (Text("x"),)), True),
    ("two texts", ToolResult("a", (Text("x"), Text("y"))), True),
    ("an image", ToolResult("a", (IMAGE,)), True),
    ("text and image", ToolResult("a", (Text("x"), IMAGE)), True),
    ("a failed text", ToolResult("a", (Text("x"),), True), True),
    ("as much as fits", ToolResult("a", (Text("x" * 10),)), True),
    ("too much", ToolResult("a", (Text("x" * 11),)), False),
    ("too much in all", ToolResult("a", (Text("x" * 6), Text("x" * 5))), False),
    ("nothing", ToolResult("a"), False),
    ("an empty text", ToolResult("a", (Text(""),)), False),
    ("an empty text beside another", ToolResult("a", (Text(""), Text("x"))), False),
    ("a failed image", ToolResult("a", (IMAGE,), True), False),
    ("an image by URL", ToolResult("a", (Image(UrlSource("https://x")),)), False),
    ("a document", ToolResult("a", (Document(TextSource("x")),)), False),
)


@pytest.mark.parametrize(("result", "wanted"), [row[1:] for row in RESULTS], ids=[row[0] for row in RESULTS])
def test_a_result_is_delivered_only_where_the_cli_passes_it_on_unchanged(result: ToolResult, wanted: bool) -> None:
    """The others are replayed."""
    assert is_deliverable(result, 10) is wanted
    if not wanted:
        return
    answer = json.loads(build_tool_answer(ToolCall("r", 7, "a"), result))
    rpc = answer["response"]["response"]["mcp_response"]
    assert (answer["response"]["request_id"], rpc["id"], rpc["result"]["isError"]) == ("r", 7, result.is_error)
    assert len(rpc["result"]["content"]) == len(result.content)


def test_what_cannot_be_delivered_is_not_built() -> None:
    """A bug would otherwise reach the CLI as nonsense."""
    with pytest.raises(ValueError):
        build_tool_answer(ToolCall("r", 7, "a"), ToolResult("a", (Document(TextSource("x")),)))


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_whatever_json_comes_is_parsed_or_refused(value: Any) -> None:
    """No other exception leaves the parser."""
    for kind in ("stream_event", "assistant", "user", "result", "system", "control_request", "rate_limit_event"):
        line = msgspec.json.encode(
            {"type": kind, "subtype": "init", "message": value, "event": value, "request": value}
        )
        try:
            parsed: Inbound | None = parse_line(line)
        except ProtocolError:
            continue
        assert parsed is None or isinstance(parsed, msgspec.Struct)
