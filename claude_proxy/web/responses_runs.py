"""Background responses: turns without a client, whose worker writes down what it would have been sent.

In: the events of a turn. Out: the response as it stands, and its stream, from any point, to any number of watchers.
Rules: a client that goes away ends nothing; an end is kept before anybody hears of it; each run ends once.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from ..core.errors import ClientGone, Interrupted, ProxyError
from ..core.events import Event, MessageEnd
from ..dialects.responses.answer import render
from ..dialects.responses.events import Json, ResponseWriter
from ..turns.channel import Channel
from ..turns.turn import Turn
from .client import Client
from .heartbeats import with_heartbeats

Keep = Callable[[Json, Sequence[Json]], None]


class Run(Channel[Event]):
    """The channel of a background turn: what is put is written down at once, so that nobody has to take it.

    keep: called once, with the response and all events of its stream, before its end is told. done: called once, when
    the worker has left it.
    """

    def __init__(self, writer: ResponseWriter, keep: Keep, done: Callable[[ProxyError | None], None]) -> None:
        super().__init__()
        self._writer = writer
        self._keep = keep
        self._done = done
        self._told: list[Json] = []
        self._is_over = False
        self._ended = False
        self._view: Json = {**writer.response, "status": "queued"}

    @property
    def view(self) -> Json:
        """The response object as of the last event."""
        with self._changed:
            return self._view

    def put(self, item: Event, stall_timeout: float, on_wait: Callable[[], None] = lambda: None) -> None:
        """Write down one event; never waits. Raises the error given to `abort`, ClientGone after `cancel`."""
        if isinstance(item, MessageEnd):
            self._raise_if_over()
            self._end(lambda: self._writer.add(item))
            return
        with self._changed:
            self._raise_if_over()
            self._tell(self._writer.add(item))

    def finish(self, error: ProxyError | None = None) -> None:
        """The worker's last word."""
        super().finish(error)
        if isinstance(error, Interrupted):
            self.cancel()
        elif error is not None:
            self._end(lambda: self._writer.fail(error))
        self._done(error)

    def cancel(self) -> bool:
        """End it for good; False where it had ended before. Its turn must then be aborted."""
        return self._end(self._writer.cancel)

    def keep_alive(self, position: int) -> None:
        """A sign of life, numbered like everything else, unless something has come after `position` events."""
        with self._changed:
            if len(self._told) <= position and not self._is_over:
                self._tell(self._writer.add(None))

    def wait(self, position: int, timeout: float) -> tuple[list[Json], bool]:
        """The events from `position` on, and whether they are the last; none where none came in `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._told) > position or self._ended, timeout)
            return self._told[position:], self._ended

    def _raise_if_over(self) -> None:
        if self._aborted is not None:
            raise self._aborted
        if self._is_over:
            raise ClientGone("The response was cancelled")

    def _end(self, say: Callable[[], list[Json]]) -> bool:
        with self._changed:
            if self._is_over:
                return False
            self._is_over = True
            last = say()
            response, told = dict(self._writer.response), [*self._told, *last]
        self._keep(response, told)
        with self._changed:
            self._tell(last)
            self._ended = True
            self._changed.notify_all()
        return True

    def _tell(self, events: list[Json]) -> None:
        self._told += events
        response = self._writer.response
        self._view = {**response, "output": list(response["output"])}
        self._changed.notify_all()


class Runs:
    """The background responses that this process is making. release: ends the turn of one that was cancelled."""

    def __init__(self, release: Callable[[Turn], None]) -> None:
        self._release = release
        self._lock = threading.Lock()  # guards: _runs
        self._runs: dict[tuple[str, str], tuple[Run, Turn]] = {}

    def add(self, owner: str, response_id: str, run: Run, turn: Turn) -> None:
        """`turn` writes into `run`."""
        with self._lock:
            self._runs[owner, response_id] = run, turn

    def get(self, owner: str, response_id: str) -> Run | None:
        with self._lock:
            found = self._runs.get((owner, response_id))
        return found[0] if found is not None else None

    def discard(self, owner: str, response_id: str) -> Turn | None:
        """Forget a run; its turn, where there was one."""
        with self._lock:
            found = self._runs.pop((owner, response_id), None)
        return found[1] if found is not None else None

    def cancel(self, owner: str, response_id: str) -> Json | None:
        """The response, cancelled unless it had ended before; None where nothing of that name runs."""
        with self._lock:
            found = self._runs.get((owner, response_id))
        if found is None:
            return None
        run, turn = found
        if run.cancel():
            self._release(turn)
        return run.view


def follow(run: Run, position: int, client: Client) -> Iterator[bytes]:
    """The stream of a run from its event number `position` on, to its end or until the client has gone."""

    def poll(timeout: float) -> tuple[list[Json] | None, bool]:
        events, ended = run.wait(position, timeout)
        return events or None, ended

    with suppress(ClientGone):
        for events in with_heartbeats(poll, client):
            if events is None:
                run.keep_alive(position)
            else:
                position += len(events)
                yield render(events)


def replay_from(events: Sequence[Json], position: int) -> Iterator[bytes]:
    """The stream of a run that has ended."""
    for event in events[position:]:
        yield render((event,))
