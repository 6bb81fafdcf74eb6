"""A record of the last requests, for tests that ask what reached the upstream.

In go requests as they arrive and what became of them; out come frozen `RecordedRequest`s, oldest first.
Nothing is kept unless asked for.
"""

import itertools
import threading
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request.

    path: with its query string. headers: names in lower case. body: the decoded JSON object, empty if it
    was none. status: None until the response begins. finished: None while the response is under way, True
    when all of it was handed to the connection, False when the client vanished, the server stopped or the
    connection was cut before that.
    """

    number: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    raw: bytes
    status: int | None = None
    finished: bool | None = None


class RequestLog:
    """The last `size` requests; with 0 nothing is recorded."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._changed = threading.Condition()  # guards _requests
        self._requests: dict[int, RecordedRequest] = {}
        self._numbers = itertools.count(1)

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded at all."""
        return self._size > 0

    def open(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any], raw: bytes) -> int:
        """Record a request that has arrived; returns the number by which to update it."""
        with self._changed:
            number = next(self._numbers)
            if self._size:
                self._requests[number] = RecordedRequest(number, path, headers, body, raw)
            while len(self._requests) > self._size:
                del self._requests[next(iter(self._requests))]
            self._changed.notify_all()
        return number

    def begin(self, number: int, status: int) -> None:
        """The response begins."""
        self._update(number, status=status)

    def end(self, number: int, finished: bool) -> None:
        """The response is over."""
        self._update(number, finished=finished)

    def list(self) -> tuple[RecordedRequest, ...]:
        """What is recorded, oldest first."""
        with self._changed:
            return tuple(self._requests.values())

    def clear(self) -> None:
        """Forget all of it."""
        with self._changed:
            self._requests.clear()

    def wait_for(self, predicate: Callable[[RecordedRequest], bool], timeout: float) -> RecordedRequest:
        """The first recorded request that fits, now or within `timeout` seconds. Raises TimeoutError."""
        found: list[RecordedRequest] = []

        def look() -> bool:
            found[:] = [request for request in self._requests.values() if predicate(request)]
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(look, timeout):
                raise TimeoutError(f"no such request within {timeout} seconds")
            return found[0]

    def _update(self, number: int, **changes: Any) -> None:
        with self._changed:
            if number in self._requests:
                self._requests[number] = replace(self._requests[number], **changes)
                self._changed.notify_all()
