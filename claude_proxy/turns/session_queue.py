"""Turns of one session, one at a time, in the order of their arrival."""

import threading
from collections.abc import Callable

from ..core.errors import QueueFull
from ..core.session_key import SessionKey


class SessionQueue:
    """Lets turns of one session pass one at a time, in the order in which they came. Each that waits holds a thread:
    `most` of all sessions together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()  # guards: _queues
        self._queues: dict[SessionKey, list[object]] = {}

    def enter(self, key: SessionKey, is_gone: Callable[[], bool], timeout: float, poll: float = 0.1) -> object | None:
        """A ticket once it is our turn; None when the client has gone, or `timeout` seconds have passed.

        Raises QueueFull.
        """
        ticket = object()
        waited = 0.0
        with self._changed:
            waiting = sum(len(queue) - 1 for queue in self._queues.values())
            if key in self._queues and waiting >= self._most:
                raise QueueFull(f"{self._most} turns are waiting for earlier ones of their sessions", retry_after=5.0)
            queue = self._queues.setdefault(key, [])
            queue.append(ticket)
            while queue[0] is not ticket:
                if waited >= timeout or is_gone():
                    self._remove(key, ticket)
                    return None
                self._changed.wait(poll)
                waited += poll
        return ticket

    def leave(self, key: SessionKey, ticket: object) -> None:
        """Let the next one pass. Idempotent."""
        with self._changed:
            self._remove(key, ticket)

    def _remove(self, key: SessionKey, ticket: object) -> None:
        queue = self._queues.get(key, [])
        if ticket in queue:
            queue.remove(ticket)
        if not queue:
            self._queues.pop(key, None)
        self._changed.notify_all()
