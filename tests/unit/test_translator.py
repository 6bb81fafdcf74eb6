"""What the CLI says in a turn becomes canonical events, or the error it means: the recordings, and every odd case."""

import json
from typing import Any

import pytest

from claude_proxy.claude.turn.translator import Translator
from claude_proxy.claude.turn.turn_translator import merge_usage
from claude_proxy.claude.wire import protocol
from claude_proxy.claude.wire.protocol import Result, parse_line
from claude_proxy.claude.wire.toolset import Toolset
from claude_proxy.core.conversation import Text, Thinking, Tool, ToolUse
from claude_proxy.core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextTooLong,
    ModelNotFound,
    NotAuthenticated,
    Overloaded,
    PlanLimitReached,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from claude_proxy.core.events import (
    BlockStart,
    BlockStop,
    Event,
    MessageEnd,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
    collect,
)
from tests.cli_lines import (
    MESSAGE_STOP,
    RESULT,
    TRANSCRIPTS,
    Json,
    call,
    check_rules,
    closed,
    delta,
    event,
    feed,
    opened,
    read,
    start,
    stopped,
    text,
    turns_of,
)

NOW = 1_000.0
SCHEMA: Json = {"type": "object"}


def translate(*messages: Json, **options: Any) -> list[Event]:
    return feed(Translator(NOW, **options), *messages)


ANSWERED = {
    "chat_two_turns": [["Hello from upstream: "], ["Hello from upstream: "]],
    "replayed_history": [["Hello from upstream: "]],
    "replayed_tool_history": [[""]],
    "thinking": [["I thought."]],
}


@pytest.mark.parametrize("name", ANSWERED)
def test_a_recorded_answer_becomes_its_events(name: str) -> None:
    """The blocks are what the CLI itself says that they are in its finished `assistant` lines."""
    turns = turns_of(read(name))
    assert turns
    for turn in turns:
        completion = check_rules(translate(*turn))
        finished = [
            block
            for message in turn
            if message["type"] == "assistant" and message["message"]["model"] != "<synthetic>"
            for block in message["message"]["content"]
        ]
        assert [_plain(block) for block in completion.blocks] == [
            (block["type"], block.get("text") or block.get("thinking") or block.get("input")) for block in finished
        ]
        usage = turn[-1]["usage"]
        assert completion.usage.output_tokens == usage["output_tokens"]
        assert completion.usage.input_tokens == usage["input_tokens"]
        assert completion.stop_reason == turn[-1]["stop_reason"]


def _plain(block: Any) -> tuple[str, Any]:
    match block:
        case Text(text):
            return "text", text
        case Thinking(thinking):
            return "thinking", thinking
        case ToolUse():
            return "tool_use", block.input
    raise AssertionError(block)


def test_the_recorded_tool_calls_park_the_turn() -> None:
    """The answer ends when every call has been made, before any result; then the turn goes on as a second answer."""
    messages = read("client_tool_calls_parallel")
    manifest = next(
        message["request"]["sdkMcpServerManifests"]["client"]
        for message in _sent("client_tool_calls_parallel")
        if message.get("request", {}).get("subtype") == "initialize"
    )
    tools = [Tool(tool["name"], "", SCHEMA) for tool in manifest["toolsListResult"]["tools"]]
    first = Translator(NOW, Toolset(tools))
    before: list[Json] = []
    for message in messages:
        before.append(message)
        feed(first, message)
        if first.done:
            break
    completion = check_rules(translate(*before, toolset=Toolset(tools)))
    calls = [block for block in completion.blocks if isinstance(block, ToolUse)]
    assert [call.name for call in calls] == ["get_weather", "Read"] and completion.stop_reason == "tool_use"
    assert not first.cut
    rest = messages[len(before) :]
    assert check_rules(translate(*rest, toolset=Toolset(tools))).stop_reason == "end_turn"


def _sent(name: str) -> list[Json]:
    lines = (json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines())
    return [line["msg"] for line in lines if line["dir"] == "in"]


def test_the_recorded_structured_output_is_one_text_block() -> None:
    """The call by which the CLI got it is not seen; the child is not used again."""
    (turn,) = turns_of(read("structured_output"))
    translator = Translator(NOW, structured=True)
    completion = check_rules(feed(translator, *turn))
    assert json.loads(completion.text) == turn[-1]["structured_output"]
    assert completion.stop_reason == "end_turn" and translator.cut


FAILED = {
    "api_error_400": BadRequest,
    "api_error_401": NotAuthenticated,
    "api_error_413": BodyTooLarge,
    "api_error_429": RateLimited,
    "api_error_500": UpstreamError,
    "api_error_529": Overloaded,
    "api_retry_429": RateLimited,
    "not_logged_in": NotAuthenticated,
    "interrupt": UpstreamError,
}


@pytest.mark.parametrize("name", FAILED)
def test_a_recorded_failure_becomes_its_error(name: str) -> None:
    """By its fields."""
    with pytest.raises(ProxyError) as raised:
        translate(*read(name))
    assert type(raised.value) is FAILED[name]


def test_every_recording_is_translated_here() -> None:
    """A new one needs its place."""
    others = {"client_tool_calls_parallel", "structured_output", "request_parameters"}
    recorded = {path.stem for path in TRANSCRIPTS.glob("*.jsonl") if not path.stem.startswith("agent_")}
    assert recorded == set(ANSWERED) | set(FAILED) | others
    for turn in turns_of(read("request_parameters")):
        try:
            check_rules(translate(*turn))
        except ProxyError as error:
            assert turn[-1]["is_error"], error


# Built by hand.


def asked(call_id: str) -> Json:
    message = {"method": "tools/call", "id": 1, "params": {"_meta": {"claudecode/toolUseId": call_id}}}
    request = {"subtype": "mcp_message", "message": message}
    return {"type": "control_request", "request_id": call_id, "request": request}


USAGE = Usage(0, 9)


def test_blocks_of_unknown_types_are_left_out_and_the_indexes_stay_contiguous() -> None:
    """Redacted thinking, tools of the server, types of tomorrow, empty deltas."""
    events = translate(
        start(),
        event("ping"),
        opened(0, "redacted_thinking"),
        delta(0, "text_delta", text="hidden"),
        closed(0),
        *text(1, "a", "", "b"),
        event("content_block_start", index=2),
        closed(2),
        opened(3, "thinking"),
        delta(3, "thinking_delta", thinking=""),
        delta(3, "thinking_delta", thinking="hm"),
        delta(3, "signature_delta", signature="s"),
        delta(3, "delta_of_tomorrow"),
        closed(3),
        stopped("end_turn"),
        MESSAGE_STOP,
        RESULT,
    )
    assert events[1:-1] == [
        BlockStart(0, Text("")),
        TextDelta(0, "a"),
        TextDelta(0, "b"),
        BlockStop(0),
        BlockStart(1, Thinking("")),
        ThinkingDelta(1, "hm"),
        SignatureDelta(1, "s"),
        BlockStop(1),
    ]
    check_rules(events)


def test_text_of_others_is_no_answer() -> None:
    """Sub-agents, and the CLI itself under the name `<synthetic>`."""
    stranger = {**start(), "parent_tool_use_id": "toolu_1"}
    synthetic = {"type": "assistant", "message": {"model": "<synthetic>"}}
    ordinary = {"type": "assistant", "message": {"model": "claude-x"}}
    events = translate(stranger, synthetic, start(), *text(0, "a"), ordinary, stopped("end_turn"), RESULT)
    assert collect(events).text == "a"


def test_a_message_delta_without_a_reason_only_counts() -> None:
    """The end comes with the result."""
    events = translate(start(), *text(0, "a"), stopped(None), stopped("end_turn"), RESULT)
    assert events[-1] == MessageEnd("end_turn", None, USAGE)


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "model_context_window_exceeded"])
def test_what_the_cli_goes_on_with_by_itself_is_cut(reason: str) -> None:
    """The open block is closed, nothing of the rest is taken."""
    translator = Translator(NOW)
    events = feed(translator, start(), opened(0), delta(0, "text_delta", text="a"), stopped(reason))
    assert events[-2:] == [BlockStop(0), MessageEnd(reason, None, USAGE)]
    assert translator.done and translator.cut


@pytest.mark.parametrize(("details", "wanted"), [({"explanation": "because"}, "because"), ({"explanation": 7}, None)])
def test_a_refusal_may_say_why(details: Json, wanted: str | None) -> None:
    """In words, or not at all."""
    events = translate(start(), *text(0, "no"), stopped("refusal", stop_details=details))
    assert events[-1] == MessageEnd("refusal", None, USAGE, wanted)


@pytest.mark.parametrize("pieces", [("one \nt", "wo"), ("one ", "\n", "two"), ("one \n",)])
def test_stop_sequences_of_blanks_are_found_here(pieces: tuple[str, ...]) -> None:
    """Not a character too many is shown; the child goes on by itself, and is ended."""
    translator = Translator(NOW, stops=("\n",))
    events = feed(translator, start(), *text(0, *pieces), stopped("end_turn"), RESULT)
    assert collect(events).text == "one " and translator.cut
    assert events[-1] == MessageEnd("stop_sequence", "\n", Usage())


def test_what_might_have_been_a_stop_sequence_is_shown_at_the_end() -> None:
    """It was none."""
    translator = Translator(NOW, stops=("\n\n",))
    events = feed(translator, start(), *text(0, "one\n"), stopped("end_turn"), RESULT)
    assert collect(events).text == "one\n" and not translator.cut


@pytest.mark.parametrize("order", ["calls first", "stop first", "between"])
def test_the_answer_is_over_when_every_call_was_made(order: str) -> None:
    """In whatever order the CLI says so."""
    said = [start(), *call(0, "t1", "f", '{"a"', ":1}"), *call(1, "t2", "g")]
    ends = [stopped("tool_use"), MESSAGE_STOP]
    asks = [asked("t1"), asked("t2")]
    tail = {"calls first": [*asks, *ends], "stop first": [*ends, *asks], "between": [asks[0], *ends, asks[1]]}[order]
    translator = Translator(NOW)
    events = feed(translator, *said, *tail)
    assert translator.done and not translator.cut
    completion = check_rules(events)
    assert completion.blocks == (ToolUse("t1", "f", {"a": 1}, '{"a":1}'), ToolUse("t2", "g", {}))
    assert [one.partial_json for one in events if isinstance(one, ToolInputDelta)] == ['{"a"', ":1}"]


def test_a_call_that_the_cli_answers_itself_ends_the_answer() -> None:
    """The client has seen the call; what the CLI made of it must go."""
    answered = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1"}]}}
    said = [start(), *call(0, "t1", "f", "nonsense"), stopped("tool_use"), MESSAGE_STOP]
    translator = Translator(NOW)
    events = feed(translator, *said, answered)
    assert translator.done and translator.cut and collect(events).stop_reason == "tool_use"
    early = Translator(NOW)
    events = feed(early, start(), *call(0, "t1", "f"), answered)
    assert events and all(not isinstance(event, MessageEnd) for event in events)
    events += feed(early, stopped("tool_use"))
    assert (early.done, early.cut, collect(events).stop_reason) == (True, True, "tool_use")
    other = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "other"}]}}
    unmoved = Translator(NOW)
    feed(unmoved, *said, other)
    assert not unmoved.done


def test_an_answer_may_begin_anew_only_before_its_first_word() -> None:
    """One that begins again after that, and before it has stopped, is broken."""
    assert collect(translate(start(), start(), *text(0, "a"), stopped("end_turn"), RESULT)).text == "a"
    with pytest.raises(UpstreamError):
        translate(start(), opened(0), start())


ANSWERED_BY_CLI = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1"}]}}
FAILURE_RESULT = {**RESULT, "is_error": True, "subtype": "error_during_execution"}
RETRY = {"type": "system", "subtype": "api_retry", "error_status": 500}
# What the model says, each as (lines, the ids of its calls).
SAID: dict[str, tuple[list[Json], tuple[str, ...]]] = {
    "nothing": ([], ()),
    "a blank": (text(0, " \n"), ()),
    "text": (text(0, "a"), ()),
    "a call": (call(0, "t1", "f"), ("t1",)),
    "a bad call": (call(0, "t1", "f", '{"a'), ("t1",)),
    "text and a call": ([*text(0, "a"), *call(1, "t1", "f")], ("t1",)),
    "two calls": ([*call(0, "t1", "f"), *call(1, "t2", "f")], ("t1", "t2")),
}
STOP_REASONS = ("end_turn", "tool_use", "stop_sequence", "max_tokens", "refusal", "pause_turn", "made up")
# What the CLI does once the model has stopped.
AFTERWARDS: dict[str, list[Json]] = {
    "asks again": [MESSAGE_STOP, start(), *text(0, "not the answer"), stopped("end_turn"), RESULT],
    "answers a call itself": [MESSAGE_STOP, ANSWERED_BY_CLI, start()],
    "tries again": [RETRY, start()],
    "ends": [MESSAGE_STOP, RESULT],
    "fails": [MESSAGE_STOP, FAILURE_RESULT],
    "says nothing": [],
}


@pytest.mark.parametrize("goes_on", AFTERWARDS)
@pytest.mark.parametrize("early", [True, False], ids=["answered before the stop", "not answered"])
@pytest.mark.parametrize("stop", STOP_REASONS)
@pytest.mark.parametrize("said", SAID)
def test_the_first_stop_reason_ends_the_answer(said: str, stop: str, early: bool, goes_on: str) -> None:
    """Whatever the model said and the CLI does next: the answer is what came before, and no worker waits for long."""
    lines, calls = SAID[said]
    translator = Translator(NOW)
    events = feed(translator, start(), *lines, *([ANSWERED_BY_CLI] if early and calls else []), stopped(stop))
    for line in AFTERWARDS[goes_on]:
        if translator.done:
            break
        events += feed(translator, line)
    if not translator.done:
        assert translator.is_ending  # the reader gives the CLI some seconds, then cuts it off
        events += translator.cut_off()
    answer = collect(events)
    assert (translator.done, answer.stop_reason) == (True, stop)
    assert tuple(block.id for block in answer.blocks if isinstance(block, ToolUse)) == calls
    assert "not the answer" not in answer.text
    if goes_on != "ends" or calls:
        assert translator.cut


@pytest.mark.parametrize("stop", STOP_REASONS[:3])
def test_a_call_is_waited_for_whatever_the_stop_reason_is(stop: str) -> None:
    """A stop sequence may be met after it: the CLI waits for its result all the same."""
    translator = Translator(NOW)
    events = feed(translator, start(), *call(0, "t1", "f"), asked("t1"), stopped(stop), MESSAGE_STOP)
    assert translator.done and not translator.cut and collect(events).stop_reason == stop


def test_what_the_first_call_of_the_api_used_is_what_the_answer_used() -> None:
    """What the CLI asks for by itself does not count as the answer's."""
    translator = Translator(NOW)
    feed(translator, start(input_tokens=7), *text(0, " "), stopped("end_turn"))
    assert translator.done and (translator.total.input_tokens, translator.total.output_tokens) == (7, 9)


@pytest.mark.parametrize(("written", "wanted"), [('{"a": 1}', True), ("a is 1", False), ("", False)])
def test_a_structured_answer_may_be_written_as_text(written: str, wanted: bool) -> None:
    """Where it is what the schema asks for; otherwise the CLI reminds the model of its tool."""
    translator = Translator(NOW, structured=True, accepts=lambda text: text.startswith("{"))
    events = feed(translator, start(), *text(0, written), stopped("end_turn"))
    assert (translator.done, translator.cut) == (wanted, wanted)
    if wanted:
        assert collect(events).text == written


@pytest.mark.parametrize(
    "messages",
    [
        [event("message_start")],
        [RESULT],
        [start(), RESULT],
        [start(), *text(0, "a"), RESULT],
        [start(), *text(0, "a"), {**RESULT, "is_error": True}],
    ],
    ids=["no message", "no answer", "no end", "broken off", "failed"],
)
def test_what_is_no_whole_answer_is_an_error(messages: list[Json]) -> None:
    """Never a `stop`."""
    with pytest.raises(UpstreamError):
        translate(*messages)


def test_a_structured_answer_that_never_came_is_an_error() -> None:
    """Prose is no substitute."""
    with pytest.raises(UpstreamError):
        translate(start(), *text(0, "prose"), stopped("end_turn"), RESULT, structured=True)


def test_names_of_tools_are_the_clients_again() -> None:
    """And a tool that the CLI did not take is a 400 that says which."""
    toolset = Toolset([Tool("files.read", "", SCHEMA)])
    usable = toolset.cli_name("files.read")
    events = translate(start(), opened(0, "tool_use", id="t", name=usable), toolset=toolset)
    assert events[-1] == BlockStart(0, ToolUse("t", "files.read", {}))
    init = {"type": "system", "subtype": "init", "tools": [usable]}
    assert translate(init, toolset=toolset) == []
    with pytest.raises(BadRequest, match="files.read") as raised:
        translate({**init, "tools": ["other"]}, toolset=toolset)
    assert raised.value.param == "tools"


def failure(status: int | None, **more: Any) -> Json:
    return {**RESULT, "is_error": True, "api_error_status": status, "result": "words", **more}


def limit(status: str, resets_at: float | None = None) -> Json:
    return {"type": "rate_limit_event", "rate_limit_info": {"status": status, "resetsAt": resets_at}}


LOGGED_OUT = {"type": "assistant", "message": {"model": "<synthetic>"}, "error": "authentication_failed"}
CLASSES: tuple[tuple[str, list[Json], type[ProxyError], float | None], ...] = (
    ("400", [failure(400)], BadRequest, None),
    ("401", [failure(401)], NotAuthenticated, None),
    ("403", [failure(403)], NotAuthenticated, None),
    ("404", [failure(404)], ModelNotFound, None),
    ("413", [failure(413)], BodyTooLarge, None),
    ("429", [failure(429)], RateLimited, 1.0),
    ("429 with an allowed window", [limit("allowed", NOW + 50), failure(429)], RateLimited, 1.0),
    ("429 with a rejected window", [limit("rejected", NOW + 50), failure(429)], PlanLimitReached, 50.0),
    ("429 with a window that is over", [limit("rejected", NOW - 50), failure(429)], PlanLimitReached, 1.0),
    ("429 with a window without an end", [limit("rejected"), failure(429)], RateLimited, 1.0),
    ("500", [failure(500)], UpstreamError, None),
    ("503", [failure(503)], Overloaded, None),
    ("529", [failure(529)], Overloaded, None),
    ("no status", [failure(None)], UpstreamError, None),
    ("no status, no login", [LOGGED_OUT, failure(None)], NotAuthenticated, None),
    ("a status beside the notice", [LOGGED_OUT, failure(500)], UpstreamError, None),
    ("blocking_limit", [failure(None, terminal_reason="blocking_limit")], ContextTooLong, None),
    ("prompt_too_long", [failure(400, terminal_reason="prompt_too_long")], ContextTooLong, None),
    ("no words", [failure(None, result=None)], UpstreamError, None),
)


@pytest.mark.parametrize(
    ("messages", "wanted", "retry_after"), [row[1:] for row in CLASSES], ids=[row[0] for row in CLASSES]
)
def test_failures_are_told_apart_by_fields(
    messages: list[Json], wanted: type[ProxyError], retry_after: float | None
) -> None:
    """Never by words."""
    with pytest.raises(ProxyError) as raised:
        translate(*messages)
    assert type(raised.value) is wanted and raised.value.retry_after == retry_after and raised.value.message


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (400, BadRequest),
        (401, NotAuthenticated),
        (403, NotAuthenticated),
        (404, ModelNotFound),
        (413, BodyTooLarge),
        (429, RateLimited),
    ],
)
def test_a_failure_that_trying_again_cannot_mend_ends_the_turn_at_once(status: int, wanted: type[ProxyError]) -> None:
    """The CLI would try for minutes."""
    retry = {"type": "system", "subtype": "api_retry", "error_status": status, "retry_delay_ms": 60_000}
    with pytest.raises(ProxyError) as raised:
        translate(retry)
    assert type(raised.value) is wanted
    assert raised.value.retry_after == (60.0 if status == 429 else None)


@pytest.mark.parametrize("status", [None, 408, 500, 502, 529])
def test_the_cli_may_try_the_others_again(status: int | None) -> None:
    """They pass."""
    assert translate({"type": "system", "subtype": "api_retry", "error_status": status}) == []


def test_later_counts_replace_earlier_ones_where_they_are_there() -> None:
    """Thinking is inside the output."""
    known = Usage(1, 2, 3, 4, 5)
    assert merge_usage(known, None) == known
    assert merge_usage(known, protocol.Usage(output_tokens=9)) == Usage(1, 9, 3, 4, 5)
    assert merge_usage(known, protocol.Usage(10, 20, 30, 40, {"thinking_tokens": 50})) == Usage(10, 20, 40, 30, 50)
    assert merge_usage(known, protocol.Usage(output_tokens_details={"thinking_tokens": None})) == known


def test_a_result_that_is_no_json_object_is_no_result() -> None:
    """The parser refuses it before the translator sees it."""
    assert isinstance(parse_line(json.dumps(RESULT).encode()), Result)


def test_a_call_of_the_clients_is_delivered_beside_a_schema() -> None:
    """Its function is called first; the structured answer comes once its result is there."""
    offered = Toolset((Tool("f", "", {"type": "object"}),))
    translator = Translator(NOW, offered, structured=True, accepts=lambda text: False)
    said = [start(), *text(0, "let me look"), *call(1, "t1", "f", '{"a":1}'), asked("t1")]
    events = feed(translator, *said, stopped("tool_use"), MESSAGE_STOP)
    answer = collect(events)
    assert translator.done and not translator.cut
    assert (answer.stop_reason, answer.blocks) == ("tool_use", (ToolUse("t1", "f", {"a": 1}, '{"a":1}'),))
    own = Translator(NOW, offered, structured=True)
    assert feed(own, start(), *call(0, "t1", "StructuredOutput", "{}"), stopped("tool_use"), MESSAGE_STOP)[1:] == []
    assert not own.done
