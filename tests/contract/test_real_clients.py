"""What real clients and models send that is not as it should be: it is served, and what reached the child is sound.

Every row stands for public bug reports of clients; none of them ends a conversation.
"""

import json
from typing import Any

import pytest

from tests.harness import Json, Proxy, conversation_of

PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


def request_to(path: str, text: str = "hi", **fields: Any) -> Json:
    """A question in the dialect of that path."""
    messages = [{"role": "user", "content": text}]
    asked: Json = {"input": messages} if path == "/v1/responses" else {"messages": messages}
    return {"model": "claude-sonnet-4", "max_tokens": 99, **asked, **fields}


def questions(proxy: Proxy) -> list[Any]:
    """What the user said to all children."""
    return [content for child in proxy.log() for role, content in conversation_of(child) if role == "user"]


@pytest.mark.parametrize("path", PATHS)
def test_half_a_surrogate_pair_and_a_byte_order_mark_are_mended(proxy: Proxy, path: str) -> None:
    """JavaScript cuts strings in the middle of an emoji; editors put a mark before the JSON."""
    raw = json.dumps(request_to(path, "cut PLACE here")).encode().replace(b"PLACE", rb"\ud83d")
    answer = proxy.send(b"\xef\xbb\xbf" + raw, path=path).answer()
    assert answer.status == 200, answer.body
    assert questions(proxy) == ["cut \ufffd here"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
def test_a_model_may_write_half_a_surrogate_pair_in_arguments(proxy: Proxy, path: str, streams: bool) -> None:
    """The CLI gives it on as it is; the call reaches the client, and its child waits for the result."""
    function: Json = {"name": "f", "parameters": {"type": "object"}}
    tools = {
        "/v1/chat/completions": [{"type": "function", "function": function}],
        "/v1/messages": [{"name": "f", "input_schema": {"type": "object"}}],
        "/v1/responses": [{"type": "function", **function}],
    }[path]
    text = r'fake:call=f:{"a":"cut\u0020\ud83d"}'
    answer = proxy.send(request_to(path, text, tools=tools, stream=streams), path=path).answer()
    assert answer.status == 200 and b"error" not in answer.body.replace(b'"error":null', b""), answer.body
    proxy.wait_until_idle()
    assert proxy.service.fleet.counts().parked == 1
