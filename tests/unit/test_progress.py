"""What a person is shown of a tool is one short line, whatever the model wrote into its input."""

from typing import Any

import pytest

from claude_proxy.claude.turn.progress import (
    LONGEST_LABEL,
    LONGEST_REASON,
    TELLING,
    Running,
    describe,
    ended_line,
    failure_of,
    shorten,
    started_line,
)


@pytest.mark.parametrize("tool", TELLING)
def test_the_telling_part_of_an_input_is_shown(tool: str) -> None:
    """And nothing else of it."""
    assert describe(tool, {"other": "x", TELLING[tool]: "the point"}) == f"{tool}: the point"


@pytest.mark.parametrize(
    ("tool", "arguments", "label"),
    [
        ("mcp__git__diff", {"path": "a", "lines": 3}, 'mcp__git__diff: {"path":"a","lines":3}'),
        ("Bash", {"command": 7}, 'Bash: {"command":7}'),
        ("Bash", {"timeout": 7}, 'Bash: {"timeout":7}'),
        ("Bash", {}, "Bash"),
        ("Bash", None, "Bash"),
        ("Bash", ["ls"], "Bash"),
        ("Bash", {"command": ""}, "Bash"),
    ],
)
def test_without_a_telling_part_all_of_it_is_shown(tool: str, arguments: Any, label: str) -> None:
    """As JSON; nothing where there is nothing."""
    assert describe(tool, arguments) == label


def test_a_label_is_one_short_line() -> None:
    """Later lines are left out, and so is what a terminal would obey."""
    assert describe("Bash", {"command": "cd /x\nrm -r y"}) == "Bash: cd /x …"
    assert describe("Bash", {"command": "a\x1b[31mb\tc"}) == "Bash: a[31mbc"
    long = describe("Bash", {"command": "x" * 500})
    assert len(long) == LONGEST_LABEL and long.endswith("x…")


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("", ""),
        ("abc", "abc"),
        ("abcd", "abcd"),
        ("abcde", "abc…"),
        ("a\nb", "a …"),
        ("abcde\nb", "abc…"),
        ("a\n", "a"),
    ],
)
def test_a_text_is_cut_to_its_first_line(text: str, short: str) -> None:
    """`…` stands for what is missing."""
    assert shorten(text, 4) == short


def test_a_tool_starts_and_ends_with_a_line() -> None:
    """That of a sub-agent is indented; where others ran beside it, it is named in full again."""
    running, inner = Running("Bash", "Bash: ls", 0.0), Running("Read", "Read: /a", 0.0, inner=True)
    assert started_line(running) == "▸ Bash: ls"
    assert started_line(inner) == "  ▸ Read: /a"
    assert ended_line(running, 1.25, None, alone=True) == "✓ Bash (1.2 s)"
    assert ended_line(running, 61.0, None, alone=False) == "✓ Bash: ls (61.0 s)"
    assert ended_line(inner, 0.0, "no such file", alone=True) == "  ✗ Read (0.0 s): no such file"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({}, None),
        ({"is_error": False, "content": "fine"}, None),
        ({"is_error": True, "content": "Exit code 3\nmore"}, "Exit code 3 …"),
        ({"is_error": True, "content": "\n  Exit code 3 "}, "Exit code 3"),
        ({"is_error": True, "content": "<tool_use_error>No such file</tool_use_error>"}, "No such file"),
        ({"is_error": True, "content": [{"type": "text", "text": "a"}, {"type": "image"}, "odd"]}, "a"),
        ({"is_error": True, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a …"),
        ({"is_error": True, "content": ""}, "failed"),
        ({"is_error": True, "content": []}, "failed"),
        ({"is_error": True}, "failed"),
        ({"is_error": True, "content": "x" * 500}, "x" * (LONGEST_REASON - 1) + "…"),
    ],
)
def test_a_failure_has_a_reason(result: dict[str, Any], reason: str | None) -> None:
    """The first line of it; a result that is no error has none."""
    assert failure_of(result) == reason
