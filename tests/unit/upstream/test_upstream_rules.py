"""What the upstream of the tests refuses, as the real API does."""

from typing import Any

import pytest

from claude_proxy.demo.errors import ApiError
from claude_proxy.demo.prompt import split_prompt
from claude_proxy.demo.render import sign_thinking
from claude_proxy.demo.request import parse_body, parse_request
from tests.upstream.rules import check_prompt_size, check_request, is_known_model

from ..demo.demo_requests import PDF, PNG, WEATHER, assistant, body, call, document, image, result, text, user

THINKING = {"type": "adaptive"}
CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def schema_format(schema: Any) -> dict[str, Any]:
    """`output_config` with that schema."""
    return {"format": {"type": "json_schema", "schema": schema}}


def thought(words: str, signature: str) -> dict[str, Any]:
    """A thinking block."""
    return {"type": "thinking", "thinking": words, "signature": signature}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (body(max_tokens=None), "max_tokens: Field required"),
    (body(max_tokens=0), "max_tokens"),
    (body(max_tokens=128_001), "128000"),
    (body(max_tokens="many"), "max_tokens: Expected `int"),
    (body(messages=[{"role": "user", "content": [{"type": "hologram"}]}]), "messages.0.content.0"),
    (body(messages=[{"role": "tool", "content": "x"}]), "messages.0.role"),
    (body(temperature=1.1), "temperature"),
    (body(temperature=-0.1), "temperature"),
    (body(temperature=0.5, top_p=0.9), "cannot both be specified"),
    (body(top_p=1.5), "top_p"),
    (body(top_k=-1), "top_k"),
    (body(temperature=0.5, thinking=THINKING), "`temperature` may only be set to 1"),
    (body(top_p=0.9, thinking=THINKING), "`top_p` must be"),
    (body(top_k=5, thinking=THINKING), "`top_k` must be unset"),
    (body(tools=[WEATHER], tool_choice={"type": "any"}, thinking=THINKING), "forces tool use"),
    (
        body(tools=[WEATHER], tool_choice={"type": "tool", "name": "weather"}, thinking=THINKING),
        "forces tool use",
    ),
    (body(thinking={"type": "enabled"}), "budget_tokens: Field required"),
    (body(thinking={"type": "enabled", "budget_tokens": 1000}), "1024"),
    (body(thinking={"type": "enabled", "budget_tokens": 2000}, max_tokens=2000), "greater than `thinking"),
    (body(context_management={"edits": [{"type": "clear_thinking_20251015"}]}), "clear_thinking_20251015"),
    (body(model="claude-fable-5-2", temperature=1), "temperature: this parameter is not supported"),
    (body(model="claude-fable-5-2", top_k=1), "top_k: this parameter is not supported"),
    (body(model="claude-fable-5-2", thinking={"type": "disabled"}), "`disabled` is not supported"),
    (body(tools=[{**WEATHER, "name": "get weather"}]), "tools.0.custom.name"),
    (body(tools=[{**WEATHER, "name": "x" * 129}]), "tools.0.custom.name"),
    (body(tools=[{**WEATHER, "name": "weather\n"}]), "tools.0.custom.name"),
    (body(tools=[WEATHER, WEATHER]), "Tool names must be unique"),
    (body(tools=[{"name": "f", "input_schema": {}}]), "tools.0.custom.input_schema.type"),
    (body(tools=[{"name": "f"}]), "tools.0.custom.input_schema: Field required"),
    (body(tools=[WEATHER], tool_choice={"type": "tool", "name": "other"}), "'other' not found"),
    (body(tool_choice={"type": "any"}), "while providing tools"),
    (body(stop_sequences=["a", " \n"]), "non-whitespace"),
    (body(system=[text("")]), "system: text content blocks must be non-empty"),
    (body(system=[text(" ")]), "system: text content blocks must contain"),
    (body(messages=[]), "at least one message"),
    (body(assistant("hi"), "you"), "first message must use"),
    (body({"role": "system", "content": "be nice"}, "you"), "first message must use"),
    (body("hi", assistant("yes")), "prefill"),
    (body("hi", assistant("yes"), {"role": "system", "content": "be nice"}), "prefill"),
    (body(user("")), "messages.0: all messages must have non-empty content"),
    (body({"role": "user", "content": []}), "messages.0: all messages must have non-empty content"),
    (body(user(text(""))), "must be non-empty"),
    (body(user(text("  \n"))), "non-whitespace"),
    (body(user(call("a"))), "not allowed in messages of the `user` role"),
    (body("hi", assistant(image(PNG)), "so"), "not allowed in messages of the `assistant` role"),
    (body("hi", assistant(call("a")), "and?"), "immediately after: a"),
    (body("hi", assistant(call("a"))), "immediately after: a"),
    (body("hi", assistant(call("a"), call("b")), user(result("a"))), "immediately after: b"),
    (body("hi", assistant(call("a")), user(text("first"), result("a"))), "immediately after: a"),
    (body("hi", assistant("yes"), user(result("a"))), "messages.2.content.0: unexpected `tool_use_id`"),
    (body(user(result("a"))), "unexpected `tool_use_id`"),
    (body("hi", assistant(call("a")), user(result("a"), result("a"))), "single result"),
    (body("hi", assistant(call("a"), call("a")), user(result("a"))), "ids must be unique"),
    (
        body("hi", assistant(call("a")), user(result("a")), assistant(call("a")), user(result("a"))),
        "ids must be unique",
    ),
    (body("hi", assistant(call("a b")), user(result("a b"))), "tool_use.id"),
    (body(user(image("no base64!"))), "Invalid base64 data"),
    (body(user(image(PNG + "="))), "Invalid base64 data"),
    (body(user(image(PNG, "image/tiff"))), "media_type: Input should be"),
    (body(user(image(PNG, "image/jpeg"))), "is not of it"),
    (body(user(image(PDF, "image/webp"))), "is not of it"),
    (body(user(document(PNG))), "is not of it"),
    (body(user(document(PDF, "text/plain"))), "media_type: Input should be"),
    (body("hi", assistant(call("a")), user(result("a", [image("?")]))), "tool_result.content.0.image"),
    (body("hi", assistant(call("a")), user(result("a", [text("")]))), "must be non-empty"),
    (
        body("hi", assistant(thought("hm", "EqoBCkgIARAB"), text("x")), "so"),
        "messages.1.content.0: Invalid `signature`",
    ),
    (body("hi", assistant(thought("hm", sign_thinking("ah")), text("x")), "so"), "Invalid `signature`"),
    (body("hi", assistant(thought("", "demo-sig-x"), text("x")), "so"), "Invalid `signature`"),
    (body("hi", assistant({"type": "redacted_thinking", "data": "x"}), "so"), "redacted_thinking"),
    (
        body(user(*[text("x", **MARK)] * 3), tools=[{**WEATHER, **MARK}], system=[text("x", **MARK)]),
        "Found 5",
    ),
    (body(user(*[text("x", **MARK)] * 4), **MARK), "Found 5"),
    (body("hi", assistant(call("a")), user(result("a", [text("x", **MARK)] * 5))), "Found 5"),
    (body(user(text("x", cache_control={"type": "ephemeral", "ttl": "2h"}))), "cache_control.ttl"),
    (body(user(text("x", **HOUR)), system=[text("x", **MARK)]), "must not come after"),
    (body(output_config={"format": {"type": "json"}}), "output_config.format.type"),
    (body(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema"),
    (body(output_config=schema_format({"type": "object"})), "additionalProperties"),
    (
        body(output_config=schema_format({"type": "array", "items": {"type": "object"}})),
        "additionalProperties",
    ),
    (
        body(output_config=schema_format({**CLOSED, "$defs": {"a": {"type": "object"}}})),
        "additionalProperties",
    ),
    (body(output_config=schema_format({"anyOf": [CLOSED, {"type": "object"}]})), "additionalProperties"),
    (body(output_config=schema_format(CLOSED), model="claude-sonnet-4-20250514"), "output format"),
    (body(output_config=schema_format(CLOSED), model="claude-3-5-sonnet-20241022"), "output format"),
]

ACCEPTED: list[dict[str, Any]] = [
    body(),
    body(max_tokens=128_000, temperature=0),
    body(temperature=1, thinking=THINKING),
    body(top_p=0.95, thinking=THINKING),
    body(thinking=THINKING, context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}),
    body(thinking={"type": "disabled"}, context_management={"edits": []}, temperature=0.2),
    body(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000),
    body(model="claude-fable-5-2", thinking=THINKING),
    body(tools=[WEATHER, {"type": "web_search_20250305", "name": "web_search"}], tool_choice={"type": "any"}),
    body(tools=[], tool_choice={"type": "none"}),
    body(system="", metadata={"user_id": "x"}, some_new_field=[1]),
    body("hi", "again", assistant("yes"), assistant("no"), "so"),
    body("hi", {"role": "system", "content": "be nice"}),
    body(
        "hi",
        assistant(call("a"), call("b")),
        {"role": "system", "content": "x"},
        user(result("b"), result("a")),
    ),
    body("hi", assistant(call("a")), user(result("a")), user("and?")),
    body("hi", assistant(call("a")), user(result("a", None))),
    body("hi", assistant(call("a")), user(result("a", ""))),
    body(user(image(PNG), document(PDF))),
    body(user({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}})),
    body(user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}})),
    body("hi", assistant(thought("hm", sign_thinking("hm")), text("x")), "so"),
    body("hi", assistant(thought("", sign_thinking("hm")), text("x")), "so"),
    body(user(*[text("x", **MARK)] * 2), system=[text("x", **HOUR)], tools=[{**WEATHER, **HOUR}]),
    body(output_config=schema_format({**CLOSED, "properties": {"type": {"enum": [{"type": "object"}]}}})),
    body(output_config={"effort": "low"}, model="claude-sonnet-4-20250514"),
]


@pytest.mark.parametrize(("refused", "words"), REFUSED, ids=[f"{n}-{row[1][:30]}" for n, row in enumerate(REFUSED)])
def test_what_the_api_refuses_is_refused(refused: dict[str, Any], words: str) -> None:
    """Each row breaks one rule and is told so with status 400."""
    with pytest.raises(ApiError) as caught:
        check_request(parse_request(refused))
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    assert words in caught.value.message


@pytest.mark.parametrize("accepted", ACCEPTED)
def test_what_the_api_takes_is_taken(accepted: dict[str, Any]) -> None:
    """Close neighbours of the refused requests break no rule."""
    check_request(parse_request(accepted))


def test_counting_needs_no_max_tokens() -> None:
    """`count_tokens` takes the same body without it."""
    check_request(parse_request(body(max_tokens=None)), counting=True)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("claude-opus-5-5", True),
        ("claude-opus-5", True),
        ("claude-fable-5-2", True),
        ("claude-haiku-5-5", True),
        ("claude-sonnet-4-20250514", True),
        ("claude-opus-4-5-20251101", True),
        ("claude-opus-4-1", True),
        ("claude-3-5-sonnet-20241022", True),
        ("claude-3-opus-latest", True),
        ("claude-opus-4", False),
        ("claude-opus", False),
        ("opus", False),
        ("claude-opus-5-5[1m]", False),
        ("claude-opus-5-5\n", False),
        ("claude-poodle-5", False),
        ("gpt-4o", False),
    ],
)
def test_model_ids_are_known_by_their_shape(name: str, known: bool) -> None:
    """Family, version and date; an unknown one is a 404."""
    assert is_known_model(name) is known
    if not known:
        with pytest.raises(ApiError) as caught:
            check_request(parse_request(body(model=name)))
        assert (caught.value.status, caught.value.message) == (404, f"model: {name}")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"a": "\\ud800"}', b'{"a": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    """Broken JSON of all kinds is a 400, not a crash."""
    with pytest.raises(ApiError) as caught:
        parse_body(raw)
    assert caught.value.status == 400


def test_a_prompt_of_more_than_a_million_tokens_is_too_long() -> None:
    """The text is the one that clients match."""
    tokens = sum(block.tokens for block in split_prompt(body("x" * 4_000_004)))
    with pytest.raises(ApiError, match="prompt is too long: 1000001 tokens > 1000000 maximum"):
        check_prompt_size(tokens)
