"""waitress, driven so that it can be drained: serve until told to stop, from whatever thread.

In: a WSGI application and an address. Out: bytes on sockets.
"""

import errno
import socket
import threading
import time
from typing import Any

from waitress import wasyncore
from waitress.server import create_server

from ..config import Config
from .audience import LARGEST_AUDIENCE

# A client that does not read holds its turn back (backpressure) once this much lies in waitress's buffer.
OUTPUT_HIGH_WATERMARK = 1 << 16
# Beside the turns that run or wait, and those that wait for an earlier one of their session: views that are not a
# turn's, and watchers, which have a limit of their own.
EXTRA_THREADS = 8 + LARGEST_AUDIENCE
LOOP_TIMEOUT = 1.0


class AddressInUse(Exception):
    """Something else listens there already."""


class Server:
    """A bound waitress server. `port` is the real one, also where 0 was asked for."""

    def __init__(self, app: Any, config: Config) -> None:
        """Bind. Raises AddressInUse, or OSError for an address that cannot be bound."""
        self._map: dict[int, Any] = {}
        self._client_timeout = config.client_timeout
        self._stalled: dict[Any, tuple[float, float]] = {}
        self._stopping = threading.Event()
        self._closing = threading.Lock()  # guards: _closed
        self._closed = False
        try:
            self._server = create_server(
                app,
                map=self._map,
                host=resolve_host(config.host),
                port=config.port,
                threads=config.max_concurrent + 2 * config.max_queue + EXTRA_THREADS,
                channel_request_lookahead=1,
                clear_untrusted_proxy_headers=True,
                ident="claude_proxy",
                max_request_body_size=2 * config.max_body_bytes,
                outbuf_high_watermark=OUTPUT_HIGH_WATERMARK,
                asyncore_use_poll=True,
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(f"port {config.port} on {config.host} is taken") from error
            raise
        self.port = int(self._server.effective_port)

    def run(self) -> None:
        """Serve until `stop`; then close what is open."""
        while not self._stopping.is_set():
            wasyncore.loop(timeout=LOOP_TIMEOUT, use_poll=True, map=self._map, count=1)
            self._drop_stalled()
        self._server.task_dispatcher.shutdown()
        with self._closing:
            self._closed = True
            wasyncore.close_all(self._map)

    def _drop_stalled(self) -> None:
        """Close the connection of a client that has read nothing for `client_timeout` seconds.

        waitress has no limit for one whose request is still being answered: its thread would wait in `write` for ever.
        `last_activity` changes with every byte that the socket takes; it says nothing of how long bytes have waited.
        """
        now, before, self._stalled = time.monotonic(), self._stalled, {}
        for channel in list(self._server.active_channels.values()):
            if channel.total_outbufs_len > OUTPUT_HIGH_WATERMARK:
                activity, since = before.get(channel, (None, now))
                since = since if activity == channel.last_activity else now
                self._stalled[channel] = (channel.last_activity, since)
                if now - since > self._client_timeout:
                    channel.handle_close()

    def stop(self) -> None:
        """Make `run` return; may be called from any thread, once everything has been answered."""
        self._stopping.set()
        # The loop may have seen it by itself: its trigger is then closed, and the number may be another file's.
        with self._closing:
            if not self._closed:
                self._server.pull_trigger()


def resolve_host(host: str) -> str:
    """One address for a name: waitress would listen on all of them, on as many ports. Raises OSError."""
    if host.lower() == "localhost":
        return "127.0.0.1"
    found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return str(found[0][4][0])
