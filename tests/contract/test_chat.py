"""Chat Completions over HTTP: what a client sends, what the child is told, what comes back, byte by byte."""

import json
import os
import re
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import schema
from tests.fake_cli import Script
from tests.harness import (
    JSON_TYPE,
    TIMING,
    Proxy,
    Stream,
    assistant,
    chat,
    control_requests,
    conversation_of,
    extra_bodies,
    is_alive,
    wait_until,
)

Start = Callable[..., Proxy]
Connect = Callable[..., openai.OpenAI]

USAGE = {"input_tokens": 100, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 7, "output_tokens": 5}


def checked(stream: Stream) -> Stream:
    """The stream, after every chunk was held against the official schema and the rules of the notes."""
    for chunk in stream.chunks:
        schema.check("CreateChatCompletionStreamResponse", chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in stream.chunks}) == 1
    assert stream.deltas[0]["role"] == "assistant" and not any("role" in delta for delta in stream.deltas[1:])
    assert stream.finish_reason is not None and stream.deltas[-1] == {}
    assert stream.is_done and stream.errors == []
    return stream


# Shapes.


def test_a_whole_answer_is_as_the_schema_says(proxy: Proxy) -> None:
    """Text, usage, and the model's name as the client sent it."""
    answer = proxy.ask("hello", model="gpt-4o")
    schema.check("CreateChatCompletionResponse", answer.json)
    body = answer.json
    assert body["id"].startswith("chatcmpl-") and body["object"] == "chat.completion" and body["model"] == "gpt-4o"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello from upstream: hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"]["prompt_tokens"] == 20 and body["usage"]["total_tokens"] == 32


def test_a_stream_is_as_the_schema_says(proxy: Proxy) -> None:
    """One chunk for each delta of the CLI, none held back or joined."""
    stream = checked(proxy.stream("hello there"))
    said = [delta["content"] for delta in stream.deltas[1:-1]]
    assert said == ["Hello ", "from ", "upstream: ", "hello ", "there"]
    assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in stream.chunks)


def test_the_bytes_of_a_short_stream(proxy: Proxy) -> None:
    """Only `data:` lines, one event a line, a blank line after each, `[DONE]` last."""
    exchange = proxy.send(chat('fake:deltas=["Hé","\\u2028\\"llo"]', stream=True, model="local/opus"))
    with closing(exchange):
        raw = exchange.response.read().decode()
        request_id = exchange.headers["x-request-id"]
    created = json.loads(raw.split("\n", 1)[0].removeprefix("data: "))["created"]
    head = (
        f'"id":"chatcmpl-{request_id.removeprefix("req_")}","object":"chat.completion.chunk",'
        f'"created":{created},"model":"local/opus"'
    )

    def chunk(delta: str, reason: str = "null") -> str:
        choice = f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}}}'
        return f'data: {{{head},"choices":[{choice}]}}\n\n'

    assert raw == (
        chunk('{"role":"assistant","content":"","refusal":null}')
        + chunk('{"content":"Hé"}')
        + chunk('{"content":"\\u2028\\"llo"}')
        + chunk("{}", '"stop"')
        + "data: [DONE]\n\n"
    )


@pytest.mark.parametrize("given", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
def test_without_include_usage_no_chunk_is_without_a_choice(proxy: Proxy, given: dict[str, Any]) -> None:
    """Many clients read choices[0] unasked."""
    stream = checked(proxy.stream("hello", **given))
    assert all(chunk["choices"] and "usage" not in chunk for chunk in stream.chunks)


def test_with_include_usage_the_last_chunk_counts(proxy: Proxy) -> None:
    """Every other one says `usage: null`; the cache's tokens are inside `prompt_tokens`."""
    usage = json.dumps(USAGE, separators=(",", ":"))
    stream = checked(proxy.stream(f"fake:usage={usage}", stream_options={"include_usage": True}))
    *others, last = stream.chunks
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (137, 5)
    assert last["usage"]["total_tokens"] == 142
    details = last["usage"]["prompt_tokens_details"]
    assert (details["cached_tokens"], details["cache_write_tokens"]) == (30, 7)


def test_headers_name_the_request_the_mode_and_what_ran(proxy: Proxy) -> None:
    """On whole answers and on streams."""
    for headers in (proxy.ask("hello").headers, proxy.stream("hello").headers):
        assert re.fullmatch("req_[0-9a-f]{32}", headers["x-request-id"])
        assert headers["request-id"] == headers["x-request-id"]
        assert headers["x-claude-proxy-mode"] == "chat"
        assert headers["x-claude-proxy-model"] == "claude-sonnet-5-5"
        assert "x-claude-proxy-ignored" not in headers
        assert headers["x-content-type-options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in headers)


# What an answer can end with.


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence:END", "stop"),
        ("pause_turn", "stop"),
        ("a_reason_of_tomorrow", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("refusal:once", "content_filter"),
    ],
)
def test_the_finish_reason_is_openais_word(proxy: Proxy, stop: str, reason: str) -> None:
    """And of what the CLI goes on to say by itself the client sees nothing."""
    text = f'fake:deltas=["the","\\u0020part"] fake:stop={stop} fake:reply=["and","\\u0020more"]'
    stream = checked(proxy.stream(text))
    assert (stream.text, stream.finish_reason) == ("the part", reason)
    body = proxy.ask(text).json
    schema.check("CreateChatCompletionResponse", body)
    assert body["choices"][0]["finish_reason"] == reason
    message = body["choices"][0]["message"]
    refused = reason == "content_filter"
    assert (message["content"], message["refusal"]) == ((None, "the part") if refused else ("the part", None))
    assert body["usage"]["completion_tokens"] == 12


def test_a_child_that_went_on_by_itself_is_not_used_again(proxy: Proxy) -> None:
    """Its history holds what no client has."""
    said = proxy.ask("fake:stop=max_tokens").text
    assert proxy.ask("fake:stop=max_tokens", assistant(said), "next").text == "Hello from upstream: next"
    first, second = proxy.log()
    assert not is_alive(first.pid) and len(conversation_of(second)) == 3
    # Killed before it could be told anything: it was about to ask the API for more.
    assert (first.end, first.signals) == (None, ())


def test_thinking_comes_apart_from_the_answer(proxy: Proxy) -> None:
    """As `reasoning_content`, in chunks of its own, before the content."""
    text = 'fake:thinking=hmm,\\u0020well fake:deltas=["ok"]'
    stream = checked(proxy.stream(text))
    assert stream.deltas[1:-1] == [{"reasoning_content": "hmm,\\u0020well"}, {"content": "ok"}]
    message = proxy.ask(text).json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("ok", "hmm,\\u0020well")


@pytest.mark.parametrize("stop", ["\n", ["\n\n", "\n"], [" \n"]])
def test_a_stop_sequence_of_blanks_is_found_by_the_proxy(proxy: Proxy, stop: Any) -> None:
    """The API takes none; the client gets not one character too many."""
    text = 'fake:deltas=["one\\u0020","\\n\\ntwo"]'
    stream = checked(proxy.stream(text, stop=stop))
    assert (stream.text, stream.finish_reason) == ("one" if stop == [" \n"] else "one ", "stop")
    assert proxy.ask(text, stop=stop).text == stream.text
    proxy.wait_until_idle()


# The official client.


def test_the_official_client_gets_a_whole_answer(openai_client: openai.OpenAI) -> None:
    """Parsed, with its request id."""
    answer = openai_client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "Hello from upstream: hi"
    assert answer.usage is not None and answer.usage.total_tokens == 32
    assert answer._request_id is not None and answer.id == answer._request_id.replace("req_", "chatcmpl-")


def test_the_official_client_follows_a_stream(openai_client: openai.OpenAI) -> None:
    """Chunk by chunk, with usage at the end."""
    chunks = list(
        openai_client.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == "Hello from upstream: hi"
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 20


def test_the_official_clients_stream_helper_builds_the_same_completion(openai_client: openai.OpenAI) -> None:
    """Its own fold of the chunks agrees with the whole answer."""
    with openai_client.chat.completions.stream(model="gpt-4o", messages=[{"role": "user", "content": "hi"}]) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "Hello from upstream: hi"
    assert completion.choices[0].finish_reason == "stop"


def test_the_official_client_raises_bad_request_with_the_path(openai_client: openai.OpenAI) -> None:
    """`param` and `code` arrive as attributes."""
    with pytest.raises(openai.BadRequestError) as raised:
        openai_client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}], n=2)
    assert raised.value.param == "n"


def test_the_official_client_lists_and_finds_models(openai_client: openai.OpenAI) -> None:
    """Names with a slash too; unknown ones are NotFoundError."""
    names = {model.id for model in openai_client.models.list()}
    assert {"claude-opus-4", "claude-sonnet-4", "claude-haiku-4"} <= names
    assert openai_client.models.retrieve("claude-opus-4").object == "model"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("provider/no-such-model")


# What the child is told.


def test_roles_are_replayed_and_not_flattened(proxy: Proxy) -> None:
    """System and developer messages replace the prompt; turns keep their roles, in order."""
    body = chat(
        {"role": "system", "content": "You are MUSE."},
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        "one",
        assistant("two"),
        {"role": "user", "content": [{"type": "text", "text": "three"}, {"type": "text", "text": "3b"}]},
        assistant([{"type": "text", "text": "four"}]),
        "/cost @/etc/hostname",
    )
    assert proxy.send(body).answer().text == "Hello from upstream: /cost @/etc/hostname"
    (child,) = proxy.log()
    (initialize,) = control_requests(child, "initialize")
    assert initialize["systemPrompt"] == ["You are MUSE.\n\nBe brief."]
    assert [(role, _texts(content)) for role, content in conversation_of(child)] == [
        ("user", ["one"]),
        ("assistant", ["two"]),
        ("user", ["three", "3b"]),
        ("assistant", ["four"]),
        ("user", ["/cost @/etc/hostname"]),
    ]
    users = [message for message in child.messages if message["type"] == "user"]
    assert [message.get("shouldQuery") for message in users] == [False, False, None]
    assert all(message["client_composed"] for message in users)
    assert "/cost" not in str(child.argv)


def _texts(content: Any) -> list[str]:
    return [content] if isinstance(content, str) else [block["text"] for block in content]


def test_a_system_message_in_the_middle_stays_in_its_place(proxy: Proxy) -> None:
    """It goes with the next user message, marked as what it is."""
    system = {"role": "system", "content": "Now in French."}
    assert proxy.ask("one", assistant("two"), system, "three").status == 200
    (child,) = proxy.log()
    *_, (role, content) = conversation_of(child)
    assert role == "user"
    assert [block["text"] for block in content] == ["<system>\nNow in French.\n</system>", "three"]


def test_without_a_system_message_there_is_no_prompt_at_all(proxy: Proxy) -> None:
    """Not the coding agent's either."""
    proxy.ask("hello")
    (initialize,) = control_requests(proxy.log()[0], "initialize")
    assert initialize["systemPrompt"] == []


PARAMETERS: tuple[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str | None], ...] = (
    # request, what EXTRA_BODY holds, other settings, X-Claude-Proxy-Ignored
    ({"stop": "END"}, {"stop_sequences": ["END"]}, {}, None),
    ({"stop": ["A", "B"]}, {"stop_sequences": ["A", "B"]}, {}, None),
    ({"stop": ["\n", "B"]}, {"stop_sequences": ["B"]}, {}, None),
    ({"temperature": 0.5}, {"temperature": 0.5, "thinking": {"type": "disabled"}}, {}, None),
    ({"temperature": 1.5}, {}, {}, "temperature"),
    ({"temperature": 1}, {}, {}, None),
    ({"top_p": 0.5}, {"top_p": 0.5, "thinking": {"type": "disabled"}}, {}, None),
    ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "thinking": {"type": "disabled"}}, {}, "top_p"),
    ({"max_tokens": 77}, {}, {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "77"}, None),
    ({"max_completion_tokens": 78}, {}, {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "78"}, None),
    ({"max_tokens": 1, "max_completion_tokens": 79}, {}, {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "79"}, None),
    ({"reasoning_effort": "high"}, {}, {"effortLevel": "high"}, None),
    ({"reasoning_effort": "minimal"}, {}, {"effortLevel": "low"}, None),
    ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}, {}, None),
    ({"seed": 7, "presence_penalty": 1, "service_tier": "flex"}, {}, {}, "presence_penalty, seed, service_tier"),
    ({"presence_penalty": 0, "logit_bias": {}, "store": False, "metadata": None, "n": 1}, {}, {}, None),
    ({"user": "me", "prompt_cache_key": "key", "safety_identifier": "x", "logprobs": False}, {}, {}, None),
)


@pytest.mark.parametrize(("given", "body", "settings", "ignored"), PARAMETERS, ids=lambda value: str(value)[:60])
def test_parameters_reach_the_child(
    shared_proxy: Proxy, given: dict[str, Any], body: dict[str, Any], settings: dict[str, Any], ignored: str | None
) -> None:
    """What cannot be honoured is named."""
    answer = shared_proxy.ask("hello", **given)
    assert answer.status == 200
    assert answer.headers.get("x-claude-proxy-ignored") == ignored
    child = shared_proxy.log()[-1]
    sent = extra_bodies(child)[-1] if extra_bodies(child) else {}
    sent.pop("context_management", None)
    assert sent == body
    requests = control_requests(child, "apply_flag_settings")
    in_force = {**requests[-1]["settings"]["env"], **requests[-1]["settings"]} if requests else {}
    assert {name: in_force.get(name) for name in settings} == settings
    shared_proxy.wait_until_empty()


def test_parameters_are_taken_back_on_the_next_turn(proxy: Proxy) -> None:
    """The child goes on without them."""
    said = proxy.ask("one", stop="END", max_tokens=99, reasoning_effort="low").text
    assert proxy.ask("one", assistant(said), "two").status == 200
    (child,) = proxy.log()
    first, second = control_requests(child, "apply_flag_settings")
    assert json.loads(first["settings"]["env"]["CLAUDE_CODE_EXTRA_BODY"]) == {"stop_sequences": ["END"]}
    assert first["settings"]["env"]["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "99"
    assert second["settings"] == {
        "env": {"CLAUDE_CODE_EXTRA_BODY": "", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": ""},
        "effortLevel": None,
    }


def test_strict_refuses_what_it_cannot_honour(start: Start) -> None:
    """400 with the name, instead of a header."""
    proxy = start(strict=True)
    answer = proxy.ask("hello", seed=7)
    assert (answer.status, answer.error["param"]) == (400, "seed")
    assert proxy.ask("hello", seed=None).status == 200


def test_a_model_that_refuses_a_parameter_is_asked_without_it(start: Start) -> None:
    """Once per parameter and model; the next request leaves it out from the start."""
    proxy = start(Script(processes={1: ("error#1=400",)}))
    answer = proxy.ask("hello", temperature=0.3)
    assert (answer.status, answer.headers["x-claude-proxy-ignored"]) == (200, "temperature")
    assert [len(control_requests(child, "apply_flag_settings")) for child in proxy.log()] == [1, 0]
    assert proxy.ask("hello", temperature=0.3).headers["x-claude-proxy-ignored"] == "temperature"


# Models.


@pytest.mark.parametrize(
    ("name", "argument", "ran"),
    [
        ("gpt-4o", "sonnet", "claude-sonnet-5-5"),
        ("gpt-4", "opus", "claude-opus-5-5"),
        ("gpt-4o-mini", "haiku", "claude-haiku-5-5"),
        ("claude-sonnet-4.5", "sonnet", "claude-sonnet-5-5"),
        ("provider/claude-haiku-4", "haiku", "claude-haiku-5-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
        ("opus[1m]", "opus[1m]", "claude-opus-5-5"),
        ("my-opus-thing", "opus", "claude-opus-5-5"),
        ("no-such-model", "sonnet", "claude-sonnet-5-5"),
        ("", "sonnet", "claude-sonnet-5-5"),
        (None, "sonnet", "claude-sonnet-5-5"),
    ],
)
def test_a_models_name_is_mapped(shared_proxy: Proxy, name: str | None, argument: str, ran: str) -> None:
    """The answer repeats the client's name; a header says what ran."""
    answer = shared_proxy.ask("hello", model=name)
    assert answer.json["model"] == (name or "")
    assert answer.headers["x-claude-proxy-model"] == ran
    argv = shared_proxy.log()[-1].argv
    assert argv[argv.index("--model") + 1] == argument
    shared_proxy.wait_until_empty()


def test_a_warm_spare_is_set_to_the_model(start: Start) -> None:
    """An alias costs nothing to set; a full id needs a child of its own."""
    proxy = start(warm=1)
    wait_until(lambda: proxy.service.fleet.counts().spare, "a spare")
    assert proxy.ask("hello", model="gpt-4").status == 200
    first = proxy.log()[0]
    assert [request["model"] for request in control_requests(first, "set_model")] == ["opus"]
    assert first.argv[first.argv.index("--model") + 1] == "sonnet"


def test_an_unknown_model_can_be_an_error(start: Start) -> None:
    """404, before a child is asked for."""
    proxy = start(unknown_model="error")
    answer = proxy.ask("hello", model="no-such-model")
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert proxy.ask("hello", model="gpt-4o").status == 200


def test_the_models_are_those_of_the_account(proxy: Proxy) -> None:
    """Before the first child has told, the aliases stand in."""
    before = proxy.get("/v1/models").json
    schema.check("ListModelsResponse", before)
    assert {"opus", "claude-opus-4"} <= {model["id"] for model in before["data"]}
    proxy.ask("hello")
    after = proxy.get("/models").json
    schema.check("ListModelsResponse", after)
    assert {"claude-opus-5-5", "opus", "claude-opus-4"} <= {model["id"] for model in after["data"]}
    one = proxy.get("/v1/models/provider/claude-opus-5-5").json
    schema.check("Model", one)
    assert one["id"] == "provider/claude-opus-5-5"


# Conversations.

ECHOES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as it was", {"content": "SAID"}),
    ("content as parts", {"content": [{"type": "text", "text": "SAID"}]}),
    ("tool_calls null", {"content": "SAID", "tool_calls": None, "refusal": None, "function_call": None}),
    ("tool_calls empty", {"content": "SAID", "tool_calls": []}),
    ("with reasoning", {"content": "SAID", "reasoning_content": "hmm", "reasoning": "hmm"}),
    ("with annotations", {"content": "SAID", "annotations": [], "audio": None, "name": "assistant"}),
)


@pytest.mark.parametrize("echo", [echo for _, echo in ECHOES], ids=[name for name, _ in ECHOES])
def test_a_second_turn_sends_only_what_is_new(start: Start, echo: dict[str, Any]) -> None:
    """To the very child that holds the rest, however the client echoes the answer."""
    proxy = start("thinking=hmm")
    said = proxy.ask("one").text
    message = json.loads(json.dumps(echo).replace("SAID", said))
    assert proxy.ask("one", {"role": "assistant", **message}, "two").text == "Hello from upstream: two"
    (child,) = proxy.log()
    assert conversation_of(child) == [("user", "one"), ("user", "two")]


def test_a_user_message_as_parts_is_the_same_message(proxy: Proxy) -> None:
    """The history may change its shape from one request to the next."""
    said = proxy.ask("one").text
    parts = {"role": "user", "content": [{"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}]}
    assert proxy.ask(parts, assistant(said), "two").status == 200
    assert len(proxy.log()) == 1


def test_an_edited_history_goes_elsewhere(proxy: Proxy) -> None:
    """The child that holds the old one is not told of it, and can still go on with its own."""
    said = proxy.ask("one").text
    proxy.ask("one", assistant(said), "two")
    assert proxy.ask("one", assistant("edited"), "two").text == "Hello from upstream: two"
    assert proxy.ask("changed", assistant(said), "two").text == "Hello from upstream: two"
    first, second, third = proxy.log()
    assert conversation_of(first) == [("user", "one"), ("user", "two")]
    assert conversation_of(second) == [("user", "one"), ("assistant", "edited"), ("user", "two")]
    assert conversation_of(third) == [("user", "changed"), ("assistant", said), ("user", "two")]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "gpt-4"},
        {"messages": "system"},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
    ],
    ids=["model", "system", "tools"],
)
def test_another_profile_is_another_child(proxy: Proxy, changed: dict[str, Any]) -> None:
    """What a child was initialised with cannot be changed."""
    said = proxy.ask("one").text
    head = [{"role": "system", "content": "other"}] if changed.pop("messages", None) else []
    assert proxy.ask(*head, "one", assistant(said), "two", **changed).status == 200
    assert len(proxy.log()) == 2


def test_the_same_request_again_is_a_conversation_of_its_own(proxy: Proxy) -> None:
    """A retry must not be taken for a second turn."""
    assert proxy.ask("one").text == proxy.ask("one").text
    assert len(proxy.log()) == 2


def test_many_turns_go_on_in_one_child(proxy: Proxy) -> None:
    """Streamed or not."""
    messages: list[Any] = []
    for number in range(6):
        messages.append(f"turn {number}")
        said = proxy.stream(*messages).text if number % 2 else proxy.ask(*messages).text
        assert said == f"Hello from upstream: turn {number}"
        messages.append(assistant(said))
    (child,) = proxy.log()
    assert conversation_of(child) == [("user", f"turn {number}") for number in range(6)]


def test_the_least_recently_used_conversation_goes_first(start: Start) -> None:
    """`live` children are kept; the others are ended with the end of their input."""
    proxy = start(live=2)
    for name in ("a", "b", "c"):
        proxy.ask(name)
    proxy.wait_for_log(lambda log: log[0].end == "eof")
    assert proxy.service.fleet.counts().live == 2


def test_an_idle_conversation_is_given_up_after_a_while(start: Start) -> None:
    """`idle_ttl` seconds after its last turn."""
    proxy = start(idle_ttl=0.2)
    proxy.ask("one")
    proxy.wait_until_empty()
    assert proxy.log()[0].end == "eof"


def test_a_short_memory_keeps_no_child_waiting(start: Start) -> None:
    """Neither spares nor conversations; requests are served all the same."""
    proxy = start(timing=replace(TIMING, memory_floor_bytes=1 << 62), warm=1)
    assert proxy.ask("one").text == "Hello from upstream: one"
    proxy.wait_until_empty()
    assert len(proxy.log()) == 1


def test_a_spare_that_dies_is_replaced_later(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Not at once: whatever killed it may kill the next one."""
    proxy = start(Script(processes={1: ("stderr@boot=no space left", "crash@boot")}), warm=1)
    wait_until(lambda: "next try in 1 s" in caplog.text, "the dead spare noticed")
    assert "no space left" in caplog.text
    wait_until(lambda: len(proxy.log()) > 1 and proxy.service.fleet.counts().spare, "another spare")
    assert proxy.ask("hello").status == 200


def test_without_a_cli_spares_are_tried_less_and_less_often(
    start: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """And one is there soon after the CLI is."""
    soon = replace(TIMING, first_backoff_interval=0.1)
    proxy = start(timing=soon, warm=1, claude=str(tmp_path / "later" / "claude"))
    wait_until(lambda: caplog.text.count("No spare could be started") > 1, "two tries")
    assert "next try in 0.2 s" in caplog.text or "next try in 2 s" in caplog.text
    assert proxy.ask("hello").status == 503


def test_an_assistant_that_speaks_first_is_replayed(proxy: Proxy) -> None:
    """Some clients show a greeting that no model has said."""
    assert proxy.ask(assistant("Welcome!"), "hello").text == "Hello from upstream: hello"
    assert conversation_of(proxy.log()[0]) == [("assistant", "Welcome!"), ("user", "hello")]


# What is refused.

DEEP = b"[" * 100_000
TEXT = [{"role": "user", "content": "x"}]


def body_with(**fields: Any) -> bytes:
    """A good request with these fields changed."""
    return json.dumps({"model": "gpt-4o", "messages": TEXT, **fields}).encode()


def raw(messages: str, rest: str = "") -> bytes:
    """A body written by hand."""
    return b'{"model":"gpt-4o","messages":' + messages.encode() + rest.encode() + b"}"


def message(**fields: Any) -> bytes:
    """A request whose only message has these fields."""
    return body_with(messages=[{"role": "user", **fields}])


BAD: tuple[tuple[str, bytes, str | None], ...] = (
    ("no body", b"", None),
    ("broken JSON", b'{"messages": [', None),
    ("trailing bytes", body_with() + b"}", None),
    ("not UTF-8", b'{"messages":[{"role":"user","content":"\xff\xfe"}]}', None),
    ("NaN", raw("[]", ',"temperature":NaN'), None),
    ("100,000 nested brackets", DEEP, None),
    ("100,000 nested brackets in messages", b'{"messages":' + DEEP + b"}", None),
    ("100,000 nested brackets in an unknown field", body_with()[:-1] + b',"x":' + DEEP, None),
    ("100,000 nested and closed brackets", body_with()[:-1] + b',"x":' + DEEP + b"]" * 100_000 + b"}", None),
    ("100,000 nested schemas", body_with()[:-1] + b',"tool_choice":' + b'{"a":' * 100_000, None),
    ("a list", b"[]", None),
    ("a string", b'"hello"', None),
    ("null", b"null", None),
    ("no messages", b'{"model":"gpt-4o"}', "messages"),
    ("messages null", raw("null"), "messages"),
    ("messages empty", raw("[]"), "messages"),
    ("messages a string", raw('"hi"'), "messages"),
    ("a message that is a string", raw('["hi"]'), "messages[0]"),
    ("a message without a role", raw('[{"content":"x"}]'), "messages[0].role"),
    ("a role of the wrong type", raw('[{"role":7,"content":"x"}]'), "messages[0].role"),
    ("an unknown role", raw('[{"role":"king","content":"x"}]'), "messages[0].role"),
    ("content of the wrong type", message(content=7), "messages[0].content"),
    ("a part of the wrong type", message(content=["x"]), "messages[0].content[0]"),
    ("a part without a type", message(content=[{"text": "x"}]), "messages[0].content[0].type"),
    ("an unknown part", message(content=[{"type": "smell"}]), "messages[0].content[0].type"),
    ("a text part without text", message(content=[{"type": "text"}]), "messages[0].content[0].text"),
    ("text of the wrong type", message(content=[{"type": "text", "text": 7}]), "messages[0].content[0].text"),
    ("only a system message", raw('[{"role":"system","content":"x"}]'), "messages"),
    ("an assistant comes last", body_with(messages=[*TEXT, assistant("y")]), "messages"),
    ("n is 2", body_with(n=2), "n"),
    ("n is 0", body_with(n=0), "n"),
    ("n of the wrong type", body_with(n="1"), "n"),
    ("logprobs", body_with(logprobs=True), "logprobs"),
    ("audio", body_with(modalities=["text", "audio"]), "modalities"),
    ("stream of the wrong type", body_with(stream="yes"), "stream"),
    ("stream_options of the wrong type", body_with(stream_options=True), "stream_options"),
    ("model of the wrong type", body_with(model=7), "model"),
    ("model with a zero byte", body_with(model="claude-\0"), "model"),
    ("model with a line break", body_with(model="claude-x\r\nX-Injected: 1"), "model"),
    ("max_tokens 0", body_with(max_tokens=0), "max_tokens"),
    ("max_tokens negative", body_with(max_tokens=-5), "max_tokens"),
    ("max_tokens a string", body_with(max_tokens="5"), "max_tokens"),
    ("max_tokens a fraction", body_with(max_tokens=1.5), "max_tokens"),
    ("max_tokens with 5,000 digits", raw("[]", ',"max_tokens":' + "9" * 5000), None),
    ("max_completion_tokens 0", body_with(max_completion_tokens=0), "max_completion_tokens"),
    ("temperature too high", body_with(temperature=2.1), "temperature"),
    ("temperature negative", body_with(temperature=-0.1), "temperature"),
    ("temperature a string", body_with(temperature="hot"), "temperature"),
    ("temperature without bounds", raw("[]", ',"temperature":1e999'), None),
    ("top_p too high", body_with(top_p=1.1), "top_p"),
    ("stop of the wrong type", body_with(stop=7), "stop"),
    ("a stop of the wrong type", body_with(stop=["a", 7]), "stop[1]"),
    ("an unknown effort", body_with(reasoning_effort="heroic"), "reasoning_effort"),
    ("an unknown response format", body_with(response_format={"type": "yaml"}), "response_format.type"),
    ("response_format without a type", body_with(response_format={}), "response_format.type"),
    (
        "json_schema without a schema",
        body_with(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
        "response_format.json_schema.schema",
    ),
    (
        "a schema that is none",
        body_with(response_format={"type": "json_schema", "json_schema": {"schema": {"type": "cat"}}}),
        "response_format.json_schema.schema",
    ),
    ("tools of the wrong type", body_with(tools={}), "tools"),
    ("a tool of the wrong type", body_with(tools=["f"]), "tools[0]"),
    ("a tool without a name", body_with(tools=[{"type": "web_search"}]), "tools[0]"),
    ("a function without a name", body_with(tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
    ("a function with an empty name", body_with(tools=[{"function": {"name": ""}}]), "tools[0].function.name"),
    ("two functions of one name", body_with(tools=[{"name": "f"}, {"name": "f"}]), "tools[1]"),
    (
        "a schema that is a list",
        body_with(tools=[{"name": "f", "parameters": []}]),
        "tools[0].parameters",
    ),
    (
        "a schema of another type",
        body_with(tools=[{"name": "f", "input_schema": {"type": "string"}}]),
        "tools[0].parameters.type",
    ),
    ("an unknown tool_choice", body_with(tool_choice="perhaps"), "tool_choice"),
    ("tool_choice of the wrong type", body_with(tool_choice=7), "tool_choice"),
    ("tool_choice without tools", body_with(tool_choice="required"), "tool_choice"),
    (
        "tool_choice of an unknown tool",
        body_with(tools=[{"name": "f"}], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice",
    ),
    (
        "allowed_tools without tools",
        body_with(tools=[{"name": "f"}], tool_choice={"type": "allowed_tools"}),
        "tool_choice",
    ),
    ("function_call without functions", body_with(functions=[{"name": "f"}], function_call="some"), "function_call"),
    (
        "a tool message without an id",
        body_with(messages=[*TEXT, {"role": "tool", "content": "x"}]),
        "messages[1].tool_call_id",
    ),
    (
        "a function message without a name",
        body_with(messages=[*TEXT, {"role": "function", "content": "x"}]),
        "messages[1].name",
    ),
    (
        "a call without a function",
        body_with(messages=[*TEXT, assistant(None, tool_calls=[{"id": "a"}]), *TEXT]),
        "messages[1].tool_calls[0].function",
    ),
    (
        "a tool_result without an id",
        message(content=[{"type": "tool_result", "content": "x"}]),
        "messages[0].content[0].tool_use_id",
    ),
    (
        "a tool_result with broken parts",
        message(content=[{"type": "tool_result", "tool_use_id": "a", "content": [7]}]),
        "messages[0].content[0].content[0]",
    ),
    (
        "a tool_use without a name",
        body_with(messages=[*TEXT, assistant([{"type": "tool_use", "id": "a"}]), *TEXT]),
        "messages[1].content[0].name",
    ),
)


@pytest.mark.parametrize(("body", "param"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_a_400_with_the_path(shared_proxy: Proxy, body: bytes, param: str | None) -> None:
    """Never a 500, never HTML, and no child is asked."""
    before = len(shared_proxy.log())
    answer = shared_proxy.send(body).answer()
    schema.check("ErrorResponse", answer.json)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), answer.body
    assert answer.error["message"]
    if param is not None:
        assert answer.error["param"] == param
    assert len(shared_proxy.log()) == before


def test_deeply_nested_arguments_of_a_call_are_no_bug_of_ours(shared_proxy: Proxy) -> None:
    """They are the model's own words, and may be anything."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
    result = {"role": "tool", "tool_call_id": "a", "content": "x"}
    answer = shared_proxy.ask("x", assistant(None, tool_calls=[call]), result)
    assert answer.status in (200, 400)
    shared_proxy.wait_until_empty()


@pytest.mark.parametrize("depth", [200, 2_000, 20_000])
@pytest.mark.parametrize("where", ["tool", "response_format", "call"])
def test_deeply_nested_schemas_are_no_bug_of_ours(shared_proxy: Proxy, where: str, depth: int) -> None:
    """They are served or refused."""
    nested: str = '{"type":"object","properties":{"a":' * depth + '{"type":"object"}' + "}}" * depth
    fields = {
        "tool": f'"tools":[{{"type":"function","function":{{"name":"f","parameters":{nested}}}}}]',
        "response_format": f'"response_format":{{"type":"json_schema","json_schema":{{"name":"x","schema":{nested}}}}}',
        "call": f'"tools":[{{"name":"f"}}],"tool_choice":{{"type":"function","function":{{"name":"f","x":{nested}}}}}',
    }
    answer = shared_proxy.send(raw(json.dumps(TEXT), f",{fields[where]}")).answer()
    assert answer.status in (200, 400) or (where == "response_format" and answer.status == 502), answer.body
    shared_proxy.wait_until_empty()


def test_a_zero_byte_in_a_text_is_text(shared_proxy: Proxy) -> None:
    """It never comes near an argv."""
    assert shared_proxy.ask("a\0b", {"role": "system", "content": "s\0"}).text.startswith("Hello from upstream: a\0b")
    shared_proxy.wait_until_empty()


def test_a_models_name_that_fits_no_header_is_no_bug_of_ours(shared_proxy: Proxy) -> None:
    """Headers are Latin-1 at most."""
    answer = shared_proxy.ask("hello", model="claude-世界")
    assert answer.status in (200, 400, 404)
    assert shared_proxy.ask("hello", model="世界").json["model"] == "世界"
    shared_proxy.wait_until_empty()


ELSEWHERE: tuple[tuple[str, str, str, dict[str, str], int, str | None, str], ...] = (
    # name, method, path, headers, status, code, words of the message
    (
        "text/plain",
        "POST",
        "/v1/chat/completions",
        {"Content-Type": "text/plain"},
        415,
        "unsupported_media_type",
        "json",
    ),
    ("no type", "POST", "/v1/chat/completions", {"Content-Type": ""}, 415, "unsupported_media_type", "json"),
    ("a form", "POST", "/v1/chat/completions", {"Content-Type": "multipart/form-data"}, 415, None, "json"),
    ("GET", "GET", "/v1/chat/completions", {}, 405, "method_not_allowed", "POST"),
    ("PUT", "PUT", "/chat/completions", {}, 405, "method_not_allowed", "POST"),
    ("POST to models", "POST", "/v1/models", {}, 405, "method_not_allowed", "GET"),
    ("an unknown route", "POST", "/v1/no/such/route", {}, 404, "not_found", "/v1/no/such/route"),
    ("an unknown root", "GET", "/favicon.ico", {}, 404, "not_found", "/favicon.ico"),
    ("embeddings", "POST", "/v1/embeddings", {}, 404, "not_found", "embedding"),
    ("completions", "POST", "/v1/completions", {}, 404, "not_found", "Legacy"),
    ("audio", "POST", "/v1/audio/speech", {}, 404, "not_found", "speak"),
    ("an unknown model", "GET", "/v1/models/no-such-model", {}, 404, "model_not_found", "no-such-model"),
    ("a foreign Host", "POST", "/v1/chat/completions", {"Host": "evil.example"}, 403, "forbidden", "--allowed-host"),
    ("a foreign Host with our port", "GET", "/health", {"Host": "evil.example:80"}, 403, "forbidden", "Host"),
    ("an address as Host", "GET", "/health", {"Host": "192.0.2.1"}, 403, "forbidden", "Host"),
    (
        "a foreign Origin",
        "POST",
        "/v1/chat/completions",
        {"Origin": "https://evil.example"},
        403,
        "forbidden",
        "--cors-origin",
    ),
    ("the Origin null", "POST", "/v1/chat/completions", {"Origin": "null"}, 403, "forbidden", "Origin"),
    (
        "a preflight from elsewhere",
        "OPTIONS",
        "/v1/chat/completions",
        {"Origin": "https://evil.example"},
        403,
        "forbidden",
        "Origin",
    ),
)


@pytest.mark.parametrize("row", ELSEWHERE, ids=lambda row: row[0])
def test_what_is_not_served_says_so_as_json(shared_proxy: Proxy, row: tuple[Any, ...]) -> None:
    """Status, code, and words that help; no route answers HTML."""
    _, method, path, headers, status, code, words = row
    body = body_with() if method in ("POST", "PUT") else None
    answer = shared_proxy.send(body, path=path, method=method, headers=headers).answer()
    schema.check("ErrorResponse", answer.json)
    assert answer.status == status
    assert code is None or answer.error["code"] == code
    assert words in answer.error["message"]
    assert ("allow" in answer.headers) == (status == 405)
    if status == 405:
        assert words in answer.headers["allow"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y"]
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/chat/completions", "/v1/chat/completions/", "/v1/chat/completions?beta=true"]
)
def test_the_route_is_there_in_every_spelling(shared_proxy: Proxy, path: str, content_type: str) -> None:
    """With and without /v1, with a slash at the end, with parameters; any spelling of the type."""
    exchange = shared_proxy.send(body_with(n=2), path=path, headers={"Content-Type": content_type})
    assert exchange.answer().error["param"] == "n"


def test_a_body_over_the_limit_is_a_413(start: Start) -> None:
    """Said as JSON; the limit itself is still taken."""
    proxy = start(max_body_bytes=10_000)
    answer = proxy.send(message(content="x" * 10_000)).answer()
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    size = 10_000 - len(message(content=""))
    assert proxy.send(message(content="x" * size)).answer().status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": "Basic s3cret"}, 401),
        ({"Authorization": "s3cret"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"Authorization": "Bearer s3cret"}, 200),
        ({"Authorization": "bearer   s3cret "}, 200),
        ({"x-api-key": "s3cret"}, 200),
        ({"Authorization": "Bearer unused", "x-api-key": "s3cret"}, 200),
    ],
)
def test_with_a_key_nothing_is_served_without_it(start: Start, headers: dict[str, str], status: int) -> None:
    """Bearer or x-api-key; /health says the little that anyone may know."""
    proxy = start(api_key=("s3cret",))
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/")):
        body = body_with() if method == "POST" else None
        answer = proxy.send(body, path=path, method=method, headers=headers).answer()
        assert answer.status == status, path
        if status == 401 and path != "/v1/models":
            assert (answer.error["type"], answer.error["code"]) == ("invalid_request_error", "invalid_api_key")
    health = proxy.get("/health", **headers).json
    assert set(health) > {"status", "timestamp"} if status == 200 else set(health) == {"status", "timestamp"}


def test_a_key_beyond_ascii_is_compared_without_a_fault(start: Start) -> None:
    """Whatever bytes a header brings."""
    proxy = start(api_key=("other", "s3cret"))
    for given, status in ((b"s3cret", 200), (b"other", 200), (b"\xff\xfe", 401), ("ключ".encode(), 401)):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as sock:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
            sock.sendall(b"Authorization: Bearer " + given + b"\r\n\r\n")
            received = b"".join(iter(lambda: sock.recv(65536), b""))
        assert received.startswith(f"HTTP/1.1 {status} ".encode()), received[:200]


def test_the_official_client_raises_authentication_error(start: Start, connect: Connect) -> None:
    """With a wrong key; with the right one it works."""
    proxy = start(api_key=("s3cret",))
    with pytest.raises(openai.AuthenticationError):
        connect(proxy, api_key="wrong").models.list()
    assert connect(proxy, api_key="s3cret").chat.completions.create(**chat("hi")).choices


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:3456", "[::1]:3456", "127.5.5.5", "LocalHost:1"])
def test_a_loopback_host_is_served(shared_proxy: Proxy, host: str) -> None:
    """Under each of its names."""
    assert shared_proxy.send(None, path="/health", method="GET", headers={"Host": host}).answer().status == 200


def test_our_own_page_may_call(shared_proxy: Proxy) -> None:
    """Same origin needs no list."""
    origin = f"http://127.0.0.1:{shared_proxy.port}"
    assert shared_proxy.send(None, path="/health", method="GET", headers={"Origin": origin}).answer().status == 200


def test_a_listed_origin_gets_cors_headers_and_others_none(start: Start) -> None:
    """On the preflight, on answers, on errors and on streams."""
    proxy = start(cors_origin=("https://app.example", "http://localhost:*"))
    origin = {"Origin": "https://app.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, x-stainless-os"}
    preflight = proxy.send(None, method="OPTIONS", headers={**origin, **asked}).answer()
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert preflight.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for body in (chat("hello"), chat("hello", stream=True), chat("hello", n=2)):
        answer = proxy.send(body, headers=origin).answer()
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["vary"] == "Origin"
        assert "retry-after" in answer.headers["access-control-expose-headers"]
    assert proxy.send(chat("hello"), headers={"Origin": "http://localhost:5173"}).answer().status == 200
    assert proxy.send(chat("hello"), headers={"Origin": "http://localhost.evil.example"}).answer().status == 403


def test_an_allowed_host_is_served_with_its_key(start: Start) -> None:
    """As behind a tunnel."""
    proxy = start(api_key=("s3cret",), allowed_host=("proxy.example",))
    headers = {"Host": "proxy.example", "Authorization": "Bearer s3cret"}
    assert proxy.send(chat("hello"), headers=headers).answer().status == 200


# Beside the chat.


def test_health_tells_how_the_proxy_is(start: Start) -> None:
    """For a person, a program, or a load balancer."""
    proxy = start(warm=1)
    wait_until(lambda: proxy.service.fleet.counts().spare, "a spare")
    health = proxy.get("/v1/health").json
    assert (health["status"], health["provider"], health["logged_in"]) == ("ok", "claude-code-cli", True)
    assert health["cli"]["version"] == "2.1.329" and health["warm"] >= 1
    plain = proxy.get("/health", Accept="text/plain")
    assert (plain.status, plain.body) == (200, b"ok\n")


def test_the_root_says_what_answers_here(shared_proxy: Proxy) -> None:
    """And HEAD is answered."""
    body = shared_proxy.get("/").json
    assert body["name"] == "claude_proxy" and "POST /v1/chat/completions" in body["endpoints"]
    assert shared_proxy.send(None, path="/", method="HEAD").answer().status == 200


def test_children_get_nothing_of_the_users_and_nothing_secret(start: Start) -> None:
    """No variable of a session, of the proxy, or of a key; one empty folder to work in."""
    names = ("CLAUDECODE", "ANTHROPIC_API_KEY", "CLAUDE_PROXY_API_KEY", "CLAUDE_CODE_ENTRYPOINT", "PROXY_API_KEY")
    proxy = start(environ={**dict.fromkeys(names, "x"), "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})
    proxy.ask("hello")
    (child,) = proxy.log()
    assert child.environment.isdisjoint(names) and "ANTHROPIC_BASE_URL" in child.environment
    assert os.listdir(child.folder) == []
    for flag in ("--no-session-persistence", "--strict-mcp-config", "--disable-slash-commands"):
        assert flag in child.argv
    assert child.argv[child.argv.index("--tools") + 1] == "" == child.argv[child.argv.index("--setting-sources") + 1]


def test_with_use_api_key_the_child_sees_it(start: Start) -> None:
    """Because it was asked for."""
    proxy = start(environ={"ANTHROPIC_API_KEY": "x"}, use_api_key=True)
    proxy.ask("hello")
    assert "ANTHROPIC_API_KEY" in proxy.log()[0].environment


def test_neither_prompts_nor_answers_are_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each request, without a word of it."""
    caplog.set_level("INFO")
    proxy = start()
    proxy.ask("a secret prompt")
    line = r"req_[0-9a-f]{32} chat claude-sonnet-5-5 new 200"
    wait_until(lambda: len(re.findall(line, caplog.text)) == 1, "the line, which is written once the answer is sent")
    assert "secret" not in caplog.text and "upstream" not in caplog.text


def test_debug_logs_bodies(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Because it was asked for."""
    caplog.set_level("INFO")
    start(debug=True).ask("a secret prompt")
    assert "a secret prompt" in caplog.text


def test_no_text_is_left_on_disk(start: Start) -> None:
    """Neither in the state folder nor beside it."""
    proxy = start()
    proxy.ask("a most secret prompt")
    state = proxy.config.state_folder
    assert not [path for path in state.rglob("*") if path.is_file() and b"secret prompt" in path.read_bytes()]


def test_jsons_headers_are_json(shared_proxy: Proxy) -> None:
    """The type of every answer that is no stream."""
    assert JSON_TYPE["Content-Type"] == shared_proxy.get("/health").headers["content-type"]
