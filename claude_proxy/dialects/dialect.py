"""What all dialects share: server-sent events, JSON bodies, paths into a request, and what a dialect must offer.

In: raw bodies. Out: bytes. Nothing here knows a dialect.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import msgspec

from ..core.conversation import Conversation, Message
from ..core.errors import BadRequest, ProxyError
from ..core.events import Completion, Event

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
# A comment, which clients skip. Never ": ping": Continue takes it for the end of a chunk.
KEEP_ALIVE = b": keep-alive\n\n"

_MISSING = re.compile(r"missing required field `(\w+)`")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request in canonical form. `ignored`: the client's names for what this dialect cannot honour.

    hints: what may name the conversation where no header does, best first. names: the client's names of parameters
    that are not OpenAI's, by OpenAI's (`stop`, `reasoning_effort`), for what the model turns out not to take.
    """

    conversation: Conversation
    stream: bool
    request: Any
    ignored: tuple[str, ...] = ()
    hints: tuple[str | None, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """What an answer names of its request. `created`: Unix seconds. `model`: as the client sent it."""

    request_id: str
    created: int
    model: str
    request: Any


class Dialect(Protocol):
    """One request of one dialect, which its folder speaks.

    name: for logs and the ledger. content_type: of a stream. headers: what every answer carries, a failure included.
    """

    @property
    def name(self) -> str: ...

    @property
    def content_type(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def parse(self, body: bytes, before: tuple[Message, ...] = ()) -> Parsed:
        """Untrusted bytes -> canonical request. Raises BadRequest with the path of what is wrong.

        before: messages that the server keeps for this client, which come before those in the body.
        """
        ...

    def stream(self, events: Iterable[Event | None], context: Context) -> Iterator[bytes]:
        """The answer, piece by piece; None among the events asks for a heartbeat."""
        ...

    def heartbeat(self) -> bytes:
        """What `stream` sends for None once the stream is open, so that neither client nor proxy gives it up."""
        ...

    def body(self, completion: Completion, context: Context) -> dict[str, Any]:
        """The whole answer as one JSON object."""
        ...

    def error(self, error: ProxyError, request_id: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of a failure that is told before the first byte."""
        ...

    def error_event(self, error: ProxyError, request_id: str) -> bytes:
        """The same in the middle of a stream, with whatever ends the stream."""
        ...


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event: a single `data:` line, never `id:` or `retry:` (openai-python stumbles over both)."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + encode(data) + b"\n\n"


# JSON allows them raw inside a string; httpx and requests take them for ends of lines, and lose the event.
_LINE_SEPARATORS = tuple((separator.encode(), b"\\u%04x" % ord(separator)) for separator in "\u2028\u2029\x85")


def encode(data: Any) -> bytes:
    """JSON bytes, UTF-8, on one line, whatever a client takes for the end of one."""
    encoded = msgspec.json.encode(data)
    if encoded.isascii():
        return encoded
    for separator, escaped in _LINE_SEPARATORS:
        encoded = encoded.replace(separator, escaped)
    return encoded


def decode(body: bytes, shape: type[T]) -> T:
    """A JSON body of this shape. Raises BadRequest; `param` is the path that msgspec found wrong."""
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _misshapen(error, "") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("The body is nested too deeply") from error


def decode_object(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body, so that a dialect decodes it once; `convert` makes them typed. Raises BadRequest."""
    return decode(body, dict[str, Any])


def convert(value: Any, shape: type[T], path: str = "") -> T:
    """A body or a part of one, already decoded, of this shape. Raises BadRequest; `param` begins with `path`."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise _misshapen(error, path) from error


def _misshapen(error: msgspec.ValidationError, start: str) -> BadRequest:
    """msgspec's `… - at `$.messages[0].role`` with the path as the client knows it; `start` stands for `$`."""
    message, _, raw = str(error).partition(" - at `")
    missing = _MISSING.search(message)
    # `decode_object` does not know the name of a field with a number beyond all types.
    path = raw.rstrip("`").removeprefix("$").removeprefix("[...]").replace("[...]", "[]")
    path = start + path + (f".{missing.group(1)}" if missing else "")
    return BadRequest(message, param=path.removeprefix(".") or None)
