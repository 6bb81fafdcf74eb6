"""The real CLI behind Anthropic Messages, with the official SDK as client, and with Claude Code itself as client."""

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pydantic
import pytest
from anthropic.types import ToolUseBlock

from claude_proxy.claude.wire.toolset import usable_name
from tests.e2e.conftest import Start
from tests.e2e.real import RealProxy
from tests.harness import Json

pytestmark = pytest.mark.e2e

MODEL = "claude-sonnet-5-5"
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TWO_CALLS = 'demo:call=get_weather{"city":"Paris"} demo:call=get_weather{"city":"Rome"}'
CLIENT_TIMEOUT = 120.0

Code = Callable[..., Json]


@pytest.fixture
def client(proxy: RealProxy) -> Iterator[anthropic.Anthropic]:
    """The official client of `proxy`, without retries."""
    with anthropic.Anthropic(base_url=proxy.url, api_key="unused", max_retries=0) as made:
        yield made


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def converse(client: anthropic.Anthropic, history: list[Any], **fields: Any) -> tuple[str, Any]:
    """Whether the conversation was new, live or replayed, and the answer, which is added to the history."""
    raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=3000, messages=history, **fields)
    message = raw.parse()
    history.append({"role": "assistant", "content": [block.to_dict() for block in message.content]})
    return raw.headers["x-claude-proxy-session"].partition("; ")[2], message


def results(message: Any) -> Any:
    """A result for every call, in the order of the calls."""
    calls = [block for block in message.content if isinstance(block, ToolUseBlock)]
    return user([{"type": "tool_result", "tool_use_id": call.id, "content": f"sunny {call.input}"} for call in calls])


def replayed_kinds(proxy: RealProxy) -> list[str]:
    """Types of the blocks of the assistant's message in the newest request upstream."""
    (answer,) = [message for message in proxy.last()["messages"] if message["role"] == "assistant"]
    return [block["type"] for block in answer["content"]]


def test_text_waiting_and_streamed(client: anthropic.Anthropic) -> None:
    """The SDK's accumulator ends up with the same."""
    request: Any = {"model": MODEL, "max_tokens": 100, "messages": [user("hello")], "system": "You are MUSE."}
    whole = client.messages.create(**request)
    with client.messages.stream(**request) as stream:
        assert text_of(stream.get_final_message()) == text_of(whole) == "You said: hello"
    assert whole.stop_reason == "end_turn" and whole.usage.output_tokens == 3


def test_the_api_is_told_what_the_client_said(proxy: RealProxy, client: anthropic.Anthropic) -> None:
    """Parameters, tools and the system prompt, natively; thinking is off where it was not asked for."""
    client.messages.create(
        model=MODEL,
        max_tokens=77,
        system="You are MUSE.",
        messages=[user("hello")],
        stop_sequences=["END"],
        tools=[WEATHER],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        extra_body={"temperature": 0.25, "top_k": 5},
    )
    sent = proxy.only()
    assert sent["max_tokens"] == 77 and sent["stop_sequences"] == ["END"]
    assert (sent["temperature"], sent["top_k"], sent["thinking"]) == (0.25, 5, {"type": "disabled"})
    assert sent["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert "You are MUSE." in json.dumps(sent["system"])


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"type": "adaptive"}, "thought1 thought2"),
        ({"type": "adaptive", "display": "omitted"}, ""),
        ({"type": "enabled", "budget_tokens": 2000}, "thought1 thought2"),
    ],
)
def test_thinking_streams_with_its_signature(client: anthropic.Anthropic, wish: Any, words: str) -> None:
    """As the client wants to see it."""
    with client.messages.stream(
        model=MODEL, max_tokens=3000, messages=[user("demo:think=2 hello")], thinking=wish
    ) as stream:
        message = stream.get_final_message()
    thought = message.content[0]
    assert thought.type == "thinking" and thought.thinking == words and thought.signature.startswith("demo-sig-")
    assert text_of(message) == "You said: hello"


def test_a_loop_with_two_parallel_calls(client: anthropic.Anthropic) -> None:
    """The child that made the calls goes on."""
    history = [user(TWO_CALLS)]
    _, message = converse(client, history, tools=[WEATHER])
    assert message.stop_reason == "tool_use"
    how, answer = converse(client, [*history, results(message)], tools=[WEATHER])
    assert how == "live"
    assert text_of(answer).splitlines() == [
        "Tool get_weather said: sunny {'city': 'Paris'}",
        "Tool get_weather said: sunny {'city': 'Rome'}",
    ]


def test_a_replay_keeps_our_own_thinking(proxy: RealProxy, client: anthropic.Anthropic) -> None:
    """The API checks its signature, and would refuse a foreign one; that is left out."""
    history = [user(f"{TWO_CALLS} demo:think=3")]
    _, message = converse(client, history, tools=[WEATHER], thinking={"type": "adaptive"})
    history[0] = user("What is the weather?")
    history.append(results(message))
    _, answer = converse(client, [*history], tools=[WEATHER], thinking={"type": "adaptive"})
    assert text_of(answer).startswith("Tool get_weather said: sunny")
    assert "thinking" in replayed_kinds(proxy)
    history[1]["content"][0]["signature"] = "foreign"
    _, answer = converse(client, [*history], tools=[WEATHER], thinking={"type": "adaptive"})
    assert text_of(answer).startswith("Tool get_weather said: sunny")
    assert replayed_kinds(proxy) == ["text", "tool_use", "tool_use"]


class City(pydantic.BaseModel):
    """What the model is to answer with."""

    name: str


def test_structured_output(client: anthropic.Anthropic) -> None:
    """`messages.parse`."""
    parsed = client.messages.parse(model=MODEL, max_tokens=100, messages=[user("a city")], output_format=City)
    assert isinstance(parsed.parsed_output, City)


def test_errors_are_raised_by_the_sdk(client: anthropic.Anthropic) -> None:
    """Before the first byte, and in the middle."""
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: [0-9]+ tokens > 1000000 maximum"):
        client.messages.create(model=MODEL, max_tokens=100, messages=[user("demo:toolong hello")])
    with pytest.raises(anthropic.APIStatusError), client.messages.stream(
        model=MODEL, max_tokens=100, messages=[user("demo:words=20 demo:error=5")]
    ) as stream:
        stream.get_final_message()


def test_a_model_that_always_thinks(client: anthropic.Anthropic) -> None:
    """It refuses to be told not to; the second run is silent, and the third request needs none."""
    for text in ("one", "two"):
        raw = client.messages.with_raw_response.create(model="claude-fable-5-2", max_tokens=100, messages=[user(text)])
        assert text_of(raw.parse()) == f"You said: {text}"
        assert "x-claude-proxy-ignored" not in raw.headers


@pytest.fixture
def code(proxy: RealProxy, cli: Path, tmp_path: Path) -> Code:
    """Claude Code as a client of the proxy: `code("prompt")` gives its result; it may do whatever it likes."""
    (tmp_path / "note.txt").write_text("SECRET-4711\n")

    def run(prompt: str, url: str = proxy.url) -> Json:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "unused",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1",
        }
        command: list[str | Path] = [
            cli,
            "-p",
            prompt,
            "--output-format",
            "json",
            "--permission-mode",
            "bypassPermissions",
        ]
        done = subprocess.run(
            command, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=CLIENT_TIMEOUT
        )
        result: Json = json.loads(done.stdout)
        assert not result["is_error"], result["result"]
        return result

    return run


def test_claude_code_gets_an_answer(code: Code) -> None:
    """Its system message at the end belongs to its prompt."""
    assert code("hello there")["result"].startswith("You said: hello there")


def test_claude_code_reads_a_file(code: Code, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its tool, called natively; the second request goes on in the child of the first."""
    caplog.set_level(logging.INFO)
    result = code('demo:call=Read{"file_path":"%s"} read it' % (tmp_path / "note.txt"))
    assert "SECRET-4711" in result["result"] and result["num_turns"] == 2
    assert [" live 200" in line for line in caplog.messages if " 200 first=" in line] == [False, True]


def test_claude_code_does_several_steps(code: Code) -> None:
    """The same call again and again, then the answer."""
    result = code('demo:call=Bash{"command":"echo hi"} demo:rounds=3 go')
    assert result["num_turns"] == 4 and result["result"] == "Tool Bash said: hi"


def test_claude_code_finds_a_tool(code: Code) -> None:
    """Its search for tools, whose name the CLI keeps for itself, answers with references to tools."""
    name = usable_name("ToolSearch")
    assert f"Tool {name} said: WebFetch" in code(f'demo:call={name}{{"query":"select:WebFetch"}} find')["result"]


def test_nothing_of_what_claude_code_asks_for_is_ignored(start: Start, code: Code) -> None:
    """A strict proxy would refuse it."""
    strict = start(strict=True)
    assert code("hello there", strict.url)["result"].startswith("You said: hello there")
