"""An HTTP server on loopback that takes what sinks send, and answers as a test wants it to.

In: POSTs. Out: `received`, in the order of their arrival. Rule: what hangs is let go when the server is closed.
"""

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.harness import DEADLINE, wait_until

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Received:
    """One POST. Names of headers in lower case; peer: the port that it came from."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: int

    @property
    def json(self) -> Json:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def method(self) -> str:
        """`sendMessage` of `/bot…/sendMessage`."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Reaction:
    """How to answer. hangs: not at all; cuts: close the connection; stalls: send the head, and then nothing."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False
    cuts: bool = False
    stalls: bool = False


HANG = Reaction(hangs=True)
CUT = Reaction(cuts=True)


class Receiver:
    """A server; `url` leads to it. What is in `next` answers first, each once, then `always` if set, then `react`."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.next: deque[Reaction] = deque()
        self.always: Reaction | None = None
        self._lock = threading.Lock()  # guards: received, next, and what `react` changes
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._server.block_on_close = True
        self._server.daemon_threads = False
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="receiver")
        self._thread.start()

    def react(self, received: Received) -> Reaction:
        """What a server in good health answers. Called with the lock held."""
        return Reaction()

    def wait_for(self, count: int) -> list[Received]:
        """What has come, once that much of it has."""
        wait_until(lambda: len(self.received) >= count, f"{count} requests; there are {len(self.received)}")
        with self._lock:  # what came last has had its effect, too
            return list(self.received)

    def release(self) -> None:
        """Let go what hangs; nothing hangs from now on."""
        self._released.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE)

    def take(self, received: Received) -> Reaction:
        """Note what came; how it is answered."""
        with self._lock:
            self.received.append(received)
            if self.next:
                return self.next.popleft()
            return self.always or self.react(received)

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # A client that keeps its connection open must not keep this thread.
            timeout = 1.0
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                reaction = receiver.take(Received(self.path, headers, body, self.client_address[1]))
                if reaction.hangs:
                    receiver._released.wait(DEADLINE)
                if reaction.hangs or reaction.cuts:
                    self.close_connection = True
                    return
                self.send_response(reaction.status)
                for name, value in reaction.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reaction.body)))
                self.end_headers()
                if reaction.stalls:
                    receiver._released.wait(DEADLINE)
                    self.close_connection = True
                    return
                self.wfile.write(reaction.body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests look at what has come."""

        return Handler


class FakeTelegram(Receiver):
    """A Bot API with one chat, whose messages are `chat`."""

    def __init__(self) -> None:
        self.chat: dict[int, str] = {}
        self._count = 0
        super().__init__()

    def react(self, received: Received) -> Reaction:
        given = received.json
        if received.method == "sendMessage":
            self._count += 1
            self.chat[self._count] = given["text"]
            return _answer({"message_id": self._count, "date": 0, "chat": {"id": 1}, "text": given["text"]})
        if given["message_id"] not in self.chat:
            return refusal(400, "Bad Request: message to edit not found")
        if received.method == "deleteMessage":
            del self.chat[given["message_id"]]
            return _answer(True)
        if self.chat[given["message_id"]] == given["text"]:
            return refusal(400, "Bad Request: message is not modified: specified new message content is the same")
        self.chat[given["message_id"]] = given["text"]
        return _answer({"message_id": given["message_id"]})

    @property
    def methods(self) -> list[str]:
        return [one.method for one in self.received]


def refusal(status: int, description: str, **parameters: Any) -> Reaction:
    """As the Bot API says no."""
    body = {"ok": False, "error_code": status, "description": description}
    return Reaction(status, json.dumps({**body, **({"parameters": parameters} if parameters else {})}).encode())


def _answer(result: Any) -> Reaction:
    return Reaction(200, json.dumps({"ok": True, "result": result}).encode())


@contextmanager
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, for as long as the block lasts."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
