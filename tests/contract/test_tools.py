"""The client's own functions, structured answers, images and files, over HTTP: what the child gets, what comes back."""

import base64
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest

from claude_proxy.claude.wire.toolset import LARGEST_RESULT, usable_name
from tests import schema
from tests.fake_cli import Process
from tests.harness import (
    Answer,
    Proxy,
    assistant,
    chat,
    control_requests,
    conversation_of,
    extra_bodies,
    wait_until,
)

Start = Callable[..., Proxy]
Connect = Callable[..., openai.OpenAI]

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time", "parameters": CITY}}
PARIS = 'fake:call=get_weather:{"city":"Paris"}'
LONDON = 'fake:call=get_time:{"city":"London"}'
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{encoded(data)}"


def calls_of(answer: Answer) -> list[dict[str, Any]]:
    """The calls of an answer, after it was held against the schema."""
    schema.check("CreateChatCompletionResponse", answer.json)
    (choice,) = answer.json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    calls = choice["message"]["tool_calls"]
    assert isinstance(calls, list)
    return calls


def result(call: dict[str, Any], content: Any) -> dict[str, Any]:
    """The client's result for a call."""
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


class Loop:
    """A client's tool loop: it keeps the messages, and sends them all each time."""

    def __init__(self, proxy: Proxy, text: str, tools: list[Any] | None = None, **fields: Any) -> None:
        self.proxy = proxy
        self.tools = [WEATHER, TIME] if tools is None else tools
        self.messages: list[Any] = [{"role": "user", "content": text}]
        self.first = proxy.ask(*self.messages, tools=self.tools, **fields)
        self.calls = calls_of(self.first)
        self.messages.append(self.first.json["choices"][0]["message"])

    def post(self, *messages: Any, **fields: Any) -> Answer:
        """Send everything again, with these added."""
        return self.proxy.ask(*self.messages, *messages, **{"tools": self.tools, **fields})


def one_child(proxy: Proxy) -> Process:
    (child,) = proxy.log()
    return child


def replayed(proxy: Proxy) -> list[tuple[str, Any]]:
    """What the second and last child was told."""
    _, second = proxy.log()
    return conversation_of(second)


def assert_replayed(proxy: Proxy, loop: Loop, content: Any) -> None:
    """The second child was given the call and its result as a native pair."""
    _, (role, (text, call)), (last, (given,)) = replayed(proxy)
    assert (role, text["text"], last) == ("assistant", "calling", "user")
    assert (call["type"], call["id"], call["name"]) == ("tool_use", loop.calls[0]["id"], "get_weather")
    assert call["input"] == {"city": "Paris"}
    assert given == {"type": "tool_result", "tool_use_id": loop.calls[0]["id"], "content": content}


# The loop.


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reordered"])
def test_parallel_calls_are_answered_in_the_same_child(proxy: Proxy, reverse: bool) -> None:
    """Nothing is sent again; each result reaches its own call."""
    loop = Loop(proxy, f"{PARIS} {LONDON}")
    assert loop.first.json["choices"][0]["message"]["content"] == "calling"
    assert [call["function"]["name"] for call in loop.calls] == ["get_weather", "get_time"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in loop.calls] == ["Paris", "London"]
    assert proxy.service.fleet.counts().parked == 1 and proxy.is_idle
    given = [result(loop.calls[0], "sun"), result(loop.calls[1], "noon")]
    answer = loop.post(*(reversed(given) if reverse else given))
    assert answer.text == "Tool said: sun noon"
    child = one_child(proxy)
    assert len(child.user_messages) == 1 and len(control_requests(child, "initialize")) == 1
    assert loop.first.headers["x-claude-proxy-mode"] == "client-tools"


def test_calls_stream_as_the_model_writes_them(proxy: Proxy) -> None:
    """Index, id and name once, then fragments of the arguments; the text before them is kept."""
    stream = proxy.stream(f"{PARIS} {LONDON}", tools=[WEATHER, TIME])
    for chunk in stream.chunks:
        schema.check("CreateChatCompletionStreamResponse", chunk)
    assert (stream.text, stream.finish_reason, stream.is_done) == ("calling", "tool_calls", True)
    fragments = [piece for delta in stream.deltas for piece in delta.get("tool_calls", [])]
    assert all("index" in fragment for fragment in fragments)
    for index, (name, city) in enumerate((("get_weather", "Paris"), ("get_time", "London"))):
        mine = [fragment for fragment in fragments if fragment["index"] == index]
        assert mine[0]["type"] == "function" and mine[0]["function"] == {"name": name, "arguments": ""}
        assert len(mine) > 2 and all(set(fragment) == {"index", "function"} for fragment in mine[1:])
        assert json.loads("".join(fragment["function"]["arguments"] for fragment in mine)) == {"city": city}


def test_of_two_results_for_one_call_the_last_counts(proxy: Proxy) -> None:
    """As at the API itself."""
    loop = Loop(proxy, PARIS)
    assert loop.post(result(loop.calls[0], "rain"), result(loop.calls[0], "sun")).text == "Tool said: sun"
    one_child(proxy)


def test_missing_results_are_named(proxy: Proxy) -> None:
    """400; and the parked call can still be answered afterwards."""
    loop = Loop(proxy, f"{PARIS} {LONDON}")
    answer = loop.post(result(loop.calls[0], "sun"))
    assert answer.status == 400
    assert loop.calls[1]["id"] in answer.error["message"] and loop.calls[0]["id"] not in answer.error["message"]
    assert loop.post("and now?").status == 400
    assert loop.post(result(loop.calls[0], "a"), result(loop.calls[1], "b")).text == "Tool said: a b"


def test_a_result_for_a_call_that_was_never_made_is_refused(proxy: Proxy) -> None:
    """It is named, and no child is asked."""
    loop = Loop(proxy, PARIS)
    answer = loop.post(result(loop.calls[0], "sun"), result({"id": "call_unknown"}, "x"))
    assert (answer.status, "call_unknown" in answer.error["message"]) == (400, True)
    assert proxy.ask("hello", result({"id": "call_unknown"}, "x")).status == 400
    one_child(proxy)


@pytest.mark.parametrize("change", [lambda name: name.replace("_", ""), lambda name: name.replace("_", "-")])
def test_ids_that_lose_their_underscores_still_find_the_parked_child(
    proxy: Proxy, change: Callable[[str], str]
) -> None:
    """Some clients drop what is no letter or digit."""
    loop = Loop(proxy, PARIS)
    (call,) = loop.messages[1]["tool_calls"]
    call["id"] = change(call["id"])
    assert loop.post(result(call, "sun")).text == "Tool said: sun"
    one_child(proxy)


def test_a_user_message_after_the_results_is_replayed(proxy: Proxy) -> None:
    """It cannot be put into a parked turn."""
    loop = Loop(proxy, PARIS)
    assert loop.post(result(loop.calls[0], "sun"), "and tomorrow?").text == "Hello from upstream: and tomorrow?"
    _, second = proxy.log()
    blocks = [block for _, content in conversation_of(second) if not isinstance(content, str) for block in content]
    assert [block["type"] for block in blocks if block["type"] != "text"] == ["tool_use", "tool_result"]
    proxy.wait_for_log(lambda log: log[0].end is not None)


def test_an_edited_history_is_replayed_with_its_pairs(proxy: Proxy) -> None:
    """The parked child waits for results of another conversation."""
    loop = Loop(proxy, PARIS)
    loop.messages[0] = {"role": "user", "content": "something else"}
    assert loop.post(result(loop.calls[0], "sun")).status == 200
    assert_replayed(proxy, loop, [{"type": "text", "text": "sun"}])


def test_many_rounds_go_on_in_one_child(start: Start) -> None:
    """Two rounds of calls, then an answer, then a question."""
    proxy = start()
    loop = Loop(proxy, PARIS)
    said = loop.post(result(loop.calls[0], "sun")).text
    loop.messages += [result(loop.calls[0], "sun"), assistant(said), {"role": "user", "content": LONDON}]
    second = loop.post()
    (call,) = calls_of(second)
    loop.messages.append(second.json["choices"][0]["message"])
    assert loop.post(result(call, "noon")).text == "Tool said: noon"
    assert len(one_child(proxy).user_messages) == 2


@pytest.mark.parametrize("killed", ["parked", "while it goes on"])
def test_a_parked_child_that_dies_is_replaced_by_replay(start: Start, killed: str) -> None:
    """With the same pair; no result is lost, no call is made twice."""
    proxy = start()
    loop = Loop(proxy, PARIS)
    (child,) = proxy.log()
    os.kill(child.pid, signal.SIGKILL if killed == "parked" else signal.SIGSTOP)
    if killed == "parked":
        wait_until(lambda: proxy.service.fleet.counts().parked == 0, "the dead child noticed")
        assert loop.post(result(loop.calls[0], "sun")).status == 200
    else:
        body = chat(*loop.messages, result(loop.calls[0], "sun"), tools=loop.tools)
        exchange = proxy.send(body)
        wait_until(lambda: proxy.service.fleet.counts().leased == 1, "the parked child leased")
        os.kill(child.pid, signal.SIGKILL)
        assert exchange.answer().status == 200
    assert_replayed(proxy, loop, [{"type": "text", "text": "sun"}])


@pytest.mark.parametrize("size", [60_000, 489_000, 499_000, 2_000_000, 10_000_000])
def test_a_large_result_arrives_byte_for_byte(proxy: Proxy, size: int) -> None:
    """In the parked child as far as the CLI takes it uncut there, by replay beyond."""
    text = ("0123456789é世" * (size // 12 + 1))[:size]
    loop = Loop(proxy, PARIS)
    answer = loop.post(result(loop.calls[0], text))
    if size <= LARGEST_RESULT:
        assert answer.text == f"Tool said: {text}"
        one_child(proxy)
    else:
        assert answer.status == 200
        assert_replayed(proxy, loop, [{"type": "text", "text": text}])
    assert proxy.folders_of_children() and not [
        path for path in proxy.config.state_folder.rglob("*") if path.is_file() and b"0123456789" in path.read_bytes()
    ]


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}]])
def test_an_empty_result_is_replayed_as_empty(proxy: Proxy, content: Any) -> None:
    """The CLI would put words of its own in its place."""
    loop = Loop(proxy, PARIS)
    assert loop.post(result(loop.calls[0], content)).status == 200
    *_, (role, (given,)) = replayed(proxy)
    assert (role, given["type"], given.get("content", [])) == ("user", "tool_result", [])


def test_a_result_of_parts_with_an_image_reaches_the_model(proxy: Proxy) -> None:
    """As text and image, natively."""
    loop = Loop(proxy, PARIS)
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": data_url("image/png", PNG)}}]
    assert loop.post(result(loop.calls[0], parts)).text == "Tool said: see "
    answers = [line for line in one_child(proxy).messages if line["type"] == "control_response"]
    content = answers[0]["response"]["response"]["mcp_response"]["result"]["content"]
    assert content == [
        {"type": "text", "text": "see"},
        {"type": "image", "data": encoded(PNG), "mimeType": "image/png"},
    ]


def test_an_error_result_stays_marked_as_one(proxy: Proxy) -> None:
    """In the shape in which some clients send it on this route."""
    loop = Loop(proxy, PARIS)
    block = {"type": "tool_result", "tool_use_id": loop.calls[0]["id"], "content": "no such city", "is_error": True}
    assert loop.post({"role": "user", "content": [block]}).text == "Tool said: no such city"
    (answer,) = (line for line in one_child(proxy).messages if line["type"] == "control_response")
    assert answer["response"]["response"]["mcp_response"]["result"]["isError"] is True


def test_calls_and_results_as_blocks_are_understood(proxy: Proxy) -> None:
    """`tool_use` and `tool_result` inside `content`; the answer is in chat shape all the same."""
    loop = Loop(proxy, PARIS)
    call_id = loop.calls[0]["id"]
    loop.messages[1] = assistant(
        [
            {"type": "text", "text": "calling"},
            {"type": "tool_use", "id": call_id, "name": "get_weather", "input": {"city": "Paris"}},
        ]
    )
    block = {"type": "tool_result", "tool_use_id": call_id, "content": [{"type": "text", "text": "sun"}]}
    assert loop.post({"role": "user", "content": [block]}).text == "Tool said: sun"
    one_child(proxy)


def test_equal_ids_of_different_rounds_are_told_apart(proxy: Proxy) -> None:
    """Some clients number their calls anew each time; the CLI would delete the second."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Rome"}'}}
    rounds = [assistant(None, tool_calls=[call]), result(call, "sun")]
    assert proxy.ask("go", *rounds, assistant("ok"), "again", *rounds, tools=[WEATHER]).status == 200
    blocks = [
        block for _, content in conversation_of(one_child(proxy)) if not isinstance(content, str) for block in content
    ]
    used = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert len(set(used)) == 2
    assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == used


def test_two_calls_of_one_message_with_one_id_are_refused(proxy: Proxy) -> None:
    """Whose result it is could not be told."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    assert proxy.ask("go", assistant(None, tool_calls=[call, call]), result(call, "x")).status == 400


def test_calls_without_ids_get_some(proxy: Proxy) -> None:
    """By their place; a result without one is refused."""
    call = {"type": "function", "function": {"name": "get_weather", "arguments": ""}}
    body = ["go", assistant(None, tool_calls=[call]), {"role": "tool", "tool_call_id": "call_1_0", "content": "x"}]
    assert proxy.ask(*body, tools=[WEATHER]).status == 200


# Legacy functions.


def test_legacy_functions_are_answered_in_their_own_shape(proxy: Proxy) -> None:
    """`function_call` in the message and as finish_reason; the result as role `function`."""
    functions = [WEATHER["function"]]
    first = proxy.ask(PARIS, functions=functions)
    (choice,) = first.json["choices"]
    assert choice["finish_reason"] == "function_call"
    call = choice["message"]["function_call"]
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Paris"})
    assert "tool_calls" not in choice["message"]
    answer = proxy.ask(
        PARIS,
        choice["message"],
        {"role": "function", "name": "get_weather", "content": "sun"},
        functions=functions,
    )
    assert answer.status == 200
    stream = proxy.stream(PARIS, functions=functions, function_call="auto")
    pieces = [delta["function_call"] for delta in stream.deltas if "function_call" in delta]
    assert pieces[0] == {"name": "get_weather", "arguments": ""}
    assert json.loads("".join(piece["arguments"] for piece in pieces)) == {"city": "Paris"}
    assert stream.finish_reason == "function_call"


def test_a_forced_legacy_function_is_forced(proxy: Proxy) -> None:
    """By its name; and one at a time."""
    proxy.ask(PARIS, functions=[WEATHER["function"]], function_call={"name": "get_weather"})
    (body,) = extra_bodies(one_child(proxy))
    assert body["tool_choice"] == {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}


# Definitions.

SHAPES = {
    "nested": {"type": "function", "function": {"name": "f", "description": "d", "parameters": CITY, "strict": True}},
    "nested without a type": {"function": {"name": "f", "description": "d", "parameters": CITY}},
    "flat": {"type": "function", "name": "f", "description": "d", "parameters": CITY},
    "bare": {"name": "f", "description": "d", "input_schema": CITY},
    "custom": {"type": "custom", "name": "f", "description": "d", "input_schema": CITY},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_shape_of_a_definition_reaches_the_api_as_one(shared_proxy: Proxy, shape: dict[str, Any]) -> None:
    """Verbatim in name, description and schema."""
    assert shared_proxy.ask("hello", tools=[shape]).status == 200
    (body,) = extra_bodies(shared_proxy.log()[-1])
    assert body == {"tools": [{"name": "f", "description": "d", "input_schema": CITY}]}
    shared_proxy.wait_until_empty()


def test_many_large_definitions_arrive_uncut(shared_proxy: Proxy) -> None:
    """128 tools, descriptions of 20 KB, schemas with what the CLI's own check dislikes."""
    odd = {"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"enum": [1, None, "é"]}}}
    tools = [
        {"type": "function", "function": {"name": f"tool_{n}", "description": "ö" * 2_000, "parameters": odd}}
        for n in range(128)
    ]
    tools[0]["function"]["description"] = "x" * 20_000  # type: ignore[index]
    assert shared_proxy.ask("hello", tools=tools).status == 200
    (body,) = extra_bodies(shared_proxy.log()[-1])
    wanted = [
        {"name": one["name"], "description": one["description"], "input_schema": odd}
        for one in (tool["function"] for tool in tools)
        if isinstance(one, dict)
    ]
    assert body["tools"] == wanted
    (initialize,) = control_requests(shared_proxy.log()[-1], "initialize")
    listed = initialize["sdkMcpServerManifests"]["client"]["toolsListResult"]["tools"]
    assert [tool["name"] for tool in listed] == [f"tool_{n}" for n in range(128)]
    assert all(tool["inputSchema"] == {"type": "object"} for tool in listed)
    shared_proxy.wait_until_empty()


@pytest.mark.parametrize("name", ["files.read", "x" * 200, "ToolSearch", "StructuredOutput", "größe", "a b"])
def test_a_name_that_the_api_does_not_take_is_mapped_and_mapped_back(proxy: Proxy, name: str) -> None:
    """Upstream it is usable; the client sees its own."""
    tool = {"type": "function", "function": {"name": name, "parameters": CITY}}
    loop = Loop(proxy, f'fake:call={usable_name(name)}:{{"city":"Paris"}}', [tool])
    assert loop.calls[0]["function"]["name"] == name
    (body,) = extra_bodies(one_child(proxy))
    assert body["tools"][0]["name"] == usable_name(name) != name
    assert loop.post(result(loop.calls[0], "sun")).text == "Tool said: sun"
    loop.messages[0] = {"role": "user", "content": "edited"}
    assert loop.post(result(loop.calls[0], "sun")).status == 200
    _, (_, (_, call)), _ = replayed(proxy)
    assert call["name"] == usable_name(name)


CHOICES: tuple[tuple[Any, dict[str, Any] | None], ...] = (
    (None, None),
    ("auto", None),
    ("none", {"type": "none"}),
    ("required", {"type": "any"}),
    ({"type": "function", "function": {"name": "get_time"}}, {"type": "tool", "name": "get_time"}),
    ({"type": "function", "name": "get_time"}, {"type": "tool", "name": "get_time"}),
    ({"type": "tool", "name": "get_time"}, {"type": "tool", "name": "get_time"}),
    ({"type": "any"}, {"type": "any"}),
    ({"type": "auto"}, None),
)


@pytest.mark.parametrize(("given", "wanted"), CHOICES, ids=[str(choice) for choice, _ in CHOICES])
@pytest.mark.parametrize("parallel", [True, False])
def test_tool_choice_reaches_the_api(
    shared_proxy: Proxy, given: Any, wanted: dict[str, Any] | None, parallel: bool
) -> None:
    """In every shape; `parallel_tool_calls: false` with it."""
    more = {} if parallel else {"parallel_tool_calls": False}
    answer = shared_proxy.ask("hello", tools=[WEATHER, TIME], tool_choice=given, **more)
    assert answer.status == 200
    (body,) = extra_bodies(shared_proxy.log()[-1])
    expected = dict(wanted) if wanted else None
    if not parallel and given != "none":
        expected = {**(expected or {"type": "auto"}), "disable_parallel_tool_use": True}
    assert body.get("tool_choice") == expected
    forced = expected is not None and expected["type"] in ("any", "tool")
    assert (body.get("thinking") == {"type": "disabled"}) == forced
    shared_proxy.wait_until_empty()


def test_allowed_tools_offers_only_those(shared_proxy: Proxy) -> None:
    """In the client's order."""
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    assert shared_proxy.ask("hello", tools=[WEATHER, TIME], tool_choice=choice).status == 200
    (body,) = extra_bodies(shared_proxy.log()[-1])
    assert [tool["name"] for tool in body["tools"]] == ["get_time"]
    assert body["tool_choice"] == {"type": "any"}
    shared_proxy.wait_until_empty()


def test_a_forced_choice_is_not_in_force_when_the_turn_goes_on(proxy: Proxy) -> None:
    """A client that does not repeat it would be called for ever."""
    loop = Loop(proxy, PARIS, tool_choice="required")
    assert loop.post(result(loop.calls[0], "sun")).text == "Tool said: sun"
    first, second = extra_bodies(one_child(proxy))
    assert first["tool_choice"] == {"type": "any"} and "tool_choice" not in second
    lines = one_child(proxy).messages
    order = [line.get("request", {}).get("subtype") or line["type"] for line in lines]
    assert order[-2:] == ["apply_flag_settings", "control_response"]


def test_without_tools_nothing_is_offered(proxy: Proxy) -> None:
    """Neither to the CLI nor upstream."""
    assert proxy.ask("hello", tools=[], tool_choice="auto").status == 200
    child = one_child(proxy)
    assert "sdkMcpServers" not in control_requests(child, "initialize")[0] and extra_bodies(child) == []


# Parking.


def test_a_parked_turn_is_given_up_after_a_while(start: Start) -> None:
    """And its conversation is replayed when the client comes back late."""
    proxy = start(park_ttl=0.2)
    loop = Loop(proxy, PARIS)
    proxy.wait_until_empty()
    assert loop.post(result(loop.calls[0], "sun")).status == 200
    assert_replayed(proxy, loop, [{"type": "text", "text": "sun"}])


def test_twenty_conversations_can_be_parked_at_once(start: Start) -> None:
    """None of them holds a worker, and each gets its own result."""
    proxy = start(max_concurrent=2)
    loops = [Loop(proxy, f"{PARIS} number {number}") for number in range(20)]
    assert proxy.service.fleet.counts().parked == 20 and proxy.is_idle
    for number, loop in enumerate(loops):
        assert loop.post(result(loop.calls[0], f"sun {number}")).text == f"Tool said: sun {number}"
    assert len(proxy.log()) == 20


def test_the_oldest_parked_conversation_goes_when_there_are_too_many(start: Start) -> None:
    """It is replayed; the younger ones go on where they were."""
    proxy = start(max_children=3, max_concurrent=2)
    loops = [Loop(proxy, f"{PARIS} number {number}") for number in range(4)]
    assert proxy.service.fleet.counts().parked == 3
    proxy.wait_for_log(lambda log: log[0].end is not None)
    assert proxy.log()[0].end == "SIGTERM"
    assert loops[3].post(result(loops[3].calls[0], "sun")).text == "Tool said: sun"
    assert len(proxy.log()) == 4
    assert loops[0].post(result(loops[0].calls[0], "sun")).status == 200
    assert len(proxy.log()) == 5


def test_a_client_that_leaves_in_the_middle_of_arguments_parks_nothing(start: Start) -> None:
    """What it did not see whole is not kept."""
    proxy = start()
    arguments = json.dumps({"city": "x" * 400_000}, separators=(",", ":"))
    exchange = proxy.send(chat(f"fake:call=get_weather:{arguments}", tools=[WEATHER], stream=True), receive_buffer=4096)
    records = exchange.records()
    while "tool_calls" not in next(records):
        pass
    exchange.close()
    proxy.wait_until_empty()


# Structured answers.

ANSWER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}}
GOOD = 'fake:deltas=["{\\"a\\":","1}"]'


def test_a_json_schema_goes_upstream_and_the_answer_is_the_json(proxy: Proxy) -> None:
    """Streamed as it is written."""
    stream = proxy.stream(GOOD, response_format=FORMAT)
    assert [delta["content"] for delta in stream.deltas[1:-1]] == ['{"a":', "1}"]
    assert proxy.ask(GOOD, response_format=FORMAT).text == '{"a":1}'
    (body,) = extra_bodies(proxy.log()[0])
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {**ANSWER, "additionalProperties": False},
    }


@pytest.mark.parametrize("said", ['{"a":"one"}', "{}", "prose", '{"a":1'])
def test_an_answer_that_does_not_meet_the_schema_is_an_error(proxy: Proxy, said: str) -> None:
    """Told before the end of the stream, and not given out as an answer."""
    text = "fake:deltas=" + json.dumps([said], separators=(",", ":"))
    answer = proxy.ask(text, response_format=FORMAT)
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    stream = proxy.stream(text, response_format=FORMAT)
    assert [error["code"] for error in stream.errors] == ["upstream_error"] and stream.finish_reason is None
    proxy.wait_until_empty()


@pytest.mark.parametrize("stop", ["max_tokens", "refusal"])
def test_a_structured_answer_that_was_cut_is_not_judged(proxy: Proxy, stop: str) -> None:
    """`length` and `content_filter` say enough."""
    stream = proxy.stream(f'fake:deltas=["{{"] fake:stop={stop}', response_format=FORMAT)
    assert stream.errors == [] and stream.finish_reason == {"max_tokens": "length", "refusal": "content_filter"}[stop]


@pytest.mark.parametrize(
    "given", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}]
)
def test_any_object_is_asked_for_through_the_clis_own_tool(proxy: Proxy, given: dict[str, Any]) -> None:
    """The client sees the JSON, never the call."""
    text = 'fake:call=StructuredOutput:{"a":3}'
    stream = proxy.stream(text, response_format=given)
    assert (json.loads(stream.text), stream.finish_reason) == ({"a": 3}, "stop")
    assert not any("tool_calls" in delta for delta in stream.deltas)
    assert json.loads(proxy.ask(text, response_format=given).text) == {"a": 3}
    (initialize,) = control_requests(proxy.log()[0], "initialize")
    assert initialize["jsonSchema"]["type"] == "object"
    assert proxy.ask("hello", response_format={"type": "text"}).text == "Hello from upstream: hello"


def test_an_object_that_never_came_is_an_error(proxy: Proxy) -> None:
    """Prose is not given out for it."""
    assert proxy.ask("hello", response_format={"type": "json_object"}).status == 502
    proxy.wait_until_empty()


# The official client.


class Weather(pydantic.BaseModel):
    """What `parse` makes of an answer."""

    city: str
    degrees: int


def test_the_official_client_parses_a_structured_answer(proxy: Proxy, connect: Connect) -> None:
    """Into a pydantic model."""
    text = 'fake:deltas=["{\\"city\\":\\"Paris\\",\\"degrees\\":21}"]'
    answer = connect(proxy).chat.completions.parse(**chat(text), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(city="Paris", degrees=21)


def test_the_official_client_streams_a_loop_of_two_calls(proxy: Proxy, connect: Connect) -> None:
    """Its own fold of the fragments gives calls that it can answer; the turn goes on in the same child."""
    client = connect(proxy)
    body = chat(f"{PARIS} {LONDON}", tools=[WEATHER, TIME], tool_choice="required")
    with client.chat.completions.stream(**body) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "get_time"]
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": call.function.arguments} for call in message.tool_calls
    ]
    history = [*body["messages"], message.model_dump(exclude_unset=True), *results]
    answer = client.chat.completions.create(**chat(*history, tools=[WEATHER, TIME]))
    assert answer.choices[0].message.content == 'Tool said: {"city":"Paris"} {"city":"London"}'
    one_child(proxy)


# Images and files.

JPEG = b"\xff\xd8\xff\xe0 jpeg"
WEBP = b"RIFF\0\0\0\0WEBPVP8 "
PDF = b"%PDF-1.4 pdf"


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def file(data: str | None = None, **more: Any) -> dict[str, Any]:
    given = {"file_data": data} if data is not None else {}
    return {"type": "file", "file": {**given, **more}}


def as_image(media_type: str, data: bytes) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": encoded(data)}}


PARTS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("png", image(data_url("image/png", PNG)), as_image("image/png", PNG)),
    ("jpeg", image(data_url("image/jpeg", JPEG)), as_image("image/jpeg", JPEG)),
    ("jpg", image(data_url("image/jpg", JPEG)), as_image("image/jpeg", JPEG)),
    ("gif", image(data_url("image/gif", b"GIF89a gif")), as_image("image/gif", b"GIF89a gif")),
    ("webp", image(data_url("IMAGE/WEBP", WEBP)), as_image("image/webp", WEBP)),
    ("a flat image", {"type": "input_image", "image_url": data_url("image/png", PNG)}, as_image("image/png", PNG)),
    ("an image block", as_image("image/png", PNG), as_image("image/png", PNG)),
    (
        "an https URL",
        image("https://example.org/a.png"),
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
    ),
    (
        "a URL block",
        {"type": "image", "source": {"type": "url", "url": "http://example.org/a.png"}},
        {"type": "image", "source": {"type": "url", "url": "http://example.org/a.png"}},
    ),
    (
        "a PDF",
        file(data_url("application/pdf", PDF), filename="a.pdf"),
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": encoded(PDF)},
            "title": "a.pdf",
        },
    ),
    (
        "a text file",
        file(data_url("text/plain;charset=utf-8", "héllo".encode()), filename="a.txt"),
        {"type": "document", "source": {"type": "text", "data": "héllo", "media_type": "text/plain"}, "title": "a.txt"},
    ),
    (
        "a JSON file without base64",
        file("data:application/json,%7B%7D"),
        {"type": "document", "source": {"type": "text", "data": "{}", "media_type": "text/plain"}},
    ),
)


@pytest.mark.parametrize(("part", "block"), [row[1:] for row in PARTS], ids=[row[0] for row in PARTS])
def test_images_and_files_reach_the_model_as_blocks(
    shared_proxy: Proxy, part: dict[str, Any], block: dict[str, Any]
) -> None:
    """Several in a message, and in earlier turns."""
    content = [{"type": "text", "text": "look"}, part, part]
    assert shared_proxy.ask({"role": "user", "content": content}, assistant("seen"), "again").status == 200
    (_, blocks), *_ = conversation_of(shared_proxy.log()[-1])
    assert [dict(sorted(one.items())) for one in blocks] == [
        dict(sorted(one.items())) for one in ({"type": "text", "text": "look"}, _with_type(block), _with_type(block))
    ]
    shared_proxy.wait_until_empty()


def _with_type(block: dict[str, Any]) -> dict[str, Any]:
    """A text source leaves its default type of text out or says it: both are the same."""
    return block


BAD_PARTS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("bad base64", image("data:image/png;base64,@@@"), "image_url.url"),
    ("base64 that is no PNG", image(data_url("image/png", b"text")), "image_url.url"),
    ("RIFF that is no WEBP", image(data_url("image/webp", b"RIFF\0\0\0\0WAVE")), "image_url.url"),
    ("an empty image", image("data:image/png;base64,"), "image_url.url"),
    ("a type that is none of the four", image(data_url("image/tiff", b"II*\0")), "image_url.url"),
    ("too large", image(data_url("image/png", PNG + b"\0" * 6_000_000)), "image_url.url"),
    ("a file URL", image("file:///etc/passwd"), "image_url.url"),
    ("a path", image("/etc/passwd"), "image_url.url"),
    ("no URL at all", {"type": "image_url"}, "image_url"),
    (
        "a broken image block",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "@"}},
        "source.data",
    ),
    ("an image block without a source", {"type": "image"}, "source"),
    ("a file_id", file(file_id="file-abc"), "file.file_id"),
    ("a file without data", file(filename="x"), "file.file_data"),
    ("a file part without a file", {"type": "file"}, "file"),
    ("a PDF that is none", file(data_url("application/pdf", b"text")), "file.file_data"),
    ("a file that is no text", file(data_url("text/plain", b"\xff\xfe")), "file.file_data"),
    ("a file of another type", file(data_url("application/zip", b"PK")), "file.file_data"),
    ("file data that is no data URL", file(encoded(PDF)), "file.file_data"),
    ("audio", {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "type"),
)


@pytest.mark.parametrize(("part", "where"), [row[1:] for row in BAD_PARTS], ids=[row[0] for row in BAD_PARTS])
def test_a_part_that_cannot_be_taken_is_named(shared_proxy: Proxy, part: dict[str, Any], where: str) -> None:
    """With its path; no child is asked, and no file is opened."""
    before = len(shared_proxy.log())
    answer = shared_proxy.ask(
        "fine", assistant("ok"), {"role": "user", "content": [{"type": "text", "text": "x"}, part]}
    )
    assert (answer.status, answer.error["param"]) == (400, f"messages[2].content[1].{where}")
    assert len(shared_proxy.log()) == before
