"""The dialect of Anthropic Messages, as bytes in and bytes out: requests, refusals with their paths, events, errors."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from claude_proxy.claude.wire.outbound import build_message
from claude_proxy.claude.wire.parameters import Refusals, build_parameters
from claude_proxy.claude.wire.toolset import Toolset
from claude_proxy.core.conversation import (
    Base64Source,
    Document,
    Image,
    Message,
    Options,
    Text,
    TextSource,
    Thinking,
    ThinkingMode,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    UrlSource,
    user,
)
from claude_proxy.core.errors import BadRequest, ContextTooLong, Overloaded, ProxyError
from claude_proxy.core.events import (
    BlockStart,
    BlockStop,
    Event,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
    collect,
)
from claude_proxy.dialects.dialect import Context, Parsed
from claude_proxy.dialects.messages.answer import Messages, Signatures, build_usage, count_tokens
from claude_proxy.dialects.messages.request import MessagesRequest, parse_messages

Json = dict[str, Any]

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + b"\0\0\x01\x2c\0\0\0\xc8").decode()
PDF = base64.b64encode(b"%PDF-1.4\n1 0 obj <</Type /Page>>\n%%EOF").decode()
WEATHER = {"name": "get_weather", "description": "Weather", "input_schema": {"type": "object", "properties": {}}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
DISABLED = {"thinking": {"type": "disabled"}, "context_management": {"edits": []}}


def body(**fields: Any) -> bytes:
    """A request of one user message, with these fields; a field of None is left out."""
    whole = {"model": "claude-sonnet-5-5", "max_tokens": 64, "messages": [{"role": "user", "content": "hi"}], **fields}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


def parse(**fields: Any) -> Parsed:
    return Messages(Signatures()).parse(body(**fields))


def said(*content: Any) -> list[Json]:
    """One user message of these blocks."""
    return [{"role": "user", "content": list(content)}]


def test_null_means_absent_everywhere() -> None:
    """Clients send null for what they do not use."""
    names = set(MessagesRequest.__struct_fields__) - {"model", "messages", "max_tokens"}
    raw = json.loads(body()) | dict.fromkeys(names)
    assert Messages(Signatures()).parse(json.dumps(raw).encode()).conversation == parse().conversation


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("You are MUSE.", "You are MUSE."),
        ("", None),
        (
            [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "b"}],
            "a\n\nb",
        ),
        ([{"type": "text", "text": "x-anthropic-billing-header: cc_version=1"}, {"type": "text", "text": "b"}], "b"),
    ],
)
def test_the_system_prompt_is_a_string_or_blocks(system: Any, expected: str | None) -> None:
    """Claude Code's billing header is no part of the prompt."""
    assert parse(system=system).conversation.system == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}, Text("x")),
        (
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
            Image(Base64Source("image/png", PNG)),
        ),
        ({"type": "image", "source": {"type": "url", "url": "https://a.b/c"}}, Image(UrlSource("https://a.b/c"))),
        (
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
            Document(Base64Source("application/pdf", PDF)),
        ),
        (
            {"type": "document", "title": "T", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
            Document(TextSource("x"), "T"),
        ),
        ({"type": "document", "source": {"type": "url", "url": "https://a.b/c"}}, Document(UrlSource("https://a.b/c"))),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "x"}]}},
            Document(TextSource("x")),
        ),
        ({"type": "document", "source": {"type": "content", "content": "x"}}, Document(TextSource("x"))),
    ],
)
def test_blocks_of_a_user_become_canonical(block: Json, expected: Any) -> None:
    """Text, images and documents from every source that can be passed on."""
    assert parse(messages=said(block)).conversation.messages == (Message("user", (expected,)),)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("sunny", (Text("sunny"),)),
        (None, ()),
        ([], ()),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": ""}], (Text("a"),)),
        (
            [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}],
            (Image(Base64Source("image/png", PNG)),),
        ),
        ([{"type": "tool_reference", "tool_name": "WebFetch"}], (Text("WebFetch"),)),
    ],
)
def test_results_are_strings_or_blocks(content: Any, expected: Any) -> None:
    """And failed ones say so."""
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, "is_error": True}
    history = [*said({"type": "text", "text": "x"}), {"role": "assistant", "content": [CALL]}, *said(result)]
    messages = parse(messages=history, tools=[WEATHER]).conversation.messages
    assert messages[1].content == (ToolUse("toolu_1", "get_weather", {"city": "Paris"}),)
    assert messages[2].content == (ToolResult("toolu_1", expected, True),)


def test_a_system_message_stays_with_the_user_message_after_which_it_came() -> None:
    """Claude Code's first request ends with one; its next one has it in the middle: both mean the same conversation."""
    first: list[Json] = [*said({"type": "text", "text": "x"}), {"role": "system", "content": "env"}]
    second = [*first, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}]
    opening = parse(messages=first).conversation.messages
    assert opening == (Message("user", (Text("x"), Text("<system>\nenv\n</system>"))),)
    assert parse(messages=second).conversation.messages[:1] == opening


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": " "}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": said({"type": "text"})}, "messages[0].content[0].text"),
        ({"messages": said({"text": "x"})}, "messages[0].content[0].type"),
        ({"messages": said({"type": "search_result", "source": "u", "title": "t"})}, "messages[0].content[0].type"),
        ({"messages": said({"type": "container_upload", "file_id": "f"})}, "messages[0].content[0].type"),
        ({"messages": said({"type": "thinking", "thinking": "x"})}, "messages[0].content[0].type"),
        ({"messages": said(CALL)}, "messages[0].content[0].type"),
        ({"messages": said({"type": "image"})}, "messages[0].content[0].source"),
        ({"messages": said({"type": "image", "source": "x"})}, "messages[0].content[0].source"),
        ({"messages": said({"type": "image", "source": {"type": "file"}})}, "messages[0].content[0].source.type"),
        ({"messages": said({"type": "image", "source": {"type": "odd"}})}, "messages[0].content[0].source.type"),
        ({"messages": said({"type": "image", "source": {"type": "url"}})}, "messages[0].content[0].source.url"),
        (
            {"messages": said({"type": "image", "source": {"type": "base64", "data": PNG}})},
            "messages[0].content[0].source.media_type",
        ),
        (
            {"messages": said({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PDF}})},
            "messages[0].content[0].source.data",
        ),
        (
            {"messages": said({"type": "document", "source": {"type": "base64", "data": "!"}})},
            "messages[0].content[0].source.data",
        ),
        (
            {"messages": said({"type": "document", "source": {"type": "url", "url": "file:///etc/passwd"}})},
            "messages[0].content[0].source.url",
        ),
        ({"messages": said({"type": "tool_result"})}, "messages[0].content[0].tool_use_id"),
        ({"messages": said({"type": "tool_result", "tool_use_id": "x"})}, "messages"),
        (
            {"messages": said({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "search_result"}]})},
            "messages[0].content[0].content[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "x"}]}]},
            "messages[0].content[0].name",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [*said({"type": "text", "text": "x"}), {"role": "assistant", "content": [CALL]}]}, "messages"),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"system": 7}, "system"),
        ({"temperature": 1.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"name": "f", "input_schema": {"type": "array"}}]}, "tools[0].input_schema.type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "often"}}, "tool_choice.type"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice.name"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "max_tokens"),
        ({"output_config": {"effort": "minimal"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"output_format": {"type": "json_schema", "schema": {"type": "x"}}}, "output_format.schema"),
    ],
)
def test_bad_input_is_refused_with_its_path(fields: Json, param: str) -> None:
    """400, and the path stands before the message, as the API writes it."""
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    status, answer = Messages(Signatures()).error(caught.value, "req_1")
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    dotted = param.replace("[", ".").replace("]", "")
    assert answer["error"]["message"].startswith(f"{dotted}: ")


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        (
            {
                "metadata": {"user_id": "me"},
                "context_management": {"edits": []},
                "betas": ["x"],
                "service_tier": "auto",
                "cache_control": {"type": "ephemeral"},
                "mcp_servers": [],
                "tools": [{**WEATHER, "type": "custom", "defer_loading": True, "eager_input_streaming": True}],
            },
            (),
        ),
        ({"service_tier": "priority", "container": "c"}, ("service_tier", "container")),
        ({"tools": [WEATHER, {"type": "web_search_20250305", "name": "web_search"}]}, ("tools.web_search",)),
        ({"tools": [{**WEATHER, "strict": True, "input_examples": [{}]}]}, ("tools.strict", "tools.input_examples")),
        (
            {
                "messages": said(
                    {
                        "type": "document",
                        "context": "c",
                        "citations": {"enabled": True},
                        "source": {"type": "text", "data": "x"},
                    }
                )
            },
            ("document.context", "document.citations"),
        ),
    ],
)
def test_what_cannot_be_honoured_is_named(fields: Json, ignored: tuple[str, ...]) -> None:
    """What asks for nothing is not."""
    parsed = parse(**fields)
    assert parsed.ignored == ignored
    assert all(tool.name == "get_weather" for tool in parsed.conversation.tools)


def test_parameters_become_options() -> None:
    """Every one that is read."""
    parsed = parse(
        stream=True,
        stop_sequences=["END", ""],
        temperature=0,
        top_p=0.5,
        top_k=4,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        thinking={"type": "adaptive", "display": "omitted"},
        metadata={"user_id": "me"},
    )
    assert parsed.stream and parsed.hints == ("me",)
    assert parsed.conversation.tools == (Tool("get_weather", "Weather", {"type": "object", "properties": {}}),)
    assert parsed.conversation.options == Options(
        max_tokens=64,
        stop_sequences=("END",),
        temperature=0,
        top_p=0.5,
        top_k=4,
        effort="low",
        thinking=ThinkingMode("adaptive", display="omitted"),
        tool_choice=ToolChoice("tool", "get_weather", parallel=False),
        json_schema={"type": "object"},
    )


@pytest.mark.parametrize(
    ("fields", "refusals", "extra", "ignored"),
    [
        ({}, Refusals(), DISABLED, ()),
        ({}, Refusals(sampling=True), {}, ()),
        ({"thinking": {"type": "disabled"}}, Refusals(), DISABLED, ()),
        ({"thinking": {"type": "disabled"}}, Refusals(sampling=True), {}, ("reasoning_effort",)),
        ({"temperature": 0.2, "top_k": 3}, Refusals(), {**DISABLED, "temperature": 0.2, "top_k": 3}, ()),
        ({"temperature": 0.2}, Refusals(sampling=True), {}, ("temperature",)),
        ({"temperature": 0.2, "output_config": {"effort": "low"}}, Refusals(), {**DISABLED, "temperature": 0.2}, ()),
        ({"thinking": {"type": "adaptive"}}, Refusals(), {}, ()),
        ({"thinking": {"type": "adaptive"}, "temperature": 0.2, "top_k": 3}, Refusals(), {}, ("temperature", "top_k")),
        (
            {"thinking": {"type": "adaptive", "display": "omitted"}},
            Refusals(),
            {"thinking": {"type": "adaptive", "display": "omitted"}},
            (),
        ),
        ({"thinking": {"type": "between_tools"}}, Refusals(), {"thinking": {"type": "between_tools"}}, ()),
        (
            {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
            Refusals(),
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            (),
        ),
        (
            {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
            Refusals(thinking=True),
            {},
            ("thinking",),
        ),
    ],
)
def test_thinking_reaches_the_api_as_it_was_asked_for(
    fields: Json, refusals: Refusals, extra: Json, ignored: tuple[str, ...]
) -> None:
    """Absent means off, as in the API itself; what a model refuses is left out, and named where it was asked for."""
    built = build_parameters(parse(**fields).conversation.options, None, refusals)
    assert json.loads(built.settings["env"]["CLAUDE_CODE_EXTRA_BODY"] or "{}") == extra
    assert built.ignored == ignored


def test_a_forced_call_wins_over_thinking() -> None:
    """The API takes only one of them."""
    conversation = parse(thinking={"type": "adaptive"}, tools=[WEATHER], tool_choice={"type": "any"}).conversation
    built = build_parameters(conversation.options, Toolset(conversation.tools))
    body = json.loads(built.settings["env"]["CLAUDE_CODE_EXTRA_BODY"])
    assert body["tool_choice"] == {"type": "any"} and body["thinking"] == {"type": "disabled"}
    assert built.ignored == ("thinking",)


def test_only_what_nobody_asked_for_is_left_out_in_strict_mode_too() -> None:
    """Thinking that was never mentioned is turned off silently, and silently on again."""
    silent = build_parameters(parse().conversation.options)
    asked = build_parameters(parse(thinking={"type": "disabled"}).conversation.options)
    budget = parse(max_tokens=5000, thinking={"type": "enabled", "budget_tokens": 2000}).conversation.options
    assert silent.implicit and not asked.implicit
    assert silent.without(Refusals()) == Refusals(sampling=True)
    assert build_parameters(budget).without(Refusals()) == Refusals(thinking=True)


THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "sig"}


@pytest.mark.parametrize(
    ("blocks", "known", "kept"),
    [
        ([THOUGHT], {"sig": "claude-x"}, (Thinking("hm", "sig", "claude-x"), Text("y"))),
        ([THOUGHT], {}, (Text("y"),)),
        ([THOUGHT, {"type": "thinking", "thinking": "other", "signature": "foreign"}], {"sig": "m"}, (Text("y"),)),
        ([THOUGHT, {"type": "redacted_thinking", "data": "x"}], {"sig": "m"}, (Text("y"),)),
    ],
)
def test_thinking_is_replayed_only_where_all_of_it_was_issued_here(
    blocks: list[Json], known: dict[str, str], kept: Any
) -> None:
    """A foreign signature must never reach the API."""
    answer = {"role": "assistant", "content": [*blocks, {"type": "text", "text": "y"}]}
    parsed = parse_messages(body(messages=[*said({"type": "text", "text": "x"}), answer, *said(CALL_TEXT)]), known.get)
    assert parsed.conversation.messages[1].content == kept


CALL_TEXT = {"type": "text", "text": "z"}


def test_replayed_thinking_names_the_model_that_thought_it() -> None:
    """The CLI keeps it only where that is the current model."""
    line = json.loads(
        build_message(Message("assistant", (Thinking("hm", "sig", "claude-x"), Text("y"))), "u-1", query=False)
    )
    assert line["message"] == {
        "role": "assistant",
        "content": [THOUGHT, {"type": "text", "text": "y"}],
        "model": "claude-x",
    }
    assert "model" not in json.loads(build_message(user("x"), "u-1", query=True))["message"]


def test_signatures_are_forgotten_oldest_first() -> None:
    """A bounded memory, of digests only."""
    signatures = Signatures(kept=2)
    for name in "abc":
        signatures.note(name, f"model-{name}")
    assert [signatures.model_of(name) for name in "abc"] == [None, "model-b", "model-c"]


START = MessageStart("msg_up", "claude-sonnet-5-5", Usage(10, 1, 7, 3))
END = MessageEnd("tool_use", None, Usage(10, 42, 7, 3, thinking_tokens=5))
ANSWER: tuple[Event, ...] = (
    START,
    BlockStart(0, Thinking("")),
    ThinkingDelta(0, "hm"),
    SignatureDelta(0, "sig"),
    BlockStop(0),
    BlockStart(1, Text("")),
    TextDelta(1, "Hello"),
    BlockStop(1),
    BlockStart(2, ToolUse("toolu_1", "f", {})),
    ToolInputDelta(2, '{"a":'),
    ToolInputDelta(2, "1}"),
    BlockStop(2),
    END,
)


def context() -> Context:
    return Context("req_abc", 1, "sonnet", None)


def render(*events: Event | None, signatures: Signatures | None = None) -> list[Json]:
    """The data of each event; AssertionError where its `event:` line is not its type."""

    def read(stream: bytes) -> Iterator[Json]:
        for record in stream.decode().split("\n\n")[:-1]:
            head, data = record.split("\n")
            parsed = json.loads(data.removeprefix("data: "))
            assert head == f"event: {parsed['type']}"
            yield parsed

    chunks = Messages(signatures or Signatures()).stream(iter(events), context())
    return list(read(b"".join(chunks)))


def test_a_stream_has_every_block_and_its_end() -> None:
    """In the API's own order, with contiguous indexes."""
    signatures = Signatures()
    events = render(*ANSWER, signatures=signatures)
    assert events[0]["message"] == {
        "id": "msg_up",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 7,
            "output_tokens": 1,
        },
    }
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert blocks == [
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "text", "text": ""},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    ]
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1, 2]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 42 and events[-1] == {"type": "message_stop"}
    assert signatures.model_of("sig") == "claude-sonnet-5-5"


def test_a_stream_that_opens_early_puts_its_usage_right_at_the_end() -> None:
    """`message_start` comes once, pings only after it."""
    events = render(None, None, *ANSWER[:1], None, END)
    assert [event["type"] for event in events] == ["message_start", "ping", "ping", "message_delta", "message_stop"]
    assert (events[0]["message"]["id"], events[0]["message"]["model"]) == ("msg_abc", "sonnet")
    assert events[3]["usage"]["input_tokens"] == 10


def test_a_whole_answer_is_the_same_as_its_stream() -> None:
    """No key is null that may be left out, but `stop_sequence`."""
    dialect = Messages(Signatures())
    answer = dialect.body(collect(ANSWER), context())
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
    ]
    assert (answer["id"], answer["stop_reason"], answer["stop_sequence"]) == ("msg_up", "tool_use", None)
    assert answer["usage"] == build_usage(END.usage)
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": 5}


def test_a_refusal_says_why() -> None:
    """In `stop_details`, where the model did."""
    answer = Messages(Signatures()).body(collect((START, MessageEnd("refusal", None, Usage(), "no"))), context())
    assert answer["stop_details"] == {"type": "refusal", "category": None, "explanation": "no"}


def leaves(kind: type[ProxyError]) -> Iterator[type[ProxyError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from leaves(child)


@pytest.mark.parametrize("kind", list(leaves(ProxyError)))
def test_every_error_has_anthropics_shape(kind: type[ProxyError]) -> None:
    """Before the first byte and after it."""
    dialect = Messages(Signatures())
    status, answer = dialect.error(kind("why"), "req_1")
    assert answer == {
        "type": "error",
        "error": {"type": answer["error"]["type"], "message": "why"},
        "request_id": "req_1",
    }
    assert status == (529 if kind is Overloaded else kind.status)
    assert (
        dialect.error_event(kind("why"), "req_1")
        == b"event: error\ndata: " + json.dumps(answer, separators=(",", ":")).encode() + b"\n\n"
    )


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_claude_code_looks_for() -> None:
    """The numbers are ours: the CLI tells none."""
    dialect = Messages(Signatures())
    dialect.parse(body(model="claude-haiku-4-5"))
    message = dialect.error(ContextTooLong("x"), "req_1")[1]["error"]["message"]
    assert message == "prompt is too long: 200001 tokens > 200000 maximum"


def test_counting_needs_no_limit_and_no_order() -> None:
    """`count_tokens` takes no `max_tokens`, a message may be the assistant's, and calls may lack their results."""
    prompt = {"model": "m", "messages": [{"role": "assistant", "content": [CALL]}], "tools": [WEATHER]}
    with_image = {
        **prompt,
        "messages": said({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}),
    }
    assert count_tokens(json.dumps(prompt).encode()) > 300
    assert count_tokens(json.dumps(with_image).encode()) > 300 + 300 * 200 // 750
    with pytest.raises(BadRequest):
        count_tokens(b'{"model": "m", "messages": []}')
