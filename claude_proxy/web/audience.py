"""Whoever watches what others do: how many may, and the streams that they read.

In: what a watcher is told next, when asked for it. Out: streams of server-sent events, each of which holds a thread of
the server as long as it is watched.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

from flask import Response

from ..core.errors import ClientGone, QueueFull
from ..dialects.dialect import EVENT_STREAM, KEEP_ALIVE
from .client import Client
from .heartbeats import Poll, with_heartbeats

LARGEST_AUDIENCE = 16
RETRY_AFTER = 5.0


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


def watch(poll: Poll[bytes], client: Client) -> Iterator[bytes]:
    """The stream of what `poll` returns, with heartbeats, to its end or until the client has gone."""
    with suppress(ClientGone):
        for told in with_heartbeats(poll, client):
            yield KEEP_ALIVE if told is None else told
