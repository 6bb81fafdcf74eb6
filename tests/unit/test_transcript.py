"""Where a client's messages go: every row is what it sends, and what the canonical form makes of it."""

import pytest

from claude_proxy.core.conversation import (
    Image,
    Message,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    UrlSource,
    assistant,
    user,
)
from claude_proxy.core.errors import BadRequest
from claude_proxy.dialects.transcript import Entry, arrange, mark_system

IMAGE = Image(UrlSource("https://x"))


def system(text: str) -> Entry:
    return "system", (Text(text),)


def said(text: str) -> Entry:
    return "user", (Text(text),)


def told(text: str) -> Entry:
    return "assistant", (Text(text),)


def called(*names: str) -> Entry:
    return "assistant", tuple(ToolUse(name, "f", {}) for name in names)


def result(name: str, text: str = "r") -> Entry:
    return "user", (ToolResult(name, (Text(text),)),)


def results(*names: str) -> Message:
    return Message("user", tuple(ToolResult(name, (Text("r"),)) for name in names))


CALL = Message("assistant", (ToolUse("a", "f", {}),))
CALLS = Message("assistant", (ToolUse("a", "f", {}), ToolUse("b", "f", {})))
ROWS: tuple[tuple[str, list[Entry], str | None, tuple[Message, ...]], ...] = (
    ("one question", [said("x")], None, (user("x"),)),
    ("a prompt", [system("s"), said("x")], "s", (user("x"),)),
    ("prompts", [system("s"), system("t"), said("x")], "s\n\nt", (user("x"),)),
    ("an empty prompt", [system(""), said("x")], None, (user("x"),)),
    ("turns", [said("x"), told("y"), said("z")], None, (user("x"), assistant("y"), user("z"))),
    ("questions in a row", [said("x"), said("y")], None, (user("x"), user("y"))),
    ("an answer first", [told("y"), said("z")], None, (assistant("y"), user("z"))),
    (
        "a system message in the middle",
        [said("x"), told("y"), system("s"), said("z")],
        None,
        (user("x"), assistant("y"), Message("user", (mark_system("s"), Text("z")))),
    ),
    ("a system message last", [said("x"), system("s")], None, (Message("user", (Text("x"), mark_system("s"))),)),
    (
        "a system message before an answer",
        [said("x"), system("s"), told("y"), said("z")],
        None,
        (Message("user", (Text("x"), mark_system("s"))), assistant("y"), user("z")),
    ),
    (
        "a system message after an answer, last",
        [said("x"), told("y"), system("s")],
        None,
        (user("x"), assistant("y"), Message("user", (mark_system("s"),))),
    ),
    (
        "a system message after results",
        [said("x"), called("a"), result("a"), system("s")],
        None,
        (user("x"), CALL, results("a"), Message("user", (mark_system("s"),))),
    ),
    ("an empty question", [said("")], None, (user(""),)),
    ("an empty question among others", [said("x"), ("user", ()), said("y")], None, (user("x"), user(""), user("y"))),
    ("an empty text beside an image", [("user", (Text(""), IMAGE))], None, (Message("user", (IMAGE,)),)),
    ("an empty answer", [said("x"), told(""), said("y")], None, (user("x"), user("y"))),
    ("a blank answer", [said("x"), told(" \n"), said("y")], None, (user("x"), user("y"))),
    (
        "an answer of thinking alone",
        [said("x"), ("assistant", (Thinking("h"),)), said("y")],
        None,
        (user("x"), user("y")),
    ),
    ("a call", [said("x"), called("a"), result("a")], None, (user("x"), CALL, results("a"))),
    (
        "results out of order",
        [said("x"), called("a", "b"), result("b"), result("a")],
        None,
        (user("x"), CALLS, results("a", "b")),
    ),
    (
        "two results for one call",
        [said("x"), called("a"), result("a", "old"), result("a")],
        None,
        (user("x"), CALL, results("a")),
    ),
    (
        "a question after the results",
        [said("x"), called("a"), result("a"), said("y")],
        None,
        (user("x"), CALL, results("a"), user("y")),
    ),
    (
        "a question beside a result",
        [said("x"), called("a"), ("user", (ToolResult("a", (Text("r"),)), Text("y")))],
        None,
        (user("x"), CALL, results("a"), user("y")),
    ),
    (
        "a question before a result",
        [said("x"), called("a"), said("y"), result("a")],
        None,
        (user("x"), CALL, results("a"), user("y")),
    ),
    (
        "an id with other characters",
        [said("x"), ("assistant", (ToolUse("a.1", "f", {}),)), ("user", (ToolResult("a1", (Text("r"),)),))],
        None,
        (user("x"), Message("assistant", (ToolUse("a_1", "f", {}),)), results("a_1")),
    ),
    (
        "equal ids in two rounds",
        [said("x"), called("a"), result("a"), called("a"), result("a")],
        None,
        (user("x"), CALL, results("a"), Message("assistant", (ToolUse("ax2", "f", {}),)), results("ax2")),
    ),
    (
        "an id of nothing usable",
        [said("x"), called(""), result("")],
        None,
        (user("x"), Message("assistant", (ToolUse("call", "f", {}),)), results("call")),
    ),
)


@pytest.mark.parametrize(("entries", "prompt", "messages"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_messages_find_their_places(entries: list[Entry], prompt: str | None, messages: tuple[Message, ...]) -> None:
    """Every call has its result right after it."""
    assert arrange(entries) == (prompt, messages)


def test_what_came_before_stays_before() -> None:
    """A history that the server keeps is no message of the client's now."""
    assert arrange([system("s"), said("y")], before=(user("x"), assistant("a"))) == (
        "s",
        (user("x"), assistant("a"), user("y")),
    )
    assert arrange([result("a")], before=(user("x"), CALL))[1] == (user("x"), CALL, results("a"))


BAD: tuple[tuple[str, list[Entry], str], ...] = (
    ("nothing", [], "at least one"),
    ("only a prompt", [system("s")], "at least one"),
    ("an answer comes last", [said("x"), told("y")], "last message"),
    ("a call without its result", [said("x"), called("a", "b"), result("a")], "no result: b"),
    ("a call before the next answer", [said("x"), called("a"), told("y"), said("z")], "no result: a"),
    ("a result of nothing", [result("a")], "'a'"),
    ("a result of another round", [said("x"), called("a"), result("a"), told("y"), result("a")], "'a'"),
    ("one id for two calls", [said("x"), called("a", "a"), result("a")], "id 'a'"),
)


@pytest.mark.parametrize(("entries", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_calls_and_results_must_belong_together(entries: list[Entry], words: str) -> None:
    """400, with the ids."""
    with pytest.raises(BadRequest, match=words) as raised:
        arrange(entries, "input")
    assert raised.value.param == "input"
