"""A conversation goes on where it was left, and never in another one: what reaches the API is what the client sent."""

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.core.session_key import SessionKey
from tests.e2e.conftest import Start
from tests.e2e.real import (
    PATIENCE,
    RECORDED,
    RealProxy,
    assert_upstream,
    calls,
    client_turns,
    how,
    session_id,
    temporary_folder_at,
)
from tests.harness import Answer, Json, assistant, wait_until
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e

SYSTEM = {"role": "system", "content": "You are MUSE."}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Talk:
    """A client that keeps its history and sends all of it, and checks what reached the API every time."""

    def __init__(self, proxy: RealProxy, *said: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> None:
        self.proxy = proxy
        self.said: list[Any] = list(said)
        self.headers = headers or {}
        self.fields = fields

    def say(self, text: Any) -> Answer:
        """Add a user message, ask, check, add the answer."""
        self.said.append(text)
        answer = self.proxy.say(*self.said, headers=self.headers, **self.fields)
        assert answer.status == 200, answer.body
        self.check()
        self.said.append(assistant(answer.text))
        return answer

    def check(self) -> None:
        """Some request upstream, the newest for this talk's last message, is exactly this conversation."""
        told = [one for one in self.said if isinstance(one, str) or one["role"] != "system"]
        prompt = next(
            (one["content"] for one in self.said if not isinstance(one, str) and one["role"] == "system"), None
        )
        last = told[-1]
        fitting = [body for body in self.proxy.bodies if client_turns(body)[-1][1][-1].get("text") == last]
        assert fitting, f"{last!r} never reached the API"
        assert_upstream(fitting[-1], *told, system=prompt)

    def branch(self, length: int) -> "Talk":
        """The same client, gone back to its first so many messages."""
        return Talk(self.proxy, *self.said[:length], headers=self.headers, **self.fields)


def test_a_continued_conversation_goes_on_in_the_child_that_holds_it(proxy: RealProxy) -> None:
    """Three turns, one child, one id."""
    talk = Talk(proxy, SYSTEM)
    answers = [talk.say(text) for text in ("hi", "how are you", "good")]
    assert [how(answer) for answer in answers] == ["new", "live", "live"]
    assert len({session_id(answer) for answer in answers}) == 1
    assert len(proxy.bodies) == 3


def test_two_conversations_with_the_same_opening_stay_two(proxy: RealProxy) -> None:
    """Interleaved, and with equal answers to equal openings."""
    one, two = Talk(proxy, SYSTEM), Talk(proxy, SYSTEM)
    first, second = one.say("hi"), two.say("hi")
    assert first.text == second.text and session_id(first) != session_id(second)
    for number in range(3):
        for talk, name in ((one, "one"), (two, "two")):
            assert how(talk.say(f"{name} {number}")) == "live"


def test_conversations_with_the_same_opening_may_run_at_once(proxy: RealProxy) -> None:
    """Three clients say `hi`, and go on differently, each in a thread of its own."""
    ready = threading.Barrier(3)

    def talk(name: str) -> list[str]:
        client = Talk(proxy, SYSTEM)
        ready.wait(PATIENCE)
        return [client.say(text).text for text in ("hi", *(f"{name} {number}" for number in range(3)))]

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(talk, ("red", "green", "blue")))
    for name, heard in zip(("red", "green", "blue"), answers, strict=True):
        assert heard == [f"You said: {text}" for text in ("hi", f"{name} 0", f"{name} 1", f"{name} 2")]


def check_branch(answer: Answer) -> None:
    """A branch goes on in the child that holds the rest of it, which forgets what follows; where children are not used
    again it needs another one."""
    assert (how(answer) == "live") is not bool(os.environ.get("NO_RECYCLE"))


def test_an_edited_message_is_not_continued(proxy: RealProxy) -> None:
    """The edit goes upstream in place of the original; the original can still be continued."""
    talk = Talk(proxy, SYSTEM)
    for text in ("one", "two", "three"):
        talk.say(text)
    edited = Talk(proxy, *talk.said)
    edited.said[3] = "two, but better"
    check_branch(edited.say("four"))
    talk.say("five")
    edited.say("six")
    assert how(edited.say("seven")) == "live"


def test_an_edited_answer_is_not_continued(proxy: RealProxy) -> None:
    """Nor one that lost its end, which is no blank."""
    talk = Talk(proxy)
    talk.say("one")
    for text in ("You said: two", "You said: on"):
        changed = Talk(proxy, "one", assistant(text))
        assert how(changed.say("go on")) != "live"
    talk.say("go on, then")


def test_an_edited_system_prompt_is_not_continued(proxy: RealProxy) -> None:
    """It is the first thing that a child is told: nothing of its conversation is kept with another one."""
    talk = Talk(proxy, SYSTEM)
    talk.say("one")
    changed = Talk(proxy, {"role": "system", "content": "You are Muse."}, *talk.said[1:])
    without = Talk(proxy, *talk.said[1:])
    assert how(changed.say("two")) != "live"
    assert how(without.say("three")) != "live"
    talk.say("four")
    assert how(talk.say("five")) == "live"


def test_an_answer_can_be_regenerated(proxy: RealProxy) -> None:
    """The last user message once more: without its answer upstream, and both branches can be continued."""
    talk = Talk(proxy, SYSTEM)
    talk.say("one")
    talk.say("two")
    again = talk.branch(3)
    check_branch(again.say("two"))
    talk.say("three")
    assert how(again.say("three, too")) == "live"


def test_a_first_answer_can_be_regenerated(proxy: RealProxy) -> None:
    """The request is the first one over again."""
    talk = Talk(proxy)
    talk.say("one")
    again = Talk(proxy)
    again.say("one")
    talk.say("two")
    again.say("other two")


def test_a_branch_from_the_middle_is_continued_on_both_sides(proxy: RealProxy) -> None:
    """In turns, for several turns."""
    talk = Talk(proxy, SYSTEM)
    for text in ("one", "two", "three"):
        talk.say(text)
    branch = talk.branch(3)
    for number in range(3):
        talk.say(f"trunk {number}")
        branch.say(f"branch {number}")
    assert how(talk.say("trunk")) == how(branch.say("branch")) == "live"


def test_a_trimmed_history_is_replayed_as_it_is(proxy: RealProxy) -> None:
    """From the front, and in the middle: what the client left out is not put back."""
    talk = Talk(proxy, SYSTEM)
    for text in ("one", "two", "three", "four"):
        talk.say(text)
    front = Talk(proxy, SYSTEM, *talk.said[3:])
    middle = Talk(proxy, *talk.said[:3], *talk.said[5:])
    assert how(front.say("five")) != "live"
    check_branch(middle.say("six"))
    for each, text in ((front, "seven"), (middle, "eight"), (talk, "nine")):
        each.say(text)
    assert how(talk.say("ten")) == "live"


def test_a_window_that_moves_is_always_what_the_client_sent(proxy: RealProxy) -> None:
    """A client that keeps its last four messages only, for six turns."""
    talk = Talk(proxy, SYSTEM)
    for number in range(6):
        talk.say(f"number {number}")
        talk.said = [SYSTEM, *talk.said[1:][-4:]]


def test_a_context_block_that_moves_to_the_end_is_always_what_the_client_sent(proxy: RealProxy) -> None:
    """A client whose last message is never part of its history, for six turns."""
    said: list[Any] = [SYSTEM]
    for number in range(6):
        context = f"It is {number} o'clock."
        answer = proxy.say(*said, f"number {number}", context)
        assert_upstream(proxy.last(), *said[1:], f"number {number}", context, system="You are MUSE.")
        said += [f"number {number}", assistant(answer.text)]


def test_a_changed_tool_list_or_model_is_not_continued(proxy: RealProxy) -> None:
    """Each change reaches the API, with the whole conversation, and back again."""
    talk = Talk(proxy, SYSTEM)
    talk.say("one")
    talk.fields = {"tools": [TOOL]}
    assert how(talk.say("two")) != "live"
    assert [tool["name"] for tool in proxy.last()["tools"]] == ["look"]
    talk.fields = {"model": "claude-haiku-4"}
    assert how(talk.say("three")) != "live"
    assert (proxy.last()["model"], proxy.last()["tools"]) == ("claude-haiku-5-5", [])
    talk.fields = {}
    talk.say("four")
    assert proxy.last()["model"] == "claude-sonnet-5-5"
    assert how(talk.say("five")) == "live"


ECHOES: dict[str, Callable[[str], Json]] = {
    "as it was": assistant,
    "in parts": lambda text: assistant([{"type": "text", "text": text}]),
    "with its thinking": lambda text: assistant(text, reasoning_content="thought1 thought2"),
    "with tool_calls null": lambda text: assistant(text, tool_calls=None, function_call=None),
    "with all fields of the answer": lambda text: assistant(
        text, refusal=None, annotations=[], audio=None, tool_calls=None, reasoning_content="thought"
    ),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_an_answer_sent_back_in_another_shape_is_the_same(proxy: RealProxy, echo: Callable[[str], Json]) -> None:
    """The child goes on."""
    answer = proxy.say("one")
    second = proxy.say("one", echo(answer.text), "two")
    assert how(second) == "live"
    assert_upstream(proxy.last(), "one", assistant(answer.text), "two")


def test_an_answer_with_thinking_is_continued_live(proxy: RealProxy) -> None:
    """The client cannot send the thinking back; the child still has it, signed."""
    first = proxy.say("demo:think=3 demo:say=done", reasoning_effort="high")
    second = proxy.say("demo:think=3 demo:say=done", assistant("done"), "two", reasoning_effort="high")
    assert (first.text, how(second)) == ("done", "live")
    _, blocks = client_turns(proxy.last())[1]
    assert [block["type"] for block in blocks] == ["thinking", "text"]


@pytest.mark.parametrize("blanks", [" ", "  \t "], ids=["one", "several"])
def test_an_answer_sent_back_trimmed_is_continued_live(proxy: RealProxy, blanks: str) -> None:
    """Clients trim what they keep without meaning anything by it: the child goes on from what the model wrote."""
    prompt = f"demo:say=done{blanks}"
    first = proxy.say(prompt)
    assert first.text == f"done{blanks}"
    second = proxy.say(prompt, assistant("done"), "two")
    assert how(second) == "live"
    assert_upstream(proxy.last(), prompt, assistant(f"done{blanks}"), "two")


def test_a_conversation_that_repeats_itself_is_continued_live(proxy: RealProxy) -> None:
    """The same words and the same answer three times are three exchanges."""
    talk = Talk(proxy)
    answers = [talk.say(text) for text in ("hi", "more", "more", "more", "more")]
    assert [how(answer) for answer in answers] == ["new", "live", "live", "live", "live"]


def test_two_keys_with_equal_conversations_stay_two(start: Start) -> None:
    """No id, no child and no list is shared, and neither key may delete the other's."""
    proxy = start(api_key=("first-key", "second-key"))
    headers = [{"Authorization": f"Bearer {key}"} for key in ("first-key", "second-key")]
    one, two = (Talk(proxy, headers=one) for one in headers)
    assert [how(talk.say("hi")) for talk in (one, two)] == ["new", "new"]
    for number in range(2):
        assert [how(talk.say(f"number {number}")) for talk in (one, two)] == ["live", "live"]
    # Told apart upstream, too: each is a session of the CLI's own.
    assert len({json.loads(body["metadata"]["user_id"])["session_id"] for body in proxy.bodies}) == 2
    for own in headers:
        assert proxy.send(None, path="/v1/sessions", method="GET", headers=own).answer().json["total"] == 1
    assert proxy.send(None, path="/v1/sessions", method="DELETE", headers=headers[0]).answer().status == 200
    assert proxy.send(None, path="/v1/sessions", method="GET", headers=headers[1]).answer().json["total"] == 1
    assert how(two.say("still here")) == "live"
    assert proxy.say("hi").status == 401


@pytest.mark.parametrize("header", ["X-Session-Id", "X-Claude-Code-Session-Id", "user", "prompt_cache_key"])
def test_two_names_with_equal_conversations_stay_two(proxy: RealProxy, header: str) -> None:
    """However the client names them."""

    def talk(name: str) -> Talk:
        named: Json = {"headers": {header: name}} if header.startswith("X-") else {header: name}
        return Talk(proxy, **named)

    one, two = talk("one"), talk("two")
    for text in ("hi", "more", "and more"):
        answers = [one.say(text), two.say(text)]
        assert len({session_id(answer) for answer in answers}) == 2
    assert [how(answer) for answer in answers] == ["live", "live"]
    assert session_id(answers[0]) == ("hdr_one" if header.startswith("X-") else "usr_one")


def test_the_same_request_twice_at_once_is_answered_twice(proxy: RealProxy) -> None:
    """One goes on in the child that holds the conversation, the other is replayed; both are right, and can go on."""
    talk = Talk(proxy, SYSTEM)
    talk.say("one")
    proxy.forget()
    question = "demo:delay=50 demo:words=10"
    twins = [proxy.begin(*talk.said, question) for _ in range(2)]
    streams = [twin.stream() for twin in twins]
    assert [stream.text for stream in streams] == [" ".join(f"word{number}" for number in range(1, 11))] * 2
    assert sorted(how(stream) for stream in streams) == ["live", "replayed"]
    assert len(proxy.bodies) == 2
    for body in proxy.bodies:
        assert_upstream(body, *talk.said[1:], question, system="You are MUSE.")
    after = [*talk.said, question, assistant(streams[0].text)]
    for text in ("left", "right"):
        assert how(proxy.say(*after, text)) == "live"
        assert_upstream(proxy.last(), *after[1:], text, system="You are MUSE.")


def test_the_same_first_request_twice_at_once_makes_two_conversations(proxy: RealProxy) -> None:
    """Each with an id of its own, and each can go on."""
    twins = [proxy.begin("demo:delay=50 demo:words=10") for _ in range(2)]
    streams = [twin.stream() for twin in twins]
    assert [how(stream) for stream in streams] == ["new", "new"]
    assert len({session_id(stream) for stream in streams}) == 2
    assert len(proxy.bodies) == 2


BOT = {"X-Session-History": "server"}


def bot(name: str) -> dict[str, str]:
    """The headers of a client that keeps no history."""
    return {**BOT, "X-Session-Id": name}


def test_two_bots_that_send_only_what_is_new_stay_two(proxy: RealProxy) -> None:
    """Each goes on in its own conversation, and the API gets all of it."""
    told: dict[str, list[Any]] = {"red": [], "green": []}
    for text in ("hi", "how are you", "what now"):
        for name, said in told.items():
            answer = proxy.say(text, headers=bot(name))
            assert answer.text == f"You said: {text}" and session_id(answer) == f"hdr_{name}"
            assert_upstream(proxy.last(), *said, text)
            said += [text, assistant(answer.text)]
    assert how(answer) == "live"


def test_what_bots_send_at_once_is_answered_one_after_the_other(proxy: RealProxy) -> None:
    """In the order of arrival, each with what came before it."""
    texts = [f"number {number}" for number in range(4)]
    exchanges = []
    for text in texts:
        exchanges.append(proxy.begin(f"demo:delay=30 {text}", headers=bot("busy")))
        # The next one is sent once this one has arrived: at the API, or in the queue of its session.
        wait_until(lambda: proxy.service.workers.active == 1, "the first of them is running", PATIENCE)
        wanted = len(exchanges)
        wait_until(lambda: _arrived(proxy, "hdr_busy") >= wanted, f"{text} has arrived", PATIENCE)
    assert [exchange.stream().text for exchange in exchanges] == [f"You said: {text}" for text in texts]
    said: list[Any] = []
    for body, text in zip(proxy.bodies, texts, strict=True):
        assert_upstream(body, *said, f"demo:delay=30 {text}")
        said += [f"demo:delay=30 {text}", assistant(f"You said: {text}")]


def _arrived(proxy: RealProxy, name: str) -> int:
    """How many requests of a session have ended, run or wait."""
    queues = proxy.service.session_queue._queues
    waiting = sum(len(queue) for key, queue in queues.items() if key.id == name)
    record = proxy.service.sessions.get(SessionKey("", name))
    return waiting + (record.message_count // 2 if record else 0)


def test_a_bots_history_survives_a_restart(cli: Path, tmp_path: Path, clean_module: Path) -> None:
    """The same state folder, another run: both bots go on, and so does a client that keeps its own history."""
    told: dict[str, list[Any]] = {"red": [], "green": []}
    own: list[Any] = ["hello"]
    with Upstream(record=RECORDED) as api, temporary_folder_at(tmp_path / "tmp"):
        for run in range(3):
            with closing(RealProxy(tmp_path / "proxy", cli, {}, api)) as proxy:
                for name, said in told.items():
                    answer = proxy.say(f"{name} {run}", headers=bot(name))
                    assert how(answer) == ("replayed" if run else "new")
                    assert_upstream(proxy.last(), *said, f"{name} {run}")
                    said += [f"{name} {run}", assistant(answer.text)]
                answer = proxy.say(*own)
                assert how(answer) == ("replayed" if run else "new")
                assert_upstream(proxy.last(), *own)
                own += [assistant(answer.text), f"more {run}"]
                assert proxy.get("/v1/sessions").json["total"] == 3
        assert len(calls(api)) == 9


def test_a_deleted_session_of_a_bot_begins_anew(proxy: RealProxy) -> None:
    """Nothing of what was said before is sent again."""
    proxy.say("one", headers=bot("gone"))
    assert proxy.send(None, path="/v1/sessions/hdr_gone", method="DELETE").answer().json["ok"] is True
    answer = proxy.say("two", headers=bot("gone"))
    assert how(answer) == "new"
    assert_upstream(proxy.last(), "two")


def test_without_the_header_nothing_is_added(proxy: RealProxy) -> None:
    """A session's name alone keeps no history: the client sent two words, and they go upstream."""
    proxy.say("one", headers={"X-Session-Id": "plain"})
    proxy.say("two", headers={"X-Session-Id": "plain"})
    assert_upstream(proxy.last(), "two")


def test_a_bots_turn_that_fails_adds_nothing(proxy: RealProxy) -> None:
    """Neither the question nor half an answer is in the history of the next one."""
    first = proxy.say("one", headers=bot("careful"))
    assert proxy.say("demo:status=529", headers=bot("careful")).status == 503
    broken = proxy.begin("demo:words=5 demo:cut=2", headers=bot("careful")).stream()
    assert len(broken.errors) == 1
    proxy.say("two", headers=bot("careful"))
    assert_upstream(proxy.last(), "one", assistant(first.text), "two")


def test_the_sessions_api_lists_shows_and_deletes(start: Start) -> None:
    """With and without the prefix; a deleted conversation's child is closed, and it is new again."""
    proxy = start()
    talk = Talk(proxy, headers={"X-Session-Id": "my chat/1"})
    talk.say("one")
    answer = talk.say("two")
    named = session_id(answer)
    assert named == "hdr_my%20chat%2F1"
    listed = proxy.get("/v1/sessions").json
    assert listed["total"] == 1
    (record,) = listed["sessions"]
    assert (record["externalId"], record["messageCount"], record["model"]) == (named, 4, "claude-sonnet-5-5")
    assert record["claudeSessionId"] in proxy.last()["metadata"]["user_id"]
    assert record["createdAt"] < record["lastUsedAt"]
    path = f"/v1/sessions/{named.replace('%', '%25')}"
    assert proxy.get(path).json == record
    assert proxy.service.fleet.counts().live == 1
    assert set(proxy.send(None, path=path, method="DELETE").answer().json) == {"ok", "message"}
    wait_until(lambda: proxy.service.fleet.counts().live == 0, "its child is gone")
    assert proxy.get(path).status == 404
    assert proxy.send(None, path=path, method="DELETE").answer().status == 404
    assert how(talk.say("three")) == "new"
    deleted = proxy.send(None, path=path.removeprefix("/v1"), method="DELETE").answer()
    assert deleted.json == {"ok": True, "invalidated": named}
    Talk(proxy).say("another")
    assert proxy.send(None, path="/v1/sessions", method="DELETE").answer().json["message"] == "Reset 1 sessions"
    assert proxy.get("/v1/sessions").json == {"sessions": [], "total": 0}


def test_a_conversation_that_was_retired_is_replayed(start: Start) -> None:
    """Two children may be kept: of three conversations each goes on rightly."""
    proxy = start(live=2)
    talks = [Talk(proxy, SYSTEM) for _ in range(3)]
    for text in ("hi", "more", "and more"):
        for number, talk in enumerate(talks):
            talk.say(f"{text} {number}")
    assert proxy.service.fleet.counts().live == 2


def test_a_child_that_died_while_idle_costs_a_replay(start: Start) -> None:
    """Nothing else: the answer is right, and the turn after it is live again."""
    proxy = start(warm=0)
    talk = Talk(proxy, SYSTEM)
    talk.say("one")
    (child,) = proxy.service.fleet.members.live
    child.child.kill()
    assert how(talk.say("two")) == "replayed"
    assert how(talk.say("three")) == "live"
