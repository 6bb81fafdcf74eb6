"""Identity is content: the digest chain, and what it does not see."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.conversation import (
    INVALID_JSON,
    Base64Source,
    ContentBlock,
    Conversation,
    Image,
    Message,
    Role,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    assistant,
    canonical,
    digest,
    digest_chain,
    digest_message,
    is_said,
    parse_tool_input,
    plain_id,
    user,
)

TEXTS = st.builds(Text, st.text(min_size=1, max_size=8))
IDS = st.text("abc123", min_size=1, max_size=4)
BLOCKS: st.SearchStrategy[ContentBlock] = st.one_of(
    TEXTS,
    st.builds(
        ToolUse, IDS, st.sampled_from(["f", "g"]), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
    ),
    st.builds(ToolResult, IDS, st.tuples(TEXTS), st.booleans()),
    st.just(Image(Base64Source("image/png", "cG5n"))),
)
ROLES: st.SearchStrategy[Role] = st.sampled_from(["user", "assistant"])
MESSAGES = st.builds(Message, ROLES, st.lists(BLOCKS, min_size=1, max_size=3).map(tuple))
HISTORIES = st.lists(MESSAGES, max_size=5)
START = b"start"


@given(HISTORIES, MESSAGES)
def test_a_longer_history_has_the_chain_of_the_shorter_one_as_its_beginning(
    history: list[Message], more: Message
) -> None:
    """One digest for each message, and one for none."""
    chain = digest_chain(START, history)
    assert len(chain) == len(history) + 1 and chain[0] == START
    assert digest_chain(START, [*history, more]) == (*chain, digest_message(chain[-1], more))


@given(HISTORIES, HISTORIES)
def test_histories_have_one_end_exactly_when_they_mean_the_same(one: list[Message], other: list[Message]) -> None:
    """Role and canonical content, message by message; an answer that says nothing is not one."""
    meant = [
        [(m.role, canonical(m)) for m in history if m.role == "user" or is_said(m.content)] for history in (one, other)
    ]
    assert (digest_chain(START, one)[-1] == digest_chain(START, other)[-1]) == (meant[0] == meant[1])


@given(HISTORIES, st.data())
def test_one_changed_message_changes_everything_after_it(history: list[Message], data: st.DataObject) -> None:
    """And nothing before it."""
    if not history:
        return
    at = data.draw(st.integers(0, len(history) - 1))
    changed = [*history]
    changed[at] = Message(changed[at].role, (*changed[at].content, Image(Base64Source("image/gif", "x"))))
    before, after = digest_chain(START, history), digest_chain(START, changed)
    assert before[: at + 1] == after[: at + 1]
    assert not set(before[at + 1 :]) & set(after[at + 1 :])


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_parts_of_a_digest_do_not_run_together(one: list[bytes], other: list[bytes]) -> None:
    """`ab` + `c` is not `a` + `bc`."""
    assert (digest(*one) == digest(*other)) == (one == other)
    assert len(digest(*one)) == 16


def called(arguments: dict[str, Any]) -> Message:
    return Message("assistant", (ToolUse("a", "f", arguments),))


CALL = called({})
SAME: tuple[tuple[str, Message, Message], ...] = (
    ("thinking goes", assistant("a"), Message("assistant", (Thinking("hm", "sig"), Text("a")))),
    ("texts of an answer run together", assistant("ab"), Message("assistant", (Text("a"), Text("b")))),
    ("thinking between them too", assistant("ab"), Message("assistant", (Text("a"), Thinking("x"), Text("b")))),
    ("empty texts go", assistant("a"), Message("assistant", (Text(""), Text("a"), Text("")))),
    ("blanks around an answer", assistant("a b"), assistant("\n a b ")),
    ("a blank text before a call", CALL, Message("assistant", (Text("\n\n"), *CALL.content))),
    ("a blank text beside another one of the user", user("a"), Message("user", (Text(" "), Text("a")))),
    ("a number as JavaScript writes it", called({"x": 5.0, "y": [1e3]}), called({"x": 5, "y": [1000]})),
    ("the text of arguments", CALL, Message("assistant", (ToolUse("a", "f", {}, "{ }"),))),
    (
        "an id without its underscores",
        Message("assistant", (ToolUse("a_1", "f", {}),)),
        Message("assistant", (ToolUse("a1", "f", {}),)),
    ),
    ("a result's id too", Message("user", (ToolResult("a_1"),)), Message("user", (ToolResult("a-1"),))),
    (
        "the order of arguments",
        Message("assistant", (ToolUse("a", "f", {"x": 1, "y": 2}),)),
        Message("assistant", (ToolUse("a", "f", {"y": 2, "x": 1}),)),
    ),
)
DIFFERENT: tuple[tuple[str, Message, Message], ...] = (
    ("the text", user("a"), user("b")),
    ("the role", user("a"), assistant("a")),
    ("a blank", user("a"), user("a ")),
    ("a number", called({"x": 5}), called({"x": 5.5})),
    ("a number and a text", called({"x": 5}), called({"x": "5"})),
    ("a number that a float does not hold", called({"x": 2**60}), called({"x": 2**60 + 1})),
    ("a truth and a number", called({"x": True}), called({"x": 1})),
    ("two ways of being no JSON", called(parse_tool_input("a")), called(parse_tool_input("b"))),
    ("texts of a user stay apart", user("ab"), Message("user", (Text("a"), Text("b")))),
    (
        "the name of a tool",
        Message("assistant", (ToolUse("a", "f", {}),)),
        Message("assistant", (ToolUse("a", "g", {}),)),
    ),
    (
        "its arguments",
        Message("assistant", (ToolUse("a", "f", {}),)),
        Message("assistant", (ToolUse("a", "f", {"x": 1}),)),
    ),
    ("a failed result", Message("user", (ToolResult("a"),)), Message("user", (ToolResult("a", (), True),))),
    (
        "order",
        Message("assistant", (Text("a"), ToolUse("a", "f", {}))),
        Message("assistant", (ToolUse("a", "f", {}), Text("a"))),
    ),
)


@pytest.mark.parametrize(("one", "other"), [row[1:] for row in SAME], ids=[row[0] for row in SAME])
def test_what_clients_change_without_meaning_it_is_not_seen(one: Message, other: Message) -> None:
    """The conversation is continued."""
    assert digest_message(START, one) == digest_message(START, other)


@pytest.mark.parametrize(("one", "other"), [row[1:] for row in DIFFERENT], ids=[row[0] for row in DIFFERENT])
def test_what_changes_the_meaning_is_seen(one: Message, other: Message) -> None:
    """The conversation is another one."""
    assert digest_message(START, one) != digest_message(START, other)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("{}", {}),
        ('{"a":1}', {"a": 1}),
        (" ", {}),
        ("null", {}),
        ("[1]", {INVALID_JSON: "[1]"}),
        ("7", {INVALID_JSON: "7"}),
        ("nonsense", {INVALID_JSON: "nonsense"}),
        ('{"a":', {INVALID_JSON: '{"a":'}),
        ('{"a":NaN}', {INVALID_JSON: '{"a":NaN}'}),
        ("[" * 100_000, {INVALID_JSON: "[" * 100_000}),
        ('{"a":"cut \\ud83d"}', {"a": "cut \ufffd"}),
        ('{"a":"cut \ud83d"}', {"a": "cut \ufffd"}),
    ],
)
def test_arguments_that_are_not_an_object_keep_their_text(text: str, wanted: dict[str, Any]) -> None:
    """None at all are an empty object; what is not one is never taken for it."""
    assert parse_tool_input(text) == wanted


@pytest.mark.parametrize("blocks", [(), (Text(""),), (Text(" \n"),), (Thinking("hm"),), (Thinking("hm"), Text(" "))])
def test_an_answer_that_says_nothing_is_not_a_message(blocks: tuple[ContentBlock, ...]) -> None:
    """No client can send it back: the conversation goes on from where it was."""
    assert not is_said(blocks)
    assert digest_message(START, Message("assistant", blocks)) == START
    assert is_said((*blocks, Text("a"))) and is_said((*blocks, ToolUse("a", "f", {})))


def test_a_question_of_nothing_is_a_message() -> None:
    """The client asked it."""
    assert digest_message(START, user("")) != START
    assert digest_message(START, user("")) == digest_message(START, user(" "))


def test_deep_arguments_have_a_digest() -> None:
    """As deep as the JSON of a request may be."""
    deep: Any = 1.0
    for _ in range(900):
        deep = [deep]
    assert digest_message(START, called({"x": deep})) != START


def test_small_things() -> None:
    """Ids, choices, and a conversation that says nothing but its messages."""
    assert plain_id("call_ab-1.2") == "callab12"
    choices = (ToolChoice("auto"), ToolChoice("any"), ToolChoice("tool"), ToolChoice("none"))
    assert [choice.forced for choice in choices] == [False, True, True, False]
    conversation = Conversation("m", (user("x"),))
    assert conversation.system is None and conversation.tools == () and conversation.options.max_tokens is None
    assert Tool("f", "", {}).input_schema == {}
