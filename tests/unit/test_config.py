"""Settings: flags before variables before the file before the defaults; what does not fit is refused."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from claude_proxy import __version__, config, values
from claude_proxy.addresses import is_loopback
from claude_proxy.config import Config, ConfigError

EXAMPLES: dict[type, tuple[str, Any]] = {
    bool: ("on", True),
    int: ("7777", 7777),
    float: ("12.5", 12.5),
    str: ("text", "text"),
    tuple: ("a,b", ("a", "b")),
}
KEY = {"CLAUDE_PROXY_API_KEY": "secret"}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose home folder is empty."""
    return {"HOME": str(tmp_path)}


def write_file(environ: Mapping[str, str], text: str) -> Path:
    path = config.file_path(environ)
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def refusal(argv: list[str], environ: Mapping[str, str]) -> str:
    """The one line with which these settings are refused."""
    with pytest.raises(ConfigError) as raised:
        config.load(argv, environ)
    message = str(raised.value)
    assert message and "\n" not in message
    return message


def sample(name: str) -> tuple[str, Any]:
    """A text for this setting that passes every rule, and its value."""
    item = next(item for item in config.SETTINGS if item.name == name)
    special: dict[str, tuple[str, Any]] = {
        "unknown_model": ("error", "error"),
        "log_level": ("debug", "debug"),
        "host": ("127.0.0.2", "127.0.0.2"),
        "max_concurrent": ("3", 3),
        "mode": ("agent", "agent"),
        "permission_mode": ("ask", "ask"),
        "progress": ("content", "content"),
        "telegram_api_base": ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        "webhook": ("https://example.org/hook", "https://example.org/hook"),
    }
    return special.get(name, EXAMPLES[type(item.default)])


ALL = [item.name for item in config.SETTINGS]


def test_without_anything_the_defaults_are_in_force(environ: dict[str, str]) -> None:
    """Every field has its default; the environment is kept for the children."""
    assert config.load([], environ) == Config(environ=environ)


@pytest.mark.parametrize("name", ALL)
def test_every_setting_has_a_variable(name: str, environ: dict[str, str]) -> None:
    """`CLAUDE_PROXY_` and the name in capitals."""
    text, value = sample(name)
    loaded = config.load([], {**environ, **KEY, f"CLAUDE_PROXY_{name.upper()}": text})
    assert getattr(loaded, name) == value


@pytest.mark.parametrize("name", ALL)
def test_every_setting_has_a_flag(name: str, environ: dict[str, str]) -> None:
    """The name with dashes; what is on or off takes no value."""
    text, value = sample(name)
    flag = "--" + name.replace("_", "-")
    if value is True:
        argv = [flag]
    elif isinstance(value, tuple):
        argv = [part for each in value for part in (flag, each)]
    else:
        argv = [flag, text]
    assert getattr(config.load(argv, {**environ, **KEY}), name) == value


@pytest.mark.parametrize("name", ALL)
def test_every_setting_has_a_key_in_the_file(name: str, environ: dict[str, str]) -> None:
    """With underscores or dashes, as values of TOML."""
    _, value = sample(name)
    shown = {True: "true"}.get(value) or (list(value) if isinstance(value, tuple) else repr(value))
    write_file(environ, f"{name.replace('_', '-')} = {shown}\n")
    key = {} if name == "api_key" else KEY
    assert getattr(config.load([], {**environ, **key}), name) == value


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [("-p", "port", 4000), ("-H", "host", "::1"), ("-m", "model", "opus")],
)
def test_short_flags(flag: str, name: str, value: object, environ: dict[str, str]) -> None:
    """The short forms of the most used ones."""
    assert getattr(config.load([flag, str(value)], environ), name) == value


def test_short_flag_of_debug(environ: dict[str, str]) -> None:
    """`-d` takes no value."""
    assert config.load(["-d"], environ).debug


def test_flags_go_before_variables_before_family_names_before_the_file(environ: dict[str, str]) -> None:
    """Each source in turn, weakest first."""
    assert config.load([], environ).port == 3456
    write_file(environ, "port = 1111\nmodel = 'opus'\n")
    assert config.load([], environ).port == 1111
    environ["PORT"] = "2222"
    assert config.load([], environ).port == 2222
    environ["CLAUDE_PROXY_PORT"] = "3333"
    assert config.load([], environ).port == 3333
    loaded = config.load(["--port", "4444"], environ)
    assert (loaded.port, loaded.model) == (4444, "opus")


def test_a_variable_can_turn_off_what_the_file_turns_on(environ: dict[str, str]) -> None:
    """Off is a value like any other."""
    write_file(environ, "strict = true\n")
    assert config.load([], environ).strict
    assert not config.load([], {**environ, "CLAUDE_PROXY_STRICT": "off"}).strict


def test_a_list_replaces_the_list_of_a_weaker_source(environ: dict[str, str]) -> None:
    """Lists are not joined."""
    write_file(environ, "cors_origin = ['http://a', 'http://b']\n")
    assert config.load([], environ).cors_origin == ("http://a", "http://b")
    assert config.load(["--cors-origin", "http://c"], environ).cors_origin == ("http://c",)


def test_a_list_in_a_variable_is_separated_by_commas(environ: dict[str, str]) -> None:
    """Blanks and empty parts do not count."""
    environ["CLAUDE_PROXY_CORS_ORIGIN"] = " http://a , ,http://b,"
    assert config.load([], environ).cors_origin == ("http://a", "http://b")


@pytest.mark.parametrize("text", ["1", "true", "True", "YES", "on"])
def test_words_for_on(text: str, environ: dict[str, str]) -> None:
    """In any case of letters."""
    assert config.load([], {**environ, "CLAUDE_PROXY_DEMO": text}).demo


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF"])
def test_words_for_off(text: str, environ: dict[str, str]) -> None:
    """In any case of letters."""
    assert not config.load([], {**environ, "CLAUDE_PROXY_DEMO": text}).demo


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("PORT", "4000", "port", 4000),
        ("HOST", "127.0.0.3", "host", "127.0.0.3"),
        ("HOST", "localhost", "host", "localhost"),
        ("HOST", "::1", "host", "::1"),
        ("CLAUDE_MODEL", "opus", "model", "opus"),
        ("PROXY_API_KEY", "k", "api_key", ("k",)),
        ("TELEGRAM_BOT_TOKEN", "123:abc", "telegram_bot_token", "123:abc"),
        ("TELEGRAM_NOTIFY_ID", "-100123", "telegram_notify_id", "-100123"),
        ("CLAUDE_PROXY_TIMEOUT_MS", "1500", "request_timeout", 1.5),
        ("DEBUG", "1", "log_requests", True),
        ("DEBUG", "anything:*", "log_requests", True),
        ("DEBUG", "false", "log_requests", False),
        ("DEBUG", "0", "log_requests", False),
    ],
)
def test_family_variables(variable: str, text: str, name: str, value: object, environ: dict[str, str]) -> None:
    """Names that other proxies of this kind use."""
    assert getattr(config.load([], {**environ, variable: text}), name) == value


def test_every_family_variable_is_tried_above() -> None:
    """No name is forgotten."""
    tried = {"PORT", "HOST", "CLAUDE_MODEL", "PROXY_API_KEY", "CLAUDE_PROXY_TIMEOUT_MS", "DEBUG"}
    tried |= {"TELEGRAM_BOT_TOKEN", "TELEGRAM_NOTIFY_ID"}
    assert tried == set(config.FAMILY_VARIABLES)


@pytest.mark.parametrize("variable", sorted(config.FAMILY_VARIABLES))
def test_an_empty_family_variable_counts_as_absent(variable: str, environ: dict[str, str]) -> None:
    """Shells and compose files leave such names empty."""
    environ[variable] = ""
    assert config.load([], environ) == Config(environ=environ)


def test_debug_of_the_family_never_logs_bodies(environ: dict[str, str]) -> None:
    """Only our own switch does."""
    assert not config.load([], {**environ, "DEBUG": "1"}).debug


@pytest.mark.parametrize("name", ["my-laptop", "example.org", "x86_64-pc-linux-gnu"])
def test_host_that_is_no_address_is_ignored(name: str, environ: dict[str, str]) -> None:
    """Some shells export the machine's name there."""
    assert config.load([], {**environ, "HOST": name}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--bogus"], "--bogus"),
        (["--por", "1"], "--por"),
        (["extra"], "extra"),
        (["--port"], "--port"),
        (["--demo=yes"], "--demo"),
        (["--port", "x"], "--port"),
        (["--port", "3.5"], "--port"),
        (["--port", ""], "--port"),
        (["--port", "-1"], "--port"),
        (["--port", "65536"], "--port"),
        (["--request-timeout", "soon"], "--request-timeout"),
        (["--request-timeout", "nan"], "--request-timeout"),
        (["--request-timeout", "inf"], "--request-timeout"),
        (["--request-timeout", "-1"], "--request-timeout"),
        (["--warm", "-1"], "--warm"),
        (["--log-level", "loud"], "--log-level"),
        (["--unknown-model", "guess"], "--unknown-model"),
        (["--max-concurrent", "0"], "--max-concurrent"),
        (["--max-children", "5"], "--max-children"),
        (["--max-concurrent", "24"], "--max-children"),
        (["--max-body-bytes", "10"], "--max-body-bytes"),
        (["--heartbeat-interval", "0"], "--heartbeat-interval"),
        (["--inactivity-timeout", "0"], "--inactivity-timeout"),
        (["--client-timeout", "0"], "--client-timeout"),
        (["--model", " "], "--model"),
        (["--tool-timeout", "0"], "--tool-timeout"),
        (["--permission-timeout", "0"], "--permission-timeout"),
        (["--permission-mode", "yolo"], "--permission-mode"),
        (["--progress", "loud"], "--progress"),
        (["--mode", "tools"], "--mode"),
        (["--webhook", "example.org"], "--webhook"),
        (["--webhook", "file:///etc/passwd"], "--webhook"),
        (["--telegram-api-base", ""], "--telegram-api-base"),
        (["--telegram-bot-token", "1:a/b"], "--telegram-bot-token"),
    ],
)
def test_a_flag_that_does_not_fit_is_refused_by_name(argv: list[str], named: str, environ: dict[str, str]) -> None:
    """One line, which names the flag."""
    assert named in refusal(argv, environ)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CLAUDE_PROXY_PORT", ""),
        ("CLAUDE_PROXY_PORT", "high"),
        ("CLAUDE_PROXY_WARM", "-2"),
        ("CLAUDE_PROXY_DEMO", ""),
        ("CLAUDE_PROXY_DEMO", "maybe"),
        ("CLAUDE_PROXY_REQUEST_TIMEOUT", "inf"),
        ("CLAUDE_PROXY_LOG_LEVEL", "LOUD"),
        ("CLAUDE_PROXY_TIMEOUT_MS", "soon"),
        ("CLAUDE_PROXY_TIMEOUT_MS", "inf"),
        ("CLAUDE_PROXY_TIMEOUT_MS", "-5"),
        ("PORT", "http"),
        ("CLAUDE_PROXY_BOGUS", "1"),
        ("CLAUDE_PROXY_", "1"),
        ("CLAUDE_PROXY_PORTS", "1"),
    ],
)
def test_a_variable_that_does_not_fit_is_refused_by_name(variable: str, text: str, environ: dict[str, str]) -> None:
    """One line, which names the variable."""
    assert variable in refusal([], {**environ, variable: text})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("bogus = 1", "bogus"),
        ("environ = {}", "environ"),
        ("port = 'x'", "port"),
        ("port = true", "port"),
        ("port = 80.5", "port"),
        ("warm = -1", "warm"),
        ("demo = 'perhaps'", "demo"),
        ("model = 5", "model"),
        ("request_timeout = true", "request_timeout"),
        ("allowed_host = 5", "allowed_host"),
        ("log_level = 'loud'", "log_level"),
        ("[port]\nx = 1", "port"),
        ("port = ", "Invalid value"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_path_and_key(text: str, named: str, environ: dict[str, str]) -> None:
    """One line, which names the file and what in it is wrong."""
    path = write_file(environ, text)
    message = refusal([], environ)
    assert str(path) in message and named in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "70000"], "--port: '70000' is not a whole number from 0 to 65535"),
        (["--port", "-1"], "--port: '-1' is not a whole number from 0 to 65535"),
        (["--warm", "-1"], "--warm: '-1' is not a whole number of at least 0"),
        (["--max-concurrent", "0"], "--max-concurrent: '0' is not a whole number of at least 1"),
        (["--idle-ttl", "inf"], "--idle-ttl: 'inf' is not a number from 0 to 1000000000"),
        (["--tool-timeout", "0"], "--tool-timeout: '0' is not a number greater than 0, up to 1,000,000,000"),
        (["--mode", "tools"], "--mode: 'tools' is not one of chat, agent"),
        (["--prot", "1"], "unknown flag --prot (did you mean --port?); --help lists the flags"),
        (["--api-kye=secret"], "unknown flag --api-kye (did you mean --api-key?); --help lists the flags"),
        (["--bogus"], "unknown flag --bogus; --help lists the flags"),
        (["help"], "unexpected argument help; --help lists the flags"),
    ],
)
def test_a_refusal_says_what_would_fit(argv: list[str], message: str, environ: dict[str, str]) -> None:
    """The range, the words, the nearest name."""
    assert refusal(argv, environ) == message


def test_a_misspelt_name_in_the_environment_or_the_file_is_met_with_the_nearest(environ: dict[str, str]) -> None:
    """A setting that is misspelt would have no effect otherwise."""
    message = refusal([], {**environ, "CLAUDE_PROXY_PROT": "1"})
    assert message == "unknown variable CLAUDE_PROXY_PROT (did you mean CLAUDE_PROXY_PORT?)"
    path = write_file(environ, "max_quue = 3")
    assert refusal([], environ) == f"{path}: unknown setting max_quue (did you mean max_queue?)"


def test_a_number_may_be_written_as_people_do(environ: dict[str, str]) -> None:
    """With blanks around it, and without a zero before the point."""
    environ["CLAUDE_PROXY_HEARTBEAT_INTERVAL"] = " .5 "
    assert config.load([], environ).heartbeat_interval == 0.5


def test_a_file_that_cannot_be_read_is_refused(environ: dict[str, str]) -> None:
    """A folder in its place, or bytes that are no UTF-8."""
    path = config.file_path(environ)
    path.mkdir(parents=True)
    assert str(path) in refusal([], environ)
    path.rmdir()
    path.write_bytes(b"model = '\xff'")
    assert str(path) in refusal([], environ)


def test_the_file_lies_below_xdg_config_home(environ: dict[str, str], tmp_path: Path) -> None:
    """`$XDG_CONFIG_HOME`, else `~/.config`."""
    assert config.file_path(environ) == tmp_path / ".config" / "claude-proxy" / "config.toml"
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "elsewhere")
    write_file(environ, "port = 1234")
    assert config.load([], environ).port == 1234


def test_the_state_folder(environ: dict[str, str], tmp_path: Path) -> None:
    """The flag, else `$XDG_STATE_HOME`, else `~/.local/state`."""
    assert config.load([], environ).state_folder == tmp_path / ".local" / "state" / "claude-proxy"
    environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    assert config.load([], environ).state_folder == tmp_path / "state" / "claude-proxy"
    assert config.load(["--state-dir", str(tmp_path / "x")], environ).state_folder == tmp_path / "x"
    assert config.load(["--state-dir", "x"], environ).state_folder == Path.cwd() / "x"


def test_without_home_the_password_database_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service may be started without HOME."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert config.home({}) == tmp_path
    assert config.home({"HOME": ""}) == tmp_path


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_an_address_that_others_reach_needs_a_key(host: str, environ: dict[str, str]) -> None:
    """Without one the start is refused."""
    assert "--api-key" in refusal(["--host", host], environ)
    assert config.load(["--host", host, "--api-key", "k"], environ).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str, environ: dict[str, str]) -> None:
    """All of 127.0.0.0/8, ::1, and the name for them."""
    assert config.load(["--host", host], environ).host == host


@pytest.mark.parametrize("host", ["127.0.0.1.example.org", "localhost.example.org", "1.2.3.4", "0.0.0.0", "", "[::2]"])
def test_what_is_not_loopback(host: str) -> None:
    """Names that only look like it."""
    assert not is_loopback(host)


def test_an_allowed_host_needs_a_key(environ: dict[str, str]) -> None:
    """A name that leads here from elsewhere is exposure, although the socket is on loopback."""
    argv = ["--allowed-host", "tunnel.example.org", "--allowed-host", "b.example.org"]
    assert "tunnel.example.org" in refusal(argv, environ)
    assert config.load([*argv, "--api-key", "k"], environ).allowed_host == ("tunnel.example.org", "b.example.org")


def test_any_cors_origin_needs_a_key(environ: dict[str, str]) -> None:
    """`*` lets every page of the web call."""
    assert "--api-key" in refusal(["--cors-origin", "*"], environ)
    assert config.load(["--cors-origin", "*", "--api-key", "k"], environ).cors_origin == ("*",)
    assert config.load(["--cors-origin", "http://localhost:*"], environ).cors_origin == ("http://localhost:*",)


def test_zero_is_no_limit_for_a_request_and_a_free_port(environ: dict[str, str]) -> None:
    """Where 0 means something it is allowed."""
    loaded = config.load(["--request-timeout", "0", "--port", "0", "--warm", "0", "--max-queue", "0"], environ)
    assert (loaded.request_timeout, loaded.port, loaded.warm, loaded.max_queue) == (0, 0, 0, 0)


def test_version_and_help_print_and_end(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0; the help has every flag, every default and every choice."""
    for flag in ("--version", "-v"):
        with pytest.raises(SystemExit) as raised:
            config.load([flag], environ)
        assert not raised.value.code
        assert capsys.readouterr().out == f"claude-proxy {__version__}\n"
    with pytest.raises(SystemExit) as raised:
        config.load(["--help"], environ)
    assert not raised.value.code
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for item in config.SETTINGS:
        assert config.flag_name(item) + " " in shown
        assert all(choice in shown for choice in values.choices(item.type))
    assert "(default 3456)" in shown and "(default 15)" in shown


def test_the_environment_is_not_shown(environ: dict[str, str]) -> None:
    """The representation of the settings leaves the environment out: it may hold credentials."""
    assert "hidden" not in repr(config.load([], {**environ, "CLAUDE_CODE_OAUTH_TOKEN": "hidden"}))


SECRETS = {
    "TELEGRAM_BOT_TOKEN": "1:hidden",
    "CLAUDE_PROXY_WEBHOOK": "https://user:hidden@example.org/hidden",
    "CLAUDE_PROXY_WEBHOOK_SECRET": "hidden",
    "CLAUDE_PROXY_API_KEY": "hidden",
}


def test_secrets_are_not_shown(environ: dict[str, str]) -> None:
    """Neither in the representation of the settings nor in what is told at the start."""
    loaded = config.load([], {**environ, **SECRETS, "TELEGRAM_NOTIFY_ID": "5"})
    assert "hidden" not in repr(loaded) + " ".join(loaded.notes)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TELEGRAM_BOT_TOKEN", "1:hidden#"), ("CLAUDE_PROXY_WEBHOOK", "user:hidden@example.org")],
)
def test_a_secret_that_does_not_fit_is_not_shown(variable: str, value: str, environ: dict[str, str]) -> None:
    """The one line names the flag alone."""
    assert "hidden" not in refusal([], {**environ, variable: value})


@pytest.mark.parametrize("key", ["telegram_bot_token", "webhook", "webhook_secret", "api_key"])
def test_a_secret_of_the_wrong_kind_is_not_shown(key: str, environ: dict[str, str]) -> None:
    """A token without quotes in the file, for example."""
    write_file(environ, f"{key} = 123454321")
    assert "123454321" not in refusal([], environ)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, []),
        ({"HOST": "my-laptop"}, ["HOST (my-laptop) is not an address"]),
        ({"TELEGRAM_NOTIFY_ID": "5"}, ["TELEGRAM_NOTIFY_ID is set, TELEGRAM_BOT_TOKEN is not"]),
        ({"TELEGRAM_BOT_TOKEN": "1:a"}, ["TELEGRAM_BOT_TOKEN is set, TELEGRAM_NOTIFY_ID is not"]),
        ({"TELEGRAM_BOT_TOKEN": "1:a", "TELEGRAM_NOTIFY_ID": "5"}, ["Telegram chat 5"]),
        ({"CLAUDE_PROXY_WEBHOOK": "https://u:p@example.org:8/x"}, ["webhook at example.org:8."]),
        ({"ANTHROPIC_API_KEY": "k"}, ["ANTHROPIC_API_KEY is set, but kept from the CLI; with --use-api-key"]),
        ({"ANTHROPIC_AUTH_TOKEN": "k"}, ["ANTHROPIC_AUTH_TOKEN is set"]),
        ({"ANTHROPIC_API_KEY": "k", "ANTHROPIC_AUTH_TOKEN": "k"}, ["ANTHROPIC_API_KEY is set"]),
        ({"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": ""}, []),
        ({"ANTHROPIC_API_KEY": "k", "CLAUDE_PROXY_USE_API_KEY": "1"}, []),
        ({"ANTHROPIC_API_KEY": "k", "CLAUDE_PROXY_DEMO": "1"}, []),
    ],
)
def test_the_start_says_what_a_person_should_know(
    variables: dict[str, str], words: list[str], environ: dict[str, str]
) -> None:
    """What is ignored, and where progress goes."""
    notes = config.load([], {**environ, **variables}).notes
    assert len(notes) == len(words) and all(word in note for word, note in zip(words, notes, strict=True))


# Agent mode


@pytest.mark.parametrize(
    ("argv", "wanted"), [([], False), (["--agent"], True), (["--mode", "agent"], True), (["--mode", "chat"], False)]
)
def test_agent_mode_is_off_unless_it_is_asked_for(argv: list[str], wanted: bool, environ: dict[str, str]) -> None:
    """Allowed for requests, or the mode of all."""
    assert config.load(argv, environ).has_agent is wanted


def test_agent_mode_is_not_for_others_without_a_key(environ: dict[str, str]) -> None:
    """Nothing is, beyond loopback."""
    argv = ["--host", "0.0.0.0", "--agent"]
    assert "set --api-key" in refusal(argv, environ)
    assert config.load(argv, {**environ, **KEY}).has_agent


@pytest.mark.parametrize("flag", ["--workdir", "--add-dir"])
@pytest.mark.parametrize(("name", "reason"), [("none", "there is no such folder"), ("file", "is not a folder")])
def test_folders_of_agent_mode_must_be_there(
    flag: str, name: str, reason: str, environ: dict[str, str], tmp_path: Path
) -> None:
    """Before the first request; without agent mode nobody looks."""
    (tmp_path / "file").touch()
    argv = [flag, str(tmp_path / name)]
    assert refusal(["--agent", *argv], environ) == f"{flag} {tmp_path / name}: {reason}"
    assert config.load(argv, environ)
    assert config.load(["--agent", flag, str(tmp_path)], environ)


def test_the_tools_work_where_the_proxy_was_started(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless another folder is named, from there or from home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    assert config.load(["--agent"], environ).work_folder == tmp_path
    for named in ("sub", "~/sub"):
        assert config.load(["--agent", "--workdir", named], environ).work_folder == tmp_path / "sub"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"{", "Expecting property name"),
        (b"\xff", "codec can't decode"),
        (b"[]", "no object `mcpServers`"),
        (b"{}", "no object `mcpServers`"),
        (b'{"mcpServers": []}', "no object `mcpServers`"),
        (b'{"mcpServers": {"git": "git-mcp"}}', "no object `mcpServers`"),
    ],
)
def test_a_file_of_mcp_servers_must_hold_some(
    content: bytes | None, reason: str, environ: dict[str, str], tmp_path: Path
) -> None:
    """The CLI would leave them out without a word."""
    path = tmp_path / "mcp.json"
    if content is not None:
        path.write_bytes(content)
    message = refusal(["--agent", "--mcp-config", str(path)], environ)
    assert message.startswith(f"--mcp-config {path}: ") and reason in message


def test_the_names_of_mcp_servers_are_read(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, from home too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"git": {"command": "git-mcp"}, "db": {}}}')
    assert config.read_mcp_servers("~/mcp.json") == ["git", "db"]
    assert config.load(["--agent", "--mcp-config", "~/mcp.json"], environ)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--agent"], "with --permission-mode default."),
        (["--mode", "agent", "--permission-mode", "plan"], "with --permission-mode plan."),
        (["--agent", "--permission-mode", "ask"], "each one asks first."),
        (["--agent", "--permission-mode", "bypass"], "without any check."),
    ],
)
def test_the_start_says_where_tools_work_and_what_they_may(
    argv: list[str], words: str, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts it should know."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "is_root", lambda: False)
    [note] = config.load(argv, environ).notes
    assert note == f"Agent mode: tools of the CLI work in {tmp_path}, {words}"


@pytest.mark.parametrize(("user", "wanted"), [(0, True), (1000, False), (None, False)])
def test_the_superuser_is_known_where_there_is_one(
    user: int | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has none."""
    if user is None:
        monkeypatch.delattr(os, "getuid")
    else:
        monkeypatch.setattr(os, "getuid", lambda: user)
    assert config.is_root() is wanted


@pytest.mark.parametrize("name", ["IS_SANDBOX", "CLAUDE_CODE_BUBBLEWRAP"])
def test_root_may_bypass_permissions_in_a_sandbox_alone(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The CLI ends at once otherwise; every request would fail."""
    argv = ["--agent", "--permission-mode", "bypass"]
    monkeypatch.setattr(config, "is_root", lambda: True)
    assert refusal(argv, environ).startswith("--permission-mode bypass: as root")
    assert refusal(argv, {**environ, name: "yes"}).startswith("--permission-mode bypass: as root")
    assert config.load(argv, {**environ, name: "1"})
    monkeypatch.setattr(config, "is_root", lambda: False)
    assert config.load(argv, environ)


def test_settings_without_effect_are_named(environ: dict[str, str]) -> None:
    """Those of agent mode, where it is off; none where they are as they were."""
    argv = ["--permission-mode", "ask", "--max-turns", "3"]
    assert config.load(argv, environ).notes == ["Without --agent --permission-mode, --max-turns has no effect."]
    assert config.load(["--progress", "reasoning"], environ).notes == []


def test_the_settings_of_agent_mode_are_those_that_say_so() -> None:
    """The note above names no others."""
    names = {item.name for item in config.AGENT_SETTINGS}
    assert {"allowed_tools", "workdir", "tool_timeout", "progress", "user_settings"} < names
    assert {"agent", "mode", "permission_timeout", "persist"}.isdisjoint(names)


def test_the_id_of_a_group_is_a_value_and_no_flag(environ: dict[str, str]) -> None:
    """It begins with a dash."""
    assert config.load(["--telegram-notify-id", "-100123"], environ).telegram_notify_id == "-100123"


def test_from_environment_reads_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The only place where `os.environ` is read."""
    for variable in (*config.FAMILY_VARIABLES, "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLAUDE_PROXY_PORT", "4321")
    loaded = config.from_environment(["--model", "haiku"])
    assert (loaded.port, loaded.model, loaded.environ["HOME"]) == (4321, "haiku", str(tmp_path))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/a", "/home/user/a"),
        ("b", "{here}/b"),
        ("/d.json", "/d.json"),
        ("~nobody-at-all/e", "{here}/~nobody-at-all/e"),
    ],
)
def test_a_path_is_absolute(written: str, meant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that is given it works in another folder; without such a user a tilde is only a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    assert str(config.expand(written)) == meant.format(here=tmp_path)
