"""The demo's words: what is recognised, what is left for the echo."""

import math
from typing import Any

import pytest

from claude_proxy.demo.commands import COMMANDS, CallCommand, Commands, parse_commands


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("demo:delay=50", {"delay": 0.05}),
        ("demo:delay=0.5", {"delay": 0.0005}),
        ("demo:words=400", {"words": 400}),
        ("demo:say=all of this, demo:delay=5 too", {"say": ("all of this, demo:delay=5 too",)}),
        ("demo:think", {"think": 10}),
        ("demo:think=20", {"think": 20}),
        ("demo:call=f", {"calls": (CallCommand("f"),)}),
        ('demo:call=f{"a": {"b": "} x"}}', {"calls": (CallCommand("f", {"a": {"b": "} x"}}),)}),
        ("demo:call=f demo:call=g{}", {"calls": (CallCommand("f"), CallCommand("g", {}))}),
        ("demo:rounds=10", {"rounds": 10}),
        ("demo:badargs=f", {"calls": (CallCommand("f", broken=True),)}),
        ("demo:status=529", {"status": 529}),
        ("demo:retry-after=7", {"retry_after": 7}),
        ("demo:silence", {"silence": math.inf}),
        ("demo:silence=3", {"silence": 3.0}),
        ("demo:stall=5", {"stall": 5}),
        ("demo:cut=5", {"cut": 5}),
        ("demo:error=0", {"error": 0}),
        ("demo:refusal", {"refusal": True}),
        ("demo:toolong", {"toolong": True}),
        ("demo:limit=allowed_warning demo:reset=60", {"limit": "allowed_warning", "reset": 60}),
    ],
)
def test_a_command_is_read_and_leaves_no_trace(word: str, expected: dict[str, Any]) -> None:
    """Alone in a prompt, each command sets its field and leaves an empty text."""
    assert parse_commands(word) == ("", Commands(**expected))


@pytest.mark.parametrize(
    "text",
    [
        "demo:unknown=1",
        "demo:delay",
        "demo:delay=fast",
        "demo:delay=-1",
        "demo:delay=99999999",
        "demo:words=1.5",
        "demo:words=5x",
        "demo:status=200",
        "demo:status=999",
        "demo:limit=maybe",
        "demo:refusal=yes",
        "demo:call=f{broken",
        'demo:call=f{"a":1}x',
        "demo:call=",
        "demo:call=f[1]",
        "demo:badargs=f{}",
        "xdemo:delay=5",
        "demo:",
        "demo:call=f" + '{"a":' * 100_000,
    ],
)
def test_what_is_no_command_is_echoed(text: str) -> None:
    """An unknown name or a value that cannot be stays in the text, and nothing is asked for."""
    assert parse_commands(text) == (text, Commands())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("hello demo:delay=5 world", "hello world"),
        ("demo:delay=5\nhello\nworld", "hello\nworld"),
        ("hello\ndemo:delay=5\nworld", "hello\nworld"),
        ("hello demo:delay=5\nworld", "hello \nworld"),
        ("a\ndemo:say=b\nc", "a\nc"),
        ("  kept   blanks  ", "kept   blanks"),
    ],
)
def test_the_rest_of_the_text_is_kept(text: str, left: str) -> None:
    """A command takes the blanks behind it along, and its line if it stood there alone."""
    assert parse_commands(text)[0] == left


def test_every_listed_example_is_understood() -> None:
    """The table of commands can be copied from."""
    for command in COMMANDS:
        text, commands = parse_commands(command.example)
        assert text == "" and commands != Commands() or command.name in ("rounds", "reset"), command
