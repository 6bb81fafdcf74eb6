"""Clients that nobody here wrote, as they come: LangChain's chat model, and the coding agent opencode."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.e2e.real import RealProxy, client_turns

pytestmark = pytest.mark.e2e

Start = Callable[..., RealProxy]
PATIENCE = 120.0


class Person(BaseModel):
    """What a structured answer is read into."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """Weather for a city."""
    return f"sunny in {city}"


def langchain(proxy: RealProxy) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{proxy.url}/v1", api_key=SecretStr("x"), model="claude-sonnet-4", max_retries=0)


def test_langchain_loops_over_bound_tools(proxy: RealProxy) -> None:
    """`bind_tools`: two parallel calls, their results in the same turn, one native pair upstream for each."""
    model = langchain(proxy).bind_tools([get_weather])
    messages: list[AnyMessage] = [
        HumanMessage('demo:call=get_weather{"city":"Paris"} demo:call=get_weather{"city":"Rome"}')
    ]
    answer = model.invoke(messages)
    assert [call["args"] for call in answer.tool_calls] == [{"city": "Paris"}, {"city": "Rome"}]
    messages.append(answer)
    for call in answer.tool_calls:
        messages.append(ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]))
    assert "sunny in Paris" in str(model.invoke(messages).content)
    turns = client_turns(proxy.last())
    assert [block["type"] for block in turns[1][1]] == ["text", "tool_use", "tool_use"]
    assert [block["type"] for block in turns[2][1]] == ["tool_result", "tool_result"]


def test_langchain_streams_what_it_would_have_invoked(proxy: RealProxy) -> None:
    """Chunks add up to the whole."""
    model = langchain(proxy)
    pieces = [str(chunk.content) for chunk in model.stream("demo:say=one two three")]
    assert "".join(pieces) == "one two three"


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_reads_a_structured_answer(proxy: RealProxy, method: str) -> None:
    """`with_structured_output` by schema, and by a forced call."""
    model = langchain(proxy).with_structured_output(Person, method=method)  # type: ignore[arg-type]
    assert isinstance(model.invoke("someone"), Person)


@pytest.fixture
def opencode() -> str:
    """The coding agent from npm; `tests/run.sh` installs it where npm is there."""
    found = shutil.which("opencode")
    if found is None:
        pytest.skip("opencode is not installed (npm install opencode-ai)")
    return found


def test_opencode_reads_a_file_with_its_own_tool(start: Start, opencode: str, tmp_path: Path) -> None:
    """`opencode run`: its title request and its agent loop side by side, call, result and answer in one child."""
    proxy = start(warm=2)
    home, work = tmp_path / "opencode", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "notes.txt").write_text("the secret is 4711\n")
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{proxy.url}/v1", "apiKey": "x"},
        "models": {"sonnet": {"name": "sonnet"}},
    }
    config = {"autoupdate": False, "share": "disabled", "provider": {"local": provider}, "model": "local/sonnet"}
    (work / "opencode.json").write_text(json.dumps(config))
    # one word: opencode puts a prompt with blanks in quotation marks
    prompt = f'demo:call=read{json.dumps({"filePath": str(work / "notes.txt")}, separators=(",", ":"))}'
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "OPENCODE_DISABLE_AUTOUPDATE": "1"}
    done = subprocess.run(
        [opencode, "run", prompt],
        cwd=work,
        env={**environ, "OPENCODE_DISABLE_MODELS_FETCH": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the secret is 4711" in done.stdout, done.stdout + done.stderr
    results = [body for body in proxy.bodies if "the secret is 4711" in json.dumps(body)]
    assert len(results) == 1
