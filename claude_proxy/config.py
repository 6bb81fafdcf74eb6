"""Every setting: flags, then `CLAUDE_PROXY_*` variables, then the file, then defaults. Nobody else reads os.environ.

In: argv, the environment, `~/.config/claude-proxy/config.toml`. Out: one frozen `Config`.
A value that does not fit, an unknown flag, an unknown `CLAUDE_PROXY_*` name or an unknown key in the file is a
`ConfigError` of one line. Durations are seconds, as floats.
"""

import argparse
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from . import __version__
from .addresses import is_address, is_loopback, is_web_address, name_server
from .values import Amount, AtLeastOne, Count, Port, PositiveSeconds, Size, Texts, choices, convert, describe, suggest

PREFIX = "CLAUDE_PROXY_"
Mode = Literal["chat", "agent"]
MODES: tuple[Mode, ...] = get_args(Mode)
PermissionMode = Literal["default", "ask", "acceptEdits", "plan", "bypass"]
PERMISSION_MODES: tuple[PermissionMode, ...] = get_args(PermissionMode)

# What the CLI would use instead of its own login, if it saw it.
KEY_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")

# Names that other proxies of this kind use: variable -> (setting, parser of its text).
FAMILY_VARIABLES: dict[str, tuple[str, Callable[[str], str]]] = {
    "PORT": ("port", str),
    "HOST": ("host", str),
    "CLAUDE_MODEL": ("model", str),
    "PROXY_API_KEY": ("api_key", str),
    "TELEGRAM_BOT_TOKEN": ("telegram_bot_token", str),
    "TELEGRAM_NOTIFY_ID": ("telegram_notify_id", str),
    "CLAUDE_PROXY_TIMEOUT_MS": ("request_timeout", lambda text: str(float(text) / 1000)),
    "DEBUG": ("log_requests", lambda text: "off" if text.lower() in ("0", "false", "no", "off") else "on"),
}


class ConfigError(Exception):
    """A setting that cannot be used; the message is one line and names it."""


def setting(
    default: Any,
    help_text: str,
    *,
    short: str = "",
    metavar: str = "",
    secret: bool = False,
) -> Any:
    """A field of `Config` together with what the command line and the README say of it."""
    metadata = {"help": help_text, "short": short, "metavar": metavar}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. `environ` is the environment as found at start: the children's is built from it."""

    host: str = setting("127.0.0.1", "address to bind to", short="-H", metavar="ADDRESS")
    port: Port = setting(3456, "port to bind to; 0 takes a free one", short="-p")
    api_key: Texts = setting(
        (), "key that clients must send, repeatable; required unless bound to loopback", metavar="KEY", secret=True
    )
    claude: str = setting("", "path of the Claude Code CLI (default: it is looked for)", metavar="PATH")
    model: str = setting("sonnet", "model for requests that name none, or an unknown one", short="-m")
    unknown_model: Literal["substitute", "error"] = setting("substitute", "what to do with an unknown model name")
    fallback_model: str = setting("", "model to use while your plan's limit blocks the requested one")
    max_concurrent: AtLeastOne = setting(5, "turns that run at once")
    max_queue: Count = setting(10, "turns that may wait; beyond that 429")
    warm: Count = setting(1, "children to start ahead of need")
    live: Count = setting(4, "children to keep for the conversation they hold")
    idle_ttl: Amount = setting(900.0, "close an idle conversation after this long", metavar="SECONDS")
    park_ttl: Amount = setting(
        600.0, "give up a turn that has waited this long for the client's tool results", metavar="SECONDS"
    )
    max_children: Count = setting(24, "children of every kind together")
    inactivity_timeout: PositiveSeconds = setting(
        600.0, "kill a child that has been silent this long", metavar="SECONDS"
    )
    request_timeout: Amount = setting(1800.0, "limit for one request, queue included; 0 = no limit", metavar="SECONDS")
    heartbeat_interval: PositiveSeconds = setting(15.0, "time between heartbeats on a quiet stream", metavar="SECONDS")
    client_timeout: PositiveSeconds = setting(
        60.0, "end the turn of a client that has read nothing for this long", metavar="SECONDS"
    )
    permission_timeout: PositiveSeconds = setting(
        300.0, "deny a permission request that has waited this long", metavar="SECONDS"
    )
    shutdown_timeout: Amount = setting(30.0, "time that running turns get to end at shutdown", metavar="SECONDS")
    use_api_key: bool = setting(False, "let the CLI see ANTHROPIC_API_KEY (use is then billed per token)")
    demo: bool = setting(False, "the real CLI against an echoing API inside the proxy: no login, no network")
    allowed_host: Texts = setting((), "another Host to answer, besides loopback; repeatable", metavar="NAME")
    cors_origin: Texts = setting((), "a web origin that may call; repeatable", metavar="ORIGIN")
    max_body_bytes: Size = setting(32 * 1024 * 1024, "largest request body")
    state_dir: str = setting("", "directory the proxy keeps its state in", metavar="FOLDER")
    session_ttl: Amount = setting(259200.0, "forget sessions that have been unused this long", metavar="SECONDS")
    agent: bool = setting(False, "allow agent mode: the CLI's own tools run on this machine")
    mode: Mode = setting("chat", "mode of requests that do not name one; agent implies --agent")
    allowed_tools: Texts = setting(
        (), "agent: tools that need no permission (default: the usual ones; with --permission-mode ask: none)"
    )
    permission_mode: PermissionMode = setting("default", "agent: what happens to other tools")
    workdir: str = setting("", "agent: directory its tools work in (default: the current one)", metavar="FOLDER")
    add_dir: Texts = setting((), "agent: additional directory its tools may access; repeatable", metavar="FOLDER")
    mcp_config: Texts = setting((), "agent: file with MCP servers; repeatable", metavar="FILE")
    max_turns: Count = setting(0, "agent: model calls of one request; 0 = no limit")
    max_budget_usd: Amount = setting(
        0.0, "agent: limit for the CLI's cost estimate of a conversation; 0 = no limit", metavar="USD"
    )
    user_settings: bool = setting(False, "agent: the user's own settings, CLAUDE.md, skills and MCP servers apply")
    progress: Literal["none", "reasoning", "content"] = setting("reasoning", "agent: how the client sees its tools")
    tool_timeout: PositiveSeconds = setting(3600.0, "agent: kill a tool that has run this long", metavar="SECONDS")
    persist: bool = setting(False, "let the CLI keep its sessions on disk, and resume them")
    no_store: bool = setting(False, "keep nothing on disk beyond the run, and store no text for clients")
    no_recycle: bool = setting(
        False, "start a process for each new conversation instead of using one again for the next"
    )
    telegram_bot_token: str = setting(
        "",
        "token of the bot that reports progress; prefer the environment variable: "
        "flags are visible in the process list",
        metavar="TOKEN",
        secret=True,
    )
    telegram_notify_id: str = setting("", "chat that the bot writes to", metavar="CHAT")
    telegram_api_base: str = setting("https://api.telegram.org", "server of the Telegram Bot API", metavar="URL")
    webhook: str = setting("", "URL that progress is posted to", metavar="URL", secret=True)
    webhook_secret: str = setting(
        "",
        "key that signs what is posted; prefer the environment variable: flags are visible in the process list",
        metavar="KEY",
        secret=True,
    )
    strict: bool = setting(False, "answer 400 when a parameter cannot be honoured, instead of naming it in a header")
    log_requests: bool = setting(False, "log a line at the start of each request too, without bodies")
    debug: bool = setting(False, "log bodies and what the children send; includes prompts and answers", short="-d")
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "lowest severity to log")
    log_json: bool = setting(False, "log lines as JSON objects")
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the settings were read, a line each."""
        host = self.environ.get("HOST", "")
        token, chat = self.telegram_bot_token, self.telegram_notify_id
        idle = [] if self.has_agent else [flag_name(item) for item in AGENT_SETTINGS if self._is_changed(item)]
        unused = "" if self.use_api_key or self.demo else next(filter(self.environ.get, KEY_VARIABLES), "")
        lines = (
            (unused, f"{unused} is set, but kept from the CLI; with --use-api-key it is used, and billed per token."),
            (
                host and not is_address(host),
                f"The variable HOST ({host}) is not an address to bind to, and is ignored.",
            ),
            (token and chat, f"Progress is reported to the Telegram chat {chat}."),
            (
                chat and not token,
                "Nothing is reported to Telegram: TELEGRAM_NOTIFY_ID is set, TELEGRAM_BOT_TOKEN is not.",
            ),
            (
                token and not chat,
                "Nothing is reported to Telegram: TELEGRAM_BOT_TOKEN is set, TELEGRAM_NOTIFY_ID is not.",
            ),
            (self.has_agent, f"Agent mode: tools of the CLI work in {self.work_folder}, {self._permissions}."),
            (bool(idle), f"Without --agent {', '.join(idle)} has no effect."),
            (self.webhook, f"Progress is posted to a webhook at {name_server(self.webhook)}."),
        )
        return [line for applies, line in lines if applies]

    @property
    def _permissions(self) -> str:
        return {"ask": "each one asks first", "bypass": "without any check"}.get(
            self.permission_mode, f"with --permission-mode {self.permission_mode}"
        )

    def _is_changed(self, item: Field[Any]) -> bool:
        return bool(getattr(self, item.name) != item.default)

    @property
    def has_agent(self) -> bool:
        """True where requests may be served in agent mode."""
        return self.agent or self.mode == "agent"

    @property
    def work_folder(self) -> Path:
        """Where the tools of agent mode work."""
        return expand(self.workdir)

    @property
    def state_folder(self) -> Path:
        """`--state-dir`, else `$XDG_STATE_HOME/claude-proxy`, else `~/.local/state/claude-proxy`."""
        if self.state_dir:
            return expand(self.state_dir)
        base = self.environ.get("XDG_STATE_HOME") or str(home(self.environ) / ".local" / "state")
        return Path(base) / "claude-proxy"


SETTINGS: tuple[Field[Any], ...] = tuple(item for item in fields(Config) if item.metadata)
AGENT_SETTINGS = tuple(item for item in SETTINGS if item.metadata["help"].startswith("agent: "))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The settings in force. Raises ConfigError; `--help` and `--version` print and raise SystemExit."""
    parser = build_parser()
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        raise ConfigError(_refuse_argument(unknown[0]))
    values: dict[str, Any] = {}
    for source in (_from_file(environ), _from_environ(environ), _given(vars(flags))):
        values.update(source)
    config = Config(**values, environ=dict(environ))
    _check(config)
    return config


def build_parser() -> argparse.ArgumentParser:
    """The command line, made from the fields of `Config`."""
    parser = _Parser(
        prog="claude-proxy",
        description="Your own Claude Code CLI behind OpenAI- and Anthropic-compatible clients on this machine.",
        allow_abbrev=False,
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("-v", "--version", action="version", version=f"claude-proxy {__version__}")
    for item in SETTINGS:
        _add_flag(parser, item)
    return parser


def flag_name(item: Field[Any]) -> str:
    """`max_queue` -> `--max-queue`."""
    return "--" + item.name.replace("_", "-")


def variable_name(item: Field[Any]) -> str:
    """`max_queue` -> `CLAUDE_PROXY_MAX_QUEUE`."""
    return PREFIX + item.name.upper()


def expand(path: str) -> Path:
    """A path as a person writes it, made absolute; `~nobody` without such a user is what it says."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        return Path(path).absolute()


def home(environ: Mapping[str, str]) -> Path:
    """The user's home folder, as the environment says, else as the password database does."""
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _add_flag(parser: argparse.ArgumentParser, item: Field[Any]) -> None:
    names = [name for name in (item.metadata["short"], flag_name(item)) if name]
    shown = item.metadata["help"]
    if item.default not in (False, "", ()):
        shown += f" (default {item.default:g})" if isinstance(item.default, float) else f" (default {item.default})"
    options: dict[str, Any] = {"dest": item.name, "default": None, "help": shown}
    if isinstance(item.default, bool):
        options["action"] = "store_true"
    elif isinstance(item.default, tuple):
        options.update(action="append", metavar=item.metadata["metavar"] or None)
    else:
        words = "|".join(choices(item.type))
        options["metavar"] = item.metadata["metavar"] or words or type(item.default).__name__[:3].upper()
    parser.add_argument(*names, **options)


def _refuse_argument(argument: str) -> str:
    """Why the first argument that the parser does not know is refused."""
    if not argument.startswith("-"):
        return f"unexpected argument {argument}; --help lists the flags"
    flag = argument.partition("=")[0]
    known = (*map(flag_name, SETTINGS), "--help", "--version")
    return f"unknown flag {flag}{suggest(flag, known)}; --help lists the flags"


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    by_name = {item.name: item for item in SETTINGS}
    return {
        name: _convert(by_name[name], value, flag_name(by_name[name]))
        for name, value in flags.items()
        if value is not None
    }


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    by_name = {item.name: item for item in SETTINGS}
    by_variable = {variable_name(item): item for item in SETTINGS}
    unknown = [
        name for name in environ if name.startswith(PREFIX) and name not in by_variable and name not in FAMILY_VARIABLES
    ]
    if unknown:
        name = min(unknown)
        raise ConfigError(f"unknown variable {name}{suggest(name, by_variable)}")
    values: dict[str, Any] = {}
    for name, (target, parse) in FAMILY_VARIABLES.items():
        text = environ.get(name, "")
        if text and not (name == "HOST" and not is_address(text)):
            values[target] = _convert(by_name[target], _parse_family(name, parse, text), name)
    for name, item in by_variable.items():
        if name in environ:
            values[item.name] = _convert(item, environ[name], name)
    return values


def _parse_family(name: str, parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {text!r} is not a number") from error


def _from_file(environ: Mapping[str, str]) -> dict[str, Any]:
    path = file_path(environ)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    by_key = {item.name: item for item in SETTINGS}
    values: dict[str, Any] = {}
    for key, value in data.items():
        item = by_key.get(key.replace("-", "_"))
        if item is None:
            raise ConfigError(f"{path}: unknown setting {key}{suggest(key, by_key)}")
        values[item.name] = _convert(item, value, f"{path}: {key}")
    return values


def file_path(environ: Mapping[str, str]) -> Path:
    """Where the settings file lies, whether it is there or not."""
    base = environ.get("XDG_CONFIG_HOME") or str(home(environ) / ".config")
    return Path(base) / "claude-proxy" / "config.toml"


def _convert(item: Field[Any], value: Any, name: str) -> Any:
    """A value as this setting's type. name: of the flag, variable or key, for the message; a secret is not shown."""
    try:
        return convert(value, item.type)
    except ValueError as error:
        shown = repr(value) if item.repr else "the value"
        raise ConfigError(f"{name}: {shown} is not {describe(item.type)}") from error


def _check(config: Config) -> None:
    rules = (
        (config.max_children > config.max_concurrent, "--max-children must be greater than --max-concurrent"),
        (bool(config.model.strip()), "--model is empty"),
        (not config.webhook or is_web_address(config.webhook), "--webhook is not an http or https URL"),
        (is_web_address(config.telegram_api_base), "--telegram-api-base is not an http or https URL"),
        (not re.search("[^A-Za-z0-9:_-]", config.telegram_bot_token), "--telegram-bot-token is not the token of a bot"),
        ("*" not in config.cors_origin or bool(config.api_key), "--cors-origin '*' needs --api-key"),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)
    if not config.api_key and not is_loopback(config.host):
        raise ConfigError(f"--host {config.host} is reachable from elsewhere: set --api-key too")
    if not config.api_key and config.allowed_host:
        raise ConfigError(f"--allowed-host {config.allowed_host[0]} exposes the proxy: set --api-key too")
    if config.has_agent:
        _check_agent(config)


def _check_agent(config: Config) -> None:
    """What agent children are started with must be there before the first request."""
    for name, folder in (("--workdir", config.workdir), *(("--add-dir", folder) for folder in config.add_dir)):
        path = expand(folder)
        if not path.is_dir():
            raise ConfigError(f"{name} {folder}: {'is not a folder' if path.exists() else 'there is no such folder'}")
    for file in config.mcp_config:
        try:
            read_mcp_servers(file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"--mcp-config {file}: {reason}") from error
    allowing = (config.environ.get("IS_SANDBOX"), config.environ.get("CLAUDE_CODE_BUBBLEWRAP"))
    if config.permission_mode == "bypass" and is_root() and "1" not in allowing:
        raise ConfigError("--permission-mode bypass: as root the CLI takes it only in a sandbox (IS_SANDBOX=1 says so)")


def is_root() -> bool:
    """True for the superuser of a system that has one."""
    return hasattr(os, "getuid") and os.getuid() == 0


def read_mcp_servers(file: str) -> list[str]:
    """The names of the MCP servers in a file. Raises OSError, ValueError for a file of another shape."""
    try:
        content = json.loads(expand(file).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    servers = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(servers, dict) or not all(isinstance(one, dict) for one in servers.values()):
        raise ValueError("it has no object `mcpServers` of servers")
    return list(servers)


def from_environment(argv: Sequence[str]) -> Config:
    """`load` with this process's own environment."""
    return load(argv, os.environ)
