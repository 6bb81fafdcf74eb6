"""A child that was used serves the next conversation: in the same process, with nothing of the one before."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Abilities
from claude_proxy.config import Config
from claude_proxy.service import may_recycle
from tests.contract.conftest import Start
from tests.harness import TIMING, Answer, Json, Proxy, assistant, chat, control_requests, wait_until

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
OTHER = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def proxy(start: Start) -> Proxy:
    """One conversation is kept, and children are used again."""
    return start(abilities=EVERYTHING, live=1)


def system(text: str) -> Json:
    return {"role": "system", "content": text}


def rewinds(proxy: Proxy) -> list[Json]:
    return [request for process in proxy.log() for request in control_requests(process, "rewind_conversation")]


def settle(proxy: Proxy) -> None:
    """Every turn over, every child given back."""
    proxy.wait_until_idle()


def how(answer: Answer) -> str:
    return answer.headers["x-claude-proxy-session"].rpartition("; ")[2]


def test_one_process_serves_one_conversation_after_another(proxy: Proxy) -> None:
    """Rewound to its beginning before each."""
    for number in range(4):
        answer = proxy.ask(f"question {number}")
        assert (answer.text, how(answer)) == (f"Hello from upstream: question {number}", "new")
    assert len(proxy.log()) == 1 and len(rewinds(proxy)) == 3


def test_another_prompt_model_and_other_tools_are_put_in(proxy: Proxy) -> None:
    """Before the question is asked."""
    proxy.ask(system("You are MUSE."), "one")
    proxy.ask(system("You are CLIO."), "two", model="opus")
    proxy.ask(system("You are CLIO."), "three", model="opus", tools=[TOOL])
    proxy.ask(system("You are CLIO."), "four", model="opus", tools=[OTHER])
    proxy.ask(system("You are CLIO."), "five", model="opus")
    [process] = proxy.log()
    [switch] = control_requests(process, "set_model")
    assert switch == {"subtype": "set_model", "model": "opus", "system_prompt": "You are CLIO."}
    assert len(control_requests(process, "mcp_set_servers")) == 3
    offered = [request.get("sdkMcpServerManifests") for request in control_requests(process, "initialize")]
    assert [bool(manifest) for manifest in offered] == [False, True, True]


def test_a_child_with_a_prompt_never_serves_one_without(proxy: Proxy) -> None:
    """There is no way back to none."""
    proxy.ask(system("You are MUSE."), "one")
    proxy.ask("two")
    assert len(proxy.log()) == 2
    proxy.ask(system("You are CLIO."), "three")
    assert len(proxy.log()) == 2


def test_an_edit_keeps_what_stands_before_it(proxy: Proxy) -> None:
    """Only what follows is taken out, and the edited question is asked."""
    one = proxy.ask("one")
    two = proxy.ask("one", assistant(one.text), "two")
    edited = proxy.ask("one", assistant(one.text), "two, but better")
    assert (how(two), how(edited)) == ("live", "live")
    [process] = proxy.log()
    [rewind] = control_requests(process, "rewind_conversation")
    asked = [message for message in process.messages if message["type"] == "user"]
    assert rewind["target_message_uuid"] == asked[1]["uuid"] and len(asked) == 3


def test_a_regenerated_answer_is_asked_for_in_the_same_child(proxy: Proxy) -> None:
    """As a client does that sends the same messages again."""
    one = proxy.ask("one")
    for _ in range(3):
        assert how(proxy.ask("one", assistant(one.text), "two")) == "live"
    assert len(proxy.log()) == 1 and len(rewinds(proxy)) == 2


@pytest.mark.parametrize("cut", ["max_tokens", "refusal", "error", "blank"])
def test_a_turn_that_ends_badly_costs_no_child(start: Start, cut: str) -> None:
    """It is taken back, and the same process answers the next one."""
    words = {"max_tokens": "fake:stop=max_tokens", "refusal": "fake:stop=refusal", "error": "fake:error=529"}
    proxy = start(abilities=EVERYTHING, live=1)
    proxy.ask("first")
    answer = proxy.ask(f"{words.get(cut, 'fake:deltas=[]')} question")
    assert answer.status == (503 if cut == "error" else 200)
    settle(proxy)
    for number in range(2):
        assert proxy.ask(f"hello {number}").text == f"Hello from upstream: hello {number}"
    assert len(proxy.log()) == 1


def test_a_client_that_goes_away_costs_no_child(proxy: Proxy) -> None:
    """Its turn is interrupted and taken back; the worker is free at once."""
    exchange = proxy.send(chat("fake:words=100 fake:delay=0.02 long", stream=True))
    with closing(exchange):
        next(exchange.records())
    settle(proxy)
    assert proxy.ask("hello").text == "Hello from upstream: hello"
    [process] = proxy.log()
    assert process.signals == () and control_requests(process, "interrupt")


@pytest.mark.parametrize("directive", ["refuse@rewind=stale_target", "refuse@rewind=elsewhere", "stall@rewind"])
def test_a_child_that_does_not_forget_is_replaced_without_a_word(start: Start, directive: str) -> None:
    """Nothing was asked of it; the client's question is answered by another one."""
    timing = replace(TIMING, control_timeout=1.0)
    proxy = start(directive, abilities=EVERYTHING, live=1, timing=timing)
    proxy.ask("one")
    assert proxy.ask("two").text == "Hello from upstream: two"
    first, second = proxy.log()
    assert len([message for message in first.messages if message["type"] == "user"]) == 1
    wait_until(lambda: proxy.log()[0].end is not None, "the first one has ended")
    assert proxy.service.recycling.abilities == EVERYTHING


def test_a_cli_that_does_not_know_the_request_is_not_asked_again(start: Start) -> None:
    """`/health` says so."""
    proxy = start("refuse@rewind=unsupported", abilities=EVERYTHING, live=1)
    for number in range(3):
        assert proxy.ask(f"question {number}").text == f"Hello from upstream: question {number}"
    assert len(rewinds(proxy)) == 1
    recycling = proxy.get("/health").json["recycling"]
    assert not recycling["rewind"] and "Unsupported" in recycling["reason"]


def test_health_says_what_children_are_used_for(start: Start) -> None:
    """And why not for more."""
    everything = {"rewind": True, "switch": True, "retool": True, "reason": None}
    assert start(abilities=EVERYTHING).get("/health").json["recycling"] == everything
    some = start(abilities=Abilities(rewind=True)).get("/health").json["recycling"]
    assert (some["rewind"], some["switch"], some["retool"]) == (True, False, False)


def test_a_child_never_goes_from_one_key_to_another(start: Start) -> None:
    """Whatever was rewound."""
    proxy = start(abilities=EVERYTHING, live=1, api_key=("key-a", "key-b"))
    for key in ("key-a", "key-b", "key-a", "key-b"):
        answer = proxy.send(chat(f"of {key}"), headers={"Authorization": f"Bearer {key}"}).answer()
        assert answer.text == f"Hello from upstream: of {key}"
    assert len(proxy.log()) == 2
    for process in proxy.log():
        texts = {str(message["message"]["content"]) for message in process.messages if message["type"] == "user"}
        assert len(texts) == 1


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [({}, True), ({"no_recycle": True}, False), ({"persist": True}, False), ({"agent": True}, True)],
)
def test_the_settings_decide_whether_children_are_used_again(settings: dict[str, Any], wanted: bool) -> None:
    """What a rewind takes out would come back with a session that the CLI has stored."""
    assert may_recycle(Config(**settings)) is wanted


def test_without_it_every_conversation_has_a_process(start: Start) -> None:
    """Today's other way."""
    proxy = start(abilities=NOTHING, live=1)
    for number in range(3):
        proxy.ask(f"question {number}")
    assert len(proxy.log()) == 3 and rewinds(proxy) == []
