"""Anthropic Messages over HTTP, with the official SDK as client: answers, streams, tools, errors, models, counting."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import pydantic
import pytest
from anthropic.types import Message, ToolUseBlock

from tests.contract.conftest import Start
from tests.fake_cli import Script
from tests.harness import Json, Proxy, control_requests, conversation_of, extra_bodies

Connect = Callable[[Proxy], anthropic.Anthropic]

MODEL = "claude-sonnet-5-5"
SCHEMA = Path(__file__).parents[1] / "data" / "contract" / "anthropic-schema.json"
VERSION = {"anthropic-version": "2023-06-01"}
ROUTE = "/v1/messages"
WEATHER: Any = {"name": "get_weather", "description": "Weather", "input_schema": {"type": "object", "properties": {}}}
CALLS = ('call=get_weather:{"city":"Paris"}', 'call=get_weather:{"city":"Rome"}')
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\x01\x2c\0\0\0\xc8").decode()
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj <</Type /Page>>\n%%EOF").decode()


@cache
def validator(root: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{root}", "$defs": schema["$defs"]})


def check(value: Any, root: str) -> None:
    """AssertionError where a type of the SDK does not take this."""
    problems = [f"{error.json_path}: {error.message}" for error in validator(root).iter_errors(value)]
    assert not problems


def body(content: Any = "hi", **fields: Any) -> Json:
    """A request of one user message."""
    return {"model": MODEL, "max_tokens": 256, "messages": [{"role": "user", "content": content}], **fields}


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def events(proxy: Proxy, request: Json) -> list[Json]:
    """The events of a stream, each of them valid; AssertionError where an `event:` line is not its type."""
    found = []
    for record in proxy.send({**request, "stream": True}, path=ROUTE).stream().records:
        kind, data = record.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        if event["type"] == "error":
            check(event, "ErrorResponse")
        elif event["type"] != "ping":
            check(event, "RawMessageStreamEvent")
        found.append(event)
    return found


@pytest.fixture
def connect_anthropic() -> Iterator[Connect]:
    """The official client of a proxy, without retries."""
    with ExitStack() as stack:

        def make(proxy: Proxy) -> anthropic.Anthropic:
            return stack.enter_context(anthropic.Anthropic(base_url=proxy.url, api_key="unused", max_retries=0))

        yield make


@pytest.fixture
def client(proxy: Proxy, connect_anthropic: Connect) -> anthropic.Anthropic:
    return connect_anthropic(proxy)


def ask(client: anthropic.Anthropic, *messages: Any, **fields: Any) -> Message:
    """A whole answer, collected from a stream by the SDK; AssertionError where waiting for it gives another."""
    request: Any = {"model": MODEL, "max_tokens": 256, "messages": [*messages], **fields}
    with client.messages.stream(**request) as stream:
        streamed = stream.get_final_message()
    whole = client.messages.create(**request)
    assert isinstance(whole, Message)
    same: Any = {"id": True, "content": {"__all__": {"id"}}, "usage": True}
    assert whole.model_dump(exclude=same) == streamed.model_dump(exclude=same)
    check(whole.to_dict(), "Message")
    return streamed


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_an_answer_is_the_same_whole_and_streamed(client: anthropic.Anthropic) -> None:
    """One text block, the model that answered, the CLI's own counts."""
    message = ask(client, user("hi"), system="You are MUSE.")
    assert [block.type for block in message.content] == ["text"]
    assert (text_of(message), message.stop_reason) == ("Hello from upstream: hi", "end_turn")
    assert message.model == MODEL
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (10, 7)


@pytest.mark.parametrize("path", ["/v1/messages", "/messages", "/v1/messages?beta=true", "/v1/messages/"])
def test_the_route_has_several_spellings(proxy: Proxy, path: str) -> None:
    """Every beta call of the SDKs has a query."""
    assert proxy.send(body(), path=path).answer().json["content"][0]["text"] == "Hello from upstream: hi"


def test_headers_say_who_answered(proxy: Proxy) -> None:
    """`request-id` is the SDKs' own; the version and the betas are repeated."""
    sent = {"anthropic-version": "2026-10-21", "anthropic-beta": "a-2026,b-2026"}
    headers = proxy.send(body(), path=ROUTE, headers=sent).answer().headers
    assert {name: headers[name] for name in sent} == sent
    assert headers["request-id"].startswith("req_")
    assert proxy.send(body(), path=ROUTE).answer().headers["anthropic-version"] == "2023-06-01"
    assert "anthropic-version" not in proxy.ask("hi").headers


@pytest.mark.parametrize(
    ("directives", "blocks", "first"),
    [
        (("thinking=hm",), ["thinking", "text"], ["thinking_delta", "signature_delta", "text_delta"]),
        (CALLS, ["tool_use", "tool_use"], ["text_delta"]),
    ],
)
def test_every_event_is_one_that_the_sdk_knows(
    start: Start, directives: tuple[str, ...], blocks: list[str], first: list[str]
) -> None:
    """Blocks one after another, `message_delta` once, `message_stop` last."""
    found = events(start(*directives), body(tools=[WEATHER], thinking={"type": "adaptive"}))
    kinds = [event["type"] for event in found if event["type"] != "ping"]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("message_start", "message_delta", "message_stop")
    starts = [event for event in found if event["type"] == "content_block_start"]
    assert [event["index"] for event in starts] == list(range(len(starts)))
    assert [event["content_block"]["type"] for event in starts][-2:] == blocks
    deltas = [event["delta"]["type"] for event in found if event["type"] == "content_block_delta"]
    assert deltas[: len(first)] == first


def test_thinking_comes_as_a_signed_block(start: Start, connect_anthropic: Connect) -> None:
    """In its place before the text."""
    message = ask(connect_anthropic(start("thinking=let me see")), user("hi"), thinking={"type": "adaptive"})
    thought = message.content[0]
    assert thought.type == "thinking"
    assert (thought.thinking, thought.signature) == ("let me see", "c2ln")


def test_thinking_that_was_not_asked_for_is_off(proxy: Proxy, client: anthropic.Anthropic) -> None:
    """As in the API itself; with a budget it is what the client says."""
    client.messages.create(model=MODEL, max_tokens=64, messages=[user("one")])
    client.messages.create(
        model=MODEL, max_tokens=4096, messages=[user("two")], thinking={"type": "enabled", "budget_tokens": 2000}
    )
    bodies = [extra for process in proxy.log() for extra in extra_bodies(process)]
    assert bodies[0]["thinking"] == {"type": "disabled"}
    assert bodies[-1] == {"thinking": {"type": "enabled", "budget_tokens": 2000}}


def test_replayed_thinking_is_ours_alone(start: Start, connect_anthropic: Connect) -> None:
    """With the model that thought it; what another API signed is left out, and the answer is right all the same."""
    proxy = start("thinking=hm", live=0)
    client = connect_anthropic(proxy)
    first = client.messages.create(model=MODEL, max_tokens=64, messages=[user("a")], thinking={"type": "adaptive"})
    ours = [block.to_dict() for block in first.content]
    foreign = [{**ours[0], "signature": "foreign"}, *ours[1:]]
    for answer in (ours, foreign):
        history: Any = [user("a"), {"role": "assistant", "content": answer}, user("b")]
        client.messages.create(model=MODEL, max_tokens=64, messages=history, thinking={"type": "adaptive"})
    replayed = [
        message["message"] for process in proxy.log() for message in process.messages if message["type"] == "assistant"
    ]
    assert [block["type"] for block in replayed[0]["content"]] == ["thinking", "text"]
    assert replayed[0]["model"] == first.model
    assert [block["type"] for block in replayed[1]["content"]] == ["text"]


def test_two_parallel_calls_and_their_results_go_on_in_one_child(start: Start, connect_anthropic: Connect) -> None:
    """The results come in any order, with images; the parked turn goes on."""
    proxy = start(*CALLS)
    client = connect_anthropic(proxy)
    history: list[Any] = [user("weather?")]
    with client.messages.stream(model=MODEL, max_tokens=256, messages=history, tools=[WEATHER]) as stream:
        message = stream.get_final_message()
    calls = [block for block in message.content if isinstance(block, ToolUseBlock)]
    assert message.stop_reason == "tool_use"
    assert [call.input for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    results = [
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "wet"},
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": [{"type": "text", "text": "dry"}, image]},
    ]
    history += [{"role": "assistant", "content": [block.to_dict() for block in message.content]}, user(results)]
    answer = client.messages.with_raw_response.create(model=MODEL, max_tokens=256, messages=history, tools=[WEATHER])
    assert answer.headers["x-claude-proxy-session"].endswith("; live")
    assert text_of(answer.parse()).startswith("Tool said: ")
    assert len(proxy.log()) == 1


class City(pydantic.BaseModel):
    """What the model is to answer with."""

    name: str


def test_structured_output_is_parsed_by_the_sdk(start: Start, connect_anthropic: Connect) -> None:
    """`messages.parse`, through `output_config.format`."""
    proxy = start('deltas=["{\\"name\\":","\\"Paris\\"}"]')
    parsed = connect_anthropic(proxy).messages.parse(
        model=MODEL, max_tokens=64, messages=[user("x")], output_format=City
    )
    assert parsed.parsed_output == City(name="Paris")
    (process,) = proxy.log()
    assert extra_bodies(process)[0]["output_config"]["format"]["type"] == "json_schema"


def test_images_and_documents_reach_the_cli_as_blocks(proxy: Proxy, client: anthropic.Anthropic) -> None:
    """Without `cache_control`."""
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    pdf: Any = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    marked = {**pdf, "cache_control": {"type": "ephemeral"}}
    client.messages.create(model=MODEL, max_tokens=64, messages=[user([{"type": "text", "text": "x"}, image, marked])])
    (process,) = proxy.log()
    assert conversation_of(process) == [("user", [{"type": "text", "text": "x"}, image, pdf])]


def test_system_messages_in_the_middle_do_not_break_a_conversation(proxy: Proxy) -> None:
    """Claude Code's first request ends with one, its second has it in the middle: one child serves both."""
    opening: list[Any] = [
        user([{"type": "text", "text": "hi"}]),
        {"role": "system", "content": [{"type": "text", "text": "env"}]},
    ]
    first = proxy.send({**body(), "messages": opening}, path=ROUTE).answer()
    later = [user("hi"), {"role": "system", "content": "env"}, {"role": "assistant", "content": first.json["content"]}]
    second = proxy.send({**body(), "messages": [*later, user("and?")]}, path=ROUTE).answer()
    assert second.headers["x-claude-proxy-session"].endswith("; live")


@pytest.mark.parametrize(
    ("directive", "reason", "sequence"),
    [
        ("stop=max_tokens", "max_tokens", None),
        ("stop=stop_sequence:END", "stop_sequence", "END"),
        ("stop=refusal", "refusal", None),
    ],
)
def test_stop_reasons_are_those_of_the_model(
    start: Start, connect_anthropic: Connect, directive: str, reason: str, sequence: str | None
) -> None:
    """And `stop_sequence` names which one it was."""
    message = ask(connect_anthropic(start(directive)), user("hi"), stop_sequences=["END"])
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_a_stream_that_must_open_early_is_put_right_at_its_end(start: Start, connect_anthropic: Connect) -> None:
    """`message_start` after one interval of silence, then pings; the SDK ends up with the real usage."""
    proxy = start("sleep@request=0.7", heartbeat_interval=0.2)
    kinds = [event["type"] for event in events(proxy, body())]
    assert kinds[0] == "message_start" and kinds.count("message_start") == 1
    assert "ping" in kinds[1:]
    with connect_anthropic(proxy).messages.stream(model=MODEL, max_tokens=64, messages=[user("x")]) as stream:
        message = stream.get_final_message()
    assert message.id.startswith("msg_") and message.usage.input_tokens == 10


ERRORS = [
    ("error=400", {}, 400, "invalid_request_error"),
    ("error=404", {}, 404, "not_found_error"),
    ("error=413", {}, 413, "request_too_large"),
    ("error=429", {}, 429, "rate_limit_error"),
    ("error=529", {}, 529, "overloaded_error"),
    ("error=500", {}, 502, "api_error"),
    ("not_logged_in", {}, 503, "api_error"),
    ("too_long", {}, 400, "invalid_request_error"),
    ("crash", {}, 502, "api_error"),
    ("stall", {"inactivity_timeout": 0.5}, 504, "timeout_error"),
]


@pytest.mark.parametrize(("directive", "settings", "status", "kind"), ERRORS)
def test_a_failure_before_the_first_byte_has_its_own_status(
    start: Start, connect_anthropic: Connect, directive: str, settings: Json, status: int, kind: str
) -> None:
    """Streamed or not; the SDK raises it, with the request's id."""
    client = connect_anthropic(start(directive, **settings))
    for stream in (False, True):
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(model=MODEL, max_tokens=64, messages=[user("x")], stream=stream)
        assert caught.value.status_code == status
        answer: Any = caught.value.body
        assert answer["error"]["type"] == kind
        assert answer["request_id"] == caught.value.request_id
        if kind != "request_too_large":  # the SDK has no type for it
            check(answer, "ErrorResponse")


def test_a_prompt_that_is_too_long_says_so_in_the_apis_words(start: Start) -> None:
    """Claude Code shortens its history when it reads this."""
    message = start("too_long").send(body(), path=ROUTE).answer().json["error"]["message"]
    assert message == "prompt is too long: 1000001 tokens > 1000000 maximum"


@pytest.mark.parametrize(("directive", "kind"), [("crash@delta:1", "api_error"), ("restart@delta:1", "api_error")])
def test_a_failure_in_the_middle_is_told_in_the_stream(
    start: Start, connect_anthropic: Connect, directive: str, kind: str
) -> None:
    """Once, as the last event; the SDK raises it."""
    proxy = start(directive)
    found = events(proxy, body())
    assert [event["error"]["type"] for event in found if event["type"] == "error"] == [kind]
    assert found[-1]["type"] == "error"
    with pytest.raises(anthropic.APIStatusError), connect_anthropic(proxy).messages.stream(
        model=MODEL, max_tokens=64, messages=[user("x")]
    ) as stream:
        stream.get_final_message()


@pytest.mark.parametrize(
    ("path", "method", "headers", "status", "kind"),
    [
        (ROUTE, "GET", {}, 405, "invalid_request_error"),
        (ROUTE, "POST", {"Content-Type": "text/plain"}, 415, "invalid_request_error"),
        (ROUTE, "POST", {"Host": "evil.example"}, 403, "permission_error"),
        (ROUTE, "POST", {"Origin": "https://evil.example"}, 403, "permission_error"),
        ("/v1/messages/batches", "POST", {}, 404, "not_found_error"),
        ("/v1/messages/batches/x/results", "GET", {}, 404, "not_found_error"),
        ("/messages/batches", "GET", {}, 404, "not_found_error"),
        ("/v1/files", "GET", VERSION, 404, "not_found_error"),
        ("/v1/models/unheard-of", "GET", VERSION, 404, "not_found_error"),
        ("/v1/models/unheard-of", "GET", {"x-api-key": "k"}, 404, "not_found_error"),
        ("/v1/models?limit=0", "GET", VERSION, 400, "invalid_request_error"),
        ("/v1/models?limit=many", "GET", VERSION, 400, "invalid_request_error"),
        ("/v1/models?after_id=unheard-of", "GET", VERSION, 400, "invalid_request_error"),
        ("/v1/models?before_id=unheard-of", "GET", VERSION, 400, "invalid_request_error"),
        ("/v1/messages/count_tokens", "POST", {}, 400, "invalid_request_error"),
    ],
)
def test_refusals_have_anthropics_shape_before_anyone_has_read_the_body(
    proxy: Proxy, path: str, method: str, headers: Json, status: int, kind: str
) -> None:
    """By the path, or by the headers of a client of this API."""
    answer = proxy.send(b"{}", path=path, method=method, headers=headers).answer()
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)
    check(answer.json, "ErrorResponse")
    assert answer.json["request_id"] == answer.headers["request-id"]


def test_the_key_is_asked_for_in_the_callers_dialect(start: Start) -> None:
    """In `x-api-key` or as a bearer token."""
    proxy = start(api_key=("secret",))
    refused = proxy.send(body(), path=ROUTE).answer()
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
    for headers in ({"x-api-key": "secret"}, {"Authorization": "Bearer secret"}):
        assert proxy.send(body(), path=ROUTE, headers=headers).answer().status == 200
    assert proxy.send(None, path="/v1/models", method="GET", headers={"x-api-key": "no"}).answer().status == 401


def test_a_body_that_is_too_large_is_refused_in_the_dialect(start: Start) -> None:
    """413, as the API says it."""
    proxy = start(max_body_bytes=1000)
    answer = proxy.send(body("x" * 1200), path=ROUTE).answer()
    assert (answer.status, answer.json["error"]["type"]) == (413, "request_too_large")


def test_what_is_ignored_is_named(proxy: Proxy) -> None:
    """In the client's own words."""
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    request = body(tools=tools, thinking={"type": "adaptive"}, temperature=0.5, container="c")
    headers = proxy.send(request, path=ROUTE).answer().headers
    names = set(headers["x-claude-proxy-ignored"].split(", "))
    assert names == {"container", "temperature", "tools.web_search"}


def test_strict_refuses_what_it_would_ignore(start: Start) -> None:
    """But never the thinking that nobody mentioned, and that the model will not do without."""
    proxy = start(Script(processes={1: ("error=400",)}), strict=True)
    refused = proxy.send(body(container="c"), path=ROUTE).answer()
    assert (refused.status, refused.json["error"]["type"]) == (400, "invalid_request_error")
    assert proxy.send(body(), path=ROUTE).answer().status == 200


def test_a_model_that_will_not_stop_thinking_is_asked_again(start: Start) -> None:
    """Silently, where the client said nothing; from then on at the first try."""
    proxy = start(Script(processes={1: ("error=400",)}))
    for _ in range(2):
        answer = proxy.send(body(), path=ROUTE).answer()
        assert answer.status == 200 and "x-claude-proxy-ignored" not in answer.headers
    bodies = [extra for process in proxy.log() for extra in extra_bodies(process)]
    assert bodies == [{"thinking": {"type": "disabled"}, "context_management": {"edits": []}}, {}, {}]


def test_models_are_listed_in_the_callers_dialect(proxy: Proxy, client: anthropic.Anthropic) -> None:
    """Pages, in the SDK's own shape; one model by its name."""
    assert proxy.ask("The first child tells which models there are.").status == 200
    everything = [model.id for model in client.models.list()]
    assert [model.id for model in client.models.list(limit=2)] == everything
    page = proxy.get("/v1/models?limit=2", **VERSION).json
    assert (page["first_id"], page["last_id"], page["has_more"]) == (everything[0], everything[1], True)
    before = proxy.get(f"/v1/models?limit=2&before_id={everything[-1]}", **VERSION).json
    assert [model["id"] for model in before["data"]] == everything[-3:-1]
    for model in page["data"]:
        check(model, "ModelInfo")
    assert client.models.retrieve(everything[0]).display_name
    assert proxy.get("/v1/models", **{"x-api-key": "k"}).json["data"][0]["type"] == "model"
    assert proxy.get("/v1/models").json["object"] == "list"


@pytest.mark.parametrize("path", ["/v1/chat/models", "/chat/models"])
def test_models_have_an_alias(proxy: Proxy, path: str) -> None:
    """For a base URL that ends in /chat."""
    assert proxy.get(path).json["object"] == "list"


def test_chat_completions_have_an_alias(proxy: Proxy) -> None:
    """For the same base URL."""
    answer = proxy.send({"model": "sonnet", "messages": [user("hi")]}, path="/v1/chat/chat/completions").answer()
    assert answer.text == "Hello from upstream: hi"


def test_counting_tokens_starts_no_child(start: Start, connect_anthropic: Connect) -> None:
    """An estimate, which says that it is one, and takes less than a tenth of a second."""
    proxy = start()
    client = connect_anthropic(proxy)
    client.messages.count_tokens(model=MODEL, messages=[user("hi")])
    before = len(proxy.log())
    started = time.perf_counter()
    counted = client.messages.with_raw_response.count_tokens(
        model=MODEL, messages=[user("word " * 100_000)], system="x", tools=[WEATHER]
    )
    took = time.perf_counter() - started
    assert took < 1.0  # a tenth, on a machine that does nothing else
    assert counted.headers["x-claude-proxy-token-count"] == "estimate"
    assert 80_000 < counted.parse().input_tokens < 200_000
    check(json.loads(counted.text()), "MessageTokensCount")
    assert len(proxy.log()) == before


def test_a_conversation_may_change_its_dialect(proxy: Proxy) -> None:
    """It is the same conversation when its content is."""
    first = proxy.send(body(), path=ROUTE).answer()
    text = first.json["content"][0]["text"]
    request = {"model": MODEL, "messages": [user("hi"), {"role": "assistant", "content": text}, user("and?")]}
    second = proxy.send(request).answer()
    assert second.headers["x-claude-proxy-session"].endswith("; live")


def test_the_user_names_the_conversation(proxy: Proxy) -> None:
    """`metadata.user_id`, unless Claude Code's own header does."""
    named = proxy.send(body(metadata={"user_id": "me"}), path=ROUTE).answer().headers["x-claude-proxy-session"]
    headers = {"X-Claude-Code-Session-Id": "abc"}
    code = proxy.send(body(metadata={"user_id": "me"}), path=ROUTE, headers=headers).answer()
    assert named.startswith("usr_me;") and code.headers["x-claude-proxy-session"].startswith("hdr_abc;")


def test_the_system_prompt_is_given_without_claude_codes_header(proxy: Proxy) -> None:
    """Which changes with its version, and is no part of the prompt."""
    blocks = [{"type": "text", "text": "x-anthropic-billing-header: cc=1"}, {"type": "text", "text": "You are MUSE."}]
    assert proxy.send(body(system=blocks), path=ROUTE).answer().status == 200
    (process,) = proxy.log()
    assert control_requests(process, "initialize")[0]["systemPrompt"] == ["You are MUSE."]
