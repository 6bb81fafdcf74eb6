"""Responses requests: what clients send, as canonical conversations, and what is refused with its path."""

import base64
from typing import Any

import pytest

from claude_proxy.core.conversation import (
    Base64Source,
    ContentBlock,
    Document,
    Image,
    Message,
    Text,
    TextSource,
    ToolChoice,
    ToolResult,
    ToolUse,
    UrlSource,
    assistant,
    user,
)
from claude_proxy.core.errors import BadRequest
from claude_proxy.dialects.dialect import Parsed
from claude_proxy.dialects.responses.items import build_stored
from claude_proxy.dialects.responses.request import (
    build_parsed,
    is_responses_shaped,
    parse_function_tools,
    parse_responses_shaped,
    read_request,
)

Json = dict[str, Any]

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n0000").decode()
PDF = base64.b64encode(b"%PDF-1.4 nothing").decode()
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Oslo"}'}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}


def parse(given: Any = "Hi", history: list[Json] | None = None, **fields: Any) -> Parsed:
    body = {"model": "sonnet", "input": given, **fields}
    request = read_request(body)
    return build_parsed(body, request, request.items, history=history or [])


def says(role: str, content: Any, **fields: Any) -> Json:
    return {"type": "message", "role": role, "content": content, **fields}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Hi", [user("Hi")]),
        ([{"role": "user", "content": "Hi"}], [user("Hi")]),
        ([says("user", [{"type": "input_text", "text": "Hi"}], id="msg_of_the_client")], [user("Hi")]),
        (
            [says("user", "a"), says("assistant", [{"type": "output_text", "text": "b"}]), says("user", "c")],
            [user("a"), assistant("b"), user("c")],
        ),
        (
            [
                says("user", "a"),
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
                says("assistant", [{"type": "refusal", "refusal": "no"}]),
                says("user", "c"),
            ],
            [user("a"), assistant("no"), user("c")],
        ),
        (
            [says("user", "a"), says("assistant", "Looking."), CALL, RESULT],
            [
                user("a"),
                Message("assistant", (Text("Looking."), ToolUse("call_1", "weather", {"city": "Oslo"}))),
                Message("user", (ToolResult("call_1", (Text("sunny"),)),)),
            ],
        ),
        (
            [
                says("user", "a"),
                {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin"},
                {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
            ],
            [
                user("a"),
                Message("assistant", (ToolUse("c1", "patch", {"input": "*** Begin"}),)),
                Message("user", (ToolResult("c1", (Text("done"),)),)),
            ],
        ),
    ],
)
def test_items_become_messages(given: Any, expected: list[Message]) -> None:
    """With and without a type, with ids of the client's own, calls beside the text they came with."""
    assert list(parse(given).conversation.messages) == expected


@pytest.mark.parametrize(
    ("part", "block"),
    [
        ({"type": "input_image", "image_url": PNG}, Image(Base64Source("image/png", PNG.partition(",")[2]))),
        ({"type": "input_image", "image_url": "https://e.org/a.png"}, Image(UrlSource("https://e.org/a.png"))),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
            Document(Base64Source("application/pdf", PDF), "a.pdf"),
        ),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
            Document(Base64Source("application/pdf", PDF), "a.pdf"),
        ),
        (
            {"type": "input_file", "filename": "a.txt", "file_data": base64.b64encode(b"hello").decode()},
            Document(TextSource("hello"), "a.txt"),
        ),
        ({"type": "input_file", "file_url": "https://e.org/a.pdf"}, Document(UrlSource("https://e.org/a.pdf"))),
    ],
)
def test_parts_become_blocks(part: Json, block: ContentBlock) -> None:
    """Images and files, in messages and in what a function gave back."""
    assert parse([says("user", [part])]).conversation.messages[-1].content == (block,)
    output = {**RESULT, "output": [part]}
    result = parse([says("user", "a"), CALL, output]).conversation.messages[-1].content[0]
    assert isinstance(result, ToolResult) and result.content == (block,)


def test_instructions_and_system_items_are_the_system_prompt() -> None:
    """In the order of `instructions` first; both names of the role are equal."""
    given = [says("system", "B"), says("developer", [{"type": "input_text", "text": "C"}]), says("user", "Hi")]
    assert parse(given, instructions="A").conversation.system == "A\n\nB\n\nC"


def test_history_comes_before_the_input_and_after_the_instructions() -> None:
    """What a response or conversation held is as if the client had sent it."""
    history = [says("user", "a"), says("assistant", [{"type": "output_text", "text": "b"}])]
    conversation = parse("c", history, instructions="New.").conversation
    assert (conversation.system, list(conversation.messages)) == ("New.", [user("a"), assistant("b"), user("c")])


def test_functions_are_offered_and_other_tools_are_named_as_ignored() -> None:
    """Flat and nested; of a namespace (Codex) each under a name of its own."""
    nested = {"type": "function", "function": {"name": "b", "parameters": {"type": "object"}}}
    space = {"type": "namespace", "name": "agents", "description": "", "tools": [{**WEATHER, "name": "spawn"}]}
    parsed = parse(tools=[WEATHER, nested, space, {"type": "web_search"}, {"type": "custom", "name": "patch"}])
    assert [tool.name for tool in parsed.conversation.tools] == ["weather", "b", "agents__spawn"]
    assert parsed.ignored == ("tools.web_search", "tools.custom")
    assert parse_function_tools([space])[1] == {"agents__spawn": ("agents", "spawn")}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("required", ToolChoice("any")),
        ("none", ToolChoice("none")),
        ({"type": "function", "name": "weather"}, ToolChoice("tool", "weather")),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            ToolChoice(allowed=("weather",)),
        ),
    ],
)
def test_tool_choice(choice: Any, expected: ToolChoice) -> None:
    """Every form of the official document that means a function."""
    assert parse(tools=[WEATHER], tool_choice=choice).conversation.options.tool_choice == expected


def test_options() -> None:
    """Limits, sampling, effort, a schema, one call at a time."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    options = parse(
        max_output_tokens=20,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
    ).conversation.options
    assert (options.max_tokens, options.temperature, options.top_p) == (20, 0.5, 0.9)
    assert (options.effort, options.json_schema, options.tool_choice.parallel) == ("low", schema, False)


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"truncation": "disabled", "service_tier": "auto", "client_metadata": {"a": "b"}}, ()),
        ({"include": ["reasoning.encrypted_content"], "metadata": {"a": "b"}, "user": "me", "store": False}, ()),
        ({"truncation": "auto"}, ("truncation",)),
        ({"text": {"verbosity": "low"}, "max_tool_calls": 3}, ("max_tool_calls", "text.verbosity")),
    ],
)
def test_what_is_ignored_is_named(fields: Json, ignored: tuple[str, ...]) -> None:
    """Only what asks for something that does not happen."""
    assert parse(**fields).ignored == ignored


def test_items_that_only_other_servers_make_are_left_out() -> None:
    """Calls of hosted tools, and kinds that nobody knows but that say nothing."""
    given = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
        {"type": "of_the_future", "id": "x"},
        says("user", "Hi"),
    ]
    parsed = parse(given)
    assert parsed.conversation.messages == (user("Hi"),)
    assert parsed.ignored == ("input.web_search_call", "input.of_the_future")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 3}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": 3}]}, "input[0].type"),
        ({"input": [{"type": "message"}]}, "input[0].role"),
        ({"input": [says("robot", "x")]}, "input[0].role"),
        ({"input": [says("user", 3)]}, "input[0].content"),
        ({"input": [says("user", [{"text": "x"}])]}, "input[0].content[0].type"),
        ({"input": [says("user", [{"type": "input_text"}])]}, "input[0].content[0].text"),
        ({"input": [says("user", [{"type": "input_audio"}])]}, "input[0].content[0].type"),
        ({"input": [says("user", [{"type": "input_image", "file_id": "f"}])]}, "input[0].content[0].file_id"),
        ({"input": [says("user", [{"type": "input_file", "file_url": "file:///x"}])]}, "input[0].content[0].file_url"),
        ({"input": [says("user", [{"type": "input_file"}])]}, "input[0].content[0].file_data"),
        ({"input": [says("user", "a"), {**CALL, "call_id": None}]}, "input[1].call_id"),
        ({"input": [says("user", "a"), {"type": "function_call", "call_id": "x"}]}, "input[1].name"),
        ({"input": [says("user", "a"), CALL, {**RESULT, "call_id": None}]}, "input[2].call_id"),
        ({"input": [says("user", "a"), RESULT]}, "input"),
        ({"input": [says("user", "a"), CALL]}, "input"),
        ({"input": [says("user", "a"), says("assistant", "b")]}, "input"),
        ({"input": [{"type": "computer_call_output", "output": {}}]}, "input[0].type"),
        ({"input": [says("user", "a")] * 1001}, "input"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"model": "son\nnet"}, "model"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"background": True, "store": False}, "background"),
        ({"reasoning": {"effort": "vast"}}, "reasoning.effort"),
        ({"metadata": {"a": 1}}, "metadata[]"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": 3}}}}, "text.format.schema"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": 3}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_bad_input_is_refused_with_its_path(fields: Json, param: str) -> None:
    """The path is one that the client can find in what it sent."""
    with pytest.raises(BadRequest) as caught:
        parse(**{"given": "Hi", **{("given" if name == "input" else name): value for name, value in fields.items()}})
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "shaped"),
    [
        ({"input": "Hi"}, True),
        ({"input": [], "messages": None}, True),
        ({"input": "Hi", "messages": []}, False),
        ({"input": None}, False),
        ({"messages": []}, False),
        ({}, False),
    ],
)
def test_cursors_bodies_are_told_from_chat(fields: Json, shaped: bool) -> None:
    """By `input` alone."""
    assert is_responses_shaped(fields) is shaped


def test_a_body_of_cursors_continues_nothing_that_is_kept() -> None:
    """Chat has no ids to go on from."""
    assert parse_responses_shaped({"input": "Hi"}).conversation.messages == (user("Hi"),)
    with pytest.raises(BadRequest):
        parse_responses_shaped({"input": "Hi", "previous_response_id": "resp_1"})


@pytest.mark.parametrize(
    ("item", "stored"),
    [
        (
            {"role": "user", "content": "Hi"},
            {
                "type": "message",
                "role": "user",
                "id": "x1",
                "status": "completed",
                "content": [{"type": "input_text", "text": "Hi"}],
            },
        ),
        (
            says("assistant", "Yes", id="theirs"),
            {
                "type": "message",
                "role": "assistant",
                "id": "x1",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Yes", "annotations": [], "logprobs": []}],
            },
        ),
        (CALL, {**CALL, "id": "x1", "status": "completed"}),
        ({"type": "reasoning", "id": "rs_9"}, {"type": "reasoning", "id": "x1", "summary": []}),
    ],
)
def test_items_are_kept_in_the_shape_in_which_they_are_listed(item: Json, stored: Json) -> None:
    """With an id of ours, a status, and parts."""
    assert build_stored(item, "x1") == stored
