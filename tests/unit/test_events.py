"""The fold of a stream into one answer."""

import pytest

from claude_proxy.core.conversation import INVALID_JSON, Text, Thinking, ToolUse
from claude_proxy.core.events import (
    BlockStart,
    BlockStop,
    Collector,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
    collect,
)

START = MessageStart("msg_1", "claude-x", Usage(3))
END = MessageEnd("end_turn", None, Usage(3, 9))


def test_deltas_become_blocks() -> None:
    """Text, thinking with its last signature, a call with its arguments."""
    completion = collect(
        [
            START,
            BlockStart(0, Thinking("")),
            ThinkingDelta(0, "h"),
            ThinkingDelta(0, "m"),
            SignatureDelta(0, "a"),
            SignatureDelta(0, "b"),
            BlockStop(0),
            BlockStart(1, Text("Well: ")),
            TextDelta(1, "yes"),
            BlockStop(1),
            BlockStart(2, ToolUse("t", "f", {})),
            ToolInputDelta(2, '{"a"'),
            ToolInputDelta(2, ":1}"),
            BlockStop(2),
            BlockStart(3, Text("")),
            TextDelta(3, "!"),
            BlockStop(3),
            END,
        ]
    )
    call = ToolUse("t", "f", {"a": 1}, '{"a":1}')
    assert completion.blocks == (Thinking("hm", "b"), Text("Well: yes"), call, Text("!"))
    assert (completion.text, completion.thinking) == ("Well: yes!", "hm")
    assert (completion.id, completion.model) == ("msg_1", "claude-x")
    assert (completion.stop_reason, completion.usage) == ("end_turn", Usage(3, 9))


@pytest.mark.parametrize(
    ("written", "call"),
    [
        ("", ToolUse("t", "f", {})),
        ('{"a": 1.0}', ToolUse("t", "f", {"a": 1.0}, '{"a": 1.0}')),
        ('{"a": 1', ToolUse("t", "f", {INVALID_JSON: '{"a": 1'}, '{"a": 1')),
        ('{"a":"\\ud83d"}', ToolUse("t", "f", {"a": "\ufffd"}, '{"a":"\\ufffd"}')),
    ],
)
def test_a_call_keeps_the_text_of_its_arguments(written: str, call: ToolUse) -> None:
    """Whatever it is; half a surrogate pair is the one thing that is mended."""
    pieces = [ToolInputDelta(0, piece) for piece in written]
    answer = collect([START, BlockStart(0, ToolUse("t", "f", {})), *pieces, BlockStop(0), END])
    assert answer.blocks == (call,)


def test_an_answer_may_be_empty() -> None:
    """Start and end are enough; a thinking block keeps the signature it began with."""
    assert collect([START, END]).blocks == ()
    assert collect([START, BlockStart(0, Thinking("x", "s")), BlockStop(0), END]).blocks == (Thinking("x", "s"),)


def test_half_a_stream_is_no_answer() -> None:
    """Neither without its start nor without its end."""
    for event in (START, END):
        collector = Collector()
        collector.add(event)
        with pytest.raises(ValueError):
            collector.completion()


def test_the_prompt_is_all_that_was_read() -> None:
    """Fresh, from the cache, and into it."""
    assert Usage(1, 99, 10, 100, 7).prompt_tokens == 111
