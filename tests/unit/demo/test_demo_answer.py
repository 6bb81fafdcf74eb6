"""The answers that the demo makes from a prompt."""

import json
from typing import Any

import pytest

from claude_proxy.demo.answer import Answer, build_answer
from claude_proxy.demo.turn import make_tool_use_id, read_newest_turn, read_rounds_left

from .demo_requests import PDF, PNG, WEATHER, assistant, call, document, image, request, result, text, user

FORMAT = {
    "format": {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {
                "colours": {"type": "array", "items": {"enum": ["red", "blue"]}},
                "n": {"type": "integer"},
            },
            "required": ["colours", "n"],
            "additionalProperties": False,
        },
    }
}


def answer(*messages: Any, **more: Any) -> Answer:
    """The answer to a request."""
    asked = request(*messages, **more)
    return build_answer(asked, read_newest_turn(asked))


def words(*messages: Any, **more: Any) -> str:
    """The text of the answer to a request."""
    return "".join(block.text for block in answer(*messages, **more).blocks if block.kind == "text")


def calls(given: Answer) -> list[tuple[str, Any]]:
    """Name and arguments of the calls in an answer."""
    return [(block.name, json.loads(block.text)) for block in given.blocks if block.kind == "tool_use"]


REMINDER = text("<system-reminder>\nbe careful, demo:words=9\n</system-reminder>")


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["hello  there\nyou"], "You said: hello  there\nyou"),
        (["demo:delay=5"], "You said nothing."),
        (["one", "two"], "You said: one\ntwo"),
        (["one", assistant("1"), "two"], "You said: two"),
        (["one", {"role": "system", "content": "demo:words=9"}], "You said: one"),
        ([user(REMINDER, text("one"))], "You said: one"),
        (["demo:words=9", assistant("1"), "two"], "You said: two"),
        (["demo:words=3"], "word1 word2 word3"),
        (["x demo:say=Exactly  this. \ndemo:say=And this."], "Exactly  this. \nAnd this."),
        ([user(text("look"), image(PNG))], "You said: look [image/png, 16 bytes]"),
        ([user(document(PDF))], "You said: [application/pdf, 8 bytes]"),
        (
            [user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "é"}})],
            "You said: [text/plain, 2 bytes]",
        ),
        (
            [user({"type": "image", "source": {"type": "url", "url": "https://example.com/a"}})],
            "You said: [image at https://example.com/a]",
        ),
        ([user({"type": "document", "source": {"type": "file", "file_id": "f"}})], "You said: [document]"),
        (["hi", assistant(call("a")), user(result("a"))], "Tool weather said: sunny"),
        (["hi", assistant(call("a")), user(result("a", is_error=True))], "Tool weather failed: sunny"),
        (
            ["hi", assistant(call("a"), call("b", "f")), user(result("a"), result("b", None))],
            "Tool weather said: sunny\nTool f said: ",
        ),
        (
            [
                "hi",
                assistant(call("a")),
                user(result("a", [text("x"), image(PNG), document(PDF)]), text("and?")),
            ],
            "Tool weather said: x\n[image]\n[document]\nYou said: and?",
        ),
        (["hi", assistant(call("a")), user(result("a", "y" * 500))], "Tool weather said: " + "y" * 200 + "…"),
    ],
)
def test_the_text_is_made_from_the_newest_turn(messages: list[Any], expected: str) -> None:
    """Echo, results, pictures and files; what Claude Code adds by itself is not the user's."""
    assert words(*messages) == expected


def test_a_word_with_its_white_space_is_a_token() -> None:
    """The tokens of an answer join to its text."""
    (block,) = answer("a  b\n\nc").blocks
    assert block.tokens == ("You ", "said: ", "a  ", "b\n\n", "c")
    assert answer("a  b\n\nc").output_tokens == 5


def test_thinking_comes_first_and_counts() -> None:
    """It is asked for by a command and only there when the request has thinking on."""
    given = answer("demo:think=3 hi", thinking={"type": "adaptive"})
    assert [block.kind for block in given.blocks] == ["thinking", "text"]
    assert (given.thinking_tokens, given.output_tokens, given.show_thinking) == (3, 6, True)
    assert not answer("demo:think=3 hi", thinking={"type": "adaptive", "display": "omitted"}).show_thinking
    assert answer("demo:think=3 hi").thinking_tokens == 0
    assert answer("demo:think=3 hi", thinking={"type": "disabled"}).thinking_tokens == 0


def test_a_call_is_made_as_asked() -> None:
    """With the arguments given, or an instance of the tool's schema; several words are parallel calls."""
    given = answer('demo:call=weather demo:call=weather{"city": "Par is"} demo:call=nosuch', tools=[WEATHER])
    assert calls(given) == [("weather", {"city": "demo"}), ("weather", {"city": "Par is"}), ("nosuch", {})]
    assert given.blocks[0].text == "Calling weather. Calling weather. Calling nosuch."
    assert given.stop_reason == "tool_use"
    assert len({block.id for block in given.blocks[1:]}) == 3


def test_a_call_finds_a_tool_by_the_end_of_its_name() -> None:
    """Claude Code puts the name of a server in front of tools."""
    tools = [{**WEATHER, "name": "mcp__client__weather"}]
    assert calls(answer("demo:call=weather", tools=tools)) == [("mcp__client__weather", {"city": "demo"})]


def test_tool_choice_is_obeyed() -> None:
    """`none` never calls, `any` and `tool` always do, without a word."""
    tools = [{**WEATHER, "name": "other"}, WEATHER]
    assert calls(answer("demo:call=weather", tools=tools, tool_choice={"type": "none"})) == []
    assert calls(answer("hi", tools=tools, tool_choice={"type": "any"})) == [("other", {"city": "demo"})]
    forced = answer("hi", tools=tools, tool_choice={"type": "tool", "name": "weather"})
    assert [block.kind for block in forced.blocks] == ["tool_use"] and forced.blocks[0].name == "weather"
    single = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(calls(answer("demo:call=weather demo:call=other", tools=tools, tool_choice=single))) == 1


def test_arguments_may_be_broken() -> None:
    """`demo:badargs` makes a call whose arguments are not JSON."""
    _, block = answer("demo:badargs=weather", tools=[WEATHER]).blocks
    with pytest.raises(ValueError):
        json.loads(block.text)


@pytest.mark.parametrize("mangle", [str, lambda identity: "call_" + identity.replace("_", "")])
def test_a_call_is_repeated_for_as_many_rounds_as_asked(mangle: Any) -> None:
    """Each result brings the same call until the rounds are done, also when the client changes the ids."""
    messages: list[Any] = ['demo:rounds=3 demo:call=weather{"city":"Rome"}']
    made = []
    while (given := answer(*messages, tools=[WEATHER])).stop_reason == "tool_use":
        made += calls(given)
        identity = mangle(given.blocks[-1].id)
        messages += [assistant(call(identity, city="Rome")), user(result(identity))]
    assert made == [("weather", {"city": "Rome"})] * 3
    assert given.blocks[0].text == "Tool weather said: sunny"


def test_ids_are_new_and_short_and_others_are_not_misread() -> None:
    """Clients allow 40 to 64 characters."""
    ids = {make_tool_use_id(10_000) for _ in range(100)}
    assert len(ids) == 100 and max(map(len, ids)) <= 40
    assert {read_rounds_left(identity) for identity in ids} == {10_000}
    assert read_rounds_left("toolu_01A9B8") == 0


def test_max_tokens_ends_the_answer() -> None:
    """A token more than allowed is cut off, thinking counts, and what has no token left is not there."""
    assert answer("a b c", max_tokens=5).stop_reason == "end_turn"
    cut = answer("a b c", max_tokens=4)
    assert (cut.stop_reason, cut.output_tokens, cut.blocks[0].text) == ("max_tokens", 4, "You said: a b ")
    thinking = answer("demo:think=9", max_tokens=4, thinking={"type": "adaptive"})
    assert [block.kind for block in thinking.blocks] == ["thinking"]
    assert (thinking.stop_reason, thinking.output_tokens) == ("max_tokens", 4)
    tool = answer('demo:call=weather{"city":"a long name"}', tools=[WEATHER], max_tokens=3)
    assert (tool.stop_reason, tool.blocks[1].text) == ("max_tokens", '{"city":"a l')


@pytest.mark.parametrize(
    ("stop", "expected", "by"),
    [
        (["b c"], "You said: a ", "b c"),
        (["c", "b"], "You said: a ", "b"),
        (["aid: a b"], "You s", "aid: a b"),
        (["You"], "", "You"),
        (["zzz"], "You said: a b c", None),
    ],
)
def test_a_stop_sequence_ends_the_answer_before_it(stop: list[str], expected: str, by: str | None) -> None:
    """Also when it spans several words."""
    given = answer("a b c", stop_sequences=stop)
    assert "".join(block.text for block in given.blocks) == expected
    assert given.stop_sequence == by
    assert given.stop_reason == ("stop_sequence" if by else "end_turn")


def test_a_stop_sequence_beyond_max_tokens_is_never_reached() -> None:
    """Whichever comes first ends the answer."""
    given = answer("a b c end", stop_sequences=["end"], max_tokens=3)
    assert (given.stop_reason, given.stop_sequence) == ("max_tokens", None)


def test_structured_output_is_an_instance_of_the_schema() -> None:
    """It comes in pieces that join to JSON."""
    given = answer("hi", output_config=FORMAT)
    assert json.loads(given.blocks[0].text) == {"colours": ["red"], "n": 1}
    assert len(given.blocks[0].tokens) > 1


def test_a_refusal_says_nothing_unless_told() -> None:
    """Stop reason `refusal`, with or without a beginning."""
    assert answer("demo:refusal") == Answer((), "refusal")
    assert answer("demo:refusal\ndemo:say=Well").blocks[0].text == "Well"


@pytest.mark.parametrize(
    ("messages", "more", "expected"),
    [
        ([user(result("unknown"), text("hi"))], {}, "You said: hi"),
        ([user(image("?not base64"))], {}, "You said: [image/png, 8 bytes]"),
        (["hi"], {"tool_choice": {"type": "any"}}, "You said: hi"),
        (["hi"], {"output_config": {"format": {"type": "json_schema"}}}, '"demo"'),
        (["one two three"], {"max_tokens": None}, "You said: one two three"),
        ([], {"messages": []}, "You said nothing."),
    ],
)
def test_what_the_real_api_would_refuse_is_answered(messages: list[Any], more: dict[str, Any], expected: str) -> None:
    """The demo has no rules: whatever has the shape of a request gets an answer, never a crash."""
    assert words(*messages, **more) == expected
