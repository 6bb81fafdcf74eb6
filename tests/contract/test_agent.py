"""Agent mode over HTTP: tools of the CLI's own, questions before they run, and what ends with a turn that ends."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.claude.fleet.agent_flags import AGENT_VARIABLES
from claude_proxy.claude.fleet.members import Counts
from claude_proxy.core.session_key import SessionKey
from tests.contract.conftest import Start
from tests.fake_cli import Script
from tests.harness import (
    CHAT,
    Answer,
    Exchange,
    Json,
    Proxy,
    Stream,
    assistant,
    chat,
    control_requests,
    conversation_of,
    is_alive,
    wait_until,
)

BASH = 'call=Bash:{"command":"make test"}'
AGENT = {"X-Claude-Mode": "agent"}
SCHEMA: Json = {
    "type": "json_schema",
    "json_schema": {
        "name": "number",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def agent(start: Start, tmp_path: Path) -> Start:
    """Start a proxy whose mode is the agent's, with a folder for its tools."""
    work = tmp_path / "work"
    work.mkdir()

    def make(*directives: Any, **settings: Any) -> Proxy:
        return start(*directives, **{"mode": "agent", "workdir": str(work), **settings})

    return make


@pytest.fixture
def agent_booted(start_booted: Start, tmp_path: Path) -> Start:
    """The same, with one child that has booted before a short limit begins."""
    work = tmp_path / "work"
    work.mkdir()

    def make(*directives: Any, **settings: Any) -> Proxy:
        return start_booted(*directives, mode="agent", workdir=str(work), **settings)

    return make


def texts(stream: Stream) -> tuple[str, str]:
    """What was answered, and what was shown beside it."""
    return stream.text, "".join(delta.get("reasoning_content") or "" for delta in stream.deltas)


def asked(proxy: Proxy) -> Json:
    """The one question that waits, as soon as it is there."""
    found: list[Json] = []

    def look() -> bool:
        found[:] = proxy.get("/v1/permissions").json["permissions"]
        return bool(found)

    wait_until(look, "a question")
    [one] = found
    return one


def decide(proxy: Proxy, question: Json, choice: str, **fields: Any) -> Answer:
    return proxy.send({"decision": choice, **fields}, path=f"/v1/permissions/{question['id']}").answer()


def listed(proxy: Proxy) -> list[Json]:
    found: list[Json] = proxy.get("/v1/requests").json["requests"]
    return found


def running_tool(proxy: Proxy) -> int:
    """The pid of what a tool has started, once it is there."""
    log = proxy.wait_for_log(lambda log: any(process.grandchildren for process in log))
    [pid] = [pid for process in log for pid in process.grandchildren]
    assert is_alive(pid)
    return pid


def use_of(proxy: Proxy) -> Json:
    use = proxy.get("/v1/usage").json["use"]["total"]
    assert isinstance(use, dict)
    return use


# What is started


def test_an_agent_child_is_started_in_its_folder_with_its_tools(agent: Start, tmp_path: Path) -> None:
    """Without what a chat needs: its history is its own, to be kept and compacted."""
    proxy = agent(Script(recorded_variables=("TMPDIR",)))
    answer = proxy.ask("hi")
    assert (answer.text, answer.headers["x-claude-proxy-mode"]) == ("Hello from upstream: hi", "agent")
    [process] = proxy.log()
    assert process.folder == str(tmp_path / "work")
    assert {"--tools", "--allowedTools", "--strict-mcp-config"} < set(process.argv)
    assert "--no-session-persistence" not in process.argv
    assert set(AGENT_VARIABLES) < process.environment
    assert {"DISABLE_AUTO_COMPACT", "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE"}.isdisjoint(process.environment)
    assert process.variables["TMPDIR"] in proxy.folders_of_children()
    assert control_requests(process, "initialize") == [{"subtype": "initialize"}]


def test_a_system_prompt_of_the_client_replaces_that_of_the_cli(agent: Start) -> None:
    """Only where there is one."""
    proxy = agent()
    assert proxy.ask({"role": "system", "content": "You are MUSE."}, "hi").status == 200
    [request] = control_requests(proxy.log()[0], "initialize")
    assert request["systemPrompt"] == ["You are MUSE."]


@pytest.mark.parametrize(
    ("progress", "text", "beside"),
    [
        ("none", "calling\n\nTool said: Bash done", ""),
        ("reasoning", "calling\n\nTool said: Bash done", "▸ Bash: make test\n✓ Bash (0.0 s)\n"),
        ("content", "calling\n\n▸ Bash: make test\n✓ Bash (0.0 s)\n\nTool said: Bash done", ""),
    ],
)
def test_an_answer_holds_the_texts_of_all_calls(agent: Start, progress: str, text: str, beside: str) -> None:
    """And shows the tools as the setting says, streamed or not."""
    proxy = agent(BASH, progress=progress)
    stream = proxy.stream("go")
    assert texts(stream) == (text, beside) and stream.finish_reason == "stop" and stream.is_done
    message = proxy.ask("go").json["choices"][0]["message"]
    assert (message["content"], message.get("reasoning_content") or "") == (text, beside)


def test_what_an_agent_does_not_take_is_named(agent: Start) -> None:
    """The client's tools, and limits of one call; with --strict that is a 400."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    fields: Json = {"tools": [tool], "max_tokens": 5, "stop": "x"}
    proxy = agent()
    answer = proxy.send(chat("hi", **fields), headers=AGENT).answer()
    assert (answer.status, answer.headers["x-claude-proxy-ignored"]) == (200, "max_tokens, stop, tools")
    assert "sdkMcpServers" not in control_requests(proxy.log()[0], "initialize")[0]
    refused = agent(strict=True).send(chat("hi", **fields), headers=AGENT).answer()
    assert (refused.status, refused.error["param"]) == (400, "max_tokens")


def test_a_schema_binds_the_last_word_only(agent: Start) -> None:
    """The CLI is told of it once, and not the API with every call."""
    proxy = agent('call=StructuredOutput:{"a":3}', progress="content")
    answer = proxy.ask("go", response_format=SCHEMA)
    assert json.loads(answer.text) == {"a": 3}
    [process] = proxy.log()
    assert "jsonSchema" in control_requests(process, "initialize")[0]
    assert control_requests(process, "apply_flag_settings") == []


def test_a_limit_of_model_calls_ends_the_answer(agent: Start) -> None:
    """As `length`, with a line that says so; the conversation goes on in the same child."""
    proxy = agent(BASH, max_turns=1)
    stream = proxy.stream("go")
    assert stream.finish_reason == "length" and "the limit of model calls" in texts(stream)[1]
    proxy.wait_until_idle()
    answer = proxy.ask("go", assistant(stream.text), "on")
    assert answer.headers["x-claude-proxy-session"].endswith("; live") and len(proxy.log()) == 1


@pytest.mark.parametrize("progress", ["reasoning", "none"])
def test_an_answer_without_text_is_gone_on_from(agent: Start, progress: str) -> None:
    """No client can send it back, and what was done is not done again: live, and from the history kept here."""
    proxy = agent(BASH, "deltas=[]", max_turns=1, progress=progress)
    cut = proxy.ask("go")
    assert (cut.json["choices"][0]["finish_reason"], cut.text) == ("length", "")
    answer = proxy.ask("go", assistant(""), "on")
    assert answer.headers["x-claude-proxy-session"] == cut.headers["x-claude-proxy-session"].replace("new", "live")
    kept = {"X-Session-Id": "kept", "X-Session-History": "server"}
    for question in ("go", "on", "and on"):
        answer = proxy.send(chat(question), headers=kept).answer()
    assert answer.headers["x-claude-proxy-session"] == "hdr_kept; live" and len(proxy.log()) == 2
    assert [text for role, text in conversation_of(proxy.log()[-1]) if role == "user"] == ["go", "on", "and on"]


def test_an_answer_without_text_is_gone_on_from_in_every_dialect(agent: Start) -> None:
    """Messages with what it was given, Responses by its id."""
    proxy = agent(BASH, "deltas=[]", max_turns=1)
    question, more = {"role": "user", "content": "go"}, {"role": "user", "content": "on"}
    limits = {"model": "sonnet", "max_tokens": 99}
    first = proxy.send({**limits, "messages": [question]}, path="/v1/messages").answer()
    said = {"role": "assistant", "content": first.json["content"]}
    second = proxy.send({**limits, "messages": [question, said, more]}, path="/v1/messages").answer()
    assert (first.status, second.headers["x-claude-proxy-session"].partition("; ")[2]) == (200, "live")
    first = proxy.send({"model": "sonnet", "input": "go there"}, path="/v1/responses").answer()
    continued = {"model": "sonnet", "input": "on", "previous_response_id": first.json["id"]}
    second = proxy.send(continued, path="/v1/responses").answer()
    assert (first.status, second.headers["x-claude-proxy-session"].partition("; ")[2]) == (200, "live")


# Modes


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize(("mode", "status"), [("agent", 403), ("tools", 400)])
def test_a_mode_that_is_off_or_unknown_is_refused(proxy: Proxy, path: str, mode: str, status: int) -> None:
    """Before a child is asked."""
    body: Json = {"model": "sonnet", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    body = {name: body[name] for name in (("model", "input") if path == "/v1/responses" else (*body,)[:3])}
    answer = proxy.send(body, path=path, headers={"X-Claude-Mode": mode}).answer()
    assert (answer.status, "agent" in answer.json["error"]["message"]) == (status, True)
    assert proxy.log() == ()


def test_a_request_can_ask_for_the_other_mode(agent: Start, start: Start) -> None:
    """Agent mode where it is allowed, a chat everywhere; a child serves one of them."""
    allowed = agent(mode="chat", agent=True)
    for proxy, other, modes in ((allowed, "agent", ["chat", "agent"]), (agent(), "chat", ["agent", "chat"])):
        own = proxy.ask("hi").headers["x-claude-proxy-mode"]
        asked_for = proxy.send(chat("hi"), headers={"X-Claude-Mode": other}).answer()
        assert [own, asked_for.headers["x-claude-proxy-mode"]] == modes
        assert [session["mode"] for session in proxy.get("/v1/sessions").json["sessions"]] == modes[::-1]
        assert len(proxy.log()) == 2


# Permissions


@pytest.mark.parametrize("choice", ["allow", "deny"])
def test_a_tool_that_must_be_asked_for_waits_for_a_decision(agent: Start, choice: str) -> None:
    """Told over HTTP while the answer streams; what was decided shows in it."""
    proxy = agent(BASH, permission_mode="ask")
    with closing(proxy.send(chat("go", stream=True))) as exchange:
        records = exchange.records()
        first = next(records)
        question = asked(proxy)
        assert question["requestId"] == exchange.headers["x-request-id"]
        assert exchange.headers["x-claude-proxy-session"] == f"{question['sessionId']}; new"
        assert (question["tool"], question["label"]) == ("Bash", "Bash: make test")
        assert question["input"] == {"command": "make test"}
        assert decide(proxy, question, choice, message="Not today.").status == 200
        stream = Stream((first, *records), exchange.headers)
    end = "✓ Bash (" if choice == "allow" else "✗ Bash ("
    said = "Bash done" if choice == "allow" else "Not today."
    assert stream.text == f"calling\n\nTool said: {said}" and end in texts(stream)[1]
    assert (decide(proxy, question, "allow").status, proxy.get("/v1/permissions").json["total"]) == (409, 0)
    [answered] = [message for message in proxy.log()[0].messages if message["type"] == "control_response"]
    assert answered["response"]["response"]["behavior"] == choice


def test_a_question_that_nobody_decides_is_denied_in_its_own_time(agent_booted: Start) -> None:
    """While it waits, the child may be silent for longer than it else may, and than its tools may run."""
    limits = {"permission_timeout": 1.2, "inactivity_timeout": 0.6, "tool_timeout": 0.6}
    proxy = agent_booted(BASH, permission_mode="ask", **limits)
    stream = proxy.stream("go")
    assert "The user did not decide within 1.2 s" in stream.text and stream.is_done
    assert "✗ Bash" in texts(stream)[1]


def test_what_was_always_allowed_is_not_asked_again(agent: Start) -> None:
    """In this session; with this very input."""
    proxy = agent(BASH, permission_mode="ask")
    exchange = proxy.send(chat("go"))
    decide(proxy, asked(proxy), "always")
    answer = exchange.answer()
    proxy.wait_until_idle()
    again = proxy.ask("go", assistant(answer.text), "again")
    assert again.text == answer.text and again.headers["x-claude-proxy-session"].endswith("; live")


def test_of_two_tools_each_is_asked_for(agent: Start) -> None:
    """One after the other; one that is allowed by rule is not."""
    calls = (BASH, 'call=Read:{"file_path":"/a"}', 'call=Write:{"file_path":"/b"}')
    proxy = agent(*calls, permission_mode="ask", allowed_tools=("Read",))
    exchange = proxy.send(chat("go"))
    decide(proxy, asked(proxy), "allow")
    wait_until(lambda: asked(proxy)["tool"] == "Write", "the second question")
    decide(proxy, asked(proxy), "deny", message="no")
    assert exchange.answer().text == "calling\n\nTool said: Bash done Read done no"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_withdraws_its_question(agent: Start, stream: bool) -> None:
    """Nobody can decide it any more, the child ends."""
    proxy = agent(BASH, permission_mode="ask")
    exchange = proxy.send(chat("go", stream=stream))
    question = asked(proxy)
    exchange.close()
    proxy.wait_until_empty()
    assert proxy.get("/v1/permissions").json["total"] == 0
    assert decide(proxy, question, "allow").status == 409
    assert [one["state"] for one in listed(proxy)] == ["interrupted"]


def test_a_child_that_dies_while_a_question_waits_withdraws_it(agent: Start) -> None:
    """The client is told of the child; nobody is asked any more."""
    proxy = agent(BASH, permission_mode="ask")
    exchange = proxy.send(chat("go"))
    question = asked(proxy)
    [connection] = proxy.service.fleet.members.leased
    connection.child.stop_now()
    assert exchange.answer().status == 502
    assert decide(proxy, question, "allow").status == 409
    proxy.wait_until_empty()


# What ends with a turn


def test_a_request_that_is_stopped_takes_its_tools_along(agent: Start) -> None:
    """Also one in a session of its own, whose parents are gone."""
    proxy = agent(BASH, "command@tool:1", "stall@tool:1")
    exchange = proxy.send(chat("go"))
    tool = running_tool(proxy)
    [one] = listed(proxy)
    assert (one["state"], one["tools"], one["mode"]) == ("running", ["Bash: make test"], "agent")
    assert proxy.send(None, path=f"/v1/requests/{one['id']}", method="DELETE").answer().status == 200
    answer = exchange.answer()
    assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (409, "interrupted", "false")
    proxy.wait_until_empty()
    assert not is_alive(tool)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("how", ["crash", "kill"])
def test_a_child_that_dies_in_the_middle_of_a_tool_leaves_nothing(agent: Start, how: str, streaming: bool) -> None:
    """Its client is told, and not to try again: the tool may have done its work."""
    proxy = agent(BASH, "command@tool:1", f"{how}@tool:1")
    if streaming:
        stream = proxy.stream("go")
        assert [error["code"] for error in stream.errors] == ["upstream_error"] and not stream.is_done
        assert stream.text == "calling"
    else:
        answer = proxy.ask("go")
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert answer.headers["x-should-retry"] == "false"
    proxy.wait_until_empty()
    assert len(proxy.log()) == 1 and not is_alive(proxy.log()[0].grandchildren[0])


def test_a_tool_that_runs_for_too_long_is_killed(agent: Start) -> None:
    """Its signs of life are none of progress; the error names it."""
    proxy = agent(BASH, "command@tool:1", "progress@tool:1", "stall@tool:1", tool_timeout=0.3)
    answer = proxy.ask("go")
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    assert "0.3 s (Bash: make test)" in answer.error["message"]
    proxy.wait_until_empty()


def test_a_tool_may_be_silent_for_longer_than_the_cli(agent_booted: Start) -> None:
    """It has a limit of its own."""
    proxy = agent_booted(BASH, "sleep@tool:1=1.2", inactivity_timeout=0.6)
    assert proxy.ask("go").text == "calling\n\nTool said: Bash done"


def test_an_agent_has_no_limit_for_the_whole_request(agent: Start) -> None:
    """Work may take hours; a chat has one."""
    proxy = agent(BASH, "sleep@tool:1=0.8", request_timeout=0.3)
    assert proxy.ask("go").text == "calling\n\nTool said: Bash done"
    assert proxy.send(chat("go fake:sleep=0.8"), headers={"X-Claude-Mode": "chat"}).answer().status == 504


# Children and sessions


def test_a_child_killed_before_its_first_word_is_replaced_by_a_new_one(agent: Start) -> None:
    """Not by a spare: what killed it may have killed them all. The two of the start may boot in either order."""
    doomed = ("kill@request",)
    proxy = agent(Script((BASH,), processes={1: doomed, 2: doomed}), warm=2)
    proxy.wait_for_log(lambda log: len(log) == 2)  # the fake numbers its processes when they boot
    wait_until(lambda: proxy.service.fleet.counts() == Counts(spare=2), "two spares")
    assert proxy.ask("go").text == "calling\n\nTool said: Bash done"
    assert sorted(bool(process.user_messages) for process in proxy.log()[:2]) == [False, True]
    assert all("--allowedTools" in process.argv for process in proxy.log())


def test_a_conversation_goes_on_in_its_child(agent: Start) -> None:
    """With what is new."""
    proxy = agent(BASH)
    answer = proxy.ask("go")
    proxy.wait_until_idle()
    again = proxy.ask("go", assistant(answer.text), "on")
    assert again.headers["x-claude-proxy-session"].endswith("; live")
    assert conversation_of(proxy.log()[0]) == [("user", "go"), ("user", "on")]


def said_by(process: Any) -> tuple[str, ...]:
    """What `--resume` and its companions say; empty without it."""
    argv = process.argv
    if "--resume" not in argv:
        return ()
    at = argv.index("--resume")
    return tuple(argv[at : at + 5])


def test_a_conversation_without_a_child_is_resumed_from_the_clis_own_session(agent: Start) -> None:
    """As a copy, from the very message after which it goes on: what the tools did is in it."""
    proxy = agent(BASH, live=0)
    answer = proxy.ask("go")
    proxy.wait_until_empty()
    again = proxy.ask("go", assistant(answer.text), "on")
    assert again.headers["x-claude-proxy-session"].endswith("; resumed")
    first, second = proxy.log()
    resume, session, fork, at, uuid = said_by(second)
    assert (resume, fork, at) == ("--resume", "--fork-session", "--resume-session-at")
    assert said_by(first) == () and len(session) == len(uuid) == 36 and session != uuid
    assert conversation_of(second) == [("user", "on")]


@pytest.mark.parametrize("point", ["boot", "turn"])
def test_a_resume_that_fails_is_replayed(agent: Start, point: str) -> None:
    """The CLI has forgotten the session, or does not know it."""
    proxy = agent(Script((BASH,), processes={2: (f"crash@{point}",)}), live=0)
    answer = proxy.ask("go")
    proxy.wait_until_empty()
    again = proxy.ask("go", assistant(answer.text), "on")
    assert again.headers["x-claude-proxy-session"].endswith("; replayed")
    *_, resumed, replayed = proxy.log()
    assert said_by(resumed) and not said_by(replayed)
    assert [role for role, _ in conversation_of(replayed)] == ["user", "assistant", "user"]


def test_without_a_store_nothing_is_kept_to_be_resumed(agent: Start) -> None:
    """Neither by the CLI nor here."""
    proxy = agent(BASH, live=0, no_store=True)
    answer = proxy.ask("go")
    proxy.wait_until_empty()
    assert proxy.ask("go", assistant(answer.text), "on").headers["x-claude-proxy-session"].endswith("; replayed")
    assert all("--no-session-persistence" in process.argv and not said_by(process) for process in proxy.log())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_what_was_shown_of_tools_is_no_part_of_a_history(agent: Start, path: str) -> None:
    """A client sends it back as thinking, unsigned; the API would refuse it, the model take it for its own."""
    proxy = agent(BASH, live=0, no_store=True)
    field, given = ("input", "output") if path == "/v1/responses" else ("messages", "content")
    body: Json = {"model": "sonnet", "max_tokens": 99, field: [{"role": "user", "content": "go"}]}
    answer = proxy.send(body, path=path).answer().json[given]
    assert "▸ Bash: make test" in json.dumps(answer, ensure_ascii=False)
    said = answer if path == "/v1/responses" else [{"role": "assistant", "content": answer}]
    proxy.wait_until_empty()
    again = proxy.send({**body, field: [*body[field], *said, {"role": "user", "content": "on"}]}, path=path).answer()
    assert again.headers["x-claude-proxy-session"].endswith("; replayed")
    texts = [{"type": "text", "text": text} for text in ("calling", "\n\nTool said: Bash done")]
    assert conversation_of(proxy.log()[-1])[1] == ("assistant", texts)


@pytest.fixture
def sent() -> Iterator[Callable[..., Exchange]]:
    """Send a request of a session; the connection is closed at the end."""
    exchanges: list[Exchange] = []

    def send(proxy: Proxy, text: str, session: str, **headers: str) -> Exchange:
        exchange = proxy.send(chat(text), headers={"X-Session-Id": session, **headers})
        exchanges.append(exchange)
        return exchange

    yield send
    for exchange in exchanges:
        exchange.close()


def test_two_turns_of_one_session_run_one_after_the_other(agent: Start, sent: Callable[..., Exchange]) -> None:
    """Their tools work in one folder, and one would not know of the other; other sessions do not wait."""
    proxy = agent(BASH, permission_mode="ask")
    first = sent(proxy, "one", "a")
    question = asked(proxy)
    second = sent(proxy, "two", "a")
    wait_until(lambda: proxy.service.session_queue._queues[SessionKey("", "hdr_a")][1:], "the second in the queue")
    other = sent(proxy, "three", "b")
    wait_until(lambda: proxy.get("/v1/permissions").json["total"] == 2, "the question of another session")
    assert len(listed(proxy)) == 2
    decide(proxy, question, "allow")
    assert first.answer().status == 200
    wait_until(lambda: proxy.get("/v1/permissions").json["total"] == 2, "the question of the second")
    for one in proxy.get("/v1/permissions").json["permissions"]:
        decide(proxy, one, "deny")
    assert [second.answer().status, other.answer().status] == [200, 200]
    wait_until(lambda: proxy.service.session_queue._queues == {}, "both have left")


def test_chats_of_one_session_do_not_wait(start: Start, sent: Callable[..., Exchange]) -> None:
    """A client may ask several things at once."""
    proxy = start("sleep@request=0.5")
    exchanges = [sent(proxy, text, "a") for text in ("one", "two")]
    wait_until(lambda: [one["state"] for one in listed(proxy)] == ["running"] * 2, "both running")
    assert [exchange.answer().status for exchange in exchanges] == [200, 200]


# What is counted


def test_all_calls_of_a_turn_are_counted_as_it_is_answered(agent: Start) -> None:
    """Its client is told the input of the newest call, and the output of all."""
    proxy = agent(BASH)
    usage = proxy.ask("go").json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (20, 24)
    use = use_of(proxy)
    assert (use["requests"], use["failed"], use["inputTokens"], use["outputTokens"]) == (1, 0, 20, 24)
    assert use["costUsd"] == pytest.approx(0.00024)
    proxy.wait_until_idle()
    proxy.ask("go", assistant("calling\n\nTool said: Bash done"), "on")
    assert len(proxy.log()) == 1
    assert use_of(proxy)["costUsd"] == pytest.approx(0.00048)


def test_a_turn_that_fails_is_counted_as_its_client_is_told(agent: Start) -> None:
    """With what it took by then."""
    proxy = agent(BASH, "crash@tool:1")
    assert proxy.ask("go").status == 502
    use = use_of(proxy)
    assert (use["requests"], use["failed"], use["inputTokens"], use["outputTokens"]) == (1, 1, 10, 12)


def test_another_model_answers_while_a_window_of_the_plan_is_used_up(agent: Start) -> None:
    """At once, where the first was refused; later without asking for it."""
    info = {"status": "rejected", "resetsAt": 4_000_000_000, "rateLimitType": "seven_day_opus"}
    event = json.dumps({"type": "rate_limit_event", "rate_limit_info": info})
    refusal = (f"emit={event}", "error=429")
    proxy = agent(Script((BASH,), processes={1: refusal}), model="opus", fallback_model="haiku", live=0)
    for _ in range(2):
        answer = proxy.ask("go", model="opus")
        assert answer.text == "calling\n\nTool said: Bash done"
        assert answer.headers["x-claude-proxy-model"] == "claude-haiku-5-5"
    models = [process.argv[process.argv.index("--model") + 1] for process in proxy.log()]
    assert models == ["opus", "haiku", "haiku"]


def test_without_another_model_a_plan_that_is_used_up_refuses_at_once(agent: Start) -> None:
    """No child is asked."""
    proxy = agent("plan_limit=4000000000")
    answers = [proxy.ask("go"), proxy.ask("go")]
    assert [(answer.status, answer.error["code"]) for answer in answers] == [(429, "plan_limit")] * 2
    assert sum(bool(process.user_messages) for process in proxy.log()) == 1
