"""What a client asks of a turn reaches the API, holds for that turn alone, and is named where it cannot be honoured."""

from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.real import RealProxy, calls, client_turns
from tests.harness import Answer, Json, assistant

pytestmark = pytest.mark.e2e

EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
THINKING = {"type": "adaptive", "display": "summarized"}
REFUSES_SAMPLING = "claude-fable-5-2"


def finish_reason(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    reason = answer.json["choices"][0]["finish_reason"]
    assert isinstance(reason, str)
    return reason


def words(count: int) -> str:
    """The first words of the demo's long answer."""
    return " ".join(f"word{number}" for number in range(1, count + 1))


def is_without_thinking(body: Json) -> bool:
    """The API takes some parameters only with thinking off, and then no edit that is about thinking."""
    return bool(body["thinking"] == {"type": "disabled"} and body["context_management"] == {"edits": []})


def ignored(answer: Answer) -> str:
    return answer.headers.get("x-claude-proxy-ignored", "")


def test_without_parameters_the_clis_own_are_in_force(proxy: RealProxy) -> None:
    """Nothing is named as ignored; thinking is adaptive, and its text asked for in readable form."""
    answer = proxy.say("hello")
    body = proxy.only()
    assert ignored(answer) == ""
    assert body["thinking"] == THINKING
    assert not {"temperature", "top_p", "top_k", "stop_sequences", "tool_choice"} & set(body)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_ends_after_exactly_so_many_tokens(proxy: RealProxy, name: str, stream: bool) -> None:
    """The API is told the limit, asked once, and the client is told `length`."""
    limit: Json = {name: 7}
    if stream:
        streamed = proxy.stream("demo:words=50", **limit)
        text, reason = streamed.text, streamed.finish_reason
        assert streamed.is_done
    else:
        answer = proxy.say("demo:words=50", **limit)
        text, reason = answer.text, finish_reason(answer)
        assert answer.json["usage"]["completion_tokens"] == 7
    assert (text.strip(), reason) == (words(7), "length")
    proxy.wait_until_idle()
    assert proxy.only()["max_tokens"] == 7


def test_an_answer_of_just_the_allowed_length_has_stopped(proxy: RealProxy) -> None:
    """`stop`, not `length`."""
    answer = proxy.say("demo:words=7", max_tokens=7)
    assert (answer.text, finish_reason(answer)) == (words(7), "stop")


def test_of_two_limits_the_newer_name_counts(proxy: RealProxy) -> None:
    """`max_tokens` is the deprecated one."""
    proxy.say("demo:words=50", max_tokens=20, max_completion_tokens=5)
    assert proxy.only()["max_tokens"] == 5


def test_after_an_answer_that_was_cut_the_conversation_goes_on(proxy: RealProxy) -> None:
    """What the CLI would have asked of the API by itself is no part of it."""
    first = proxy.say("demo:words=50", max_tokens=7)
    proxy.forget()
    assert proxy.say("demo:words=50", assistant(first.text), "and then").text == "You said: and then"
    roles = [(role, blocks[0]["text"].strip()) for role, blocks in client_turns(proxy.only())]
    assert roles == [("user", "demo:words=50"), ("assistant", words(7)), ("user", "and then")]


@pytest.mark.parametrize("stop", ["word4", ["never", "word4"]], ids=["text", "list"])
def test_an_answer_ends_before_a_stop_sequence(proxy: RealProxy, stop: Any) -> None:
    """Not a character of it, or behind it, is sent."""
    answer = proxy.say("demo:words=50", stop=stop)
    assert (answer.text, finish_reason(answer)) == (words(3) + " ", "stop")
    assert proxy.only()["stop_sequences"] == ([stop] if isinstance(stop, str) else stop)


def test_a_stop_sequence_of_blanks_is_honoured_without_the_api(proxy: RealProxy) -> None:
    """The API takes none: the proxy looks for it, and the conversation goes on with what the client has seen."""
    prompt = "demo:say=one\ndemo:say=two"
    answer = proxy.say(prompt, stop=["\n", "never"])
    assert (answer.text, finish_reason(answer), ignored(answer)) == ("one", "stop", "")
    assert proxy.only()["stop_sequences"] == ["never"]
    proxy.say(prompt, assistant("one"), "and then")
    assert client_turns(proxy.last())[1] == ("assistant", [{"type": "text", "text": "one"}])


@pytest.mark.parametrize("value", [0, 0.3])
def test_a_temperature_reaches_the_api_with_thinking_off(proxy: RealProxy, value: float) -> None:
    """With thinking on the API refuses it."""
    answer = proxy.say("hello", temperature=value)
    body = proxy.only()
    assert (answer.text, ignored(answer)) == ("You said: hello", "")
    assert body["temperature"] == value and "top_p" not in body and is_without_thinking(body)


def test_a_temperature_of_one_changes_nothing(proxy: RealProxy) -> None:
    """It is the default."""
    answer = proxy.say("hello", temperature=1)
    assert ignored(answer) == "" and proxy.only()["thinking"] == THINKING


def test_a_temperature_beyond_the_apis_range_is_named_as_ignored(proxy: RealProxy) -> None:
    """OpenAI's goes up to 2."""
    answer = proxy.say("hello", temperature=1.7)
    assert (answer.status, ignored(answer)) == (200, "temperature")
    assert "temperature" not in proxy.only()


def test_top_p_reaches_the_api_with_thinking_off(proxy: RealProxy) -> None:
    """As a temperature does."""
    answer = proxy.say("hello", top_p=0.5)
    body = proxy.only()
    assert (answer.text, ignored(answer)) == ("You said: hello", "")
    assert body["top_p"] == 0.5 and "temperature" not in body and is_without_thinking(body)


def test_of_temperature_and_top_p_one_is_named_as_ignored(proxy: RealProxy) -> None:
    """The API takes only one of them."""
    answer = proxy.say("hello", temperature=0.5, top_p=0.5)
    body = proxy.only()
    assert (answer.text, ignored(answer)) == ("You said: hello", "top_p")
    assert body["temperature"] == 0.5 and "top_p" not in body


@pytest.mark.parametrize("effort", EFFORTS)
def test_the_effort_reaches_the_api(proxy: RealProxy, effort: str) -> None:
    """In its own words, with thinking on."""
    answer = proxy.say("hello", reasoning_effort=effort)
    body = proxy.only()
    assert (answer.text, ignored(answer)) == ("You said: hello", "")
    assert body["output_config"] == {"effort": EFFORTS[effort]} and body["thinking"] == THINKING


def test_without_effort_there_is_no_thinking(proxy: RealProxy) -> None:
    """`none` turns it off."""
    answer = proxy.say("demo:think=5 demo:say=done", reasoning_effort="none")
    assert is_without_thinking(proxy.only())
    assert answer.text == "done" and "reasoning_content" not in answer.json["choices"][0]["message"]


def test_parameters_hold_for_one_turn_only(proxy: RealProxy) -> None:
    """The next turn in the same child runs without them, and the one after it with others."""
    said: list[Any] = ["one"]
    asked: list[Json] = [
        {"reasoning_effort": "low", "max_tokens": 900},
        {},
        {"temperature": 0.5, "stop": "never"},
        {"reasoning_effort": "high"},
        {"reasoning_effort": "none"},
        {},
    ]
    for number, fields in enumerate(asked):
        answer = proxy.say(*said, **fields)
        said += [assistant(answer.text), f"more {number}"]
    assert answer.headers["x-claude-proxy-session"].endswith("; live")
    bodies = proxy.bodies
    assert [body["output_config"]["effort"] for body in bodies] == [
        "low",
        "medium",
        "medium",
        "high",
        "medium",
        "medium",
    ]
    assert [body["max_tokens"] for body in bodies] == [900, *[128000] * 5]
    assert [body.get("temperature") for body in bodies] == [None, None, 0.5, None, None, None]
    assert [body.get("stop_sequences") for body in bodies] == [None, None, ["never"], None, None, None]
    assert [is_without_thinking(body) for body in bodies] == [False, False, True, False, True, False]
    assert [body["thinking"] for body in bodies if not is_without_thinking(body)] == [THINKING] * 4


def test_thinking_comes_apart_from_the_answer(proxy: RealProxy) -> None:
    """As `reasoning_content`, whole or streamed, and counted as `reasoning_tokens`."""
    prompt = "demo:think=5 demo:say=done"
    thought = " ".join(f"thought{number}" for number in range(1, 6))
    answer = proxy.say(prompt, reasoning_effort="high")
    message = answer.json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("done", thought)
    assert answer.json["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    streamed = proxy.stream(prompt, reasoning_effort="high", stream_options={"include_usage": True})
    assert streamed.text == "done"
    assert "".join(delta.get("reasoning_content") or "" for delta in streamed.deltas) == thought
    assert streamed.chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    assert [body["thinking"] for body in proxy.bodies] == [THINKING] * 2


def test_thinking_sent_back_by_the_client_goes_nowhere(proxy: RealProxy) -> None:
    """No text of it, and no signature that another model would have to answer for, in a replay."""
    back = assistant("done", reasoning_content="thought of another", tool_calls=None)
    assert proxy.say("one", back, "two").status == 200
    assert [len(blocks) for _, blocks in client_turns(proxy.only())] == [1, 1, 1]
    assert "thought of another" not in str(proxy.only())


def test_what_a_model_refuses_is_left_out_named_and_remembered(start: Start) -> None:
    """A temperature on a model that takes none: answered all the same, and the next time without a 400."""
    proxy = start()
    first = proxy.say("hello", model=REFUSES_SAMPLING, temperature=0)
    assert (first.text, ignored(first)) == ("You said: hello", "temperature")
    assert [call.status for call in calls(proxy.api)][-1] == 200
    assert {call.status for call in calls(proxy.api)[:-1]} == {400}
    proxy.forget()
    second = proxy.say("hello again", model=REFUSES_SAMPLING, temperature=0, stop="never")
    assert (second.text, ignored(second)) == ("You said: hello again", "temperature")
    body = proxy.only()
    assert "temperature" not in body and body["thinking"] == THINKING and body["stop_sequences"] == ["never"]
    proxy.forget()
    other = proxy.say("hello", temperature=0)
    assert ignored(other) == "" and proxy.only()["temperature"] == 0


def test_a_strict_proxy_says_400_for_what_a_model_refuses(start: Start) -> None:
    """Nothing is left out without a word, or with one."""
    proxy = start(strict=True)
    answer = proxy.say("hello", model=REFUSES_SAMPLING, temperature=0)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert "temperature" in answer.error["message"]
    assert proxy.say("hello", model=REFUSES_SAMPLING).text == "You said: hello"


@pytest.mark.parametrize("fields", [{"temperature": 0.5, "top_p": 0.5}, {"seed": 1}, {"temperature": 1.5}], ids=str)
def test_a_strict_proxy_says_400_for_what_it_cannot_honour(start: Start, fields: Json) -> None:
    """It names the parameter, and asks nobody."""
    proxy = start(strict=True)
    answer = proxy.say("hello", **fields)
    assert answer.status == 400 and answer.error["param"] in fields
    assert proxy.bodies == []


def test_what_is_not_honoured_is_named(proxy: RealProxy) -> None:
    """Every one of them, sorted; the answer comes all the same."""
    answer = proxy.say("hello", seed=1, frequency_penalty=0.5, presence_penalty=0, logit_bias={"1": 1}, nonsense=True)
    assert (answer.text, ignored(answer)) == ("You said: hello", "frequency_penalty, logit_bias, nonsense, seed")


@pytest.mark.parametrize(
    "asked, ran",
    [
        ("claude-sonnet-4", "claude-sonnet-5-5"),
        ("claude-opus-4", "claude-opus-5-5"),
        ("claude-haiku-4", "claude-haiku-5-5"),
        ("gpt-4o", "claude-sonnet-5-5"),
        ("gpt-4", "claude-opus-5-5"),
        ("local/opus", "claude-opus-5-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-20250514"),
        ("somebodys/own-model", "claude-sonnet-5-5"),
    ],
)
def test_a_models_name_is_echoed_and_the_header_says_what_ran(proxy: RealProxy, asked: str, ran: str) -> None:
    """One request goes upstream: a full id brings no probe with it."""
    answer = proxy.say("hello", model=asked)
    assert answer.json["model"] == asked
    assert answer.headers["x-claude-proxy-model"] == ran
    assert proxy.only()["model"] == ran


def test_a_full_id_as_the_models_own_brings_no_probe(start: Start) -> None:
    """`--model` with a full id: spares and turns of it, and a turn of another, each cost one request."""
    proxy = start(model="claude-opus-4-5-20251101")
    for model in ("unknown-model", "", "claude-sonnet-4", "claude-haiku-4-5-20251001"):
        assert proxy.say("hello", model=model).status == 200
    ran = ["claude-opus-4-5-20251101"] * 2 + ["claude-sonnet-5-5", "claude-haiku-4-5-20251001"]
    assert [body["model"] for body in proxy.bodies] == ran


def test_a_model_nobody_has_is_a_404(proxy: RealProxy) -> None:
    """The API's own answer, as OpenAI says it."""
    answer = proxy.say("hello", model="claude-opus-4-99-nonsense")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_the_tokens_are_counted_as_openai_does(proxy: RealProxy) -> None:
    """What the cache served is inside `prompt_tokens`; a continued conversation is read from the cache."""
    first = proxy.say("hello " * 50)
    second = proxy.say("hello " * 50, assistant(first.text), "more")
    usage = second.json["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= first.json["usage"]["prompt_tokens"]
    assert usage["prompt_tokens"] > usage["prompt_tokens_details"]["cached_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_an_answer_that_is_cut_at_its_length_is_not_paid_for_twice(proxy: RealProxy) -> None:
    """The CLI would ask the API to go on, by itself; it is ended first, nearly always."""
    turns = 10
    for number in range(turns):
        assert proxy.say(f"demo:words=50 number {number}", max_tokens=3).text == "word1 word2 word3 "
    proxy.wait_until_idle()
    sent = [request for request in proxy.api.requests if request.path.startswith("/v1/messages")]
    assert len(sent) <= turns + 3
