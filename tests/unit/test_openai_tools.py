"""Functions and choices, in every shape in which clients send them."""

from typing import Any

import msgspec
import pytest

from claude_proxy.core.conversation import Tool, ToolChoice
from claude_proxy.core.errors import BadRequest
from claude_proxy.dialects.openai_tools import FunctionSpec, ToolSpec, parse_functions, parse_tool_choice, parse_tools

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
EMPTY = {"type": "object", "properties": {}}
TOOLS = (Tool("f", "", EMPTY), Tool("g", "", EMPTY))


def parse(*raw: Any) -> tuple[Tool, ...]:
    return parse_tools(msgspec.convert(list(raw), list[ToolSpec]))


@pytest.mark.parametrize(
    ("raw", "tool"),
    [
        (
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}},
            Tool("f", "d", SCHEMA),
        ),
        ({"function": {"name": "f"}}, Tool("f", "", EMPTY)),
        ({"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}, Tool("f", "", SCHEMA)),
        ({"name": "f", "input_schema": SCHEMA, "description": None}, Tool("f", "", SCHEMA)),
        ({"type": "custom", "name": "f"}, Tool("f", "", EMPTY)),
    ],
)
def test_a_tool_is_one_whatever_its_shape(raw: dict[str, Any], tool: Tool) -> None:
    """Nested, flat, bare, custom."""
    assert parse(raw) == (tool,)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ([{"type": "web_search"}], "tools[0]"),
        ([{}], "tools[0]"),
        ([{"name": "f"}, {"function": {"name": ""}}], "tools[1].function.name"),
        ([{"name": "f"}, {"name": "f"}], "tools[1]"),
        ([{"name": "f", "parameters": {"type": "array"}}], "tools[0].parameters.type"),
    ],
)
def test_a_tool_that_cannot_be_offered_is_named(raw: list[Any], param: str) -> None:
    """By its path."""
    with pytest.raises(BadRequest) as raised:
        parse(*raw)
    assert raised.value.param == param


def test_legacy_functions_are_tools() -> None:
    """With paths of their own."""
    assert parse_functions([FunctionSpec("f", "d", SCHEMA)]) == (Tool("f", "d", SCHEMA),)
    with pytest.raises(BadRequest) as raised:
        parse_functions([FunctionSpec("f"), FunctionSpec("f")])
    assert raised.value.param == "functions[1]"


@pytest.mark.parametrize(
    ("raw", "choice"),
    [
        (None, ToolChoice()),
        ("", ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("any")),
        ("any", ToolChoice("any")),
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice("any")),
        ({"type": "function", "function": {"name": "g"}}, ToolChoice("tool", "g")),
        ({"type": "function", "name": "g"}, ToolChoice("tool", "g")),
        ({"name": "g"}, ToolChoice("tool", "g")),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
            ToolChoice("auto", None, ("g",)),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"function": {"name": "g"}}, 7, {}]},
            },
            ToolChoice("any", None, ("g",)),
        ),
    ],
)
@pytest.mark.parametrize("parallel", [True, False])
def test_a_choice_is_one_whatever_its_shape(raw: Any, choice: ToolChoice, parallel: bool) -> None:
    """One at a time where the client says so."""
    assert parse_tool_choice(raw, TOOLS, parallel) == msgspec.structs.replace(choice, parallel=parallel)


@pytest.mark.parametrize(
    "raw",
    [
        "perhaps",
        7,
        [],
        {},
        {"type": "perhaps"},
        {"name": "h"},
        {"type": "allowed_tools"},
        {"type": "allowed_tools", "allowed_tools": 7},
        {"type": "allowed_tools", "tools": [{"name": "h"}]},
    ],
)
def test_a_choice_that_means_nothing_is_refused(raw: Any) -> None:
    """With its path."""
    with pytest.raises(BadRequest) as raised:
        parse_tool_choice(raw, TOOLS, True, "here")
    assert raised.value.param == "here"


@pytest.mark.parametrize("raw", ["required", {"type": "any"}, {"name": "f"}])
def test_no_call_can_be_demanded_without_tools(raw: Any) -> None:
    """`auto` and `none` can be said."""
    with pytest.raises(BadRequest):
        parse_tool_choice(raw, (), True)
    assert parse_tool_choice("none", (), True).mode == "none"
