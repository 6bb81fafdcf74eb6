"""An agent's turn that is ended by others ends with everything it started, and nothing more is asked of the API."""

import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.e2e.agents import AGENT, ALONE, bash, call, progress, say, wait_for_processes, wait_until_gone
from tests.e2e.conftest import Run, Start
from tests.e2e.real import PATIENCE, RealProxy
from tests.harness import Exchange, Stream, is_alive, wait_until

pytestmark = pytest.mark.e2e

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and parent-death signal")

# Each test waits for seconds of its own, by which its processes are known.
COMMANDS = {
    "two processes": "sh -c 'sleep {0} & exec tail -f --pid=1 -s {0} /dev/null'",
    "deaf to signals": "trap '' TERM INT HUP; sleep {0} & while true; do sleep {0}; done",
    "a pipeline": "sleep {0} | cat | sleep {0}",
    "left by its parents": "(setsid nohup sleep {0} >/dev/null 2>&1 &) ; sleep {0}",
}
LONGEST = 600_000


def begin(proxy: RealProxy, seconds: str, name: str = "two processes") -> tuple[Exchange, list[psutil.Process]]:
    """A stream whose command runs, and the command's processes."""
    exchange = proxy.begin(bash(COMMANDS[name].format(seconds), timeout=LONGEST), headers=AGENT)
    return exchange, wait_for_processes(seconds, 2)


def running(proxy: RealProxy) -> str:
    """The id of the one request that runs."""
    (one,) = [one for one in proxy.get("/v1/requests").json["requests"] if one["state"] == "running"]
    return str(one["id"])


def leased(proxy: RealProxy) -> int:
    """The pid of the one CLI that works."""
    (child,) = proxy.service.fleet.members.leased
    return child.child.pid


@linux
@pytest.mark.parametrize("name", COMMANDS)
def test_an_interrupt_ends_the_command_and_whatever_it_started(agent: RealProxy, name: str) -> None:
    """The client is told; the API is asked nothing more."""
    seconds = f"301.{list(COMMANDS).index(name)}101"
    exchange, processes = begin(agent, seconds, name)
    pid = leased(agent)
    assert all(os.getsid(process.pid) != os.getsid(pid) for process in processes)
    stopped = agent.send(None, path=f"/v1/requests/{running(agent)}", method="DELETE").answer()
    assert stopped.status == 200
    stream = exchange.stream()
    assert [error["code"] for error in stream.errors] == ["interrupted"] and stream.finish_reason is None
    wait_until_gone(seconds)
    agent.wait_until_idle()
    wait_until(lambda: not is_alive(pid), "the CLI has ended", PATIENCE)
    assert len(agent.bodies) == 1


def test_a_whole_answer_that_is_interrupted_is_a_409(agent: RealProxy) -> None:
    """Which the official SDKs do not try again."""
    exchange = agent.send(
        {"model": "sonnet", "messages": [{"role": "user", "content": bash("sleep 302.1101")}]}, headers=AGENT
    )
    wait_for_processes("302.1101")
    agent.send(None, path=f"/v1/requests/{running(agent)}", method="DELETE").answer()
    answer = exchange.answer()
    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (409, "interrupted", "false")
    wait_until_gone("302.1101")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_client_that_goes_takes_the_command_along(agent: RealProxy, stream: bool) -> None:
    """As if it had been interrupted; the request is listed as such."""
    seconds = f"303.{int(stream)}101"
    message = {"role": "user", "content": bash(f"sleep {seconds}", timeout=LONGEST)}
    exchange = agent.send({"model": "sonnet", "messages": [message], "stream": stream}, headers=AGENT)
    wait_for_processes(seconds)
    request = running(agent)
    exchange.close()
    wait_until_gone(seconds)
    agent.wait_until_idle()
    ended = agent.get(f"/v1/requests/{request}").json
    assert (ended["state"], ended["error"], len(agent.bodies)) == ("interrupted", "client_gone", 1)


def test_a_command_of_a_sub_agent_ends_too(agent: RealProxy) -> None:
    """It runs in the same child."""
    prompt = bash("sleep 304.1101", timeout=LONGEST)
    exchange = agent.begin(
        call("Task", description="wait", prompt=prompt, subagent_type="general-purpose"), headers=AGENT
    )
    wait_for_processes("304.1101")
    asked = len(agent.bodies)
    agent.send(None, path=f"/v1/requests/{running(agent)}", method="DELETE").answer()
    assert exchange.stream().errors[0]["code"] == "interrupted"
    wait_until_gone("304.1101")
    agent.wait_until_idle()
    assert len(agent.bodies) == asked == 2


@linux
@pytest.mark.parametrize("name", ["deaf to signals", "left by its parents"])
def test_a_cli_that_is_killed_leaves_no_command(agent: RealProxy, name: str) -> None:
    """SIGKILL from outside, in the middle of its tool: the client is told, and what lost its parent is ended."""
    seconds = f"305.{list(COMMANDS).index(name)}101"
    exchange, _ = begin(agent, seconds, name)
    os.kill(leased(agent), signal.SIGKILL)
    (error,) = exchange.stream().errors
    assert error["code"] == "upstream_error" and "signal 9" in error["message"]
    wait_until_gone(seconds)
    agent.wait_until_idle()
    assert len(agent.bodies) == 1
    assert say(agent, bash("echo on")).text.endswith("said: on")


@linux
def test_a_proxy_that_is_killed_leaves_no_command(run: Run) -> None:
    """SIGKILL: the kernel tells the CLI, which ends its commands."""
    seconds = "306.1101"
    program = run("--demo", "--agent")
    program.begin(bash(COMMANDS["deaf to signals"].format(seconds), timeout=LONGEST), headers=AGENT)
    wait_for_processes(seconds, 2)
    program.kill()
    wait_until_gone(seconds)
    program.wait_until_alone()


@linux
def test_what_a_killed_proxy_left_is_ended_at_the_next_start(run: Run) -> None:
    """A process that has lost all its parents is known by its TMPDIR."""
    seconds = "307.1101"
    program = run("--demo", "--agent")
    program.begin(bash(COMMANDS["left by its parents"].format(seconds), timeout=LONGEST), headers=AGENT)
    wait_for_processes(seconds, 2)
    program.kill()
    wait_for_processes(seconds)  # the CLI has ended what it knows of
    run("--demo")
    wait_until_gone(seconds)


def test_what_a_task_started_to_stay_stays(agent: RealProxy) -> None:
    """Its turn has ended by itself, and so has the child later."""
    seconds = "312.1101"
    answer = say(agent, bash(f"(setsid nohup sleep {seconds} >/dev/null 2>&1 &); echo started"))
    (server,) = wait_for_processes(seconds)
    try:
        assert answer.text.endswith("said: started")
        (child,) = [one for one in agent.service.fleet.members.live]
        agent.service.fleet.retire_idle()
        wait_until(lambda: not is_alive(child.child.pid), "the child has ended", PATIENCE)
        assert is_alive(server.pid)
    finally:
        server.kill()
        wait_until_gone(seconds)


def test_a_proxy_that_ends_in_time_takes_the_command_along(run: Run) -> None:
    """SIGTERM, and a turn that does not end: the client is told, the status is 1, nothing is left."""
    program = run("--demo", "--agent", "--shutdown-timeout", "0.5")
    exchange = program.begin(bash("sleep 308.1101", timeout=LONGEST), headers=AGENT)
    wait_for_processes("308.1101")
    program.signal(signal.SIGTERM)
    assert "shutting_down" in list(exchange.records())[-1]
    assert program.wait() == 1
    wait_until_gone("308.1101")
    program.wait_until_alone()
    assert program.run_folders() == []


def test_a_tool_that_takes_too_long_is_ended(start: Start, tmp_path: Path) -> None:
    """504, and the message names the tool; the child goes with it."""
    proxy = start(**ALONE, workdir=str(tmp_path), tool_timeout=1.5)
    message = {"role": "user", "content": bash("sleep 309.1101", timeout=LONGEST)}
    answer = proxy.send({"model": "sonnet", "messages": [message]}, headers=AGENT).answer()
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    assert "1.5 s" in answer.error["message"] and "Bash: sleep 309.1101" in answer.error["message"]
    wait_until_gone("309.1101")
    assert len(proxy.bodies) == 1


def test_a_quiet_tool_is_no_silence(start: Start, tmp_path: Path) -> None:
    """It may take longer than the child may be silent."""
    proxy = start(**ALONE, workdir=str(tmp_path), inactivity_timeout=2.0)
    slow = say(proxy, bash("sleep 3; echo done"))
    assert slow.text.endswith("said: done")
    assert float(re.findall(r"\((\S+) s\)", progress(slow)[1])[0]) >= 3


def test_a_tool_that_the_cli_ends_itself_is_told(agent: RealProxy) -> None:
    """The tool's own `timeout`: the turn goes on."""
    answer = say(agent, bash("sleep 310.1101", timeout=1000))
    assert "failed" in answer.text or "timed out" in answer.text.lower()
    wait_until_gone("310.1101")


def test_one_of_two_turns_is_interrupted(agent: RealProxy) -> None:
    """The other one's command goes on."""
    one, _ = begin(agent, "311.1101")
    first = running(agent)
    other = agent.begin(bash("sleep 1; echo other"), headers=AGENT)
    assert agent.send(None, path=f"/v1/requests/{first}", method="DELETE").answer().status == 200
    assert one.stream().errors
    stream: Stream = other.stream()
    assert stream.errors == [] and stream.text.endswith("said: other")
    wait_until_gone("311.1101")
