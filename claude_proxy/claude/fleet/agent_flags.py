"""Agent mode: how the CLI is started when its own tools run on this machine.

In: the settings. Out: `AgentOptions`: flags, environment and folder of an agent child.
Rules: without `--user-settings` nothing of the user's settings, memory, skills or MCP servers applies; what is not
allowed is denied, or asked for, never let pass. Background tasks are off: a request ends with its answer, and nobody
would be left to hear of what goes on.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ALLOWED = ("Bash", "Read", "Write", "Edit", "Glob", "Grep", "WebSearch", "WebFetch")
# What is offered to the model, allowed or not; the CLI's others outlive a request, or talk to a person at a terminal.
OFFERED = (*DEFAULT_ALLOWED, "Task", "NotebookEdit")

AGENT_VARIABLES = {
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
}

BASE_FLAGS = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--verbose", "--include-partial-messages", "--thinking-display", "summarized"),
    *("--settings", '{"crossSessionInbound":"refuse"}'),
)
ISOLATION_FLAGS = ("--setting-sources", "", "--strict-mcp-config", "--disable-slash-commands")
PERMISSION_FLAGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "ask": ("--permission-prompt-tool", "stdio"),
    "acceptEdits": ("--permission-mode", "acceptEdits"),
    "plan": ("--permission-mode", "plan"),
    "bypass": ("--permission-mode", "bypassPermissions", "--allow-dangerously-skip-permissions"),
}


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """What an agent child is started with, beside its model. keeps: the CLI writes its sessions down, to be resumed."""

    environ: Mapping[str, str]
    workdir: Path
    flags: tuple[str, ...]
    keeps: bool


def build_options(
    environ: Mapping[str, str],
    *,
    workdir: Path,
    allowed_tools: Sequence[str] = (),
    permission_mode: str = "default",
    add_dir: Sequence[str] = (),
    mcp_config: Sequence[str] = (),
    mcp_servers: Sequence[str] = (),
    max_turns: int = 0,
    max_budget_usd: float = 0.0,
    user_settings: bool = False,
    keeps: bool = True,
) -> AgentOptions:
    """What the settings of these names mean; `environ` as `launcher.build_environment` made it.

    add_dir, mcp_config: absolute paths. mcp_servers: the names of the servers in these files.
    """
    allowed = split_rules(",".join(allowed_tools)) or _default_allowed(permission_mode, mcp_servers)
    offered = [*OFFERED, *(name for name in map(_tool_name, allowed) if not name.startswith("mcp__"))]
    if user_settings:
        offered.append("Skill")
    flags = [*BASE_FLAGS, *(() if user_settings else ISOLATION_FLAGS)]
    flags += ["--tools", ",".join(dict.fromkeys(offered)), *PERMISSION_FLAGS[permission_mode]]
    for name, values in (
        ("--allowedTools", [",".join(allowed)] if allowed else []),
        ("--add-dir", list(add_dir)),
        ("--mcp-config", list(mcp_config)),
        ("--max-turns", [str(max_turns)] if max_turns else []),
        ("--max-budget-usd", [f"{max_budget_usd:g}"] if max_budget_usd else []),
    ):
        flags += [name, *values] if values else []
    return AgentOptions(environ, workdir, tuple(flags), keeps)


def _default_allowed(permission_mode: str, mcp_servers: Sequence[str]) -> tuple[str, ...]:
    """Where people are asked, nothing but what they name; else the usual tools, and MCP servers that they named."""
    if permission_mode == "ask":
        return ()
    return (*DEFAULT_ALLOWED, *(f"mcp__{name}" for name in mcp_servers))


def split_rules(text: str) -> tuple[str, ...]:
    """`Bash(git log, git show), Read` -> two rules: commas inside brackets belong to a rule."""
    return tuple(rule.strip() for rule in re.findall(r"(?:\([^)]*\)|[^,(])+", text) if rule.strip())


def _tool_name(rule: str) -> str:
    """`Bash(git *)` -> `Bash`."""
    return rule.partition("(")[0].strip()
