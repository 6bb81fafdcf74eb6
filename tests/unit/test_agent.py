"""What each setting of agent mode means on the command line of a child."""

from pathlib import Path
from typing import Any

import pytest

from claude_proxy.claude.fleet.agent_flags import (
    BASE_FLAGS,
    DEFAULT_ALLOWED,
    ISOLATION_FLAGS,
    build_options,
    split_rules,
)
from claude_proxy.config import PERMISSION_MODES

USUAL = "Bash,Read,Write,Edit,Glob,Grep,WebSearch,WebFetch"


def flags(**settings: Any) -> tuple[str, ...]:
    return build_options({}, workdir=Path("/work"), **settings).flags


def value(name: str, **settings: Any) -> str | None:
    """What follows a flag; None where it is not given."""
    given = flags(**settings)
    return given[given.index(name) + 1] if name in given else None


def test_without_settings_nothing_of_the_users_applies_and_the_usual_tools_are_allowed() -> None:
    """All that is offered is named, what talks to a person or outlives a request is not."""
    assert flags() == (
        *BASE_FLAGS,
        *ISOLATION_FLAGS,
        *("--tools", f"{USUAL},Task,NotebookEdit"),
        *("--allowedTools", USUAL),
    )


def test_what_is_not_a_flag_is_passed_on() -> None:
    """Environment, folder, whether sessions are kept."""
    options = build_options({"A": "b"}, workdir=Path("/work"), keeps=False)
    assert (options.environ, options.workdir, options.keeps) == ({"A": "b"}, Path("/work"), False)


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("default", ()),
        ("ask", ("--permission-prompt-tool", "stdio")),
        ("acceptEdits", ("--permission-mode", "acceptEdits")),
        ("plan", ("--permission-mode", "plan")),
        ("bypass", ("--permission-mode", "bypassPermissions", "--allow-dangerously-skip-permissions")),
    ],
)
def test_a_permission_mode_has_flags_of_its_own(mode: str, wanted: tuple[str, ...]) -> None:
    """And no other mode's."""
    assert mode in PERMISSION_MODES
    others = {"--permission-prompt-tool", "--permission-mode", "--allow-dangerously-skip-permissions"} - set(wanted)
    given = flags(permission_mode=mode)
    assert others.isdisjoint(given)
    assert given[len(BASE_FLAGS) + len(ISOLATION_FLAGS) + 2 :][: len(wanted)] == wanted


def test_every_permission_mode_is_tried_above() -> None:
    """A mode that has no flags would fail at the first request."""
    for mode in PERMISSION_MODES:
        assert flags(permission_mode=mode)


def test_where_people_are_asked_nothing_is_allowed_but_what_they_name() -> None:
    """An MCP server that was named is no permission either."""
    assert value("--allowedTools", permission_mode="ask", mcp_servers=["git"]) is None
    assert value("--allowedTools", permission_mode="ask", allowed_tools=("Read",)) == "Read"


def test_the_rules_of_the_user_replace_the_usual_ones() -> None:
    """Their tools are offered, in the order of their names, once; tools of MCP servers are not the CLI's to offer."""
    rules = ("Bash(git log", "git show)", "TodoWrite", "mcp__git__diff")
    assert value("--allowedTools", allowed_tools=rules) == "Bash(git log,git show),TodoWrite,mcp__git__diff"
    assert value("--tools", allowed_tools=rules) == f"{USUAL},Task,NotebookEdit,TodoWrite"


def test_servers_that_were_named_are_allowed() -> None:
    """Beside the usual tools; not where the user has rules."""
    assert value("--allowedTools", mcp_servers=["git", "db"]) == ",".join((*DEFAULT_ALLOWED, "mcp__git", "mcp__db"))
    assert value("--allowedTools", mcp_servers=["git"], allowed_tools=("Read",)) == "Read"


def test_folders_and_files_follow_their_flag() -> None:
    """All of them after one."""
    given = flags(add_dir=("/a", "/b"), mcp_config=("/c.json", "/d.json"))
    folders, files = given.index("--add-dir"), given.index("--mcp-config")
    assert given[folders + 1 : folders + 3] == ("/a", "/b")
    assert given[files + 1 : files + 3] == ("/c.json", "/d.json")


@pytest.mark.parametrize(
    ("setting", "amount", "flag", "shown"),
    [("max_turns", 7, "--max-turns", "7"), ("max_budget_usd", 2.0, "--max-budget-usd", "2")],
)
def test_a_limit_of_0_is_none(setting: str, amount: float, flag: str, shown: str) -> None:
    """No flag at all."""
    assert value(flag, **{setting: amount}) == shown
    assert value(flag, **{setting: 0}) is None


def test_a_budget_is_a_plain_number() -> None:
    """As the CLI reads it."""
    assert value("--max-budget-usd", max_budget_usd=0.25) == "0.25"


def test_with_the_users_settings_nothing_is_kept_out() -> None:
    """And skills can be used."""
    given = flags(user_settings=True)
    assert set(ISOLATION_FLAGS).isdisjoint(given)
    assert value("--tools", user_settings=True) == f"{USUAL},Task,NotebookEdit,Skill"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", ()),
        (" , ,", ()),
        ("Read", ("Read",)),
        ("Read, Write ,Edit", ("Read", "Write", "Edit")),
        ("Bash(git log, git show), Read", ("Bash(git log, git show)", "Read")),
        ("Bash(a),Bash(b)", ("Bash(a)", "Bash(b)")),
        ("Bash(never closed, Read", ("Bash", "never closed", "Read")),
    ],
)
def test_commas_inside_brackets_belong_to_a_rule(text: str, rules: tuple[str, ...]) -> None:
    """Everywhere else they separate."""
    assert split_rules(text) == rules
