"""OpenAI Responses with the real CLI: the official SDK, and Codex with a tool loop of its own."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from tests.e2e.conftest import Start
from tests.e2e.real import RealProxy, client_turns
from tests.harness import wait_until

MODEL = "sonnet"
CODEX_TIMEOUT = 120.0
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
CODEX_CONFIG = """
model = "sonnet"
model_provider = "proxy"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false
[model_providers.proxy]
name = "proxy"
base_url = "{url}/v1"
wire_api = "responses"
supports_websockets = false
"""


class City(pydantic.BaseModel):
    city: str


def connect(proxy: RealProxy) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="unused", max_retries=0)


def test_a_chain_of_responses_is_one_conversation(proxy: RealProxy) -> None:
    """Upstream sees the history once, in the child that holds it."""
    with connect(proxy) as client:
        first = client.responses.create(model=MODEL, input="demo:say=one")
        client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    texts = [(role, str(blocks)) for role, blocks in client_turns(proxy.last())]
    assert [role for role, _ in texts] == ["user", "assistant", "user"]
    assert "one" in texts[1][1] and "two" in texts[2][1]


def test_streams_schemas_and_thinking(proxy: RealProxy) -> None:
    """The SDK's accumulator and its `parse`."""
    with connect(proxy) as client:
        with client.responses.stream(model=MODEL, input="Hi", text_format=City) as events:
            parsed = events.until_done().get_final_response().output_parsed
        whole = client.responses.parse(model=MODEL, input="Hi", text_format=City).output_parsed
        thought = client.responses.create(model=MODEL, input="demo:think=3 Hi", reasoning={"effort": "high"})
    assert isinstance(parsed, City) and isinstance(whole, City)
    reasoning = thought.output[0]
    assert reasoning.type == "reasoning" and reasoning.summary[0].text.startswith("thought1")


def test_a_tool_loop_goes_on_in_the_child_that_made_the_calls(proxy: RealProxy) -> None:
    """Two calls at once, each with its result."""
    with connect(proxy) as client:
        words = 'demo:call=weather{"city":"Oslo"} demo:call=weather{"city":"Rome"}'
        first = client.responses.create(model=MODEL, input=words, tools=[WEATHER])
        calls = [item for item in first.output if item.type == "function_call"]
        assert [json.loads(call.arguments)["city"] for call in calls] == ["Oslo", "Rome"]
        outputs: Any = [
            {"type": "function_call_output", "call_id": call.call_id, "output": f"sun {number}"}
            for number, call in enumerate(calls)
        ]
        second = client.responses.create(model=MODEL, input=outputs, previous_response_id=first.id, tools=[WEATHER])
    assert "sun 0" in second.output_text and "sun 1" in second.output_text


def test_a_background_response_runs_to_its_end_or_is_cancelled(proxy: RealProxy) -> None:
    """Without a client."""
    with connect(proxy) as client:
        begun = client.responses.create(model=MODEL, input="demo:words=5", background=True)
        wait_until(lambda: client.responses.retrieve(begun.id).status == "completed", "it has ended")
        slow = client.responses.create(model=MODEL, input="demo:words=1000 demo:delay=50", background=True)
        wait_until(lambda: client.responses.retrieve(slow.id).status == "in_progress", "it has begun")
        assert client.responses.cancel(slow.id).status == "cancelled"
    proxy.wait_until_idle()


@pytest.fixture(scope="module")
def codex() -> str:
    """OpenAI's coding agent; it is no part of this project, and installed with `npm install -g @openai/codex`."""
    found = shutil.which("codex")
    if found is None:
        pytest.skip("Codex is not installed (npm install -g @openai/codex)")
    return found


def test_codex_runs_a_command_and_reads_what_it_said(start: Start, codex: str, tmp_path: Path) -> None:
    """`codex exec` with the proxy as its provider: call, result, answer, in one child; every event is understood."""
    proxy = start()
    home, work = tmp_path / "codex", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CODEX_CONFIG.format(url=proxy.url))
    prompt = 'demo:call=exec_command{"cmd":"echo codex-$((40+2)) > made.txt; cat made.txt"}'
    ended = subprocess.run(
        [codex, "exec", "--skip-git-repo-check", "--json", prompt],
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CODEX_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CODEX_TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    items = [one["item"] for one in told if one["type"] == "item.completed"]
    commands = [item for item in items if item["type"] == "command_execution"]
    assert [(one["aggregated_output"], one["exit_code"]) for one in commands] == [("codex-42\n", 0)]
    assert "codex-42" in [item["text"] for item in items if item["type"] == "agent_message"][-1]
    assert (work / "made.txt").read_text() == "codex-42\n"
    assert [one["type"] for one in told].count("turn.completed") == 1
    assert len(client_turns(proxy.last())) >= 3, "the result went into the child that had made the call"
