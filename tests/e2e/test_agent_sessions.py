"""Conversations with the agent: what its tools said stays in them, through restarts and kills, and in no other one."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.agents import (
    AGENT,
    ALONE,
    Talk,
    bash,
    call,
    outline,
    outlines,
    processes_saying,
    say,
    wait_for_processes,
    wait_until_gone,
    workdir,
)
from tests.e2e.conftest import Start
from tests.e2e.real import PATIENCE, RECORDED, Program, RealProxy, calls, files_with, how, make_environ, session_id
from tests.harness import Answer, assistant, wait_until
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e

# What the first turn of `opened` leaves behind: the tool and its result are in no message of the client's.
OPENING = bash("echo plum")
OPENED = [
    f"user {OPENING}",
    "assistant Calling Bash.",
    'call Bash {"command":"echo plum"}',
    "result plum",
    "assistant Tool Bash said: plum",
]
SUB_AGENT = call("Task", description="plumzebra", prompt=bash("echo plumzebra"), subagent_type="general-purpose")


def opened(proxy: Any) -> Talk:
    """A conversation whose first turn has used a tool."""
    talk = Talk(proxy)
    assert talk.say(OPENING).text == "Calling Bash.\n\nTool Bash said: plum"
    return talk


def heard(api: Upstream, text: str) -> list[str]:
    """The outline of the one request upstream whose newest message says this, less that message."""
    found = [lines for lines in (outline(dict(one.body)) for one in calls(api)) if lines[-1] == f"user {text}"]
    assert len(found) == 1, found
    return found[0][:-1]


@pytest.fixture
def api() -> Iterator[Upstream]:
    """An API that outlives the proxies."""
    with Upstream(record=RECORDED) as made:
        yield made


def test_a_child_that_is_kept_knows_what_its_tools_said(agent: RealProxy) -> None:
    """The next turn is live."""
    talk = opened(agent)
    assert talk.how("and now?") == "live"
    assert heard(agent.api, "and now?") == OPENED


def test_a_child_that_went_is_resumed(start: Start, tmp_path: Path) -> None:
    """Again and again, each time from where the last one was; the id of the conversation stays."""
    proxy = start(**ALONE, workdir=str(tmp_path), live=0)
    talk = opened(proxy)
    second, third = talk.say(bash("echo fig")), talk.say("and now?")
    assert (how(second), how(third)) == ("resumed", "resumed") and session_id(second) == session_id(third)
    assert heard(proxy.api, "and now?") == [
        *OPENED,
        f"user {bash('echo fig')}",
        "assistant Calling Bash.",
        'call Bash {"command":"echo fig"}',
        "result fig",
        "assistant Tool Bash said: fig",
    ]


def test_a_restart_loses_nothing(start: Start, tmp_path: Path, api: Upstream) -> None:
    """The conversation is resumed, and live from then on."""
    folder = tmp_path / "kept"
    settings = {"folder": folder, "api": api, **ALONE, "workdir": str(tmp_path)}
    first = start(**settings)
    talk = opened(first)
    first.close()
    talk.proxy = start(**settings)
    assert [talk.how(text) for text in ("and now?", "and then?")] == ["resumed", "live"]
    assert heard(api, "and now?") == OPENED
    assert heard(api, "and then?") == [*OPENED, "user and now?", "assistant You said: and now?"]


def test_a_kill_loses_only_the_turn_at_hand(cli: Path, tmp_path: Path, api: Upstream) -> None:
    """SIGKILL in the middle of a tool: nothing of that turn is in the conversation when it goes on."""
    folder = tmp_path / "program"

    def start() -> Program:
        arguments = ("--state-dir", str(folder / "state"), "--agent", "--workdir", str(tmp_path))
        return Program(folder, cli, *arguments, environ=make_environ(folder, api.base_url))

    with closing(start()) as program:
        talk = opened(program)
        program.begin(*talk.said, bash("echo lost; exec sleep 4711.5"), headers=AGENT)
        wait_for_processes("4711.5")
        program.kill()
        program.wait_until_alone()
        assert processes_saying("4711.5") == []
    with closing(start()) as program:
        talk.proxy = program
        assert talk.how("and now?") == "resumed"
        assert heard(api, "and now?") == OPENED


def test_a_regenerated_answer_knows_nothing_of_what_came_later(agent: RealProxy) -> None:
    """Neither the first one nor the second; and the conversation itself goes on undisturbed."""
    talk = opened(agent)
    talk.say("later")
    again = Talk(agent, *talk.said[:2])
    assert again.how("other") == "resumed"
    assert heard(agent.api, "other") == OPENED
    agent.forget()
    fresh = Talk(agent)
    assert fresh.how(OPENING) == "new"
    assert outlines(agent) == [OPENED[:1], OPENED[:4]]
    assert talk.how("last") == "live"
    assert heard(agent.api, "last") == [*OPENED, "user later", "assistant You said: later"]
    assert again.how("other last") == "live"
    assert heard(agent.api, "other last") == [*OPENED, "user other", "assistant You said: other"]


def test_two_turns_at_once_in_one_conversation_do_not_meet(agent: RealProxy) -> None:
    """Each is answered from what the client had, and each branch can go on."""
    talk = opened(agent)
    branches = [Talk(agent, *talk.said) for _ in range(2)]
    ready = threading.Barrier(2)

    def ask(index: int) -> Answer:
        ready.wait(PATIENCE)
        return branches[index].say(bash(f"echo branch{index}"))

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(ask, range(2)))
    assert sorted(how(answer) for answer in answers) == ["live", "resumed"]
    for index, answer in enumerate(answers):
        assert answer.text.endswith(f"said: branch{index}")
    for lines in outlines(agent):
        assert not ("branch0" in str(lines) and "branch1" in str(lines))
    for index, branch in enumerate(branches):
        branch.say(f"end {index}")
        assert heard(agent.api, f"end {index}")[-2:] == [
            f"result branch{index}",
            f"assistant Tool Bash said: branch{index}",
        ]


def test_two_turns_at_once_in_one_named_session_follow_one_another(agent: RealProxy) -> None:
    """Whoever gives a conversation a name wants it to be one."""
    log = workdir(agent) / "log"
    command = bash(f"echo begin >> {log}; sleep 0.4; echo end >> {log}")
    headers = {"X-Session-Id": "one name"}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: say(agent, command, headers=headers), range(2)))
    assert log.read_text().split() == ["begin", "end"] * 2
    assert {session_id(answer) for answer in answers} == {"hdr_one%20name"}


def test_a_conversation_that_was_compacted_goes_on(start: Start, tmp_path: Path) -> None:
    """The CLI makes room by itself, unseen; live and resumed it goes on from the summary."""
    window = {"CLAUDE_CODE_AUTO_COMPACT_WINDOW": "100000", "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE": "1"}
    proxy = start(**ALONE, workdir=str(tmp_path), environ=window)
    talk = Talk(proxy)
    answer = talk.say(f"{bash('seq 1 5000 | head -c 29000')} demo:rounds=3")
    assert [lines for lines in outlines(proxy) if lines[-1].startswith("user CRITICAL: Respond with TEXT ONLY")]
    assert answer.text.startswith("Calling Bash.\n\n" * 3 + "You said: This session is being continued")
    assert talk.how("and now?") == "live"
    proxy.service.fleet.retire_idle()
    assert talk.how("and then?") == "resumed"
    assert outline(proxy.last())[0].startswith("user This session is being continued")
    assert not any("seq 1 5000" in line and line.startswith("call") for line in outline(proxy.last()))


def test_conversations_that_open_alike_stay_apart(agent: RealProxy) -> None:
    """Three at once, each with tools; what is in one is in no other."""
    ready = threading.Barrier(3)

    def talk(name: str) -> list[str]:
        client = opened(agent)
        ready.wait(PATIENCE)
        return [client.say(bash(f"echo {name}{number}")).text for number in range(2)]

    names = ("red", "green", "blue")
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(talk, names))
    for name, texts in zip(names, answers, strict=True):
        assert [text.rpartition(" ")[2] for text in texts] == [f"{name}0", f"{name}1"]
    for lines in outlines(agent):
        assert len([name for name in names if name in str(lines)]) < 2, lines


def test_a_conversation_that_the_cli_lost_is_replayed(agent: RealProxy) -> None:
    """Without what the tools said, but in its words; the client notices nothing else."""
    talk = opened(agent)
    agent.service.fleet.retire_idle()
    for path in (agent.folder / "home" / ".claude" / "projects").rglob("*.jsonl"):
        path.unlink()
    assert talk.how("and now?") == "replayed"
    assert heard(agent.api, "and now?") == [OPENED[0], "assistant Calling Bash.\n\nTool Bash said: plum"]


def test_a_conversation_of_a_chat_can_be_handed_to_the_agent(agent: RealProxy) -> None:
    """It is replayed as the client tells it."""
    agent.say("hello")
    answer = say(agent, "hello", assistant("You said: hello"), bash("echo on"))
    assert how(answer) == "new" and answer.text.endswith("said: on")
    assert outlines(agent)[1][:2] == ["user hello", "assistant You said: hello"]


def test_a_session_that_is_deleted_leaves_nothing(agent: RealProxy) -> None:
    """No file of the CLI's that holds a word of it, whichever way it went on, and it is not resumed."""
    talk = Talk(agent)
    talk.say(bash("seq 1 20000; echo plumzebra; seq 1 20000"))
    talk.say(SUB_AGENT)
    agent.service.fleet.retire_idle()
    talk.say("third")
    Talk(agent, *talk.said[:2]).say("branch")
    assert files_with(agent.folder / "home", b"plumzebra")
    for one in agent.get("/v1/sessions").json["sessions"]:
        assert agent.send(None, path=f"/v1/sessions/{one['externalId']}", method="DELETE").answer().status == 200
    agent.wait_until_idle()
    wait_until(lambda: not files_with(agent.folder / "home", b"plumzebra"), "nothing of it is left", PATIENCE)
    assert talk.how("fourth") == "new"


def test_without_a_store_nothing_is_written_down(start: Start, tmp_path: Path) -> None:
    """`--no-store`: the child that is kept goes on, a child that went is replayed; no file holds a word."""
    proxy = start(**ALONE, workdir=str(tmp_path), no_store=True)
    talk = Talk(proxy)
    talk.say(SUB_AGENT)
    assert talk.how("second") == "live"
    proxy.service.fleet.retire_idle()
    assert talk.how("third") == "replayed"
    wait_until(lambda: not files_with(proxy.folder, b"plumzebra"), "nothing of it is left", PATIENCE)


def test_a_turn_that_failed_leaves_nothing(agent: RealProxy) -> None:
    """The CLI wrote down a session that nobody can go on with."""
    exchange = agent.begin(bash("echo plumzebra; exec sleep 4712.5"), headers=AGENT)
    wait_for_processes("4712.5")
    wait_until(lambda: files_with(agent.folder / "home", b"plumzebra"), "it is written down", PATIENCE)
    exchange.close()
    wait_until_gone("4712.5")
    wait_until(lambda: not files_with(agent.folder / "home", b"plumzebra"), "nothing of it is left", PATIENCE)


def test_a_turn_that_failed_is_not_in_the_conversation(agent: RealProxy) -> None:
    """It was begun in the child that held the rest; what goes on is the rest."""
    talk = opened(agent)
    exchange = agent.begin(*talk.said, bash("exec sleep 4713.5"), headers=AGENT)
    wait_for_processes("4713.5")
    exchange.close()
    agent.wait_until_idle()
    assert talk.how("and now?") == "resumed"
    assert heard(agent.api, "and now?") == OPENED
