"""Between a dialect and a turn: submit, wait for the first event, then stream or fold; notice that the client has gone.

In: a parsed request and the WSGI environ. Out: a Flask response.
Rules: until the first event, or for one heartbeat, no status is sent, so that early failures get their own; after that
failures are told in the stream, once. A stream never just stops.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from urllib.parse import quote

from flask import Response

from ..core.errors import ClientGone, InternalError, ProxyError
from ..core.events import Event, collect
from ..dialects.dialect import Context, Dialect, Parsed, encode
from ..turns.channel import Closed
from ..turns.turn import Turn
from .client import Client
from .heartbeats import with_heartbeats

log = logging.getLogger(__name__)

# A model's name may be anything that the client sent; a header takes no line break, and nothing beyond Latin-1.
_SAFE_IN_MODELS = "/[]:@()+,= "


class Answer:
    """One answer under way. `on_end` is called once, with the turn and the error if there was one."""

    def __init__(
        self,
        dialect: Dialect,
        turn: Turn,
        parsed: Parsed,
        client: Client,
        on_end: Callable[[Turn, ProxyError | None], None],
    ) -> None:
        self._dialect = dialect
        self._turn = turn
        self._parsed = parsed
        self._client = client
        self._on_end = on_end
        self._context = Context(turn.id, int(time.time()), parsed.conversation.model, parsed.request)
        self._lock = threading.Lock()  # guards: _ended
        self._ended = False
        self._error: ProxyError | None = None

    def respond(self) -> Response:
        """The response; raises the ProxyError of a turn that failed before anything was sent."""
        try:
            return self._stream() if self._parsed.stream else self._whole()
        except ProxyError as error:
            self._error = error
            self.end()
            raise

    def end(self) -> None:
        """The response was sent, failed, or its client has gone."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._on_end(self._turn, self._error)

    def _whole(self) -> Response:
        patient = replace(self._client, heartbeat_interval=inf)
        completion = collect(event for event in self._events(patient) if event is not None)
        body = self._dialect.body(completion, self._context)
        response = Response(encode(body), mimetype="application/json", headers=build_headers(self._turn))
        response.call_on_close(self.end)
        return response

    def _stream(self) -> Response:
        events = self._events(self._client)
        first = next(events)
        headers = build_headers(self._turn)
        content_type = self._dialect.content_type
        response = Response(self._render(first, events), mimetype=content_type, headers=headers)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
        # A generator that was never started skips its own `finally`.
        response.call_on_close(self.end)
        return response

    def _render(self, first: Event | None, rest: Iterator[Event | None]) -> Iterator[bytes]:
        def chain() -> Iterator[Event | None]:
            yield first
            yield from rest

        try:
            for chunk in self._dialect.stream(chain(), self._context):
                if chunk:
                    yield chunk
        except ClientGone as error:
            self._error = error
        except ProxyError as error:
            self._error = error
            yield self._dialect.error_event(error, self._turn.id)
        except Exception:  # our own bug, in the middle of a stream: the client must be told in the stream
            log.exception("Request %s failed for a reason of our own", self._turn.id)
            self._error = InternalError("The proxy failed; its log says where")
            yield self._dialect.error_event(self._error, self._turn.id)

    def _events(self, client: Client) -> Iterator[Event | None]:
        """The turn's events, and None for heartbeats. Raises ClientGone, or the turn's failure."""
        events: Iterator[Event | None] = with_heartbeats(self._poll, client)
        try:
            yield from events
        except ClientGone as error:
            self._turn.abort(error)
            raise

    def _poll(self, timeout: float) -> tuple[Event | None, bool]:
        try:
            return self._turn.channel.get(timeout), False
        except Closed:
            return None, True


def build_headers(turn: Turn) -> dict[str, str]:
    """What the response says of the turn, as far as that is known by now."""
    report = turn.report
    headers = {
        "X-Claude-Proxy-Mode": turn.mode.name,
        "X-Claude-Proxy-Model": quote(report.model or turn.profile.model, safe=_SAFE_IN_MODELS),
        "Server-Timing": ", ".join(f"{step};dur={took * 1000:.1f}" for step, took in report.timing().items()),
    }
    if report.session:
        headers["X-Claude-Proxy-Session"] = f"{report.session}; {report.origin}"
    if report.plan_warning:
        headers["X-Claude-Proxy-Plan-Warning"] = report.plan_warning
    if report.ignored:
        headers["X-Claude-Proxy-Ignored"] = ", ".join(quote(name, safe="")[:64] for name in report.ignored[:32])
    return headers
