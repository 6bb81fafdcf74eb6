"""A child that is used again: what reaches the API is what reaches it from a fresh one, whatever was before."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.claude.fleet.launcher import Launcher, build_environment
from claude_proxy.claude.fleet.self_check import SelfCheck, normalise
from claude_proxy.claude.process.locate import find
from claude_proxy.claude.wire.recycling import EVERYTHING, Recycling
from claude_proxy.core.timing import Timing
from tests.e2e.conftest import Start
from tests.e2e.real import RealProxy, make_environ
from tests.harness import Json
from tests.long.fuzz_recycling import make_picture, make_tool, run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("bool(__import__('os').environ.get('NO_RECYCLE'))", reason="children are not used again"),
]

LOOK, FIND = make_tool("look"), make_tool("find")
CALL = 'demo:call=look{"q":"1"} demo:call=find{"q":"2"}'
PICTURE = {"type": "image_url", "image_url": {"url": make_picture(7)}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}


def talk(*said: Any, system: str | None = "You are MUSE.", **fields: Any) -> Json:
    """The body of a chat request; a text stands for a user's message."""
    messages = [{"role": "user", "content": one} if isinstance(one, str) else one for one in said]
    prompt = [{"role": "system", "content": system}] if system is not None else []
    return {"model": "sonnet", "messages": [*prompt, *messages], **fields}


def answered(text: str) -> Json:
    return {"role": "assistant", "content": text}


# What a child may have done before: each leaves other traces in a CLI.
EARLIER: dict[str, Json] = {
    "a long talk": talk(
        "EARLIER one", answered("EARLIER two"), "EARLIER three", answered("EARLIER four"), "EARLIER five"
    ),
    "thinking": talk("EARLIER demo:think=20 hello", reasoning_effort="high"),
    "parameters": talk("EARLIER hello", temperature=0.5, stop=["EARLIER stop"], max_tokens=77),
    "a schema": talk("EARLIER hello", response_format=FORMAT),
    "a picture": talk({"role": "user", "content": [PICTURE, {"type": "text", "text": "EARLIER what is it"}]}),
    "calls that nobody answers": talk(f"EARLIER {CALL}", tools=[LOOK, FIND]),
    "a cut": talk("EARLIER demo:words=30", max_tokens=3),
    "an error": talk("EARLIER demo:status=529"),
    "a refusal": talk("EARLIER demo:refusal"),
    "another model": {**talk("EARLIER hello", system="EARLIER prompt"), "model": "haiku"},
    "commands": talk("EARLIER /compact @/etc/passwd ultrathink <system-reminder>x</system-reminder>"),
}

LATER: dict[str, Json] = {
    "text": talk("hello"),
    "another prompt": talk("hello", system="You are CLIO."),
    "a replayed history": talk("one", answered("two"), "three", answered("four"), "five"),
    "tools": talk("hello", tools=[FIND]),
    "a replayed round of tools": talk(
        "look",
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "nothing there"},
        "and now?",
        tools=[LOOK],
    ),
    "a schema": talk("hello", response_format=FORMAT),
    "thinking": talk("demo:think=5 hello", reasoning_effort="low"),
    "a picture": talk({"role": "user", "content": [PICTURE, {"type": "text", "text": "what is it"}]}),
    "parameters": talk("hello", temperature=0.2, max_tokens=99),
    "another model": {**talk("hello"), "model": "opus"},
}


def upstream(proxy: RealProxy, body: Json) -> Json:
    """What a request makes the CLI send, less what differs between any two of them."""
    proxy.forget()
    answer = proxy.send(body).answer()
    assert answer.status == 200, answer.body
    text = json.dumps(normalise(proxy.bodies[-1]))
    return json.loads(re.sub(re.escape(str(proxy.folder)), "FOLDER", text))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Json]:
    """What each later request sends from a process that has done nothing else."""
    cli = find("", {}, Timing()).path
    with closing(RealProxy(tmp_path_factory.mktemp("fresh"), cli, {"warm": 0, "live": 0, "no_recycle": True})) as proxy:
        known = {name: upstream(proxy, body) for name, body in LATER.items()}
    return known.__getitem__


@pytest.mark.parametrize("later", LATER)
def test_what_a_child_did_before_leaves_nothing(start: Start, fresh: Callable[[str], Json], later: str) -> None:
    """Reminders, counters, breakpoints, settings: the whole body equals a fresh child's, after each kind of past."""
    proxy = start(warm=0, live=1)
    for name, body in EARLIER.items():
        proxy.send(body).answer()
        proxy.wait_until_idle()
        sent = upstream(proxy, LATER[later])
        assert sent == fresh(later), name
        assert "EARLIER" not in json.dumps(sent)
    assert proxy.service.fleet.tally.started <= 3  # one for each schema that needs a child, and one for the rest
    assert proxy.service.recycling.abilities == EVERYTHING


def test_a_later_turn_of_a_child_that_is_used_again_is_that_of_any(start: Start) -> None:
    """Rounds of tools included: the second conversation goes on as the first did."""
    sent = []
    proxy = start(warm=0, live=1)
    for name in ("one", "two"):
        said: list[Json] = [{"role": "user", "content": f"{name} {CALL}"}]
        message = proxy.send({**talk(), "messages": said, "tools": [LOOK, FIND]}).answer().json["choices"][0]["message"]
        said.append(message)
        said += [{"role": "tool", "tool_call_id": call["id"], "content": "R"} for call in message["tool_calls"]]
        said.append(answered(proxy.send({**talk(), "messages": said, "tools": [LOOK, FIND]}).answer().text))
        said.append({"role": "user", "content": f"{name} more"})
        body = upstream(proxy, {**talk(), "messages": said, "tools": [LOOK, FIND]})
        sent.append(re.sub(r"toolu_\w+|call_\w+", "ID", json.dumps(body).replace(name, "NAME")))
    assert sent[0] == sent[1] and proxy.service.fleet.tally.started == 1


def test_a_client_that_goes_away_leaves_its_child_to_the_next(start: Start) -> None:
    """Within the same process."""
    proxy = start(warm=0)
    for number in range(1, 6):
        exchange = proxy.send({**talk(f"demo:words=200 demo:delay=20 {number}"), "stream": True})
        records = exchange.records()
        for _ in range(number):
            next(records)
        exchange.close()
        proxy.wait_until_idle()
        assert proxy.send(talk(f"hello {number}")).answer().status == 200
    assert proxy.service.fleet.tally.started == 1


def test_an_unanswered_call_frees_its_child(start: Start) -> None:
    """As soon as its conversation goes on without it."""
    proxy = start(warm=0, live=1)
    for number in range(5):
        question = {"role": "user", "content": f"{number} {CALL}"}
        call = proxy.send(talk(question, tools=[LOOK, FIND])).answer().json["choices"][0]["message"]
        assert proxy.service.fleet.counts().parked == 1
        results = [{"role": "tool", "tool_call_id": one["id"], "content": "R"} for one in call["tool_calls"]]
        answer = proxy.send(talk(question, call, *results, "never mind", tools=[LOOK, FIND])).answer()
        assert answer.status == 200 and proxy.service.fleet.counts().parked == 0
    assert proxy.service.fleet.tally.started == 1


def test_the_check_of_the_start_sees_what_this_cli_takes(tmp_path: Path) -> None:
    """The very newest one takes it all; what was seen is remembered."""
    installation = find("", {}, Timing())
    environ = build_environment(make_environ(tmp_path), use_api_key=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    recycling = Recycling()

    def starter(url: str) -> Launcher:
        return Launcher(str(installation.path), environ, None, Timing(), demo_url=url)

    def refuse(url: str) -> Launcher:
        raise AssertionError("it was not remembered")

    SelfCheck(recycling, lambda: installation, starter, tmp_path, Timing()).run()
    assert (recycling.abilities, recycling.reason) == (EVERYTHING, "")
    again = Recycling()
    SelfCheck(again, lambda: installation, refuse, tmp_path, Timing()).run()
    assert again.abilities == EVERYTHING


def test_random_clients_are_never_mixed_up() -> None:
    """`tests/long/fuzz_recycling.py` does this for longer."""
    done = run(120, 20261125, 4)
    assert sum(count for name, count in done.items() if name != "processes started") == 120
