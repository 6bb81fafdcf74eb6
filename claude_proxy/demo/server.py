"""The demo's HTTP server: waitress on loopback, in threads of its own, started and stopped by `DemoApi`.

Waitress has no orderly end from another thread, so its loop is run here, turn by turn: on `stop()` the
loop's own thread closes the connections, which wakes every worker that writes, while an event wakes those
that wait.
"""

import socket
import threading
import time
from types import TracebackType
from typing import Any, Callable
from wsgiref.types import WSGIApplication

import waitress
from waitress import wasyncore
from waitress.task import ThreadedTaskDispatcher

from .app import MAX_BODY_BYTES, create_app

Middleware = Callable[[WSGIApplication], WSGIApplication]


class DemoApi:
    """A Messages API at `base_url` between `start()` and `stop()`, or inside `with`. It starts once.

    host, port: where to listen; port 0 takes a free one. threads: how many answers can be under way at once. around:
    puts something around the application, for tests that look at the requests or refuse some.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, threads: int = 64, around: Middleware | None = None
    ) -> None:
        self._address = (host, port)
        self._threads = threads
        self._around = around
        self._stopping = threading.Event()
        self._sockets: dict[int, Any] = {}  # waitress's map of descriptors, touched by the loop's thread only
        self._workers: list[threading.Thread] = []
        self._loop = threading.Thread(target=self._run_loop, name="demo-api-loop", daemon=True)
        self._server: Any = None
        self._dispatcher: Any = None
        self.base_url = ""

    def start(self) -> None:
        """Listen and answer. Raises OSError when the port is taken."""
        if self._server is not None or self._stopping.is_set():
            raise RuntimeError("a DemoApi starts once")
        listener = socket.create_server(self._address, backlog=256)
        host, port = listener.getsockname()[:2]
        self.base_url = f"http://{host}:{port}"
        self._dispatcher = ThreadedTaskDispatcher()
        self._dispatcher.start_new_thread = self._start_worker
        app: WSGIApplication = create_app(self._stopping)
        self._server = waitress.create_server(
            self._around(app) if self._around is not None else app,
            map=self._sockets,
            _dispatcher=self._dispatcher,
            sockets=[listener],
            # With 0 nothing is read while an answer is under way, so a client that hangs up is never noticed.
            channel_request_lookahead=1,
            connection_limit=1000,
            max_request_body_size=4 * MAX_BODY_BYTES,  # above the application's own limit, which answers in JSON
            ident="claude-proxy-demo",
        )
        self._dispatcher.set_thread_count(self._threads)
        self._loop.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Break off all answers, close all sockets and end all threads within `timeout` seconds."""
        self._stopping.set()
        if self._server is None:
            return
        deadline = time.monotonic() + timeout
        self._server.pull_trigger()
        self._loop.join(max(0.0, deadline - time.monotonic()))
        self._dispatcher.shutdown(timeout=max(0.0, deadline - time.monotonic()))
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        self._server.close()
        self._server = None

    def __enter__(self) -> "DemoApi":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_worker(self, target: Callable[[int], None], number: int) -> None:
        """Takes the place of the dispatcher's own method, to keep the threads for joining."""
        worker = threading.Thread(target=target, args=(number,), name=f"demo-api-{number}", daemon=True)
        self._workers.append(worker)
        worker.start()

    def _run_loop(self) -> None:
        while not self._stopping.is_set():
            wasyncore.loop(timeout=1.0, use_poll=True, map=self._sockets, count=1)
        # The trigger stays open: workers pull it until the last of them has ended.
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
