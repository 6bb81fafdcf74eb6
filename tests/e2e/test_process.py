"""The program as a process: how it ends, what it leaves, and what becomes of it when others end it."""

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import Run
from tests.e2e.real import PATIENCE, Program, end_by_pid, how
from tests.harness import Exchange, assistant, wait_until

pytestmark = pytest.mark.e2e

# Elsewhere there is no parent-death signal: what a killed proxy leaves behind is ended at the next start.
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal")

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def begin_turn(program: Program, text: str = "demo:words=40 demo:delay=100") -> tuple[Exchange, list[str]]:
    """A stream whose first words have come."""
    exchange = program.begin(text)
    seen: list[str] = []
    for record in exchange.records():
        seen.append(record)
        if "word2" in record:
            break
    return exchange, seen


def wait_until_warm(program: Program) -> None:
    """A spare is ready: what there is when nobody asks for anything."""
    wait_until(lambda: _clis(program), "a child", PATIENCE)


def _clis(program: Program) -> list[psutil.Process]:
    """Its children that wait for a conversation or hold one; not those that are asked for their version."""
    found = []
    for child in program.children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.ppid() == program.pid and "stream-json" in child.cmdline() else []
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_running_turn_end(run: Run, number: int) -> None:
    """Every word of it is sent, nothing new is taken, and no process or folder is left; the status is 0."""
    program = run("--demo")
    exchange, seen = begin_turn(program)
    program.signal(number)
    wait_until(lambda: program.health()["status"] == "draining", "it drains", PATIENCE)
    refused = program.say("one more")
    assert (refused.status, refused.error["code"]) == (503, "shutting_down")
    seen += list(exchange.records())
    exchange.close()
    assert "word40" in "".join(seen) and seen[-1] == "data: [DONE]"
    assert program.wait() == 0
    program.wait_until_alone()
    assert program.run_folders() == []


def test_a_signal_ends_an_idle_proxy(run: Run) -> None:
    """With its spare and a kept conversation; the status is 0."""
    program = run("--demo")
    assert program.say("hello").text == "You said: hello"
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    program.wait_until_alone()
    assert program.run_folders() == []


def test_a_turn_that_does_not_end_is_ended_when_time_is_up(run: Run) -> None:
    """Its client is told why; the status is 1."""
    program = run("--demo", "--shutdown-timeout", "0.5")
    exchange, _ = begin_turn(program, "demo:words=20 demo:stall=3")
    program.signal(signal.SIGTERM)
    assert "shutting_down" in list(exchange.records())[-1]
    exchange.close()
    assert program.wait() == 1
    program.wait_until_alone()
    assert program.run_folders() == []


def test_a_second_signal_ends_it_at_once(run: Run) -> None:
    """In the middle of a turn, with time left to drain; its children go with it."""
    program = run("--demo", "--shutdown-timeout", "300")
    exchange, _ = begin_turn(program, "demo:words=20 demo:stall=3")
    program.signal(signal.SIGINT)
    program.wait_for_line(re.compile("Finishing"))
    program.signal(signal.SIGINT)
    assert program.wait() == 1
    program.wait_until_alone()
    exchange.close()


@linux
def test_a_kill_while_idle_leaves_no_process(run: Run) -> None:
    """Neither a spare nor a child with a conversation."""
    program = run("--demo")
    assert program.say("hello").text == "You said: hello"
    wait_until(lambda: len(_clis(program)) >= 2, "a spare and a live child", PATIENCE)
    program.kill()
    program.wait_until_alone()


@linux
def test_a_kill_in_the_middle_of_a_turn_leaves_no_process(run: Run) -> None:
    """The CLI would go on to the end of the turn by itself."""
    program = run("--demo")
    exchange, _ = begin_turn(program, "demo:words=20 demo:stall=3")
    program.kill()
    program.wait_until_alone()
    exchange.close()


@linux
def test_a_kill_while_a_turn_is_parked_leaves_no_process(run: Run) -> None:
    """The CLI would take the end of its input for the end of its call."""
    program = run("--demo")
    answer = program.say("demo:call=look{}", tools=[TOOL])
    assert answer.json["choices"][0]["finish_reason"] == "tool_calls"
    program.kill()
    program.wait_until_alone()


@linux
def test_kills_leave_no_folders_beyond_the_next_start(run: Run, tmp_path: Path) -> None:
    """Five of them, then a start: its own folder is the only one, and goes with it; sockets and probes, too."""
    folder = tmp_path / "killed"
    for number in range(5):
        program = run("--demo", folder=folder)
        if number % 2:
            begin_turn(program, "demo:words=20 demo:stall=3")[0].close()
        else:
            wait_until_warm(program)
        assert 1 <= len(program.run_folders()) <= 2  # the check of the start has one of its own, for a second
        program.kill()
        program.wait_until_alone()
    last = run("--demo", folder=folder)
    wait_until_warm(last)
    wait_until(lambda: last.health()["recycling"]["reason"] != "not checked yet", "the check has ended", PATIENCE)
    assert len(last.run_folders()) == 1
    last.signal(signal.SIGTERM)
    assert last.wait() == 0
    assert sorted(path.name for path in (folder / "tmp").iterdir()) == []


def test_it_works_inside_a_session_of_claude_code(run: Run) -> None:
    """It says so, and its children know nothing of it."""
    session = {
        "CLAUDECODE": "1",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "CLAUDE_CODE_SESSION_ID": "0c7f3a52-0000-4000-8000-000000000000",
        "CLAUDE_CODE_SSE_PORT": "1",
    }
    program = run("--demo", **session)
    program.wait_for_line(re.compile("inside a Claude Code session"))
    assert program.say("hello").text == "You said: hello"
    for child in _clis(program):
        assert not set(session) & set(child.environ())


def test_it_says_what_it_runs(run: Run) -> None:
    """Address, CLI with version, login; `/health` says the same."""
    program = run("--demo")
    version = program.wait_for_line(re.compile(r"Claude Code CLI (\d+\.\d+\.\d+) at "))[1]
    program.wait_for_line(re.compile("(?i)logged in"))
    health = program.health()
    assert health["status"] == "ok" and version in str(health)


def test_a_refused_login_is_told_within_seconds(run: Run) -> None:
    """The CLI would try for minutes."""
    program = run("--demo")
    begun = time.monotonic()
    answer = program.say("demo:status=401")
    took = time.monotonic() - begun
    assert (answer.status, answer.error["code"]) == (503, "not_authenticated")
    assert "claude auth login" in answer.error["message"] and answer.headers["x-should-retry"] == "false"
    assert took < 10, "no deadline of ours: the CLI's own patience is three minutes"
    assert program.say("hello").text == "You said: hello"


def test_without_a_login_it_says_what_to_run(run: Run, tmp_path: Path) -> None:
    """At its start, and to every client, with an empty HOME; no network is needed to find out."""
    program = run(ANTHROPIC_BASE_URL="http://127.0.0.1:9", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1")
    program.wait_for_line(re.compile("Not ready: .*not logged in.* Run: .*claude auth login"))
    answer = program.say("hello")
    assert (answer.status, answer.error["code"]) == (503, "not_authenticated")
    assert "claude auth login" in answer.error["message"]


def test_a_child_that_is_killed_while_idle_costs_a_replay(run: Run) -> None:
    """Each of them, with SIGKILL: the next turn is right, and the one after it live."""
    program = run("--demo")
    said: list[Any] = ["one"]
    said += [assistant(program.say(*said).text), "two"]
    wait_until(lambda: len(_clis(program)) >= 2, "a spare and a live child", PATIENCE)
    children = _clis(program)
    end_by_pid(children)
    wait_until(
        lambda: not any(child.is_running() and child.status() != "zombie" for child in children), "dead", PATIENCE
    )
    answer = program.say(*said)
    assert (answer.text, how(answer)) == ("You said: two", "replayed")
    said += [assistant(answer.text), "three"]
    assert how(program.say(*said)) == "live"


def test_nothing_of_a_demo_is_left_in_the_home(run: Run) -> None:
    """Nor in the folder that it was started in: a demo keeps its files under TMPDIR, and takes them along."""
    program = run("--demo")
    assert program.say("hello").text == "You said: hello"
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    left = [str(path.relative_to(program.folder)) for path in program.folder.rglob("*") if path.is_file()]
    assert left == []
    assert os.listdir(program.folder / "tmp") == []
