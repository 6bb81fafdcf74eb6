"""A call is what the model wrote: the same text in all three dialects, streamed and whole."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from claude_proxy.core.conversation import INVALID_JSON, Text, ToolUse
from claude_proxy.core.events import (
    BlockStart,
    BlockStop,
    Event,
    MessageEnd,
    MessageStart,
    TextDelta,
    ToolInputDelta,
    Usage,
    collect,
)
from claude_proxy.dialects.chat.answer import ChatCompletions
from claude_proxy.dialects.chat.request import ChatRequest, StreamOptions
from claude_proxy.dialects.dialect import Context
from claude_proxy.dialects.messages.answer import Messages, Signatures
from claude_proxy.dialects.openai_tools import FunctionSpec
from claude_proxy.dialects.responses.events import ResponseWriter, replay

# What the model wrote, and what a client must be able to make of it.
ROWS = (
    ("nothing at all", "", "{}"),
    ("a blank", " ", "{}"),
    ("an empty object", "{}", "{}"),
    ("an object, spaced", '{"a": 1.0,\n "b": [1e3]}', '{"a": 1.0,\n "b": [1e3]}'),
    ("cut", '{"older_than_days": 30, "folder": "/tmp/x', '{"older_than_days": 30, "folder": "/tmp/x'),
    ("not an object", "[1]", "[1]"),
)
TABLE = pytest.mark.parametrize(("written", "shown"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])


def answer(written: str) -> list[Event]:
    """An answer of a text and a call, whose arguments come one character at a time."""
    text: list[Event] = [BlockStart(0, Text("")), TextDelta(0, "calling"), BlockStop(0)]
    pieces: list[Event] = [ToolInputDelta(1, one) for one in written]
    call: list[Event] = [BlockStart(1, ToolUse("toolu_1", "f", {})), *pieces, BlockStop(1)]
    return [MessageStart("msg_1", "claude-x", Usage()), *text, *call, MessageEnd("tool_use", None, Usage())]


def context(*, legacy: bool = False) -> Context:
    functions = [FunctionSpec("f")] if legacy else None
    request = ChatRequest([], functions=functions, stream_options=StreamOptions())
    return Context("req_1", 1700000000, "sonnet", request)


def data_of(chunks: Iterable[bytes]) -> list[dict[str, Any]]:
    """The JSON of server-sent events."""
    lines = b"".join(chunks).split(b"\n")
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


@TABLE
@pytest.mark.parametrize("legacy", [False, True], ids=["tools", "functions"])
def test_a_chat_stream_adds_up_to_what_was_written(written: str, shown: str, legacy: bool) -> None:
    """`{}` where nothing was, for the client parses it."""
    added_up = ""
    for chunk in data_of(ChatCompletions().stream(answer(written), context(legacy=legacy))):
        delta = chunk["choices"][0]["delta"]
        for call in [delta["function_call"]] if "function_call" in delta else delta.get("tool_calls", []):
            added_up += (call if legacy else call["function"]).get("arguments", "")
    assert added_up.lstrip() == shown


@TABLE
@pytest.mark.parametrize("legacy", [False, True], ids=["tools", "functions"])
def test_a_whole_chat_answer_has_what_was_written(written: str, shown: str, legacy: bool) -> None:
    """As the stream."""
    message = ChatCompletions().body(collect(answer(written)), context(legacy=legacy))["choices"][0]["message"]
    function = message["function_call"] if legacy else message["tool_calls"][0]["function"]
    assert function == {"name": "f", "arguments": shown}


@TABLE
def test_responses_have_what_was_written(written: str, shown: str) -> None:
    """In the deltas, at their end, and in the item."""
    for events in (answer(written), replay(collect(answer(written)))):
        writer = ResponseWriter({"id": "resp_1"}, {}, lambda: 0.0)
        said = [one for event in events for one in writer.add(event)]
        deltas = [one["delta"] for one in said if one["type"] == "response.function_call_arguments.delta"]
        assert "".join(deltas).lstrip() == shown
        assert writer.response["output"][1]["arguments"].strip() == shown


@TABLE
def test_messages_have_what_was_written(written: str, shown: str) -> None:
    """Streamed as pieces; whole as an object, or as the text under the name that the API's documentation proposes."""
    pieces = [
        event["delta"]["partial_json"]
        for event in data_of(Messages(Signatures()).stream(answer(written), context()))
        if event["type"] == "content_block_delta" and event["index"] == 1
    ]
    assert "".join(pieces) == written
    block = Messages(Signatures()).body(collect(answer(written)), context())["content"][1]
    try:
        wanted = json.loads(shown)
    except ValueError:
        wanted = None
    assert block["input"] == (wanted if isinstance(wanted, dict) else {INVALID_JSON: shown})
