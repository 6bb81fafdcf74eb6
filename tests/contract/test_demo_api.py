"""The demo over HTTP: routes, streams, faults, shutdown, and the official SDK as its client.

Most tests ask the upstream of the end-to-end tests: the demo with a record and rules around it.
"""

import json
import socket
import threading
from typing import Any, Iterator

import anthropic
import pytest
import requests

from claude_proxy.demo import DemoApi
from tests.upstream import Upstream

MODEL = "claude-opus-5-5"
KEY = {"x-api-key": "dummy"}
WEATHER: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def api() -> Iterator[Upstream]:
    """One running demo for all tests."""
    with Upstream(record=100) as running:
        yield running
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("demo-api")]


@pytest.fixture
def client(api: Upstream) -> Iterator[anthropic.Anthropic]:
    """The official SDK, without retries."""
    with anthropic.Anthropic(base_url=api.base_url, api_key="dummy", max_retries=0) as sdk:
        yield sdk


def make_body(text: str, **more: Any) -> dict[str, Any]:
    """A request that says one thing."""
    return {"model": MODEL, "max_tokens": 1000, "messages": [{"role": "user", "content": text}], **more}


def post(api: Upstream, text: str, **more: Any) -> requests.Response:
    """Send one."""
    return requests.post(f"{api.base_url}/v1/messages", json=make_body(text, **more), headers=KEY, timeout=10)


def read_events(stream: requests.Response) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each event of a stream."""
    events = []
    for block in stream.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def ask(client: anthropic.Anthropic, text: str, **more: Any) -> anthropic.types.Message:
    """One message through the SDK."""
    message: anthropic.types.Message = client.messages.create(**make_body(text, **more))
    return message


def open_socket(api: Upstream, text: str, **more: Any) -> socket.socket:
    """Send a request over a bare socket."""
    host, port = api.base_url.removeprefix("http://").split(":")
    data = json.dumps(make_body(text, **more)).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nHost: {host}\r\nx-api-key: dummy\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(head.encode() + data)
    return connection


def test_the_sdk_gets_a_message(client: anthropic.Anthropic) -> None:
    """Plain, with its usage."""
    message = ask(client, "hello there")
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "You said: hello there"}]
    assert (message.role, message.model, message.stop_reason, message.stop_sequence) == (
        "assistant",
        MODEL,
        "end_turn",
        None,
    )
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 4)
    assert message._request_id and message._request_id.startswith("req_")


def test_the_sdk_gets_a_stream(client: anthropic.Anthropic) -> None:
    """Thinking with its signature, then text, word by word; the whole is what is sent without streaming."""
    question: Any = {
        "model": MODEL,
        "max_tokens": 1000,
        "thinking": {"type": "adaptive"},
        "messages": [{"role": "user", "content": "demo:think=2 demo:delay=1 a b c"}],
    }
    words = []
    with client.messages.stream(**question) as stream:
        for event in stream:
            if event.type == "text":
                words.append(event.text)
        message = stream.get_final_message()
    assert words == ["You ", "said: ", "a ", "b ", "c"]
    whole = client.messages.create(**question)
    assert [block.to_dict() for block in message.content] == [block.to_dict() for block in whole.content]
    assert message.content[0].to_dict()["thinking"] == "thought1 thought2"
    assert message.usage.output_tokens == whole.usage.output_tokens == 7
    assert message.usage.output_tokens_details and message.usage.output_tokens_details.thinking_tokens == 2


def test_the_sdk_calls_tools(client: anthropic.Anthropic) -> None:
    """A parallel call with thinking, its results, and the answer to them; history goes back unchanged."""
    messages: list[Any] = [
        {"role": "user", "content": 'demo:think=2 demo:call=weather{"city": "Paris"} demo:call=weather'}
    ]
    settings: Any = {"model": MODEL, "max_tokens": 1000, "tools": [WEATHER], "thinking": {"type": "adaptive"}}
    with client.messages.stream(messages=messages, **settings) as stream:
        message = stream.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]
    assert message.stop_reason == "tool_use"
    assert [call.input for call in calls] == [{"city": "Paris"}, {"city": "demo"}]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
    messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
    last = client.messages.create(messages=messages, **settings)
    assert last.content[0].to_dict()["text"] == "Tool weather said: sunny\nTool weather said: sunny"


def test_arguments_that_are_no_json_are_wrapped_without_streaming(client: anthropic.Anthropic) -> None:
    """A message is JSON, whatever the model wrote."""
    call = ask(client, "demo:badargs=weather", tools=[WEATHER]).content[1].to_dict()
    assert call["input"] == {"INVALID_JSON": '{"broken": '}


def test_a_stream_has_the_events_of_the_api(api: Upstream) -> None:
    """In their order, each with the name of its type, with the usage at both ends."""
    response = post(api, "hi demo:think=1", stream=True, thinking={"type": "adaptive", "display": "omitted"})
    events = read_events(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert all(name == data["type"] for name, data in events)
    assert [name for name, _ in events] == [
        "message_start",
        *("content_block_start", "ping", "content_block_delta", "content_block_stop"),
        *("content_block_start", *["content_block_delta"] * 3, "content_block_stop"),
        *("message_delta", "message_stop"),
    ]
    assert events[3][1]["delta"]["type"] == "signature_delta"
    assert events[0][1]["message"]["usage"]["output_tokens"] == 1
    assert events[-2][1]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2][1]["usage"]["output_tokens"] == 4


def test_a_refusal_has_its_details(client: anthropic.Anthropic) -> None:
    """Stop reason and stop details."""
    message = ask(client, "demo:refusal")
    assert message.stop_reason == "refusal" and message.stop_details and message.stop_details.type == "refusal"


def test_the_cache_is_counted(client: anthropic.Anthropic) -> None:
    """Written first, then read."""
    system: Any = [{"type": "text", "text": "s" * 400, "cache_control": {"type": "ephemeral"}}]
    first, second = (ask(client, "hello", system=system).usage for _ in range(2))
    assert (first.cache_creation_input_tokens, first.cache_read_input_tokens, first.input_tokens) == (
        100,
        0,
        2,
    )
    assert (second.cache_creation_input_tokens, second.cache_read_input_tokens, second.input_tokens) == (
        0,
        100,
        2,
    )
    assert first.cache_creation and first.cache_creation.ephemeral_5m_input_tokens == 100


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    """Without max_tokens and without an answer."""
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "x" * 40}])
    assert counted.input_tokens == 10


def test_models_are_listed(client: anthropic.Anthropic) -> None:
    """All of them, one of them, and none that is unknown."""
    names = [model.id for model in client.models.list()]
    assert MODEL in names
    assert client.models.retrieve("claude-opus-4-1").id == "claude-opus-4-1"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind"),
    [
        ("POST", "/v1/messages", {}, 401, "authentication_error"),
        ("POST", "/v1/messages", {"authorization": "Bearer "}, 401, "authentication_error"),
        ("GET", "/v1/models", {"authorization": "Basic eDp5", "x-api-key": ""}, 401, "authentication_error"),
        ("POST", "/v1/messages", KEY, 400, "invalid_request_error"),
        ("POST", "/v1/messages?beta=true", {"authorization": "Bearer x"}, 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", KEY, 400, "invalid_request_error"),
        ("GET", "/v1/messages", KEY, 405, "invalid_request_error"),
        ("POST", "/v1/complete", KEY, 404, "not_found_error"),
        ("GET", "/api/hello", KEY, 404, "not_found_error"),
    ],
)
def test_every_error_is_json(
    api: Upstream, method: str, path: str, headers: dict[str, str], status: int, kind: str
) -> None:
    """In the API's shape, with the request's id in body and header."""
    response = requests.request(method, api.base_url + path, data=b"{", headers=headers, timeout=10)
    error = response.json()
    assert (response.status_code, error["type"], error["error"]["type"]) == (status, "error", kind)
    assert response.headers["request-id"] == error["request_id"]
    assert response.headers["content-type"] == "application/json"


def test_the_root_says_that_it_is_there(api: Upstream) -> None:
    """Clients look with HEAD, without a key."""
    assert requests.head(f"{api.base_url}/", timeout=10).status_code == 200


def test_a_body_over_32_megabytes_is_refused(api: Upstream) -> None:
    """With the API's own error."""
    response = post(api, "x" * (32 * 1024 * 1024))
    assert (response.status_code, response.json()["error"]["type"]) == (413, "request_too_large")


def test_an_unknown_model_is_a_404(api: Upstream) -> None:
    """The message names it."""
    response = post(api, "hi", model="claude-opus-4")
    assert (response.status_code, response.json()["error"]["message"]) == (404, "model: claude-opus-4")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("command", "status", "kind"),
    [
        ("demo:status=400", 400, "invalid_request_error"),
        ("demo:status=401", 401, "authentication_error"),
        ("demo:status=402", 402, "billing_error"),
        ("demo:status=403", 403, "permission_error"),
        ("demo:status=404", 404, "not_found_error"),
        ("demo:status=413", 413, "request_too_large"),
        ("demo:status=418", 418, "invalid_request_error"),
        ("demo:status=429", 429, "rate_limit_error"),
        ("demo:status=500", 500, "api_error"),
        ("demo:status=503", 503, "api_error"),
        ("demo:status=504", 504, "timeout_error"),
        ("demo:status=529", 529, "overloaded_error"),
        ("demo:limit=rejected", 429, "rate_limit_error"),
        ("demo:toolong", 400, "invalid_request_error"),
    ],
)
def test_an_error_can_be_asked_for(api: Upstream, command: str, status: int, kind: str, stream: bool) -> None:
    """Before the first byte, streaming or not."""
    response = post(api, f"{command} demo:retry-after=7", stream=stream)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("status", ["allowed", "allowed_warning", "rejected"])
def test_a_plan_limit_can_be_asked_for(api: Upstream, status: str) -> None:
    """The headers from which Claude Code makes its `rate_limit_event`."""
    headers = post(api, f"demo:limit={status} demo:reset=60").headers
    assert headers["anthropic-ratelimit-unified-status"] == status
    assert headers["anthropic-ratelimit-unified-representative-claim"] == "five_hour"
    assert headers["anthropic-ratelimit-unified-reset"] == headers["anthropic-ratelimit-unified-5h-reset"]
    assert 0 < float(headers["anthropic-ratelimit-unified-5h-utilization"]) <= 1


def test_an_error_event_can_be_asked_for(api: Upstream, client: anthropic.Anthropic) -> None:
    """Behind so many words; without streaming it is the whole answer."""
    events = read_events(post(api, "demo:words=9 demo:error=2", stream=True))
    assert [name for name, _ in events][-3:] == ["content_block_delta", "content_block_delta", "error"]
    assert events[-1][1]["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        ask(client, "demo:error=2")


@pytest.mark.parametrize("command", ["demo:words=9 demo:cut=2", "demo:words=9 demo:cut=2 demo:delay=1"])
def test_a_cut_can_be_asked_for(api: Upstream, command: str) -> None:
    """The words before it arrive, the end of the body does not; without streaming nothing does."""
    api.forget_requests()
    with open_socket(api, command, stream=True) as connection:
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"word2 " in received and b"word3" not in received and not received.endswith(b"0\r\n\r\n")
    assert api.wait_for(lambda request: request.finished is False).status == 200
    with pytest.raises(requests.ConnectionError):
        post(api, command)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("command", ["demo:silence", "demo:words=9 demo:stall=1", "demo:words=9 demo:delay=60000"])
def test_a_client_that_goes_away_is_noticed(api: Upstream, command: str, stream: bool) -> None:
    """While nothing is sent, streaming or not."""
    api.forget_requests()
    with open_socket(api, command, stream=stream):
        assert api.wait_for(lambda request: request.status == 200).finished is None
    assert api.wait_for(lambda request: request.finished is False, timeout=5.0)


def test_a_client_that_goes_away_from_a_stream_is_noticed(api: Upstream) -> None:
    """While words are sent."""
    api.forget_requests()
    with open_socket(api, "demo:words=10000 demo:delay=5", stream=True) as connection:
        assert connection.recv(100)
    assert api.wait_for(lambda request: request.finished is False, timeout=5.0)


def test_words_leave_one_by_one(api: Upstream) -> None:
    """A stream that stalls behind two words has delivered both."""
    with open_socket(api, "demo:words=9 demo:stall=2", stream=True) as connection:
        received = b""
        while b"word2 " not in received:
            received += connection.recv(65536)
    assert b"word3" not in received


def test_a_silence_can_end(api: Upstream) -> None:
    """Then the answer comes as usual."""
    assert post(api, "demo:silence=0.05 demo:say=there").json()["content"][0]["text"] == "there"


def test_requests_are_recorded(api: Upstream) -> None:
    """What was sent, as JSON and as bytes, and how it ended."""
    api.forget_requests()
    url = f"{api.base_url}/v1/messages?beta=true"
    requests.post(url, json=make_body("remember me"), headers={**KEY, "X-Some": "thing"}, timeout=10)
    recorded = api.wait_for(lambda request: request.finished is not None)
    assert (recorded.path, recorded.status, recorded.finished) == ("/v1/messages?beta=true", 200, True)
    assert recorded.body == json.loads(recorded.raw) == make_body("remember me")
    assert recorded.headers["x-some"] == "thing"
    assert api.requests == (recorded,)
    with pytest.raises(TimeoutError):
        api.wait_for(lambda request: request.status == 500, timeout=0.0)


def test_the_record_is_bounded_and_off_by_default() -> None:
    """Nobody's prompts pile up."""
    with Upstream(record=2, threads=2) as api:
        for number in range(3):
            post(api, f"number {number}")
        assert [request.body["messages"][0]["content"] for request in api.requests] == [
            "number 1",
            "number 2",
        ]
    with Upstream(threads=2) as api:
        post(api, "hello")
        assert api.requests == ()


def test_stopping_ends_what_is_under_way(api: Upstream) -> None:
    """Silent answers, slow streams and clients that do not read are cut; no thread stays."""
    own = Upstream(record=10, threads=4)
    own.start()
    waiting = [
        open_socket(own, "demo:silence"),
        open_socket(own, "demo:words=9 demo:delay=60000", stream=True),
        open_socket(own, "demo:words=100000", stream=True),
    ]
    own.wait_for(lambda _: [request.status for request in own.requests] == [200] * 3)
    own.stop()
    own.stop()
    assert [request.finished for request in own.requests][:2] == [False, False]
    for connection in waiting[:2]:
        while connection.recv(65536):
            pass
    for connection in waiting:
        connection.close()
    assert not [thread for thread in threading.enumerate() if thread in own.demo._workers]
    with pytest.raises(requests.ConnectionError):
        post(own, "hello")
    with pytest.raises(RuntimeError):
        own.start()


def test_a_taken_port_is_an_os_error(api: Upstream) -> None:
    """And leaves nothing behind."""
    port = int(api.base_url.rpartition(":")[2])
    second = Upstream(port=port)
    with pytest.raises(OSError):
        second.start()
    second.stop()


def test_many_streams_run_side_by_side(api: Upstream) -> None:
    """Each gets all of its words."""
    texts: list[str] = []

    def read() -> None:
        texts.append(post(api, "demo:words=50 demo:delay=2", stream=True).text)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10.0)
    assert [text.count("text_delta") for text in texts] == [50] * 8


def test_the_demo_answers_what_the_upstream_of_the_tests_refuses(api: Upstream) -> None:
    """Streamed or not, an unknown model too: its rules are the tests' own."""
    asked = make_body("hi", model="claude-of-tomorrow", temperature=2, system=[{"type": "text", "text": ""}])
    with DemoApi(threads=2) as demo:
        for stream in (False, True):
            url, body = f"{demo.base_url}/v1/messages", {**asked, "stream": stream}
            assert "said: " in requests.post(url, json=body, headers=KEY, timeout=10).text
        counted = requests.post(f"{demo.base_url}/v1/messages/count_tokens", json=asked, headers=KEY, timeout=10)
    assert counted.json() == {"input_tokens": 2}
    refused = requests.post(f"{api.base_url}/v1/messages", json=asked, headers=KEY, timeout=10)
    assert refused.status_code == 404
