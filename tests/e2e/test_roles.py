"""A history arrives as what it is: separate messages with roles, in order, under the client's own system prompt."""

from typing import Any

import pytest

from tests.e2e.real import RealProxy, assert_upstream, client_turns, system_texts
from tests.harness import assistant

pytestmark = pytest.mark.e2e


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def text_turns(proxy: RealProxy) -> list[tuple[str, str]]:
    """(role, text) of each message upstream, of one block each."""
    turns = []
    for role, blocks in client_turns(proxy.only()):
        (block,) = blocks
        turns.append((role, block["text"]))
    return turns


def test_a_history_arrives_as_separate_messages_in_order(proxy: RealProxy) -> None:
    """Roles are kept, nothing is flattened into one prompt."""
    said = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four"), ("user", "five")]
    answer = proxy.say(*({"role": role, "content": text} for role, text in said))
    assert answer.text == "You said: five"
    assert text_turns(proxy) == said


def test_a_long_history_keeps_its_order(proxy: RealProxy) -> None:
    """61 messages, each where it was."""
    said = [("user" if number % 2 == 0 else "assistant", f"message {number}") for number in range(61)]
    proxy.say(*({"role": role, "content": text} for role, text in said))
    assert text_turns(proxy) == said


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_clients_system_prompt_takes_the_place_of_the_clis(proxy: RealProxy, role: str) -> None:
    """It is the only one beside the two lines that the CLI always adds."""
    proxy.say(system("Speak in rhymes.", role), "hello")
    assert system_texts(proxy.only()) == ["Speak in rhymes."]


def test_without_a_system_prompt_there_is_none(proxy: RealProxy) -> None:
    """The coding agent's own does not come back."""
    proxy.say("hello")
    assert system_texts(proxy.only()) == []


def test_several_system_messages_at_the_head_become_one_prompt(proxy: RealProxy) -> None:
    """With a blank line between them, whatever their shape."""
    parts = {"role": "system", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]}
    proxy.say(system("one"), parts, system("four", "developer"), "hello")
    assert system_texts(proxy.only()) == ["one\n\ntwo\n\nthree\n\nfour"]


def test_a_system_message_in_the_middle_stays_there_and_is_marked(proxy: RealProxy) -> None:
    """It goes with the user message behind it."""
    proxy.say(system("Be kind."), "one", assistant("two"), system("Be brief."), "three")
    body = proxy.only()
    assert system_texts(body) == ["Be kind."]
    marked = {"type": "text", "text": "<system>\nBe brief.\n</system>"}
    assert [role for role, _ in client_turns(body)] == ["user", "assistant", "user"]
    assert client_turns(body)[2][1] == [marked, {"type": "text", "text": "three"}]


def test_a_system_message_at_the_end_stays_there_and_is_marked(proxy: RealProxy) -> None:
    """It goes with the user message before it."""
    proxy.say("one", assistant("two"), "three", system("Be brief."))
    last = client_turns(proxy.only())[-1]
    assert last == ("user", [{"type": "text", "text": text} for text in ("three", "<system>\nBe brief.\n</system>")])


def test_user_messages_in_a_row_arrive_in_order(proxy: RealProxy) -> None:
    """All of them, before and behind an answer; an end of line may stand between two."""
    said = (user("one"), user("two"), assistant("three"), user("four"), user("five"), user("six"))
    proxy.say(*said)
    assert_upstream(proxy.only(), *said)


def test_assistant_messages_in_a_row_stay_apart(proxy: RealProxy) -> None:
    """Nothing is put between them."""
    said = [("user", "one"), ("assistant", "two"), ("assistant", "three"), ("user", "four")]
    proxy.say(*({"role": role, "content": text} for role, text in said))
    assert text_turns(proxy) == said


def test_text_of_every_script_arrives_in_every_role(proxy: RealProxy) -> None:
    """Characters beyond the basic plane and combining ones, too."""
    text = "Grüße, Привет, 你好, नमस्ते, 👩‍👩‍👧, e\u0301, \U0001f600"
    answer = proxy.say(system(text), text, assistant(text), text)
    assert_upstream(proxy.only(), text, assistant(text), text, system=text)
    assert answer.text == f"You said: {text}"


def test_an_assistant_message_without_content_is_left_out(proxy: RealProxy) -> None:
    """As an answer that was cut off before its first word is sent back."""
    proxy.say("one", assistant(None), "two", assistant(""), "three")
    assert_upstream(proxy.only(), "one", "two", "three")


def test_parts_of_a_message_stay_apart(proxy: RealProxy) -> None:
    """Each text part is a block of its own."""
    parts = [{"type": "text", "text": text} for text in ("one", "two", "three")]
    proxy.say({"role": "user", "content": parts})
    assert client_turns(proxy.only()) == [("user", parts)]


def test_the_clients_cache_breakpoints_are_taken_off(proxy: RealProxy) -> None:
    """The API takes four, and the CLI sets its own, all of one lifetime."""
    cached = {"cache_control": {"type": "ephemeral"}}
    parts = [{"type": "text", "text": str(number), **cached} for number in range(6)]
    assert (
        proxy.say({"role": "user", "content": parts}, assistant("two"), {"role": "user", "content": parts}).status
        == 200
    )
    found = []
    body = proxy.only()
    for block in [*body["system"], *(block for message in body["messages"] for block in message["content"])]:
        found += [block["cache_control"]] if "cache_control" in block else []
    assert found and len(found) <= 4
    assert {control.get("ttl") for control in found} == {"1h"}
