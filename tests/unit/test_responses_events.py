"""Responses answers: the exact events of each kind of answer, and the object that they add up to."""

from collections.abc import Iterable
from typing import Any

import pytest

from claude_proxy.core.conversation import Text, Thinking, ToolUse
from claude_proxy.core.errors import (
    BadRequest,
    ContextTooLong,
    InternalError,
    Interrupted,
    PlanLimitReached,
    ProxyError,
    QueueFull,
    RateLimited,
)
from claude_proxy.core.events import (
    BlockStart,
    BlockStop,
    Event,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
    collect,
)
from claude_proxy.dialects.responses.events import ResponseWriter, replay

Json = dict[str, Any]

ID = "resp_" + "a" * 32
TEXT_ID, RS_ID, FC_ID = f"msg_{'a' * 32}o0", f"rs_{'a' * 32}o0", f"fc_{'a' * 32}o1"
USAGE = Usage(10, 5, 7, 3, 2)
START = MessageStart("msg_1", "claude-sonnet-5-5", USAGE)
TEXT: list[Event] = [BlockStart(0, Text("")), TextDelta(0, "Hel"), TextDelta(0, "lo"), BlockStop(0)]
CALL: list[Event] = [
    BlockStart(1, ToolUse("toolu_1", "agents__spawn", {})),
    ToolInputDelta(1, '{"a"'),
    ToolInputDelta(1, ":1}"),
    BlockStop(1),
]
USAGE_JSON = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 3},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 25,
}


def make_writer(**options: Any) -> ResponseWriter:
    head = {"id": ID, "object": "response", "error": None, "incomplete_details": None, "completed_at": None}
    return ResponseWriter(head, {"agents__spawn": ("agents", "spawn")}, lambda: 1700000000.9, **options)


def end(reason: str = "end_turn", explanation: str | None = None) -> MessageEnd:
    return MessageEnd(reason, None, USAGE, explanation)


def tell(events: Iterable[Event | None], writer: ResponseWriter | None = None) -> list[Json]:
    """Everything a writer says of these, without the numbers, which are checked."""
    telling = writer or make_writer()
    told = [one for event in events for one in telling.add(event)]
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    return [{key: value for key, value in one.items() if key != "sequence_number"} for one in told]


def shorten(events: list[Json]) -> list[Any]:
    """Each event as its type and what it brings."""
    shown = ("delta", "text", "refusal", "arguments", "name", "part", "item")
    return [(one["type"].removeprefix("response."), *(one[key] for key in shown if key in one)) for one in events]


def text_part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message(item_id: str, *content: Json, status: str = "completed") -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": list(content)}


def test_a_text() -> None:
    """Created, the item, its part, deltas, and everything closed in turn."""
    assert shorten(tell([START, *TEXT, end()]))[:-1] == [
        ("created",),
        ("in_progress",),
        ("output_item.added", message(TEXT_ID, status="in_progress")),
        ("content_part.added", text_part("")),
        ("output_text.delta", "Hel"),
        ("output_text.delta", "lo"),
        ("output_text.done", "Hello"),
        ("content_part.done", text_part("Hello")),
        ("output_item.done", message(TEXT_ID, text_part("Hello"))),
    ]


def test_where_each_event_belongs() -> None:
    """Item, output and content index are those of the item, in every event of it."""
    told = tell([START, *TEXT, end()])
    assert told[4] == {
        "type": "response.output_text.delta",
        "item_id": TEXT_ID,
        "output_index": 0,
        "content_index": 0,
        "delta": "Hel",
        "logprobs": [],
    }
    inner = [one for one in told if "item_id" in one]
    assert {(one["item_id"], one["output_index"], one["content_index"]) for one in inner} == {(TEXT_ID, 0, 0)}


def test_the_last_event_holds_the_whole_response() -> None:
    """Its output is what `output_item.done` said, and the opening is not changed by what follows."""
    told = tell([START, *TEXT, end()])
    assert told[-1] == {
        "type": "response.completed",
        "response": {
            "id": ID,
            "object": "response",
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "completed_at": 1700000000,
            "output": [message(TEXT_ID, text_part("Hello"))],
            "usage": USAGE_JSON,
        },
    }
    opening = told[0]["response"]
    assert (opening["status"], opening["output"], opening["usage"]) == ("in_progress", [], None)


def test_reasoning_and_a_call_in_a_namespace() -> None:
    """Thinking becomes a summary; a call has two ids, and the name that the client gave its function."""
    thinking: list[Event] = [
        BlockStart(0, Thinking("")),
        ThinkingDelta(0, "Hm"),
        ThinkingDelta(0, "m"),
        SignatureDelta(0, "s"),
        BlockStop(0),
    ]
    call = {"id": FC_ID, "type": "function_call", "call_id": "toolu_1", "name": "spawn", "namespace": "agents"}
    reasoning = {"id": RS_ID, "type": "reasoning"}
    summary = {"type": "summary_text", "text": "Hmm"}
    assert shorten(tell([START, *thinking, *CALL, end("tool_use")]))[2:-1] == [
        ("output_item.added", {**reasoning, "summary": []}),
        ("reasoning_summary_part.added", {"type": "summary_text", "text": ""}),
        ("reasoning_summary_text.delta", "Hm"),
        ("reasoning_summary_text.delta", "m"),
        ("reasoning_summary_text.done", "Hmm"),
        ("reasoning_summary_part.done", summary),
        ("output_item.done", {**reasoning, "summary": [summary]}),
        ("output_item.added", {**call, "arguments": "", "status": "in_progress"}),
        ("function_call_arguments.delta", '{"a"'),
        ("function_call_arguments.delta", ":1}"),
        ("function_call_arguments.done", '{"a":1}', "spawn"),
        ("output_item.done", {**call, "arguments": '{"a":1}', "status": "completed"}),
    ]


def test_thinking_that_is_not_shown_has_no_summary() -> None:
    """And where the client asked for the encrypted form, the item says that there is none."""
    hidden: list[Event] = [START, BlockStart(0, Thinking("")), SignatureDelta(0, "s"), BlockStop(0), end()]
    item: Json = {"id": RS_ID, "type": "reasoning", "summary": [], "encrypted_content": None}
    assert shorten(tell(hidden, make_writer(encrypted=True)))[2:-1] == [
        ("output_item.added", item),
        ("output_item.done", item),
    ]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    """The fragments add up to it."""
    events: list[Event] = [START, *TEXT, BlockStart(1, ToolUse("t", "f", {})), BlockStop(1), end("tool_use")]
    assert [one[:2] for one in shorten(tell(events)) if one[0].startswith("function_call_arg")] == [
        ("function_call_arguments.delta", "{}"),
        ("function_call_arguments.done", "{}"),
    ]


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded"])
def test_an_answer_that_was_cut_is_incomplete(reason: str) -> None:
    """So is its last item."""
    told = tell([START, *TEXT, end(reason)])
    response = told[-1]["response"]
    assert told[-1]["type"] == "response.incomplete"
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (response["output"][0]["status"], response["completed_at"]) == ("incomplete", None)


def test_a_refusal_that_says_why() -> None:
    """A part of its own, after what had been said as text."""
    told = tell([START, *TEXT, end("refusal", "I must not.")])
    item_id = f"msg_{'a' * 32}o1"
    part = {"type": "refusal", "refusal": "I must not."}
    assert shorten(told)[9:] == [
        ("output_item.added", message(item_id, status="in_progress")),
        ("content_part.added", {"type": "refusal", "refusal": ""}),
        ("refusal.delta", "I must not."),
        ("refusal.done", "I must not."),
        ("content_part.done", part),
        ("output_item.done", message(item_id, part)),
        ("completed",),
    ]


def test_a_refusal_that_does_not_say_why() -> None:
    """Nothing is invented: the response is incomplete for that reason."""
    response = tell([START, *TEXT, end("refusal")])[-1]["response"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})


def test_signs_of_life_are_numbered_and_the_opening_is_the_first_of_them() -> None:
    """A client that waits for the first token sees `created` first."""
    assert [kind for kind, *_ in shorten(tell([None, None, START, *TEXT[:1], None]))] == [
        "created",
        "in_progress",
        "keepalive",
        "output_item.added",
        "content_part.added",
        "keepalive",
    ]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PlanLimitReached("Over.", retry_after=9000), "insufficient_quota", "Over."),
        (QueueFull("Full; try again in 2s", retry_after=2), "rate_limit_exceeded", "Full; try again in 2s"),
        (RateLimited("Slow.", retry_after=7.2), "rate_limit_exceeded", "Slow. (try again in 7s)"),
        (ContextTooLong("Long."), "context_length_exceeded", "Long."),
        (BadRequest("Bad."), "invalid_prompt", "Bad."),
        (Interrupted("Stopped."), "invalid_prompt", "Stopped."),
        (InternalError("Bug."), "server_error", "Bug."),
    ],
)
def test_a_failure_is_told_twice(error: ProxyError, code: str, message: str) -> None:
    """`error` is nested, for the SDKs; `response.failed` has the codes that Codex knows, and what had been finished."""
    writer = make_writer()
    started = [*writer.add(START), *(one for event in TEXT for one in writer.add(event))]
    said = writer.fail(error)
    assert [one["type"] for one in said] == ["response.output_item.done", "error", "response.failed"]
    assert [one["sequence_number"] for one in said] == [len(started) + number for number in range(3)]
    assert set(said[1]["error"]) == {"message", "type", "param", "code"}
    response = said[2]["response"]
    assert (response["status"], response["error"]) == ("failed", {"code": code, "message": message})
    assert len(response["output"]) == 1


def test_a_failure_before_anything_was_said_opens_first() -> None:
    """`response.failed` never comes alone."""
    kinds = [one["type"] for one in make_writer().fail(InternalError("Bug."))]
    assert kinds == ["response.created", "response.in_progress", "error", "response.failed"]


def test_a_whole_answer_is_what_a_stream_ends_with() -> None:
    """Both are made by the same steps."""
    events = [START, *TEXT, *CALL, end("tool_use")]
    streamed, whole = make_writer(), make_writer()
    tell(events, streamed)
    tell(replay(collect(events)), whole)
    assert whole.response == streamed.response
