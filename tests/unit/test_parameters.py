"""What a client asked of one turn, as settings of the CLI: every row says what goes upstream and what is ignored."""

import json
from typing import Any

import pytest

from claude_proxy.claude.wire.parameters import Refusals, build_parameters, close_objects, is_open
from claude_proxy.claude.wire.toolset import Toolset
from claude_proxy.core.conversation import Options, ThinkingMode, Tool, ToolChoice

OFF: dict[str, Any] = {"thinking": {"type": "disabled"}, "context_management": {"edits": []}}
TOOLS = Toolset([Tool("f", "d", {"type": "object"}), Tool("g.h", "", {"type": "object"})])
OFFERED = [
    {"name": "f", "description": "d", "input_schema": {"type": "object"}},
    {"name": TOOLS.cli_name("g.h"), "description": "", "input_schema": {"type": "object"}},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

ROWS: tuple[tuple[str, Options, dict[str, Any], tuple[str, ...], tuple[str, ...]], ...] = (
    # name, options, EXTRA_BODY, ignored, refusable
    ("nothing", Options(), {}, (), ()),
    ("stop", Options(stop_sequences=("A", " \n")), {"stop_sequences": ["A"]}, (), ()),
    ("temperature", Options(temperature=0.5), {**OFF, "temperature": 0.5}, (), ("temperature",)),
    ("temperature 0", Options(temperature=0), {**OFF, "temperature": 0}, (), ("temperature",)),
    ("the default temperature", Options(temperature=1), {}, (), ()),
    ("a temperature beyond", Options(temperature=1.5), {}, ("temperature",), ()),
    ("top_p", Options(top_p=0.5), {**OFF, "top_p": 0.5}, (), ("top_p",)),
    ("the default top_p", Options(top_p=1), {}, (), ()),
    ("both", Options(temperature=0.5, top_p=0.5), {**OFF, "temperature": 0.5}, ("top_p",), ("temperature",)),
    ("beyond and top_p", Options(temperature=2, top_p=0.5), {**OFF, "top_p": 0.5}, ("temperature",), ("top_p",)),
    ("top_k", Options(top_k=5), {**OFF, "top_k": 5}, (), ("top_k",)),
    ("no effort", Options(effort="none"), OFF, (), ("reasoning_effort",)),
    ("effort", Options(effort="high"), {}, (), ()),
    ("effort wins over sampling", Options(effort="low", temperature=0.1), {}, ("temperature",), ()),
    ("a choice without tools", Options(tool_choice=ToolChoice("auto")), {}, (), ()),
    (
        "a schema",
        Options(json_schema=SCHEMA),
        {"output_config": {"format": {"type": "json_schema", "schema": {**SCHEMA, "additionalProperties": False}}}},
        (),
        (),
    ),
    ("an open schema", Options(json_schema={"type": "object"}), {}, (), ()),
    ("thinking off, not asked for", Options(thinking=ThinkingMode("disabled", asked=False)), OFF, (), ("thinking",)),
    ("thinking off", Options(thinking=ThinkingMode("disabled")), OFF, (), ("reasoning_effort",)),
    (
        "a budget",
        Options(thinking=ThinkingMode("enabled", 2000)),
        {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        (),
        ("thinking",),
    ),
    ("adaptive", Options(thinking=ThinkingMode("adaptive")), {}, (), ()),
    (
        "adaptive, shown",
        Options(thinking=ThinkingMode("adaptive", display="omitted")),
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        (),
        ("thinking",),
    ),
    ("thinking and sampling", Options(thinking=ThinkingMode("adaptive"), temperature=0.1), {}, ("temperature",), ()),
)


@pytest.mark.parametrize(
    ("options", "body", "ignored", "refusable"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_options_become_settings(
    options: Options, body: dict[str, Any], ignored: tuple[str, ...], refusable: tuple[str, ...]
) -> None:
    """Without tools."""
    parameters = build_parameters(options)
    assert json.loads(parameters.settings["env"]["CLAUDE_CODE_EXTRA_BODY"] or "{}") == body
    assert parameters.ignored == ignored
    if not parameters.implicit:
        assert parameters.refusable == refusable


@pytest.mark.parametrize(("tokens", "text"), [(None, ""), (77, "77")])
def test_the_limit_of_tokens_is_a_variable(tokens: int | None, text: str) -> None:
    """Empty takes it back."""
    assert build_parameters(Options(max_tokens=tokens)).settings["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == text


@pytest.mark.parametrize(
    ("effort", "level"),
    [
        (None, None),
        ("none", None),
        ("minimal", "low"),
        ("low", "low"),
        ("medium", "medium"),
        ("high", "high"),
        ("xhigh", "xhigh"),
        ("max", "max"),
    ],
)
def test_efforts_have_the_clis_words(effort: Any, level: str | None) -> None:
    """None takes it back."""
    assert build_parameters(Options(effort=effort)).settings["effortLevel"] == level


CHOICES: tuple[tuple[ToolChoice, dict[str, Any] | None], ...] = (
    (ToolChoice(), None),
    (ToolChoice(parallel=False), {"type": "auto", "disable_parallel_tool_use": True}),
    (ToolChoice("any"), {"type": "any"}),
    (ToolChoice("any", parallel=False), {"type": "any", "disable_parallel_tool_use": True}),
    (ToolChoice("none", parallel=False), {"type": "none"}),
    (ToolChoice("tool", "g.h"), {"type": "tool", "name": TOOLS.cli_name("g.h")}),
)


@pytest.mark.parametrize(("choice", "wanted"), CHOICES)
def test_a_choice_goes_upstream_with_the_tools(choice: ToolChoice, wanted: dict[str, Any] | None) -> None:
    """A forced one turns thinking off."""
    body = json.loads(build_parameters(Options(tool_choice=choice), TOOLS).settings["env"]["CLAUDE_CODE_EXTRA_BODY"])
    assert body["tools"] == OFFERED and body.get("tool_choice") == wanted
    assert ("thinking" in body) == choice.forced


def test_only_allowed_tools_are_offered() -> None:
    """In the client's order."""
    options = Options(tool_choice=ToolChoice("any", allowed=("g.h",)))
    body = json.loads(build_parameters(options, TOOLS).settings["env"]["CLAUDE_CODE_EXTRA_BODY"])
    assert body["tools"] == OFFERED[1:]


def test_a_forced_call_wins_over_thinking() -> None:
    """The API takes only one of them; which one was left out is said."""
    options = Options(tool_choice=ToolChoice("any"), thinking=ThinkingMode("adaptive"))
    parameters = build_parameters(options, TOOLS)
    assert parameters.ignored == ("thinking",) and parameters.refusable == ("tool_choice",)


def test_what_a_model_refuses_is_left_out_and_named() -> None:
    """Sampling, forced calls, thinking off; a way of thinking; a schema."""
    sampling = Refusals(sampling=True)
    parameters = build_parameters(Options(temperature=0.5, tool_choice=ToolChoice("tool", "f")), TOOLS, sampling)
    assert parameters.ignored == ("temperature", "tool_choice") and parameters.refusable == ()
    body = json.loads(parameters.settings["env"]["CLAUDE_CODE_EXTRA_BODY"])
    assert body == {"tools": OFFERED, "tool_choice": {"type": "auto"}}
    budget = Options(thinking=ThinkingMode("enabled", 2000))
    assert build_parameters(budget, None, Refusals(thinking=True)).ignored == ("thinking",)
    schema = build_parameters(Options(json_schema=SCHEMA), None, Refusals(schema=True))
    assert schema.settings["env"]["CLAUDE_CODE_EXTRA_BODY"] == ""


def test_a_refusal_is_remembered_as_what_it_was_about() -> None:
    """A way of thinking is not sampling."""
    assert build_parameters(Options(temperature=0.5)).without(Refusals()) == Refusals(sampling=True)
    budget = build_parameters(Options(thinking=ThinkingMode("enabled", 2000)))
    assert budget.without(Refusals(cache_breakpoint=True)) == Refusals(thinking=True, cache_breakpoint=True)


@pytest.mark.parametrize(
    ("schema", "closed"),
    [
        ({"type": "object"}, {"type": "object", "additionalProperties": False}),
        ({"type": "object", "additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        ({"properties": {}}, {"properties": {}, "additionalProperties": False}),
        (
            {"type": "array", "items": {"type": "object"}},
            {"type": "array", "items": {"type": "object", "additionalProperties": False}},
        ),
        ({"anyOf": [{"type": "object"}, True]}, {"anyOf": [{"type": "object", "additionalProperties": False}, True]}),
        (
            {"const": {"type": "object"}, "enum": [{"type": "object"}]},
            {"const": {"type": "object"}, "enum": [{"type": "object"}]},
        ),
        ({"type": "string"}, {"type": "string"}),
    ],
)
def test_every_object_of_a_schema_is_closed(schema: Any, closed: Any) -> None:
    """As the API demands; data inside a schema is no schema."""
    assert close_objects(schema) == closed


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "object"}, True),
        ({"type": "object", "properties": {}}, False),
        ({"type": "array"}, False),
        ({}, False),
        ({"type": "object", "$ref": "#"}, False),
    ],
)
def test_a_schema_that_any_object_meets_is_open(schema: dict[str, Any], wanted: bool) -> None:
    """Closed it would leave the empty one alone."""
    assert is_open(schema) is wanted
