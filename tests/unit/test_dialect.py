"""What every dialect writes: one line, for every client."""

import json

import pytest

from claude_proxy.dialects.chat.answer import finish_reason
from claude_proxy.dialects.dialect import encode


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\n", "\r", "\x0b", "\x0c", "\x1c"])
def test_what_a_client_may_take_for_the_end_of_a_line_is_escaped(separator: str) -> None:
    """`str.splitlines`, which httpx and requests use, knows more of them than SSE; the text is the same."""
    value = {"text": f"über{separator}text €"}
    line = encode(value)
    assert json.loads(line) == value and len(line.decode().splitlines()) == 1
    assert "über".encode() in line


@pytest.mark.parametrize(
    ("stop_reason", "has_calls", "legacy", "wanted"),
    [
        ("end_turn", False, False, "stop"),
        ("tool_use", True, False, "tool_calls"),
        ("stop_sequence", True, False, "tool_calls"),
        ("made up", True, False, "tool_calls"),
        ("stop_sequence", False, False, "stop"),
        ("stop_sequence", True, True, "function_call"),
        ("max_tokens", True, False, "length"),
    ],
)
def test_a_client_learns_that_there_are_calls(stop_reason: str, has_calls: bool, legacy: bool, wanted: str) -> None:
    """Also where a stop sequence was met after them; a call that was cut at the limit is not to be made."""
    assert finish_reason(stop_reason, has_calls=has_calls, legacy=legacy) == wanted
