"""The program itself, run inside the test: what it prints, how it ends, what it returns."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from claude_proxy import __main__ as program
from claude_proxy import config, logs
from claude_proxy.claude.fleet.members import Counts
from claude_proxy.claude.wire.recycling import NOTHING
from claude_proxy.config import Config
from claude_proxy.service import Service, Status
from tests.fake_cli import Script, install, kill_everything
from tests.harness import DEADLINE, Exchange, chat, wait_until

FAKE = "cli"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's environment without settings; what the program changes in this process is put back."""
    for name in list(os.environ):
        if name.startswith("CLAUDE") or name in config.FAMILY_VARIABLES:
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interval = sys.getswitchinterval()
    monkeypatch.setattr(logs, "configure", lambda level, as_json: None)
    yield tmp_path
    sys.setswitchinterval(interval)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if (tmp_path / FAKE / "claude").exists():
        kill_everything(tmp_path / FAKE / "claude")


def run(monkeypatch: pytest.MonkeyPatch, argv: list[str], use: Callable[[int], None]) -> int:
    """`main(argv)`; once it listens `use` is called with its port, in a thread, and then it is sent SIGTERM."""
    ports: list[int] = []
    announce = program._announce

    def announced(settings: Config, service: Service, port: int) -> None:
        announce(settings, service, port)
        ports.append(port)

    def visit() -> None:
        try:
            wait_until(lambda: ports, "the proxy listening")
            use(ports[0])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(program, "_announce", announced)
    visitor = threading.Thread(target=visit, name="visitor")
    visitor.start()
    try:
        return program.main(argv)
    finally:
        visitor.join(DEADLINE)


def test_it_serves_until_a_signal_comes(
    environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says where it listens, which CLI it uses and that it is logged in; it ends with status 0."""
    claude = install(environment / FAKE, Script())
    statuses: list[int] = []

    def use(port: int) -> None:
        body = json.dumps(chat("hello")).encode()
        headers = {"Content-Type": "application/json"}
        statuses.append(Exchange(port, "POST", "/v1/chat/completions", body, headers).answer().status)

    monkeypatch.setenv("CLAUDECODE", "1")
    assert run(monkeypatch, ["--port", "0", "--claude", str(claude), "--warm", "0"], use) == 0
    assert statuses == [200]
    printed = capsys.readouterr()
    assert "OpenAI base URL: http://127.0.0.1:" in printed.out and "/v1)" in printed.out
    assert f"Claude Code CLI 2.1.329 at {claude}" in printed.out and "logged in" in printed.out
    assert "inside a Claude Code session" in printed.out
    assert "a second signal exits now" in printed.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--port", "70000"], "70000"),
        (["--host", "0.0.0.0"], "--api-key"),
        (["--agent", "--workdir", "/no/such/folder"], "--workdir"),
        (["--fallback-model", "gpt-x", "--unknown-model", "error"], "--fallback-model gpt-x"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line_and_status_2(
    environment: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    """On stderr; nothing is started."""
    assert program.main(argv) == 2
    printed = capsys.readouterr()
    assert words in printed.err and printed.err.count("\n") == 1 and printed.out == ""


@pytest.mark.parametrize(
    ("path", "problem", "logged_in", "words"),
    [
        ("/x/claude", None, True, ["Claude Code CLI 2.1.329 at /x/claude", "The CLI is logged in."]),
        (None, "not found. Run: curl", None, ["Not ready: not found. Run: curl"]),
        ("/x/claude", None, None, ["Claude Code CLI 2.1.329 at /x/claude", "could not be asked"]),
    ],
)
def test_the_start_says_what_is_missing(
    path: str | None, problem: str | None, logged_in: bool | None, words: list[str]
) -> None:
    """Line by line."""
    found = {"cli_path": path, "cli_version": "2.1.329", "cli_problem": problem, "logged_in": logged_in}
    rest = {"active": 0, "queued": 0, "fleet": Counts(), "sessions": 0, "draining": False}
    rest |= {"recycling": NOTHING, "recycling_reason": ""}
    lines = program.describe(Status(**found, **rest))  # type: ignore[arg-type]
    assert len(lines) == len(words) and all(word in line for word, line in zip(words, lines, strict=True))


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, whose handlers are put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("as_json", [False, True])
def test_log_lines_go_to_stderr(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """As text, or as one JSON object each, with the traceback where there is one."""
    logs.configure("info", as_json=as_json)
    logging.getLogger("claude_proxy.test").info("hello %s", "there")
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("claude_proxy.test").exception("failed")
    printed = capsys.readouterr().err
    if not as_json:
        assert "INFO hello there" in printed and "ValueError: oops" in printed
        return
    first, second = (json.loads(line) for line in printed.splitlines())
    assert (first["level"], first["message"], first["logger"]) == ("info", "hello there", "claude_proxy.test")
    assert "traceback" not in first and "ValueError: oops" in second["traceback"]
