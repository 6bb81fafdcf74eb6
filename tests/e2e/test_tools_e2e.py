"""The client's functions, schemas, pictures and files, native on both sides: the API gets what the client sent."""

import base64
import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Start
from tests.e2e.files import data_url, make_pdf, make_png
from tests.e2e.real import (
    PATIENCE,
    RECORDED,
    RealProxy,
    as_blocks,
    assert_upstream,
    client_turns,
    files_with,
    how,
    plain_block,
    session_id,
    temporary_folder_at,
)
from tests.harness import Answer, Json, assistant, wait_until
from tests.upstream import Upstream

pytestmark = pytest.mark.e2e

CITY: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "size": {"type": "integer"}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
NO_NATIVE_SCHEMAS = "claude-sonnet-4-20250514"


def function(name: str, description: str = "", schema: Json | None = None) -> Json:
    parameters = schema or {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


LOOK = function("look", "Looks something up.")


def message_of(answer: Answer) -> Json:
    """The assistant's message, as a client appends it to its history."""
    assert answer.status == 200, answer.body
    message = answer.json["choices"][0]["message"]
    assert isinstance(message, dict)
    return message


def calls_of(answer: Answer) -> list[Json]:
    return list(message_of(answer).get("tool_calls") or ())


def result(call: Json, content: Any) -> Json:
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


def results_in(body: Json) -> list[Json]:
    """The tool results of the newest message upstream."""
    return [block for block in client_turns(body)[-1][1] if block["type"] == "tool_result"]


def text_of(block: Json) -> str:
    """The text of a tool's result."""
    return "".join(part["text"] for part in as_blocks(block.get("content") or ""))


def call_look(proxy: RealProxy, *wanted: str, tools: Any = (LOOK,), **fields: Any) -> tuple[list[Any], list[Json]]:
    """A conversation that waits for results: its messages so far, and the calls."""
    text = " ".join(f'demo:call=look{{"q":"{one}"}}' for one in wanted)
    answer = proxy.say(text, tools=tools, **fields)
    assert answer.json["choices"][0]["finish_reason"] == "tool_calls"
    return [text, message_of(answer)], calls_of(answer)


def prompt_of(body: Json) -> tuple[list[str], int]:
    """Every block of the prompt as JSON without its breakpoint, in order, and how many there are up to the last one."""
    blocks: list[str] = []
    cached = 0
    places = [("tools", tool) for tool in body["tools"]] + [("system", block) for block in body["system"]]
    for message in body["messages"]:
        # An empty system message marks a change of effort; it has no block, but is part of the prompt.
        places += [(message["role"], block) for block in as_blocks(message["content"]) or [message]]
    for place, block in places:
        blocks.append(json.dumps([place, plain_block(block)]))
        cached = len(blocks) if "cache_control" in block else cached
    return blocks, cached


def assert_prefixes_kept(bodies: list[Json]) -> None:
    """Each request begins with what the one before it left in the API's cache."""
    for before, after in zip(bodies, bodies[1:], strict=False):
        blocks, cached = prompt_of(before)
        assert cached and prompt_of(after)[0][:cached] == blocks[:cached]


def test_parallel_calls_go_on_in_the_same_turn(proxy: RealProxy) -> None:
    """Two calls, two results, given in the other order: native pairs, nothing sent again, one child."""
    said, (one, two) = call_look(proxy, "a", "b")
    assert [json.loads(call["function"]["arguments"]) for call in (one, two)] == [{"q": "a"}, {"q": "b"}]
    assert proxy.service.fleet.counts().parked == 1 and proxy.service.workers.active == 0
    answer = proxy.say(*said, result(two, "B"), result(one, "A"), tools=[LOOK])
    assert (answer.text, how(answer)) == ("Tool look said: A\nTool look said: B", "live")
    first, second = proxy.bodies
    assert_upstream(second, *said, result(one, "A"), result(two, "B"))
    assert_prefixes_kept([first, second])
    more = proxy.say(*said, result(one, "A"), result(two, "B"), assistant(answer.text), "and now?", tools=[LOOK])
    assert (more.text, how(more)) == ("You said: and now?", "live")
    assert_prefixes_kept(proxy.bodies)


def test_calls_stream_as_the_model_writes_them(proxy: RealProxy) -> None:
    """Index, id and name once, arguments in pieces; the ids are those that the results must name."""
    text = 'demo:call=look{"q":"a long enough argument for several pieces"} demo:call=look{"q":"b"}'
    stream = proxy.begin(text, tools=[LOOK]).stream()
    assert stream.finish_reason == "tool_calls"
    pieces = [piece for delta in stream.deltas for piece in delta.get("tool_calls") or ()]
    heads = [piece for piece in pieces if "id" in piece]
    assert [(head["index"], head["type"], head["function"]["name"]) for head in heads] == [
        (0, "function", "look"),
        (1, "function", "look"),
    ]
    arguments = ["".join(p["function"].get("arguments", "") for p in pieces if p["index"] == index) for index in (0, 1)]
    assert [json.loads(one)["q"] for one in arguments] == ["a long enough argument for several pieces", "b"]
    assert len(pieces) > 4
    calls = [
        {"id": head["id"], "type": "function", "function": {"name": "look", "arguments": arguments[head["index"]]}}
        for head in heads
    ]
    answer = proxy.say(
        text, assistant(stream.text, tool_calls=calls), *(result(call, "x") for call in calls), tools=[LOOK]
    )
    assert how(answer) == "live"


def test_ten_rounds_of_a_tool_send_nothing_twice(proxy: RealProxy) -> None:
    """Eleven requests, each the one before it and what is new; every round but the first is live."""
    said: list[Any] = ['demo:call=look{"q":"again"} demo:rounds=10']
    answer = proxy.say(*said, tools=[LOOK])
    rounds = 0
    while calls_of(answer):
        (call,) = calls_of(answer)
        said += [message_of(answer), result(call, f"result {rounds}")]
        answer = proxy.say(*said, tools=[LOOK])
        assert how(answer) == "live"
        rounds += 1
    assert (rounds, answer.text) == (10, "Tool look said: result 9")
    bodies = proxy.bodies
    assert len(bodies) == 11
    assert_upstream(bodies[-1], *said)
    assert_prefixes_kept(bodies)
    sizes = [len(json.dumps(body)) for body in bodies]
    assert max(after - before for before, after in zip(sizes, sizes[1:], strict=False)) < 1000
    assert len({call["id"] for one in said if isinstance(one, dict) for call in one.get("tool_calls") or ()}) == 10
    assert answer.json["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.8 * answer.json["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    "choice, upstream",
    [
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "find"}}, {"type": "tool", "name": "find"}),
    ],
    ids=["required", "named"],
)
def test_a_forced_call_is_not_repeated(proxy: RealProxy, choice: Any, upstream: Json) -> None:
    """It is forced upstream once; the continuation is free to answer, and thinks again."""
    tools = [LOOK, function("find")]
    first = proxy.say("hello", tools=tools, tool_choice=choice)
    (call,) = calls_of(first)
    assert call["function"]["name"] == upstream.get("name", "look")
    second = proxy.say("hello", message_of(first), result(call, "x"), tools=tools)
    assert (calls_of(second), how(second)) == ([], "live")
    forced, free = proxy.bodies
    assert (forced["tool_choice"], forced["thinking"]) == (upstream, {"type": "disabled"})
    assert free.get("tool_choice", {"type": "auto"}) == {"type": "auto"}
    assert free["thinking"] == {"type": "adaptive", "display": "summarized"}


def test_the_choice_of_tools_reaches_the_api(proxy: RealProxy) -> None:
    """`none`, `allowed_tools`, one call at a time."""
    tools = [LOOK, function("find")]
    assert calls_of(proxy.say("demo:call=look", tools=tools, tool_choice="none")) == []
    assert proxy.last()["tool_choice"] == {"type": "none"}
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "find"}}]}
    proxy.say("hello", tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool["name"] for tool in proxy.last()["tools"]] == ["find"]
    one = proxy.say("demo:call=look demo:call=find", tools=tools, parallel_tool_calls=False)
    assert len(calls_of(one)) == 1 and proxy.last()["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }


WEIRD = 'e\u0301 \ufb01 ① Ａ \u200b\u202e\ue000\U000e0041 </tool> {"a": 1} \\n \t\r\n 👩‍👩‍👧'
WEIRD_SCHEMA: Json = {
    "type": "object",
    "description": WEIRD,
    "properties": {
        "n\u0303ame": {"type": "string", "enum": [WEIRD, "Ａ"], "default": WEIRD},
        "tree": {"$ref": "#/$defs/Tree"},
        "either": {"oneOf": [{"type": "number"}, {"const": None}, {"type": "array", "items": {}}]},
    },
    "$defs": {"Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}}},
    "required": ["n\u0303ame"],
    "additionalProperties": {"type": ["string", "null"]},
    "x-vendor": [1, 2.5, None, {"deep": []}],
}


@pytest.mark.parametrize(
    "tools",
    [
        [function("long", "0123456789" * 2000)],
        [function("weird", WEIRD, WEIRD_SCHEMA)],
        [function("b"), function("a"), function("Z"), function("_-9"), function("B" * 128)],
        [function(f"tool_{number}", f"Does {number}.") for number in range(128)],
        [
            function(
                f"tool_{n}",
                "",
                {"type": "object", "properties": {f"p{i}": {"description": "x" * 90} for i in range(16)}},
            )
            for n in range(128)
        ],
        [function("Bash", "Mine."), function("Read", "Mine."), function("Task", "Mine.")],
    ],
    ids=["20 KB of description", "weird", "order", "128", "200 KB of schemas", "the CLI's names"],
)
def test_definitions_arrive_as_the_client_wrote_them(proxy: RealProxy, tools: list[Json]) -> None:
    """Name, description and schema, in the client's order; and the last one can be called."""
    name = tools[-1]["function"]["name"]
    answer = proxy.say(f"demo:call={name}{{}}", tools=tools)
    (call,) = calls_of(answer)
    assert call["function"] == {"name": name, "arguments": "{}"}
    wanted = [
        {
            "name": tool["function"]["name"],
            "description": tool["function"]["description"],
            "input_schema": tool["function"]["parameters"],
        }
        for tool in tools
    ]
    assert [plain_block(tool) for tool in proxy.only()["tools"]] == wanted
    assert proxy.say(f"demo:call={name}{{}}", message_of(answer), result(call, "x"), tools=tools).text


@pytest.mark.parametrize(
    "name", ["with.dots", "x" * 200, "ToolSearch", "StructuredOutput", "mcp__client__x", "größe", "a b"]
)
def test_a_name_that_the_api_does_not_take_is_mapped_and_mapped_back(proxy: RealProxy, name: str) -> None:
    """The client sees its own name, live and in a replay."""
    tools = [function(name)]
    first = proxy.say("hello", tools=tools, tool_choice="required")
    (call,) = calls_of(first)
    assert call["function"]["name"] == name
    said = ["hello", message_of(first), result(call, "found")]
    second = proxy.say(*said, tools=tools)
    assert how(second) == "live"
    replayed = proxy.say(*said, "more", tools=tools)
    assert replayed.text.endswith("You said: more")
    (usable,) = {tool["name"] for body in proxy.bodies for tool in body["tools"]}
    called = {
        block["name"]
        for body in proxy.bodies
        for _, blocks in client_turns(body)
        for block in blocks
        if "name" in block
    }
    assert called == {usable}


def make_result(size: int) -> str:
    """So many characters, some of them of several bytes."""
    return ("result line 0123456789 äöü ✓\n" * (size // 28))[:size]


@pytest.mark.parametrize("size", [60_000, 499_000, 2_000_000], ids=["60 KB", "499 KB", "2 MB"])
def test_a_large_result_arrives_byte_for_byte(cli: Path, tmp_path: Path, clean_module: Path, size: int) -> None:
    """Uncut, and no file of it is left behind, neither while the conversation is kept nor afterwards."""
    text = make_result(size)
    folder = tmp_path / "large"
    with temporary_folder_at(folder / "tmp"):
        with closing(RealProxy(folder, cli, {"warm": 0})) as proxy:
            said, (call,) = call_look(proxy, "a")
            answer = proxy.say(*said, result(call, text), tools=[LOOK])
            assert answer.text.startswith("Tool look said: result line")
            (arrived,) = results_in(proxy.last())
            assert text_of(arrived) == text and not arrived.get("is_error")
            again = proxy.say(*said, result(call, text), assistant(answer.text), "more", tools=[LOOK])
            assert again.text == "You said: more" and len(proxy.bodies) == 3
            assert files_with(folder, b"result line") == []
    assert files_with(folder, b"result line") == []


def test_a_result_of_10_mb_is_for_the_api_to_judge(cli: Path, tmp_path: Path, clean_module: Path) -> None:
    """It arrives byte for byte, and is refused there, for there are more tokens in it than a model takes."""
    text = make_result(10_000_000)
    folder = tmp_path / "large"
    with temporary_folder_at(folder / "tmp"):
        with closing(RealProxy(folder, cli, {"warm": 0})) as proxy:
            said, (call,) = call_look(proxy, "a")
            answer = proxy.say(*said, result(call, text), tools=[LOOK])
            assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
            assert [text_of(arrived) for arrived in results_in(proxy.last())] == [text]
            assert files_with(folder, b"result line") == []
    assert files_with(folder, b"result line") == []


def test_several_large_results_at_once_arrive_byte_for_byte(proxy: RealProxy) -> None:
    """Each below what the CLI takes, together above it."""
    said, calls = call_look(proxy, "a", "b", "c")
    texts = [f"{call['id']} " * 15_000 for call in calls]
    answer = proxy.say(*said, *(result(call, text) for call, text in zip(calls, texts, strict=True)), tools=[LOOK])
    assert answer.status == 200
    assert [text_of(arrived) for arrived in results_in(proxy.last())] == texts


def test_an_error_result_stays_marked(proxy: RealProxy) -> None:
    """In the shape that Cursor sends; live and in a replay."""
    said, (call,) = call_look(proxy, "a")
    failed = {"type": "tool_result", "tool_use_id": call["id"], "content": "no such thing", "is_error": True}
    answer = proxy.say(*said, {"role": "user", "content": [failed]}, tools=[LOOK])
    assert (answer.text, how(answer)) == ("Tool look failed: no such thing", "live")
    said += [{"role": "user", "content": [failed]}, assistant("edited"), "more"]
    assert how(proxy.say(*said, tools=[LOOK])) != "live"
    for body in proxy.bodies[1:]:
        (arrived,) = [block for _, blocks in client_turns(body) for block in blocks if block["type"] == "tool_result"]
        assert arrived["is_error"] is True and text_of(arrived) == "no such thing"


def test_an_empty_result_arrives_empty(proxy: RealProxy) -> None:
    """Not as a remark that it is."""
    said, (call,) = call_look(proxy, "a")
    assert proxy.say(*said, result(call, ""), tools=[LOOK]).status == 200
    (arrived,) = results_in(proxy.last())
    assert text_of(arrived) == ""


def test_a_picture_in_a_result_arrives_as_one(proxy: RealProxy) -> None:
    """Beside its text, in order; live and in a replay."""
    said, (call,) = call_look(proxy, "a")
    picture = make_png()
    parts = [
        {"type": "text", "text": "here it is"},
        {"type": "image_url", "image_url": {"url": data_url("image/png", picture)}},
    ]
    answer = proxy.say(*said, result(call, parts), tools=[LOOK])
    assert (answer.text, how(answer)) == ("Tool look said: here it is\n[image]", "live")
    proxy.say(*said, result(call, parts), assistant("edited"), "more", tools=[LOOK])
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(picture).decode()}
    for body in proxy.bodies[1:]:
        (arrived,) = [block for _, blocks in client_turns(body) for block in blocks if block["type"] == "tool_result"]
        assert arrived["content"] == [{"type": "text", "text": "here it is"}, {"type": "image", "source": source}]


def test_a_child_that_is_killed_while_parked_costs_a_replay(proxy: RealProxy) -> None:
    """The same pairs reach the API, and no call is made twice."""
    said, calls = call_look(proxy, "a", "b")
    (parked,) = proxy.service.fleet.members.parked
    parked.child.kill()
    given = [result(call, f"result of {call['id']}") for call in calls]
    answer = proxy.say(*said, *given, tools=[LOOK])
    assert answer.text == "\n".join(f"Tool look said: {one['content']}" for one in given)
    assert how(answer) == "replayed"
    assert len(proxy.bodies) == 2
    assert_upstream(proxy.last(), *said, *given)


def test_results_with_a_word_beside_them_are_replayed(proxy: RealProxy) -> None:
    """A parked turn takes results only; the word arrives as the user's, behind them."""
    said, (call,) = call_look(proxy, "a")
    answer = proxy.say(*said, result(call, "A"), "and hurry", tools=[LOOK])
    assert answer.text == "Tool look said: A\nYou said: and hurry"
    assert how(answer) == "replayed"
    assert_upstream(proxy.last(), *said, result(call, "A"), "and hurry")
    wait_until(lambda: proxy.service.fleet.counts().parked == 0, "the parked child is gone", PATIENCE)
    assert len(proxy.bodies) == 2


def test_a_conversation_edited_while_parked_is_replayed(proxy: RealProxy) -> None:
    """Other results than the parked child waits for: those of another call."""
    said, (call,) = call_look(proxy, "a")
    said[1]["tool_calls"][0]["id"] = call["id"] = "call_of_mine"
    answer = proxy.say(*said, result(call, "A"), tools=[LOOK])
    assert answer.text == "Tool look said: A"
    assert_upstream(proxy.last(), *said, result(call, "A"))


def test_a_session_deleted_while_parked_ends_its_child(proxy: RealProxy) -> None:
    """The results, when they come all the same, are answered in a new conversation."""
    name = {"X-Session-Id": "parked"}
    said, (call,) = call_look(proxy, "a", headers=name)
    assert proxy.send(None, path="/v1/sessions/hdr_parked", method="DELETE").answer().status == 200
    wait_until(lambda: proxy.service.fleet.counts().parked == 0, "the parked child is gone", PATIENCE)
    assert len(proxy.bodies) == 1
    answer = proxy.say(*said, result(call, "A"), tools=[LOOK], headers=name)
    assert (answer.text, how(answer), session_id(answer)) == ("Tool look said: A", "new", "hdr_parked")
    assert_upstream(proxy.last(), *said, result(call, "A"))


def test_a_parked_turn_nobody_comes_back_to_is_given_up(start: Start) -> None:
    """After `park_ttl` its child ends, without another word to the API; a late result is replayed."""
    proxy = start(warm=0, park_ttl=0.2)
    said, (call,) = call_look(proxy, "a")
    wait_until(lambda: not proxy.living_processes(), "its process is gone", PATIENCE)
    assert len(proxy.bodies) == 1
    answer = proxy.say(*said, result(call, "late"), tools=[LOOK])
    assert (answer.text, how(answer)) == ("Tool look said: late", "replayed")
    assert_upstream(proxy.last(), *said, result(call, "late"))


def test_parked_conversations_hold_no_worker(start: Start) -> None:
    """Four of them wait at once where one turn may run; each goes on live, in any order."""
    proxy = start(max_concurrent=1, max_queue=4)
    waiting = [call_look(proxy, f"q{number}") for number in range(4)]
    assert proxy.service.fleet.counts().parked == 4
    for number, (said, (call,)) in reversed(list(enumerate(waiting))):
        answer = proxy.say(*said, result(call, f"a{number}"), tools=[LOOK])
        assert (answer.text, how(answer)) == (f"Tool look said: a{number}", "live")


@pytest.mark.parametrize("word", ["demo:badargs=look", 'demo:call=nobody{"q":1}'], ids=["no JSON", "unknown"])
def test_a_call_that_the_cli_would_answer_itself_is_the_clients(proxy: RealProxy, word: str) -> None:
    """Arguments that are no JSON, a tool that was never offered: the client sees the call, and its result counts."""
    first = proxy.say(word, tools=[LOOK])
    (call,) = calls_of(first)
    answer = proxy.say(word, message_of(first), result(call, "that was wrong"), tools=[LOOK])
    assert answer.text.endswith("said: that was wrong")
    (arrived,) = results_in(proxy.last())
    assert text_of(arrived) == "that was wrong"


def test_calls_and_results_must_pair(proxy: RealProxy) -> None:
    """A call without its result and a result without its call are 400s that name the id; nobody is asked."""
    said, (one, two) = call_look(proxy, "a", "b")
    proxy.forget()
    missing = proxy.say(*said, result(one, "A"), tools=[LOOK])
    assert missing.status == 400 and two["id"] in missing.error["message"]
    stray = proxy.say(*said, result(one, "A"), result(two, "B"), {**result(one, "C"), "tool_call_id": "call_stray"})
    assert stray.status == 400 and "call_stray" in stray.error["message"]
    assert proxy.bodies == []
    answer = proxy.say(*said, result(two, "old"), result(one, "A"), result(two, "B"), tools=[LOOK])
    assert answer.text == "Tool look said: A\nTool look said: B"


def test_equal_ids_of_a_client_stay_two_calls(proxy: RealProxy) -> None:
    """A client that numbers its calls anew with every message: both pairs reach the API."""
    call = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": '{"q":"a"}'}}
    said = [
        "one",
        assistant(None, tool_calls=[call]),
        result(call, "A"),
        assistant(None, tool_calls=[call]),
        result(call, "B"),
    ]
    assert proxy.say(*said, tools=[LOOK]).text == "Tool look said: B"
    blocks = [block for _, turn in client_turns(proxy.only()) for block in turn]
    ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert len(set(ids)) == 2
    assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == ids


def test_tools_of_the_history_are_replayed_as_pairs(proxy: RealProxy) -> None:
    """A conversation that another model held: calls, results and text, in order."""
    calls = [
        {"id": f"call_{name}", "type": "function", "function": {"name": "look", "arguments": json.dumps({"q": name})}}
        for name in "abc"
    ]
    said = [
        "one",
        assistant("Let me look.", tool_calls=calls[:2]),
        *(result(call, f"result of {call['id']}") for call in calls[:2]),
        assistant(None, tool_calls=calls[2:]),
        result(calls[2], "more"),
        assistant("There."),
        "thanks",
    ]
    assert proxy.say(*said, tools=[LOOK]).text == "You said: thanks"
    assert_upstream(proxy.only(), *said)


def schema_format(schema: Json = CITY) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": schema}}


def test_structured_output_is_native_and_streams(proxy: RealProxy) -> None:
    """One request with the schema, no tool; the pieces of `content` are exactly the JSON."""
    stream = proxy.begin("where?", response_format=schema_format()).stream()
    assert set(json.loads(stream.text)) == {"city", "size"} and stream.finish_reason == "stop"
    assert len([delta for delta in stream.deltas if delta.get("content")]) > 1
    body = proxy.only()
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": CITY}
    assert body["tools"] == []


def test_a_schema_holds_for_one_turn_only(proxy: RealProxy) -> None:
    """The next turn of the conversation is prose again, in the same child."""
    first = proxy.say("where?", response_format=schema_format())
    second = proxy.say("where?", assistant(first.text), "and in words?")
    assert (second.text, how(second)) == ("You said: and in words?", "live")
    assert "format" not in proxy.last()["output_config"]


def test_a_schema_goes_together_with_tools(proxy: RealProxy) -> None:
    """The call first, then the JSON."""
    first = proxy.say("demo:call=look", tools=[LOOK], response_format=schema_format())
    (call,) = calls_of(first)
    second = proxy.say(
        "demo:call=look", message_of(first), result(call, "x"), tools=[LOOK], response_format=schema_format()
    )
    assert set(json.loads(second.text)) == {"city", "size"} and how(second) == "live"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_model_without_native_schemas_answers_with_json_all_the_same(proxy: RealProxy, stream: bool) -> None:
    """Through a tool of the CLI's that the client never sees."""
    prompt = 'demo:call=StructuredOutput{"city":"Paris","size":2}'
    fields: Json = {"model": NO_NATIVE_SCHEMAS, "response_format": schema_format()}
    if stream:
        streamed = proxy.begin(prompt, **fields).stream()
        text, reason = streamed.text, streamed.finish_reason
        assert not any("tool_calls" in delta for delta in streamed.deltas)
    else:
        answer = proxy.say(prompt, **fields)
        text, reason = answer.text, answer.json["choices"][0]["finish_reason"]
        assert calls_of(answer) == []
    assert (json.loads(text), reason) == ({"city": "Paris", "size": 2}, "stop")


def test_a_json_object_is_any_object(proxy: RealProxy) -> None:
    """The API has no such format: the CLI's tool serves it."""
    answer = proxy.say('demo:call=StructuredOutput{"any":["thing"]}', response_format={"type": "json_object"})
    assert json.loads(answer.text) == {"any": ["thing"]} and calls_of(answer) == []
    assert answer.json["choices"][0]["finish_reason"] == "stop"


def test_an_answer_that_is_not_of_the_schema_is_an_error(proxy: RealProxy) -> None:
    """Prose where JSON was asked for is never passed on as success."""
    answer = proxy.say("demo:say=I would rather not.", response_format=schema_format())
    assert (answer.status, answer.error["code"]) == (502, "upstream_error")


def test_pictures_and_files_arrive_as_blocks(proxy: RealProxy) -> None:
    """Several in one message and in an earlier turn, in order; a URL is passed on, not fetched."""
    picture, pdf = make_png(), make_pdf()
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": data_url("image/png", picture), "detail": "high"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data_url("application/pdf", pdf)}},
        {"type": "file", "file": {"filename": "a.txt", "file_data": data_url("text/plain", "Grüße".encode())}},
    ]
    first = proxy.say({"role": "user", "content": parts})
    assert first.text.startswith(f"You said: look [image/png, {len(picture)} bytes]")
    assert how(proxy.say({"role": "user", "content": parts}, assistant(first.text), "more")) == "live"
    proxy.say({"role": "user", "content": parts}, assistant("edited"), "more")

    def source(media_type: str, data: bytes) -> Json:
        return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}

    wanted = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": source("image/png", picture)},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}},
        {"type": "document", "source": source("application/pdf", pdf), "title": "a.pdf"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"}, "title": "a.txt"},
    ]
    bodies = proxy.bodies
    assert len(bodies) == 3
    for body in bodies:
        assert client_turns(body)[0] == ("user", wanted)


def test_a_picture_is_small_enough_for_the_api_or_a_400(proxy: RealProxy) -> None:
    """Broken, of another type than it says, or of a type that the API does not take: the part is named."""
    for url in (
        "data:image/png;base64,!!!!",
        data_url("image/png", b"no picture"),
        data_url("image/jpeg", make_png()),
        data_url("image/bmp", b"BM"),
    ):
        answer = proxy.say({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
        assert answer.status == 400 and answer.error["param"].startswith("messages[0].content[0].image_url")
    assert proxy.bodies == []


def test_a_large_picture_arrives_as_it_is(proxy: RealProxy) -> None:
    """Just below the size at which the CLI would shrink it."""
    picture = make_png(width=1900, height=1900)
    part = {"type": "image_url", "image_url": {"url": data_url("image/png", picture)}}
    assert proxy.say({"role": "user", "content": [part]}).status == 200
    ((_, (block,)),) = client_turns(proxy.only())
    assert base64.b64decode(block["source"]["data"]) == picture


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_refusal_is_told_as_one(proxy: RealProxy, stream: bool) -> None:
    """`content_filter` and `refusal`; the API is asked once, and the CLI does not argue."""
    if stream:
        streamed = proxy.begin("demo:refusal").stream()
        assert streamed.finish_reason == "content_filter" and streamed.is_done
        assert any(delta.get("refusal") for delta in streamed.deltas)
    else:
        answer = proxy.say("demo:refusal")
        assert answer.json["choices"][0]["finish_reason"] == "content_filter"
        assert message_of(answer)["content"] is None and message_of(answer)["refusal"]
    proxy.wait_until_idle()
    assert len(proxy.bodies) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_conversation_that_is_too_long_is_a_400(proxy: RealProxy, stream: bool) -> None:
    """With the code by which clients know it; nothing was cut or summed up instead."""
    answer = proxy.say("demo:toolong", stream=stream)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert all(client_turns(body) == [("user", as_blocks("demo:toolong"))] for body in proxy.bodies)


def test_a_conversation_that_the_cli_finds_too_long_is_a_400(proxy: RealProxy) -> None:
    """More than the model's window, measured before the API is asked."""
    answer = proxy.say("word " * 1_100_000)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


def test_a_client_that_goes_away_in_the_middle_of_arguments_leaves_nothing(proxy: RealProxy) -> None:
    """Its turn ends, its child goes, and the same request is answered afresh."""
    text = f'demo:delay=100 demo:call=look{{"q":"{"x" * 2000}"}}'
    exchange = proxy.begin(text, tools=[LOOK])
    for record in exchange.records():
        if "arguments" in record and '"arguments":""' not in record:
            break
    exchange.close()
    proxy.wait_until_idle()
    assert proxy.service.fleet.counts().parked == 0
    said, (call,) = call_look(proxy, "a")
    assert proxy.say(*said, result(call, "A"), tools=[LOOK]).text == "Tool look said: A"


def test_parked_turns_end_with_the_proxy(cli: Path, tmp_path: Path, clean_module: Path) -> None:
    """Without another request to the API."""
    with Upstream(record=RECORDED) as api, temporary_folder_at(tmp_path / "tmp"):
        with closing(RealProxy(tmp_path / "parked", cli, {"warm": 0}, api)) as proxy:
            call_look(proxy, "a")
            assert threading.active_count() > 1
        assert len(api.requests) == len([one for one in api.requests if one.path == "/"]) + 1
