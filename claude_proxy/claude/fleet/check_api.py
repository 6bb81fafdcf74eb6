"""A Messages API on loopback for the check of the start: scripted answers, and what was asked.

`self_check.py` starts it for a second. It answers `HOLD` with the beginning of a text that never ends, a question about
a tool with a call of that tool, everything else with a text; it keeps the body of each question. Nothing leaves the
machine.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Json = dict[str, Any]

HOLD = "HOLD"
CALL = "CALL"
ANSWER = "ANSWER"


class CheckApi:
    """Use it as a context: it listens inside, and has ended every thread afterwards."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _bodies
        self._bodies: list[Json] = []
        self._released = threading.Event()
        api = self

        class Handler(_Handler):
            """The handler of this server."""

            owner = api

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="check-api", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def bodies(self, question: str) -> list[Json]:
        """The requests whose last user message holds this text, oldest first."""
        with self._lock:
            return [body for body in self._bodies if question in json.dumps(_asked(body))]

    def take(self, body: Json) -> None:
        with self._lock:
            self._bodies.append(body)

    def answer(self, body: Json) -> Iterator[Json]:
        """The events of the answer; those to HOLD end only with the server."""
        asked = json.dumps(_asked(body))
        yield _start(body)
        if CALL in asked and "tool_result" not in asked:
            name = str(body["tools"][-1]["name"])
            call = {"type": "tool_use", "id": f"toolu_check_{id(body):x}", "name": name, "input": {}}
            yield from _block(call, {"type": "input_json_delta", "partial_json": "{}"})
            yield from _end("tool_use")
            return
        yield from list(_block({"type": "text", "text": ""}, {"type": "text_delta", "text": ANSWER}))[:2]
        if HOLD in asked:
            self._released.wait()
            return
        yield {"type": "content_block_stop", "index": 0}
        yield from _end("end_turn")

    def __enter__(self) -> "CheckApi":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection of the CLI's."""

    owner: CheckApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send_json({"data": [], "has_more": False})

    def do_HEAD(self) -> None:
        self._send_json({})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if "/messages" not in self.path:
            return self._send_json({})
        body = json.loads(raw)
        self.owner.take(body)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in self.owner.answer(body):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()

    def _send_json(self, value: Json) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The CLI's requests are not the proxy's."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the CLI has been stopped in the middle of an answer, which is what is checked
            self.close_connection = True


def _asked(body: Json) -> Any:
    """The last user message."""
    return next(message for message in reversed(body["messages"]) if message["role"] == "user")["content"]


def _start(body: Json) -> Json:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "msg_check", "type": "message", "role": "assistant", "model": body["model"], "content": []}
    return {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}}


def _block(block: Json, delta: Json) -> Iterator[Json]:
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}


def _end(stop_reason: str) -> Iterator[Json]:
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}
