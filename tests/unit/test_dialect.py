"""JSON bodies: decoded once, made typed afterwards, and refused with the path of what is wrong."""

import json
from typing import Any

import msgspec
import pytest

from claude_proxy.core.errors import BadRequest
from claude_proxy.dialects.chat.request import ChatRequest
from claude_proxy.dialects.dialect import convert, decode, decode_object
from claude_proxy.dialects.messages.request import MessagesRequest
from claude_proxy.dialects.responses.request import ResponsesRequest
from claude_proxy.web.negotiation import CursorChat

SHAPES: tuple[type[msgspec.Struct], ...] = (ChatRequest, MessagesRequest, ResponsesRequest)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    5.0,
    5.5,
    -1,
    2**70,
    "x",
    "low",
    [],
    {},
    [1],
    ["a"],
    [{"type": 5}],
    {"type": 1},
)


def read(read: Any) -> Any:
    """What reading gives, or what it is refused with."""
    try:
        return msgspec.to_builtins(read())
    except BadRequest as error:
        # A number beyond 64 bits is an int in Python, and a float to the decoder that knows the type.
        return error.message.replace("got `float`", "got `int`"), error.param


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_a_body_that_is_decoded_first_is_read_as_one_that_is_typed_at_once(shape: type[msgspec.Struct]) -> None:
    """Every field with values of every kind: the same request, or the same refusal with the same path."""
    base = {"messages": [{"role": "user", "content": "x"}], "model": "m", "max_tokens": 5}
    for name in shape.__struct_fields__:
        for value in VALUES:
            body = json.dumps({**base, name: value}).encode()
            at_once = read(lambda: decode(body, shape))
            assert read(lambda: convert(decode_object(body), shape)) == at_once, body


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b"null", b'"x"', b'{"messages": "\xff"}', b"[" * 100_000])
def test_what_is_not_a_json_object_is_a_bad_request(body: bytes) -> None:
    """Whole, without a path."""
    with pytest.raises(BadRequest) as caught:
        decode_object(body)
    assert caught.value.param is None


def test_a_number_beyond_all_types_is_a_bad_request() -> None:
    """Also in a field that is not read."""
    for name in ("seed", "temperature"):
        body = b'{"messages": [{"role": "user", "content": "x"}], "%s": 1e400}' % name.encode()
        with pytest.raises(BadRequest, match="out of range") as caught:
            CursorChat().parse(body)
        assert caught.value.param is None


def test_the_chat_route_takes_the_body_of_a_responses_request() -> None:
    """Cursor sends such ones there."""
    mixed = CursorChat().parse(b'{"model": "m", "input": "Hi", "stream": true}')
    plain = CursorChat().parse(b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": true}')
    assert mixed.conversation == plain.conversation and mixed.stream and plain.stream
