"""What clients see of an agent's turn, in all dialects, by the official SDKs; what they send back continues it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest

from claude_proxy.demo.prompt import count_tokens, split_prompt
from tests.e2e.agents import (
    AGENT,
    ALONE,
    Talk,
    bash,
    call,
    outline,
    outlines,
    progress,
    say,
    wait_for_processes,
    wait_until_gone,
)
from tests.e2e.conftest import Start
from tests.e2e.real import PATIENCE, RealProxy, how
from tests.harness import Json, wait_until

pytestmark = pytest.mark.e2e

MODEL = "claude-sonnet-5-5"
TWICE = f"{bash('echo one')} demo:rounds=2"
TEXTS = ["Calling Bash.", "Calling Bash.", "Tool Bash said: one"]
INNER = call("Task", description="look", prompt=bash("echo inner"), subagent_type="general-purpose")


@dataclass(slots=True)
class Client:
    """A client with a history in its own dialect. seen: the text, what was shown beside it, and how it went on."""

    proxy: RealProxy
    stream: bool = False
    history: list[Any] = field(default_factory=list)

    def say(self, text: str) -> tuple[str, str, str]:
        """Add a user message and the answer; (text, tools, how)."""
        self.history.append({"role": "user", "content": text})
        return self.ask()

    def ask(self) -> tuple[str, str, str]:
        raise NotImplementedError


def way(headers: Any) -> str:
    return str(headers["x-claude-proxy-session"]).rpartition("; ")[2]


class Chat(Client):
    def ask(self) -> tuple[str, str, str]:
        with openai.OpenAI(
            base_url=f"{self.proxy.url}/v1", api_key="x", max_retries=0, default_headers=AGENT
        ) as client:
            raw = client.chat.completions.with_raw_response
            if not self.stream:
                whole = raw.create(model=MODEL, messages=self.history)
                message = whole.parse().choices[0].message.to_dict()
                headers = whole.headers
            else:
                pieces = raw.create(model=MODEL, messages=self.history, stream=True)
                headers, message = pieces.headers, {"role": "assistant", "content": "", "reasoning_content": ""}
                for chunk in pieces.parse():
                    delta = chunk.choices[0].delta.to_dict()
                    for name in ("content", "reasoning_content"):
                        message[name] = f"{message[name]}{delta.get(name) or ''}"
        self.history.append(message)
        return str(message["content"]), str(message.get("reasoning_content", "")), way(headers)


class Responses(Client):
    def ask(self) -> tuple[str, str, str]:
        with openai.OpenAI(
            base_url=f"{self.proxy.url}/v1", api_key="x", max_retries=0, default_headers=AGENT
        ) as client:
            raw = client.responses.with_raw_response
            if not self.stream:
                whole = raw.create(model=MODEL, input=self.history)
                response, headers = whole.parse(), whole.headers
            else:
                pieces = raw.create(model=MODEL, input=self.history, stream=True)
                *_, last = pieces.parse()
                assert last.type == "response.completed"
                response, headers = last.response, pieces.headers
        self.history += [item.to_dict() for item in response.output]
        summaries = [part.text for item in response.output if item.type == "reasoning" for part in item.summary]
        return response.output_text, "".join(summaries), way(headers)


class Messages(Client):
    def ask(self) -> tuple[str, str, str]:
        asked: Any = {"model": MODEL, "max_tokens": 1000, "messages": self.history}
        with anthropic.Anthropic(base_url=self.proxy.url, api_key="x", max_retries=0, default_headers=AGENT) as client:
            if self.stream:
                with client.messages.stream(**asked) as stream:
                    message, headers = stream.get_final_message(), stream.response.headers
            else:
                whole = client.messages.with_raw_response.create(**asked)
                message, headers = whole.parse(), whole.headers
        self.history.append({"role": "assistant", "content": [block.to_dict() for block in message.content]})
        texts = "".join(block.text for block in message.content if block.type == "text")
        return texts, "".join(block.thinking for block in message.content if block.type == "thinking"), way(headers)


DIALECTS = pytest.mark.parametrize("dialect", [Chat, Responses, Messages])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def plain(lines: str) -> list[str]:
    """Lines of progress without their seconds."""
    return [re.sub(r" \([0-9.]+ s\)", "", line) for line in lines.splitlines()]


@DIALECTS
@STREAMED
def test_an_answer_is_the_texts_of_all_calls(agent: RealProxy, dialect: type[Client], stream: bool) -> None:
    """A blank line between two, the tools beside them; what the client sends back goes on live."""
    client = dialect(agent, stream)
    text, tools, first = client.say(TWICE)
    assert (text, first) == ("\n\n".join(TEXTS), "new")
    assert plain(tools) == ["▸ Bash: echo one", "✓ Bash"] * 2
    assert client.say("and now?") == ("You said: and now?", "", "live")
    assert outline(agent.last())[-2:] == ["assistant Tool Bash said: one", "user and now?"]


@DIALECTS
def test_thinking_stands_beside_the_tools(agent: RealProxy, dialect: type[Client]) -> None:
    """Lines of tools are lines of their own."""
    client = dialect(agent)
    text, shown, _ = client.say(f"demo:think=3 {bash('echo one')}")
    assert text == "Calling Bash.\n\nTool Bash said: one"
    assert plain(shown) == ["thought1 thought2 thought3", "▸ Bash: echo one", "✓ Bash"]
    assert client.say("and now?")[2] == "live"


@DIALECTS
def test_what_a_client_sends_back_can_be_replayed(start: Start, dialect: type[Client], tmp_path: Any) -> None:
    """Where the CLI keeps no session: the texts, and no thinking that the API has not signed."""
    proxy = start(**ALONE, workdir=str(tmp_path), no_store=True)
    client = dialect(proxy)
    client.say(f"demo:think=3 {TWICE}")
    proxy.service.fleet.retire_idle()
    assert client.say("and now?") == ("You said: and now?", "", "replayed")
    texts = [line for line in outline(proxy.last()) if line.startswith("assistant")]
    assert "\n\n".join(texts).replace("assistant ", "") == "\n\n".join(TEXTS)
    assert "▸" not in json.dumps(proxy.last(), ensure_ascii=False)


@DIALECTS
def test_what_a_sub_agent_says_is_no_answer(agent: RealProxy, dialect: type[Client]) -> None:
    """Its tools are seen, indented; of its words only what the model was told is in the answer, as a tool's result."""
    client = dialect(agent, stream=True)
    text, tools, _ = client.say(INNER)
    assert text.startswith("Calling Task.\n\nTool Agent said:") and "Calling Bash" not in text
    assert plain(tools) == ["▸ Task: look", "  ▸ Bash: echo inner", "  ✓ Bash: echo inner", "✓ Task"]
    assert ["result inner"] in [lines[-1:] for lines in outlines(agent)]
    assert client.say("and now?")[2] == "live"


def test_a_background_response_runs_on_and_can_be_cancelled(agent: RealProxy) -> None:
    """Without a client; a cancel ends its command."""
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="x", max_retries=0, default_headers=AGENT) as client:
        done = client.responses.create(model=MODEL, input=TWICE, background=True)
        stopped = client.responses.create(model=MODEL, input=bash("sleep 313.1101"), background=True)
        wait_for_processes("313.1101")
        wait_until(lambda: client.responses.retrieve(done.id).status == "completed", "it has ended", PATIENCE)
        assert client.responses.retrieve(done.id).output_text == "\n\n".join(TEXTS)
        assert client.responses.cancel(stopped.id).status == "cancelled"
    wait_until_gone("313.1101")


def test_a_quiet_tool_gives_signs_of_life(start: Start, tmp_path: Any) -> None:
    """As every quiet stream does."""
    proxy = start(**ALONE, workdir=str(tmp_path), heartbeat_interval=0.2)
    records = proxy.begin(bash("sleep 1; echo done"), headers=AGENT).stream().records
    started = next(number for number, record in enumerate(records) if "▸" in record)
    ended = next(number for number, record in enumerate(records) if "✓" in record)
    assert ": keep-alive" in records[started:ended]


def test_responses_are_continued_by_id(agent: RealProxy) -> None:
    """The server keeps what the client saw; the child holds it."""
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="x", max_retries=0, default_headers=AGENT) as client:
        first = client.responses.create(model=MODEL, input=TWICE)
        raw = client.responses.with_raw_response.create(model=MODEL, input="and now?", previous_response_id=first.id)
    assert way(raw.headers) == "live" and raw.parse().output_text == "You said: and now?"


def test_a_history_that_the_server_keeps_goes_on(agent: RealProxy) -> None:
    """`X-Session-History: server`, for a bot that sends only what is new."""
    headers = {"X-Session-Id": "bot", "X-Session-History": "server"}
    say(agent, TWICE, headers=headers)
    assert how(say(agent, "and now?", headers=headers)) == "live"
    agent.service.fleet.retire_idle()
    assert how(say(agent, "and then?", headers=headers)) == "resumed"
    assert outline(agent.last()).count("result one") == 2


@pytest.fixture(scope="module", params=["none", "content"])
def showing(request: pytest.FixtureRequest, clean_module: Any, cli: Any, tmp_path_factory: Any) -> Iterator[RealProxy]:
    """A proxy with `--progress none`, and one with `content`."""
    folder = tmp_path_factory.mktemp(request.param)
    proxy = RealProxy(folder, cli, {"agent": True, "workdir": str(folder), "progress": request.param})
    try:
        yield proxy
    finally:
        proxy.close()


@DIALECTS
def test_tools_are_shown_as_the_user_wants_it(showing: RealProxy, dialect: type[Client]) -> None:
    """Not at all, or in the text; either way what the client sends back goes on live."""
    client = dialect(showing, stream=True)
    text, tools, _ = client.say(TWICE)
    steps = ["▸ Bash: echo one\n✓ Bash"] * 2 if showing.config.progress == "content" else []
    wanted = [part for pair in zip(TEXTS, [*steps, ""], strict=False) for part in pair if part] if steps else TEXTS
    assert (re.sub(r" \([0-9.]+ s\)", "", text), tools) == ("\n\n".join(wanted), "")
    assert client.say("and now?")[2] == "live"
    assert outline(showing.last())[-2:] == ["assistant Tool Bash said: one", "user and now?"]


def test_usage_is_the_last_input_and_all_output(agent: RealProxy) -> None:
    """As a client reckons the size of its conversation; the ledger has the sums of all calls."""
    before = agent.get("/v1/usage").json["use"]["total"]
    answer = say(agent, TWICE)
    prompts = [count_tokens(split_prompt(body)) for body in agent.bodies]
    words = len(" ".join(TEXTS).split())
    pieces = 2 * -(-len(json.dumps({"command": "echo one"}, separators=(",", ":"))) // 12)
    usage = answer.json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompts[-1], words + pieces)
    after = agent.get("/v1/usage").json["use"]["total"]
    names = ("inputTokens", "cacheReadTokens", "cacheCreationTokens")
    assert sum(after[name] - before[name] for name in names) == sum(prompts)
    assert after["outputTokens"] - before["outputTokens"] == words + pieces


def test_a_sub_agents_tokens_count_where_all_are_counted(agent: RealProxy) -> None:
    """Not in what the client is told of its conversation."""
    before = agent.get("/v1/usage").json["use"]["total"]
    answer = say(agent, INNER)
    prompts = [count_tokens(split_prompt(body)) for body in agent.bodies]
    assert len(prompts) == 4 and answer.json["usage"]["prompt_tokens"] == prompts[-1]
    after = agent.get("/v1/usage").json["use"]["total"]
    names = ("inputTokens", "cacheReadTokens", "cacheCreationTokens")
    assert sum(after[name] - before[name] for name in names) == sum(prompts)


def test_a_resumed_turn_is_charged_for_itself_alone(agent: RealProxy) -> None:
    """The CLI's own total goes on from that of the session."""
    talk = Talk(agent)
    costs = []
    for text in (TWICE, "two", "three"):
        before = agent.get("/v1/usage").json["use"]["total"]["costUsd"] or 0.0
        talk.say(text)
        costs.append(agent.get("/v1/usage").json["use"]["total"]["costUsd"] - before)
        agent.service.fleet.retire_idle()
    assert 0 < costs[1] < costs[0] / 2 and 0 < costs[2] < costs[0] / 2, costs


def test_events_of_a_request_tell_of_its_tools(agent: RealProxy) -> None:
    """In order, with labels, without what the tools said."""
    answer = say(agent, bash("echo secret4711 | tr a-z A-Z"))
    path = f"/v1/requests/{answer.headers['x-request-id']}/events"
    records = agent.send(None, path=path, method="GET").stream().records
    told: list[tuple[str, Json]] = []
    for record in records:
        name, _, data = record.partition("\ndata: ")
        told.append((name.removeprefix("event: "), json.loads(data)))
    kinds = [name for name, _ in told]
    assert [kind for kind in kinds if kind != "rate_limit"] == [
        *("queued", "leased", "first_token", "tool_started", "tool_ended", "done")
    ]
    assert dict(told)["tool_ended"]["ok"] is True and "SECRET" not in str(records)


def test_an_upstream_failure_between_two_calls_is_told(agent: RealProxy) -> None:
    """The tool has run, so no SDK may try again by itself."""
    refused = agent.say("demo:status=400 hello", headers=AGENT)
    assert refused.status == 400
    failed = say(agent, bash("printf 'not there' >&2; exit 3"))
    assert "Tool Bash failed: Exit code 3\nnot there" in failed.text
    assert progress(failed)[1].startswith("✗ Bash (") and "Exit code 3 …" in progress(failed)[1]
