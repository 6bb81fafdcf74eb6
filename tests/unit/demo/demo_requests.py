"""Bodies of Messages API requests, for the tests of the demo."""

import base64
from typing import Any

from claude_proxy.demo.request import MessagesRequest, parse_request

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 8).decode()
PDF = base64.b64encode(b"%PDF-1.7").decode()
WEATHER: dict[str, Any] = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def user(*content: Any) -> dict[str, Any]:
    """A user message of blocks, or of one string."""
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    """An assistant message of blocks, or of one string."""
    return {**user(*content), "role": "assistant"}


def text(words: str, **more: Any) -> dict[str, Any]:
    """A text block."""
    return {"type": "text", "text": words, **more}


def image(data: str, media_type: str = "image/png") -> dict[str, Any]:
    """An image block."""
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def document(data: str, media_type: str = "application/pdf") -> dict[str, Any]:
    """A document block."""
    return {"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}}


def call(identity: str, name: str = "weather", **arguments: Any) -> dict[str, Any]:
    """A tool_use block."""
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def result(identity: str, content: Any = "sunny", **more: Any) -> dict[str, Any]:
    """A tool_result block."""
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    """A request of these messages; strings are user messages; None leaves a default out."""
    listed = [user(message) if isinstance(message, str) else message for message in messages or ("hi",)]
    whole = {"model": "claude-opus-5-5", "max_tokens": 1000, "messages": listed, **more}
    return {key: value for key, value in whole.items() if value is not None}


def request(*messages: Any, **more: Any) -> MessagesRequest:
    """The same, parsed."""
    return parse_request(body(*messages, **more))
