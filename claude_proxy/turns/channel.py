"""The bounded queue between a worker and the view that drains it; either side can end it.

In: items from one producer. Out: the same items, in order, to one consumer; then the end, or the error.
Rule: a full channel holds the producer back, so that a slow client slows its child instead of filling the memory.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ..core.errors import ClientGone, ProxyError

T = TypeVar("T")

CAPACITY = 256


class Closed(Exception):
    """The producer has finished, and everything was taken."""


class Channel(Generic[T]):
    """`put` and `finish` belong to the producer, `get` to the consumer; `abort` may come from anyone."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()  # guards: everything below
        self._items: deque[T] = deque()
        self._finished = False
        self._error: ProxyError | None = None
        self._aborted: ProxyError | None = None

    def put(self, item: T, stall_timeout: float, on_wait: Callable[[], None] = lambda: None) -> None:
        """Hand over one item, waiting while the channel is full; `on_wait` is called before the first wait.

        Raises the error given to `abort`, or ClientGone when the consumer takes nothing for `stall_timeout` seconds.
        """
        with self._changed:
            waited = False
            while len(self._items) >= self._capacity and self._aborted is None:
                if not waited:
                    on_wait()
                    waited = True
                if not self._changed.wait(stall_timeout):
                    raise ClientGone(f"The client has read nothing for {stall_timeout:g} s")
            if self._aborted is not None:
                raise self._aborted
            self._items.append(item)
            self._changed.notify_all()

    def finish(self, error: ProxyError | None = None) -> None:
        """The last word of the producer; what was put before can still be taken."""
        with self._changed:
            self._finished = True
            self._error = error
            self._changed.notify_all()

    def abort(self, error: ProxyError) -> None:
        """End it for both sides: the next `put` raises `error`, so does `get` after what is already there."""
        with self._changed:
            if self._aborted is None and not self._finished:
                self._aborted = error
                self._changed.notify_all()

    @property
    def aborted(self) -> ProxyError | None:
        with self._changed:
            return self._aborted

    def get(self, timeout: float) -> T | None:
        """The next item; None when none came in `timeout` seconds. Raises Closed at the end, or the failure."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._aborted, timeout)
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            failure = self._error or self._aborted
            if failure is not None:
                raise failure
            if self._finished:
                raise Closed
            return None
