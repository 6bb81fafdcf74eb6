"""`--permission-mode` with the real CLI: what its tools ask, who decides, and what becomes of it."""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.agents import AGENT, ALONE, Talk, bash, call, outline, progress, say, workdir
from tests.e2e.conftest import Start
from tests.e2e.real import PATIENCE, RealProxy
from tests.harness import Answer, Json, is_alive, wait_until

pytestmark = pytest.mark.e2e


class Asked(Talk):
    """A client whose agent asks, and somebody who decides."""

    def begin(self, text: str) -> "Asked":
        """Say something in a thread of its own."""
        self.pool = ThreadPoolExecutor(1)
        self.answer = self.pool.submit(self.say, text)
        return self

    def end(self) -> Answer:
        """The answer."""
        with self.pool:
            return self.answer.result(PATIENCE)


def pending(proxy: RealProxy) -> list[Json]:
    """What waits for a decision."""
    listed = proxy.get("/v1/permissions").json
    assert listed["total"] == len(listed["permissions"])
    return list(listed["permissions"])


def wait_for_question(proxy: RealProxy) -> Json:
    """The one question that waits, as soon as it does."""
    wait_until(lambda: pending(proxy), "a question", PATIENCE)
    (question,) = pending(proxy)
    return question


def decide(proxy: RealProxy, question: Json, decision: str, **fields: str) -> Answer:
    """Decide a question."""
    path = f"/v1/permissions/{question['id']}"
    return proxy.send({"decision": decision, **fields}, path=path).answer()


@pytest.fixture(scope="module")
def shared_asking(clean_module: Path, cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProxy]:
    """One proxy whose agent asks for everything, for all tests of the module that can share it."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "work").mkdir()
    settings = {"mode": "agent", "permission_mode": "ask", "workdir": str(folder / "work")}
    with closing(RealProxy(folder, cli, settings)) as proxy:
        yield proxy


@pytest.fixture
def asking(shared_asking: RealProxy) -> RealProxy:
    """The module's proxy, without a question, and with nothing recorded upstream."""
    shared_asking.wait_until_idle()
    assert pending(shared_asking) == []
    shared_asking.forget()
    return shared_asking


def test_what_is_allowed_is_run(asking: RealProxy) -> None:
    """The question says which tool, with what, and whose request it is; it is gone once it was decided."""
    path = workdir(asking) / "allowed"
    talk = Asked(asking, headers={"X-Session-Id": "chat one"}).begin(bash(f"touch {path}"))
    question = wait_for_question(asking)
    assert (question["tool"], question["input"]["command"]) == ("Bash", f"touch {path}")
    assert question["label"] == f"Bash: touch {path}" and question["sessionId"] == "hdr_chat%20one"
    (request,) = [one for one in asking.get("/v1/requests").json["requests"] if one["state"] == "running"]
    assert question["requestId"] == request["id"] and not path.exists()
    decided = decide(asking, question, "allow")
    assert (decided.status, decided.json["decision"]) == (200, "allow")
    answer = talk.end()
    assert path.exists() and "Tool Bash said" in answer.text and pending(asking) == []
    assert progress(answer)[1].startswith("✓ Bash")


def test_a_denial_reaches_the_model_with_its_reason(asking: RealProxy) -> None:
    """Nothing was run, and the turn goes on."""
    path = workdir(asking) / "denied"
    talk = Asked(asking).begin(call("Write", file_path=str(path), content="x"))
    decide(asking, wait_for_question(asking), "deny", message="Write it into notes.txt instead.")
    answer = talk.end()
    assert not path.exists() and "Tool Write failed: Write it into notes.txt instead." in answer.text
    assert outline(asking.last())[-1] == "error Write it into notes.txt instead."
    assert progress(answer)[1].startswith("✗ Write (") and "notes.txt instead" in progress(answer)[1]


def test_always_is_for_this_input_in_this_session(asking: RealProxy) -> None:
    """Another input is asked for, and so is the same one in another conversation."""
    path = workdir(asking) / "always"
    command = bash(f"echo x >> {path}")
    talk = Asked(asking).begin(command)
    decide(asking, wait_for_question(asking), "always")
    talk.end()
    talk.begin(command).end()
    assert path.read_text() == "x\nx\n"
    talk.begin(bash(f"echo y >> {path}"))
    other = wait_for_question(asking)
    stranger = Asked(asking).begin(command)
    wait_until(lambda: len(pending(asking)) == 2, "a question of each", PATIENCE)
    for question in pending(asking):
        decide(asking, question, "deny" if question["id"] == other["id"] else "allow")
    assert "failed" in talk.end().text and "said" in stranger.end().text
    assert path.read_text() == "x\nx\nx\n"


def test_of_two_who_decide_at_once_one_does(asking: RealProxy) -> None:
    """The other is told that it is too late; a third, later, too."""
    talk = Asked(asking).begin(bash(f"touch {workdir(asking) / 'race'}"))
    question = wait_for_question(asking)
    ready = threading.Barrier(2)

    def race(choice: str) -> Answer:
        ready.wait(PATIENCE)
        return decide(asking, question, choice)

    with ThreadPoolExecutor(2) as pool:
        answers = dict(zip(("allow", "deny"), pool.map(race, ("allow", "deny")), strict=True))
    assert sorted(answer.status for answer in answers.values()) == [200, 409]
    assert ("said" if answers["allow"].status == 200 else "failed") in talk.end().text
    late = decide(asking, question, "allow")
    assert (late.status, late.error["code"]) == (409, "already_decided")


def test_parallel_questions_are_decided_one_by_one(asking: RealProxy) -> None:
    """Each tool gets its own answer, in whatever order they are decided."""
    one, two = workdir(asking) / "par1", workdir(asking) / "par2"
    write = [call("Write", file_path=str(path), content="x") for path in (one, two)]
    talk = Asked(asking).begin(" ".join(write))
    seen: dict[str, Json] = {}

    def look() -> bool:
        for question in pending(asking):
            if question["id"] not in seen:
                seen[question["id"]] = question
                decide(asking, question, "allow" if question["input"]["file_path"] == str(two) else "deny")
        return len(seen) == 2

    wait_until(look, "two questions", PATIENCE)
    answer = talk.end()
    assert (one.exists(), two.exists()) == (False, True)
    assert "Tool Write failed" in answer.text and "Tool Write said" in answer.text


def test_a_sub_agent_asks_too(asking: RealProxy) -> None:
    """Before its tool runs, and as part of the same request."""
    path = workdir(asking) / "inner"
    task = call("Task", description="look", prompt=bash(f"touch {path}"), subagent_type="general-purpose")
    talk = Asked(asking).begin(task)
    question = wait_for_question(asking)
    assert question["input"]["command"] == f"touch {path}" and not path.exists()
    decide(asking, question, "allow")
    talk.end()
    assert path.exists()


def test_whoever_watches_is_told(asking: RealProxy) -> None:
    """`asked`, then `decided`; what is decided is told without its input."""
    watcher = asking.send(None, path="/v1/permissions/events", method="GET")
    records = watcher.records()
    assert next(records).startswith("event: snapshot")
    talk = Asked(asking).begin(bash(f"touch {workdir(asking) / 'watched'}"))
    asked = next(records)
    assert asked.startswith("event: asked") and "touch" in asked
    decide(asking, wait_for_question(asking), "allow")
    decided = next(records)
    body = json.loads(decided.partition("data: ")[2])
    assert decided.startswith("event: decided") and (body["decision"], body["input"]) == ("allowed", None)
    talk.end()
    watcher.close()


def test_a_client_that_goes_takes_its_question_along(asking: RealProxy) -> None:
    """Its child is ended, nothing was run, and nobody can decide any more."""
    path = workdir(asking) / "gone"
    exchange = asking.send({"model": "sonnet", "messages": [{"role": "user", "content": bash(f"touch {path}")}]})
    question = wait_for_question(asking)
    (leased,) = asking.service.fleet.members.leased
    exchange.close()
    wait_until(lambda: not pending(asking), "no question", PATIENCE)
    assert decide(asking, question, "allow").status == 409
    asking.wait_until_idle()
    request = asking.get(f"/v1/requests/{question['requestId']}").json
    assert (request["state"], request["error"]) == ("interrupted", "client_gone")
    wait_until(lambda: not is_alive(leased.child.pid), "its child has ended", PATIENCE)
    assert not path.exists() and len(asking.bodies) == 1


def test_an_interrupted_request_takes_its_question_along(asking: RealProxy) -> None:
    """As when its client goes; the client is told."""
    path = workdir(asking) / "stopped"
    exchange = asking.begin(bash(f"touch {path}"))
    question = wait_for_question(asking)
    stopped = asking.send(None, path=f"/v1/requests/{question['requestId']}", method="DELETE").answer()
    assert stopped.status == 200
    (error,) = exchange.stream().errors
    assert error["code"] == "interrupted"
    asking.wait_until_idle()
    assert pending(asking) == [] and decide(asking, question, "allow").status == 409
    assert not path.exists() and len(asking.bodies) == 1


def test_nobody_decides_in_time(start: Start, tmp_path: Path) -> None:
    """A denial of which the model is told; the wait is no silence of the child, whose limit is shorter."""
    proxy = start(**ALONE, permission_mode="ask", workdir=str(tmp_path), permission_timeout=3.0, inactivity_timeout=2.0)
    answer = say(proxy, bash("touch late"))
    assert "Tool Bash failed: The user did not decide within 3 s" in answer.text and not (tmp_path / "late").exists()
    assert "The user did not decide" in outline(proxy.last())[-1] and pending(proxy) == []


def test_with_bypass_everything_runs(start: Start, tmp_path: Path) -> None:
    """Tools that nobody allowed; the CLI takes it from root only in what calls itself a sandbox."""
    work = tmp_path / "work"
    work.mkdir()
    proxy = start(
        **ALONE,
        permission_mode="bypass",
        allowed_tools=("Read",),
        workdir=str(work),
        environ={"IS_SANDBOX": "1"} if os.getuid() == 0 else {},
    )
    outside = tmp_path / "outside"
    answer = say(proxy, f"{bash(f'touch {outside}')} {call('Write', file_path=str(outside) + '2', content='x')}")
    assert outside.exists() and Path(f"{outside}2").exists(), answer.text


def test_accept_edits_writes_but_runs_no_command(start: Start, tmp_path: Path) -> None:
    """`--permission-mode acceptEdits`: files of the folder, nothing else."""
    proxy = start(**ALONE, permission_mode="acceptEdits", allowed_tools=("Read",), workdir=str(tmp_path))
    path = tmp_path / "edited"
    answer = say(proxy, f"{call('Write', file_path=str(path), content='x')} {bash('curl http://127.0.0.1:9/')}")
    assert path.exists() and "Tool Bash failed" in answer.text and "approval" in answer.text


def test_a_plan_changes_nothing(start: Start, tmp_path: Path) -> None:
    """`--permission-mode plan`."""
    proxy = start(**ALONE, permission_mode="plan", allowed_tools=("Read",), workdir=str(tmp_path))
    answer = say(proxy, f"{bash('touch planned')} {call('Write', file_path=str(tmp_path / 'planned2'), content='x')}")
    assert [path.name for path in tmp_path.glob("planned*")] == [] and "failed" in answer.text


def test_a_question_reaches_a_client_in_no_other_way(asking: RealProxy) -> None:
    """It is no call of the client's tools, and no text."""
    exchange = asking.begin(bash(f"touch {workdir(asking) / 'quiet'}"), headers=AGENT)
    decide(asking, wait_for_question(asking), "allow")
    stream = exchange.stream()
    assert not any("tool_calls" in delta for delta in stream.deltas) and stream.finish_reason == "stop"
    assert stream.text.startswith("Calling Bash.\n\nTool Bash said")
