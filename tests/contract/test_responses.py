"""OpenAI Responses over HTTP, the official SDK as client: answers, streams, tools, what is kept, background, Cursor."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response

from tests import schema
from tests.contract.conftest import Start
from tests.fake_cli import Script
from tests.harness import Answer, Json, Proxy, conversation_of, extra_bodies, wait_until

Connect = Callable[..., openai.OpenAI]

MODEL = "claude-sonnet-5-5"
ROUTE = "/v1/responses"
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALLS = ('call=get_weather:{"city":"Paris"}', 'call=get_weather:{"city":"Rome"}')
SLOW = "fake:words=200 fake:delay=0.05"
# Codes that Codex knows and the document does not; Codex is why they are sent.
CODES_OF_CODEX = ("insufficient_quota", "context_length_exceeded")


class City(pydantic.BaseModel):
    city: str


def check_response(response: Json) -> None:
    """Valid by the official document, apart from a null usage, as the live API has it, and Codex's codes."""
    judged = {key: value for key, value in response.items() if key != "usage" or value is not None}
    if (response.get("error") or {}).get("code") in CODES_OF_CODEX:
        judged["error"] = {**response["error"], "code": "server_error"}
    schema.check("Response", judged)


def check_event(event: Json) -> None:
    """Valid, apart from the nested error and the keepalive, which the document does not have."""
    if event["type"] in ("error", "keepalive"):
        assert event["type"] == "keepalive" or set(event["error"]) == {"message", "type", "param", "code"}
        return
    if "response" in event:
        check_response(event["response"])
        usage = {} if event["response"]["usage"] is None else {"usage": event["response"]["usage"]}
        error = {} if event["response"]["error"] is None else {"error": {"code": "server_error", "message": ""}}
        kept = {key: value for key, value in event["response"].items() if key not in ("usage", "error")}
        event = {**event, "response": {"error": None, **kept, **usage, **error}}
    schema.check("ResponseStreamEvent", event)


def read_events(records: tuple[str, ...]) -> list[Json]:
    """The events of a stream: valid, named by their type, numbered one by one; comments apart."""
    events = []
    for record in records:
        kind, data = record.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        check_event(event)
        events.append(event)
    first = events[0]["sequence_number"] if events else 0
    assert [event["sequence_number"] for event in events] == [first + index for index in range(len(events))]
    return events


def ask(proxy: Proxy, given: Any = "hi", **fields: Any) -> Answer:
    headers = fields.pop("headers", None)
    return proxy.send({"model": MODEL, "input": given, **fields}, path=ROUTE, headers=headers).answer()


def stream(proxy: Proxy, given: Any = "hi", **fields: Any) -> list[Json]:
    sent = {"model": MODEL, "input": given, "stream": True, **fields}
    return read_events(proxy.send(sent, path=ROUTE).stream().records)


def send(proxy: Proxy, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    return proxy.send(body, path=path, method=method, headers=headers).answer()


def said(output: list[Json]) -> list[Any]:
    """The items of an output without their ids."""
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in output]


def test_an_answer_is_the_same_whole_and_streamed(proxy: Proxy) -> None:
    """Valid by the official document; the last event holds what the items said."""
    whole = ask(proxy, instructions="You are MUSE.", metadata={"a": "b"}).json
    check_response(whole)
    events = stream(proxy, instructions="You are MUSE.", metadata={"a": "b"})
    last = events[-1]["response"]
    own = ("id", "created_at", "completed_at", "output", "usage")
    assert {k: v for k, v in whole.items() if k not in own} == {k: v for k, v in last.items() if k not in own}
    assert said(whole["output"]) == said(last["output"])
    assert last["output"] == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [event["type"].removeprefix("response.") for event in events][:2] == ["created", "in_progress"]
    assert whole["output"][0]["content"][0]["text"] == "Hello from upstream: hi"
    assert (whole["metadata"], whole["instructions"]) == ({"a": "b"}, "You are MUSE.")


@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "/v1/responses/"])
def test_the_route_has_several_spellings(proxy: Proxy, path: str) -> None:
    """With and without /v1."""
    assert proxy.send({"model": MODEL, "input": "hi"}, path=path).answer().json["status"] == "completed"


def test_the_sdk_reads_answers_and_streams(openai_client: openai.OpenAI) -> None:
    """Its accumulator, too."""
    whole = openai_client.responses.create(model=MODEL, input="hi")
    with openai_client.responses.stream(model=MODEL, input="hi") as events:
        final = events.until_done().get_final_response()
    assert whole.output_text == final.output_text == "Hello from upstream: hi"
    assert whole.usage is not None and whole.usage.input_tokens_details.cached_tokens == 7


def test_thinking_is_a_reasoning_item(start: Start) -> None:
    """With its summary, and no encrypted form where one was asked for."""
    proxy = start("thinking=hm")
    events = stream(proxy, include=["reasoning.encrypted_content"], reasoning={"summary": "auto"})
    reasoning = events[-1]["response"]["output"][0]
    assert reasoning["id"].startswith("rs_")
    assert (reasoning["summary"], reasoning["encrypted_content"]) == ([{"type": "summary_text", "text": "hm"}], None)
    check_response(ask(proxy).json)


def test_a_tool_loop_by_previous_response_id(start: Start, connect: Connect) -> None:
    """The calls go out with two ids each, the results come back by `call_id`, and the child that waits goes on."""
    proxy = start(*CALLS)
    client = connect(proxy)
    with client.responses.stream(model=MODEL, input="Weather?", tools=[WEATHER]) as events:
        first = events.until_done().get_final_response()
    calls = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)["city"]) for call in calls] == [
        ("get_weather", "Paris"),
        ("get_weather", "Rome"),
    ]
    assert all(call.id and call.id.startswith("fc_") and call.id != call.call_id for call in calls)
    outputs: Any = [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"sun {number}"}
        for number, call in enumerate(calls)
    ]
    second = client.responses.create(model=MODEL, input=outputs, previous_response_id=first.id, tools=[WEATHER])
    check_response(second.to_dict(mode="json"))
    assert "sun 0" in second.output_text and "sun 1" in second.output_text
    assert len(proxy.log()) == 1, "the child that made the calls has answered"


def test_functions_of_a_namespace(start: Start) -> None:
    """Codex sends them; a call says which namespace it means, and so may the history."""
    space = {"type": "namespace", "name": "agents", "description": "x", "tools": [{**WEATHER, "strict": False}]}
    proxy = start('call=agents__get_weather:{"city":"Paris"}')
    answer = ask(proxy, tools=[space, {"type": "web_search"}])
    check_response(answer.json)
    call = answer.json["output"][-1]
    assert (call["name"], call["namespace"]) == ("get_weather", "agents")
    assert answer.headers["x-claude-proxy-ignored"] == "tools.web_search"
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sun"}
    history = [{"role": "user", "content": "hi"}, *answer.json["output"], result]
    assert ask(proxy, history, tools=[space, {"type": "web_search"}]).status == 200


def test_parameters_reach_the_cli(proxy: Proxy) -> None:
    """And come back in the response."""
    form = {"type": "json_schema", "name": "x", "schema": City.model_json_schema(), "strict": True}
    answer = ask(proxy, 'fake:deltas=["{\\\\u0022city\\\\u0022:1}"]', temperature=0.5, max_output_tokens=99)
    assert (answer.json["temperature"], answer.json["max_output_tokens"]) == (0.5, 99)
    assert extra_bodies(proxy.log()[0])[-1]["temperature"] == 0.5
    refused = ask(proxy, text={"format": form})
    assert (refused.status, refused.error["code"]) == (502, "upstream_error")
    assert extra_bodies(proxy.log()[-1])[-1]["output_config"]["format"]["type"] == "json_schema"


def test_an_answer_that_was_cut_is_incomplete(start: Start) -> None:
    """Told by its own last event."""
    events = stream(start("stop=max_tokens"))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_signs_of_life_are_events(start: Start) -> None:
    """Codex takes comments for silence; the opening is the first of them."""
    proxy = start("sleep@request=1", heartbeat_interval=0.2)
    kinds = [event["type"] for event in stream(proxy)]
    assert kinds[:4] == ["response.created", "response.in_progress", "keepalive", "keepalive"]
    assert kinds[-1] == "response.completed"


@pytest.mark.parametrize(
    ("directive", "code"),
    [("crash@delta:2", "server_error"), ("kill@delta:2", "server_error")],
)
def test_a_failure_in_the_stream(start: Start, connect: Connect, directive: str, code: str) -> None:
    """`error` for the SDKs, `response.failed` for Codex; the response is kept as failed, and not continued."""
    proxy = start(directive)
    events = stream(proxy, "a b c d e")
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    failed = events[-1]["response"]
    assert failed["error"]["code"] == code
    assert send(proxy, "GET", f"{ROUTE}/{failed['id']}").json["status"] == "failed"
    assert ask(proxy, previous_response_id=failed["id"]).error["code"] == "previous_response_not_found"
    with pytest.raises(openai.APIError):
        for _ in connect(proxy).responses.create(model=MODEL, input="a b c d e", stream=True):
            pass


@pytest.mark.parametrize(
    ("directive", "status", "code"),
    [
        ("plan_limit=9999999999", 429, "plan_limit"),
        ("too_long", 400, "context_length_exceeded"),
        ("error=529", 503, "overloaded"),
        ("not_logged_in", 503, "not_authenticated"),
    ],
)
def test_an_early_failure_has_its_status(start: Start, directive: str, status: int, code: str) -> None:
    """Also where a stream was asked for."""
    answer = ask(start(directive), stream=True)
    assert (answer.status, answer.error["code"]) == (status, code)


@pytest.mark.parametrize(
    ("directive", "code"), [("plan_limit=9999999999", "insufficient_quota"), ("too_long", "context_length_exceeded")]
)
def test_a_late_failure_has_the_code_that_codex_knows(start: Start, directive: str, code: str) -> None:
    """Once the stream is open there is no status left."""
    proxy = start("sleep@request=1", directive, heartbeat_interval=0.2)
    assert stream(proxy)[-1]["response"]["error"]["code"] == code


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "computer_call_output", "output": {}}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "x"}] * 1001}, "input"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "previous_response_id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_bad_input_is_a_400_with_its_path(proxy: Proxy, fields: Json, param: str) -> None:
    """In OpenAI's shape."""
    answer = ask(proxy, **{"given" if name == "input" else name: value for name, value in fields.items()})
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "invalid_request_error", param)


# What is kept


def test_a_chain_is_continued_without_its_instructions(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """The history comes before the new input; two requests may go on from one response."""
    first = openai_client.responses.create(model=MODEL, input="one", instructions="Be brief.")
    for text in ("two", "three"):
        openai_client.responses.create(model=MODEL, input=text, previous_response_id=first.id)
    said_to = [conversation_of(process) for process in proxy.log()[1:]]
    for text, heard in zip(("two", "three"), said_to, strict=True):
        assert heard == [("user", "one"), ("assistant", "Hello from upstream: one"), ("user", text)]


def test_a_chain_goes_on_in_the_same_child(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """What was sent before is not sent again."""
    first = openai_client.responses.create(model=MODEL, input="one")
    openai_client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    [process] = proxy.log()
    assert conversation_of(process) == [("user", "one"), ("user", "two")]


def test_a_conversation_begun_in_chat_goes_on_here(proxy: Proxy) -> None:
    """Content is what makes it the same."""
    proxy.ask("one", model=MODEL)
    before = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Hello from upstream: one"}]
    assert ask(proxy, [*before, {"role": "user", "content": "two"}]).headers["x-claude-proxy-session"].endswith("live")


def test_kept_responses_are_shown_and_deleted(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """The same object; after deletion it is gone for everyone, and for what would go on from it."""
    made = ask(proxy, "hi").json
    shown = send(proxy, "GET", f"{ROUTE}/{made['id']}").json
    assert shown == made
    assert openai_client.responses.retrieve(made["id"]).output_text == "Hello from upstream: hi"
    assert send(proxy, "DELETE", f"{ROUTE}/{made['id']}").json == {
        "id": made["id"],
        "object": "response",
        "deleted": True,
    }
    for method in ("GET", "DELETE"):
        assert send(proxy, method, f"{ROUTE}/{made['id']}").status == 404
    assert ask(proxy, previous_response_id=made["id"]).error["code"] == "previous_response_not_found"


def test_what_is_not_to_be_kept_is_not(proxy: Proxy) -> None:
    """`store: false` is obeyed, and said."""
    made = ask(proxy, store=False).json
    assert made["store"] is False
    assert send(proxy, "GET", f"{ROUTE}/{made['id']}").error["code"] == "not_found"
    assert ask(proxy, previous_response_id=made["id"]).status == 400


def test_input_items_come_in_pages(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """Newest first; the SDK walks through them."""
    given = [{"role": "user", "content": str(number)} for number in range(5)]
    made = ask(proxy, given).json
    path = f"{ROUTE}/{made['id']}/input_items"
    page = send(proxy, "GET", f"{path}?limit=2").json
    schema.check("ResponseItemList", page)
    assert [item["content"][0]["text"] for item in page["data"]] == ["4", "3"]
    assert (page["has_more"], page["first_id"]) == (True, page["data"][0]["id"])
    rest = send(proxy, "GET", f"{path}?after={page['last_id']}").json
    assert ([item["content"][0]["text"] for item in rest["data"]], rest["has_more"]) == (["2", "1", "0"], False)
    listed = openai_client.responses.input_items.list(made["id"], limit=2, order="asc")
    assert [item.to_dict()["content"][0]["text"] for item in listed] == list("01234")  # type: ignore[index]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("after=msg_none", "after"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("order=up", "order"),
    ],
)
def test_a_wrong_cursor_is_a_400(proxy: Proxy, query: str, param: str) -> None:
    """So is any other value that a page cannot have."""
    made = ask(proxy).json
    answer = send(proxy, "GET", f"{ROUTE}/{made['id']}/input_items?{query}")
    assert (answer.status, answer.error["param"]) == (400, param)


def test_an_item_reference_means_what_was_kept(proxy: Proxy) -> None:
    """As Vercel's SDK sends it; unknown reasoning is no loss, an unknown message is a 404."""
    made = ask(proxy, "one").json
    question = send(proxy, "GET", f"{ROUTE}/{made['id']}/input_items").json["data"][0]
    references = [{"type": "item_reference", "id": one["id"]} for one in (question, made["output"][0])]
    given = [*references, {"type": "item_reference", "id": "rs_unknown"}, {"role": "user", "content": "two"}]
    assert ask(proxy, given).headers["x-claude-proxy-session"].endswith("live")
    answer = ask(proxy, [{"type": "item_reference", "id": "msg_unknown"}])
    assert (answer.status, answer.error["param"]) == (404, "input[0].id")


def test_a_restart_keeps_responses_and_conversations(start: Start, tmp_path: Path) -> None:
    """Another process, the same folder: the chain goes on."""
    state = str(tmp_path / "state")
    with closing(Proxy(tmp_path / "first", Script(), {"state_dir": state})) as first:
        made = ask(first, "one").json
        talk = send(first, "POST", "/v1/conversations", {"metadata": {"a": "b"}}).json
        ask(first, "two", conversation=talk["id"])
    second = start(state_dir=state)
    assert send(second, "GET", f"{ROUTE}/{made['id']}").json == made
    assert ask(second, "three", previous_response_id=made["id"]).status == 200
    assert conversation_of(second.log()[0])[0] == ("user", "one")
    assert send(second, "GET", f"/v1/conversations/{talk['id']}").json == talk
    assert len(send(second, "GET", f"/v1/conversations/{talk['id']}/items").json["data"]) == 2


def test_what_one_key_keeps_another_does_not_see(start: Start) -> None:
    """Nor list, nor delete, nor continue."""
    proxy = start(api_key=("key-of-a", "key-of-b"))
    mine, yours = {"Authorization": "Bearer key-of-a"}, {"Authorization": "Bearer key-of-b"}
    made = ask(proxy, headers=mine).json
    talk = send(proxy, "POST", "/v1/conversations", {}, **mine).json
    assert send(proxy, "GET", f"{ROUTE}/{made['id']}", **mine).status == 200
    paths = (f"{ROUTE}/{made['id']}", f"{ROUTE}/{made['id']}/input_items", f"/v1/conversations/{talk['id']}")
    assert [send(proxy, "GET", path, **yours).status for path in paths] == [404, 404, 404]
    assert send(proxy, "DELETE", f"{ROUTE}/{made['id']}", **yours).status == 404
    assert ask(proxy, headers=yours, previous_response_id=made["id"]).status == 400
    assert ask(proxy, headers=yours, conversation=talk["id"]).status == 404


@pytest.mark.parametrize("fields", [{"store": True}, {"background": True}, {"conversation": "conv_1"}])
def test_a_server_that_keeps_nothing_says_so(start: Start, fields: Json) -> None:
    """A client that does not ask for it is served, and told that nothing was kept."""
    proxy = start(no_store=True)
    answer = ask(proxy, **fields)
    assert (answer.status, answer.error["param"]) == (400, next(iter(fields)))
    made = ask(proxy).json
    assert made["store"] is False
    assert send(proxy, "GET", f"{ROUTE}/{made['id']}").status == 404
    assert send(proxy, "POST", "/v1/conversations", {}).status == 400


# Conversations


def test_a_conversation_lets_the_client_send_only_what_is_new(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """Its items come first, and the answer goes into it; the SDK reads all of it."""
    seed: Any = [{"type": "message", "role": "user", "content": "zero"}, {"role": "assistant", "content": "nought"}]
    talk = openai_client.conversations.create(items=seed, metadata={"a": "b"})
    first = openai_client.responses.create(model=MODEL, input="one", conversation=talk.id)
    assert first.conversation is not None and first.conversation.id == talk.id
    openai_client.responses.create(model=MODEL, input="two", conversation={"id": talk.id}, store=False)
    assert conversation_of(proxy.log()[0])[:3] == [("user", "zero"), ("assistant", "nought"), ("user", "one")]
    items = list(openai_client.conversations.items.list(talk.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items if item.type == "message"]  # type: ignore[union-attr]
    assert texts == ["zero", "nought", "one", "Hello from upstream: one", "two", "Hello from upstream: two"]
    assert len({item.id for item in items}) == 6


def test_conversations_and_their_items_are_changed_and_deleted(openai_client: openai.OpenAI) -> None:
    """Every call of the SDK."""
    talks = openai_client.conversations
    talk = talks.create()
    assert talks.update(talk.id, metadata={"k": "v"}).metadata == talks.retrieve(talk.id).metadata == {"k": "v"}
    call: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    added = talks.items.create(talk.id, items=[{"role": "user", "content": "x"}, call])
    assert [item.type for item in added.data] == ["message", "function_call"]
    assert talks.items.retrieve(added.first_id, conversation_id=talk.id).id == added.first_id
    assert talks.items.delete(added.last_id, conversation_id=talk.id).id == talk.id
    with pytest.raises(openai.NotFoundError):
        talks.items.retrieve(added.last_id, conversation_id=talk.id)
    assert talks.delete(talk.id).deleted
    with pytest.raises(openai.NotFoundError):
        talks.items.list(talk.id)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [{"role": "user", "content": "x"}] * 21}, "items"),
        ({"items": [{"role": "robot", "content": "x"}]}, "items[0].role"),
        ({"items": "x"}, "items"),
        ({"metadata": {"a": "x" * 600}}, "metadata.a"),
    ],
)
def test_a_bad_conversation_is_a_400(proxy: Proxy, body: Json, param: str) -> None:
    """With the path of what is wrong."""
    answer = send(proxy, "POST", "/v1/conversations", body)
    assert (answer.status, answer.error["param"]) == (400, param)


# Background


def poll(client: openai.OpenAI, response: Response) -> Response:
    """The response once it has ended."""
    found = response

    def ended() -> bool:
        nonlocal found
        found = client.responses.retrieve(response.id)
        return found.status not in ("queued", "in_progress")

    wait_until(ended, "the background response has ended")
    return found


def test_a_background_response_is_polled_and_streamed_later(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """Its stream can be read from any point, and ends with what polling shows."""
    begun = openai_client.responses.create(model=MODEL, input="one", background=True)
    assert begun.status == "queued" and begun.background
    ended = poll(openai_client, begun)
    check_response(ended.to_dict(mode="json"))
    assert (ended.status, ended.output_text) == ("completed", "Hello from upstream: one")
    events = read_events(proxy.send(None, path=f"{ROUTE}/{begun.id}?stream=true", method="GET").stream().records)
    assert events[-1]["response"] == send(proxy, "GET", f"{ROUTE}/{begun.id}").json
    path = f"{ROUTE}/{begun.id}?stream=true&starting_after=4"
    assert read_events(proxy.send(None, path=path, method="GET").stream().records) == events[5:]
    follow_up = openai_client.responses.create(model=MODEL, input="two", previous_response_id=begun.id)
    assert follow_up.output_text == "Hello from upstream: two"


def test_a_background_stream_outlives_its_client(start: Start, connect: Connect) -> None:
    """The turn goes on; another watcher sees the rest of it, and signs of life while it is quiet."""
    proxy = start("sleep@delta:2=1", heartbeat_interval=0.2)
    sent = {"model": MODEL, "input": "one two three", "background": True, "stream": True}
    exchange = proxy.send(sent, path=ROUTE)
    first = json.loads(next(exchange.records()).split("data: ")[1])
    exchange.close()
    name = first["response"]["id"]
    events = read_events(proxy.send(None, path=f"{ROUTE}/{name}?stream=true", method="GET").stream().records)
    assert "keepalive" in [event["type"] for event in events]
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")


def test_a_background_response_is_cancelled(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """At once and for good; its child is ended, its watcher told."""
    begun = openai_client.responses.create(model=MODEL, input=SLOW, background=True)
    watcher = proxy.send(None, path=f"{ROUTE}/{begun.id}?stream=true", method="GET")
    records = watcher.records()
    next(records)
    assert openai_client.responses.cancel(begun.id).status == "cancelled"
    last = json.loads(list(records)[-1].split("data: ")[1])
    watcher.close()
    assert last["response"]["status"] == "cancelled"
    proxy.wait_until_idle()
    assert openai_client.responses.retrieve(begun.id).status == "cancelled"
    assert openai_client.responses.cancel(begun.id).status == "cancelled"
    assert ask(proxy, previous_response_id=begun.id).status == 400
    wait_until(lambda: not proxy.living_processes(), "the child is gone")


def test_a_background_response_is_deleted_while_it_runs(proxy: Proxy, openai_client: openai.OpenAI) -> None:
    """Nothing of it comes back."""
    begun = openai_client.responses.create(model=MODEL, input=SLOW, background=True)
    openai_client.responses.delete(begun.id)
    proxy.wait_until_idle()
    assert send(proxy, "GET", f"{ROUTE}/{begun.id}").status == 404


def test_a_background_response_fails(start: Start, connect: Connect) -> None:
    """The failure is in the object."""
    client = connect(start("crash@delta:2"))
    failed = poll(client, client.responses.create(model=MODEL, input="a b c", background=True))
    assert failed.status == "failed" and failed.error is not None and failed.error.code == "server_error"


def test_a_full_queue_refuses_background_responses(start: Start) -> None:
    """Nothing is kept of one that was refused."""
    proxy = start(max_concurrent=1, max_queue=0)
    begun = ask(proxy, SLOW, background=True).json
    for streaming in (False, True):
        refused = ask(proxy, "hi", background=True, stream=streaming)
        assert (refused.status, refused.error["code"]) == (429, "concurrency_limit")
    send(proxy, "POST", f"{ROUTE}/{begun['id']}/cancel")
    assert len(proxy.service.store.read("SELECT id FROM responses")) == 1


def test_only_background_responses_are_cancelled_or_streamed_later(proxy: Proxy) -> None:
    """Others are a 400, unknown ones a 404."""
    made = ask(proxy).json
    assert send(proxy, "POST", f"{ROUTE}/{made['id']}/cancel").status == 400
    assert send(proxy, "GET", f"{ROUTE}/{made['id']}?stream=true").error["param"] == "stream"
    assert send(proxy, "GET", f"{ROUTE}/{made['id']}?stream=true&starting_after=-1").error["param"] == "starting_after"
    assert send(proxy, "POST", f"{ROUTE}/resp_none/cancel").status == 404
    assert send(proxy, "GET", f"{ROUTE}/resp_none?stream=true").status == 404


def test_a_background_response_whose_proxy_ended_has_failed(start: Start) -> None:
    """It would otherwise be polled for ever."""
    proxy = start()
    made = ask(proxy).json
    proxy.service.store.write([("UPDATE responses SET status = 'in_progress', runner = '999999999:1'", ())])
    assert send(proxy, "GET", f"{ROUTE}/{made['id']}").json["status"] == "failed"
    assert proxy.service.store.read("SELECT status FROM responses") == [("failed",)]


# Beside it


def test_input_tokens_are_counted_without_a_child(proxy: Proxy) -> None:
    """An estimate, and called one."""
    answer = send(proxy, "POST", f"{ROUTE}/input_tokens", {"model": MODEL, "input": "one two three"})
    schema.check("TokenCountsResource", answer.json)
    assert answer.headers["x-claude-proxy-token-count"] == "estimate"
    assert proxy.log() == ()


def test_compaction_is_a_404_that_says_why(proxy: Proxy) -> None:
    """Not a 405: nothing else can be done there."""
    answer = send(proxy, "POST", f"{ROUTE}/compact", {})
    assert (answer.status, answer.error["code"]) == (404, "not_found")


@pytest.mark.parametrize("streaming", [False, True])
def test_cursors_input_is_understood_on_the_chat_route(proxy: Proxy, streaming: bool) -> None:
    """And answered in chat's shape."""
    given = [{"role": "system", "content": "x"}, {"type": "message", "role": "user", "content": "hi"}]
    sent = {"model": MODEL, "input": given, "tools": [WEATHER], "stream": streaming}
    exchange = proxy.send({**sent, "stream_options": {"include_usage": True}})
    if not streaming:
        assert exchange.answer().text == "Hello from upstream: hi"
        return
    chunks = exchange.stream().chunks
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks[:-1]) == "Hello from upstream: hi"
    assert chunks[-1]["usage"]["prompt_tokens"] > 0
