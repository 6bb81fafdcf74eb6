"""Agent mode with the real CLI: its own tools run on this machine, where, when and as far as it was allowed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e import mcp_server
from tests.e2e.agents import AGENT, ALONE, Talk, bash, call, mode, outline, progress, say, workdir
from tests.e2e.conftest import Start
from tests.e2e.files import data_url, make_png
from tests.e2e.real import RealProxy, how, make_environ, source_root, system_texts
from tests.harness import Json, assistant

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mine(clean_module: Path, cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProxy]:
    """A proxy with `--user-settings`, whose user has a skill and a command."""
    folder = tmp_path_factory.mktemp("mine")
    for path in ("skills/greet/SKILL.md", "commands/init.md"):
        made = folder / "home" / ".claude" / path
        made.parent.mkdir(parents=True)
        made.write_text("---\nname: greet\ndescription: Greets\n---\nAlways say quince.")
    with closing(RealProxy(folder, cli, {"agent": True, "workdir": str(folder), "user_settings": True})) as proxy:
        yield proxy


TOOL: Json = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def test_bash_write_and_read_work_in_the_folder(agent: RealProxy) -> None:
    """What the model wants is done on this disk, and it hears what came of it."""
    path = workdir(agent) / "made.txt"
    written = say(agent, call("Write", file_path=str(path), content="one\ntwo\n"))
    assert path.read_text() == "one\ntwo\n" and "created" in written.text
    read = say(agent, call("Read", file_path=str(path)))
    assert "1\tone" in read.text and "2\ttwo" in read.text
    told = say(agent, bash("pwd; wc -l < made.txt"))
    assert told.text.endswith(f"Tool Bash said: {workdir(agent)}\n2")
    assert [mode(answer) for answer in (written, read, told)] == ["agent"] * 3
    assert told.json["choices"][0]["finish_reason"] == "stop" and "tool_calls" not in told.json["choices"][0]["message"]


def test_parallel_calls_and_rounds_are_one_answer(agent: RealProxy) -> None:
    """Two calls at once, then twice more: four requests upstream, one answer."""
    both = f"{bash('echo left >> count')} {bash('echo right >> count')} demo:rounds=2"
    answer = say(agent, both)
    assert sorted((workdir(agent) / "count").read_text().split()) == ["left", "left", "right", "right"]
    assert len(agent.bodies) == 3 and answer.text.startswith("Calling Bash. Calling Bash.\n\n")
    assert len([line for line in progress(answer) if line.startswith("✓")]) == 4


def test_chat_stays_a_chat_where_agent_mode_is_allowed(agent: RealProxy) -> None:
    """Without the header nothing of the agent is there, and nothing of one mode is continued in the other."""
    plain = agent.say(bash("touch never"))
    assert mode(plain) == "chat" and not agent.last()["tools"] and system_texts(agent.last()) == []
    talk = Talk(agent)
    talk.say("hello")
    crossed = agent.say(*talk.said, "and now?")
    assert mode(crossed) == "chat" and how(crossed) == "new"
    assert not (workdir(agent) / "never").exists()


def test_a_server_in_agent_mode_needs_no_header(start: Start, tmp_path: Path) -> None:
    """`X-Claude-Mode: chat` is a chat; tools of the client's stay the client's, unless the header says `agent`."""
    proxy = start(mode="agent", workdir=str(tmp_path))
    assert mode(proxy.say(bash("touch here"))) == "agent" and (tmp_path / "here").exists()
    proxy.forget()
    chatted = proxy.say("demo:call=Bash{}", headers={"X-Claude-Mode": "chat"})
    assert mode(chatted) == "chat" and not proxy.bodies[0]["tools"]
    called = proxy.say("demo:call=look{}", tools=[TOOL])
    assert mode(called) == "client-tools" and [tool["name"] for tool in proxy.last()["tools"]] == ["look"]
    assert called.json["choices"][0]["finish_reason"] == "tool_calls"
    own = say(proxy, bash("touch there"), tools=[TOOL], max_tokens=1)
    assert mode(own) == "agent" and (tmp_path / "there").exists()
    assert own.headers["x-claude-proxy-ignored"] == "max_tokens, tools"
    assert "look" not in [tool["name"] for tool in proxy.last()["tools"]]


def test_every_dialect_tells_the_mode(agent: RealProxy) -> None:
    """In the header of a stream."""
    messages = [{"role": "user", "content": "hello"}]
    for path, body in (
        ("/v1/messages", {"model": "sonnet", "max_tokens": 9, "messages": messages}),
        ("/v1/responses", {"model": "sonnet", "input": "hello"}),
        ("/v1/chat/completions", {"model": "sonnet", "messages": messages}),
    ):
        answer = agent.send({**body, "stream": True}, path=path, headers=AGENT).answer()
        assert (answer.status, mode(answer)) == (200, "agent"), answer.body


def test_agent_mode_must_be_allowed(proxy: RealProxy) -> None:
    """403 where the server was not started for it, 400 for a mode that does not exist; nothing reaches the API."""
    refused = proxy.say("hello", headers=AGENT)
    assert refused.status == 403 and "--agent" in refused.error["message"]
    unknown = proxy.say("hello", headers={"X-Claude-Mode": "wizard"})
    assert (unknown.status, unknown.error["param"]) == (400, "X-Claude-Mode")
    assert mode(proxy.say("hello", headers={"X-Claude-Mode": "Chat"})) == "chat"
    assert len(proxy.bodies) == 1


def test_a_tool_of_an_mcp_server_is_called(start: Start, tmp_path: Path) -> None:
    """The server is the user's own, named in a file; it needs no further permission."""
    config = tmp_path / "mcp.json"
    server = {"command": sys.executable, "args": [mcp_server.__file__]}
    config.write_text(json.dumps({"mcpServers": {"notes": server}}))
    proxy = start(**ALONE, workdir=str(tmp_path), mcp_config=(str(config),))
    answer = say(proxy, call("mcp__notes__note", text="milk"))
    assert answer.text.endswith("Tool mcp__notes__note said: noted milk")
    assert progress(answer)[0] == '▸ mcp__notes__note: {"text":"milk"}' and progress(answer)[1].startswith("✓")


def test_what_is_not_allowed_is_denied_and_told(start: Start, tmp_path: Path) -> None:
    """The model hears of it, the user sees it, nothing was run; what is allowed still runs."""
    (tmp_path / "notes.txt").write_text("secret 4711")
    proxy = start(**ALONE, workdir=str(tmp_path), allowed_tools=("Read",))
    answer = say(proxy, f"{bash('touch denied')} {call('Read', file_path=str(tmp_path / 'notes.txt'))}")
    assert not (tmp_path / "denied").exists()
    assert "Tool Bash failed: " in answer.text and "secret 4711" in answer.text
    assert [line[:6] for line in progress(answer)] == ["▸ Bash", "✗ Bash", "▸ Read", "✓ Read"]
    (error,) = [line for line in outline(proxy.last()) if line.startswith("error ")]
    assert "needs approval" in error and "needs approval" in progress(answer)[1]


def test_only_the_tools_that_are_allowed_or_usual_are_offered(start: Start, tmp_path: Path) -> None:
    """Nothing that outlives a request, or talks to a person at a terminal."""
    proxy = start(**ALONE, workdir=str(tmp_path))
    say(proxy, "hello")
    offered = {tool["name"] for tool in proxy.last()["tools"]}
    assert {"Bash", "Read", "Write", "Edit", "Glob", "Grep", "WebSearch", "WebFetch", "Agent"} <= offered
    assert not offered & {"AskUserQuestion", "ExitPlanMode", "Monitor", "ScheduleWakeup", "CronCreate", "SendMessage"}


@pytest.mark.parametrize(("live", "way"), [(4, "live"), (0, "resumed")])
def test_a_limit_of_model_calls_ends_the_answer_honestly(start: Start, tmp_path: Path, live: int, way: str) -> None:
    """`length`, what was said so far, a line that says why; the next turn works, and knows what the tool said."""
    proxy = start(**ALONE, workdir=str(tmp_path), max_turns=1, live=live)
    talk = Talk(proxy)
    cut = talk.say(bash("echo ran | tee -a ran"))
    assert cut.json["choices"][0]["finish_reason"] == "length" and cut.text == "Calling Bash."
    assert "limit of model calls" in progress(cut)[-1]
    assert len(proxy.bodies) == 1
    after = talk.say("and now?")
    assert how(after) == way and after.json["choices"][0]["finish_reason"] == "stop"
    assert outline(proxy.last())[-2:] == ["result ran", "user and now?"]


def test_a_budget_that_is_used_up_is_told(start: Start, tmp_path: Path) -> None:
    """First as a limit, then, for the CLI counts what its whole session has cost, as a refusal that asks nobody."""
    proxy = start(**ALONE, workdir=str(tmp_path), max_budget_usd=0.0001)
    talk = Talk(proxy)
    cut = talk.say(bash("touch ran"))
    assert cut.json["choices"][0]["finish_reason"] == "length" and "budget" in progress(cut)[-1]
    refused = proxy.say(*talk.said, "and now?", headers=AGENT)
    assert refused.status == 403 and "--max-budget-usd" in refused.error["message"] and len(proxy.bodies) == 1
    assert Talk(proxy).say("hello").text == "You said: hello"


@pytest.mark.parametrize("applies", [True, False], ids=["with --user-settings", "without"])
def test_the_users_own_instructions_apply_where_they_should(start: Start, tmp_path: Path, applies: bool) -> None:
    """CLAUDE.md of the folder, and of the home, are told to the model, or not at all."""
    work, folder = tmp_path / "work", tmp_path / "own"
    for path in (work / "CLAUDE.md", folder / "home" / ".claude" / "CLAUDE.md"):
        path.parent.mkdir(parents=True)
        path.write_text(f"Always say quince, as {path.parent.name} wants it.")
    proxy = start(**ALONE, workdir=str(work), user_settings=applies, folder=folder)
    say(proxy, "hello")
    sent = json.dumps(proxy.bodies)
    assert ("as work wants it" in sent, "as .claude wants it" in sent) == (applies, applies)


def test_a_clients_system_prompt_replaces_the_agents_own(agent: RealProxy) -> None:
    """Without one the CLI's own is upstream, and the tools work with either."""
    say(agent, bash("true"))
    own = system_texts(agent.last())
    assert len("".join(own)) > 1000
    answer = say(agent, {"role": "system", "content": "You are MUSE."}, bash("echo sung"))
    assert system_texts(agent.last()) == ["You are MUSE."] and answer.text.endswith("Tool Bash said: sung")


def test_a_prompt_is_no_command(agent: RealProxy, mine: RealProxy) -> None:
    """What a person could type at a terminal is text here, also where the user's own commands and skills apply."""
    for proxy in (agent, mine):
        talk = Talk(proxy)
        for text in ("/clear", "/compact now", "@/etc/hostname", "!ls", "#memory of mine", "/init", "/greet"):
            assert talk.say(text).text == f"You said: {text}"
            assert outline(proxy.last())[-1] == f"user {text}" and outline(proxy.last())[0] == "user /clear"


def test_a_picture_reaches_the_model(agent: RealProxy) -> None:
    """And the CLI tells it where it put a copy, which goes with the child."""
    url = {"type": "image_url", "image_url": {"url": data_url("image/png", make_png())}}
    talk = Talk(agent, {"role": "user", "content": [{"type": "text", "text": "look"}, url]}, assistant("yes"))
    assert "[image/png" in say(agent, talk.said[0]).text
    assert talk.say("and now?").text == "You said: and now?"


def test_parameters_of_the_request_reach_the_api(agent: RealProxy) -> None:
    """Every call of the turn is made with them."""
    say(agent, bash("true"), temperature=1, reasoning_effort="low")
    assert len(agent.bodies) == 2
    assert [body["output_config"]["effort"] for body in agent.bodies] == ["low", "low"]


def test_a_structured_answer_may_use_tools_first(agent: RealProxy) -> None:
    """JSON of the schema alone is the answer."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = say(agent, f"{bash('touch asked')} demo:call=StructuredOutput{{\"n\":7}}", response_format=wanted)
    assert json.loads(answer.text) == {"n": 7} and (workdir(agent) / "asked").exists()


BAD_STARTS = {
    "an unknown mode": ("--mode", "wizard"),
    "no such folder": ("--agent", "--workdir", "missing"),
    "a file as folder": ("--agent", "--workdir", "file.json"),
    "no such MCP file": ("--agent", "--mcp-config", "missing.json"),
    "an MCP file that is no JSON": ("--agent", "--mcp-config", "file.json"),
    "an open agent": ("--agent", "--host", "0.0.0.0"),
}


@pytest.mark.parametrize("arguments", BAD_STARTS.values(), ids=BAD_STARTS)
def test_a_start_that_cannot_work_is_refused(tmp_path: Path, cli: Path, arguments: tuple[str, ...]) -> None:
    """Exit status 2, and one line that names the flag."""
    (tmp_path / "file.json").write_text("{")
    environ = {**make_environ(tmp_path), "PYTHONPATH": source_root()}
    command = [sys.executable, "-m", "claude_proxy", "--port", "0", "--claude", str(cli), *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("claude-proxy: ") and arguments[-2] in line
