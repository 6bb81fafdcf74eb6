"""Whoever watches what others do: how many may, and the streams that they read.

In: what a watcher is told next, when asked for it. Out: streams of server-sent events, each of which holds a thread of
the server as long as it is watched.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from flask import Response

from ..core.errors import QueueFull
from ..dialects.dialect import EVENT_STREAM, KEEP_ALIVE
from .answering import DISCONNECT_POLL
from .client import Client

LARGEST_AUDIENCE = 16
RETRY_AFTER = 5.0

Next = Callable[[float], tuple[Iterable[bytes], bool]]


class Audience:
    """The watchers of all streams together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _watchers
        self._watchers = 0

    def enter(self) -> None:
        """One watcher more. Raises QueueFull."""
        with self._lock:
            if self._watchers >= LARGEST_AUDIENCE:
                raise QueueFull(f"{LARGEST_AUDIENCE} streams are being watched", retry_after=RETRY_AFTER)
            self._watchers += 1

    def leave(self) -> None:
        with self._lock:
            self._watchers -= 1

    def respond(self, told: Iterator[bytes], headers: Mapping[str, str] | None = None) -> Response:
        """The stream of a watcher who has entered; who leaves when it ends."""
        response = Response(told, mimetype=EVENT_STREAM, headers=headers)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
        response.call_on_close(self.leave)
        return response


def watch(next_events: Next, client: Client) -> Iterator[bytes]:
    """The stream of what `next_events` tells, with signs of life, to its end or until the client has gone.

    next_events: waits at most so many seconds; returns what is new, and whether that was the last.
    """
    quiet = 0.0
    while True:
        events, ended = next_events(DISCONNECT_POLL)
        told = b"".join(events)
        if told:
            yield told
        if ended or client.is_gone():
            return
        quiet = 0.0 if told else quiet + DISCONNECT_POLL
        if quiet >= client.heartbeat_interval:
            quiet = 0.0
            yield KEEP_ALIVE
