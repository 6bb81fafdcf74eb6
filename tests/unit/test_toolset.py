"""Names of the client's functions: usable upstream, and mapped back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.claude.wire.toolset import Toolset, usable_name
from claude_proxy.core.conversation import Message, Text, Tool, ToolUse, user

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@given(st.lists(st.text(min_size=1, max_size=150), min_size=1, max_size=5, unique=True))
def test_every_name_becomes_one_that_the_api_takes_and_comes_back(names: list[str]) -> None:
    """Apart from all others."""
    toolset = Toolset([Tool(name, "", SCHEMA) for name in names])
    usable = [toolset.cli_name(name) for name in names]
    assert len(set(usable)) == len(names)
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,128}", name) for name in usable)
    assert [toolset.client_name(name) for name in usable] == names


@pytest.mark.parametrize("name", ["f", "get_weather", "A-b_9", "x" * 128])
def test_a_name_that_can_be_used_stays(name: str) -> None:
    """The model sees what the client calls it."""
    assert usable_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "a b", "x" * 129, "é", "ToolSearch", "StructuredOutput", "a\n"])
def test_a_name_that_cannot_be_used_is_changed(name: str) -> None:
    """Always in the same way."""
    assert usable_name(name) != name and usable_name(name) == usable_name(name)


def test_a_toolset_without_tools_offers_nothing() -> None:
    """And is false."""
    toolset = Toolset(())
    assert not toolset and toolset.manifest() == {} and toolset.definitions(None) == []
    assert toolset.client_name("x") == toolset.cli_name("x") == "x" and toolset.missing([]) == ()


def test_what_the_cli_did_not_take_is_missing() -> None:
    """By the client's names; one tool is reported under an older name."""
    toolset = Toolset([Tool("f", "", SCHEMA), Tool("a.b", "", SCHEMA), Tool("Agent", "", SCHEMA)])
    assert toolset.missing(["f", "Task"]) == ("a.b",)
    assert toolset.missing(["Agent", toolset.cli_name("a.b")]) == ("f",)


def test_definitions_are_the_clients_and_the_manifest_only_routes() -> None:
    """Descriptions and schemas go upstream uncut; the CLI sees neither."""
    toolset = Toolset([Tool("a.b", "d" * 20_000, SCHEMA), Tool("f", "", SCHEMA)])
    assert toolset.definitions(None)[0] == {
        "name": usable_name("a.b"),
        "description": "d" * 20_000,
        "input_schema": SCHEMA,
    }
    assert [one["name"] for one in toolset.definitions(("f",))] == ["f"]
    listed = toolset.manifest()["sdkMcpServerManifests"]["client"]["toolsListResult"]["tools"]
    assert [tool["name"] for tool in listed] == [usable_name("a.b"), "f"]
    assert all(tool["inputSchema"] == {"type": "object"} and len(tool["description"]) < 200 for tool in listed)


def test_a_history_is_renamed_as_the_definitions_are() -> None:
    """Calls only; a message without one is the same object."""
    toolset = Toolset([Tool("a.b", "", SCHEMA)])
    plain = user("a.b")
    assert toolset.rename(plain) is plain
    called = Message("assistant", (Text("x"), ToolUse("t", "a.b", {"a": 1})))
    assert toolset.rename(called).content == (Text("x"), ToolUse("t", usable_name("a.b"), {"a": 1}))
