"""The routes of who watches: running requests, which can be stopped, and permission requests, which can be decided.

In: a `Service`, Flask's request. Out: responses. Everybody sees and stops only what was sent with the same API key.
"""

import time

from flask import Response, request

from ..core.errors import AlreadyEnded, NotFound
from ..monitoring.activity import Entry
from ..service import Service
from . import permissions, requests
from .audience import Audience, watch
from .client import client_of, json_response, owner_of, read_json
from .negotiation import Dialects
from .routing import Route


class WatchViews:
    """The views. `audience`: all that watch anything."""

    def __init__(self, service: Service, audience: Audience, dialects: Dialects) -> None:
        self._service = service
        self._audience = audience
        self._dialects = dialects

    def routes(self) -> tuple[Route, ...]:
        one, dialect = "/requests/<request_id>", self._dialects.chat
        return (
            Route("/requests", "GET", self._list_requests, dialect),
            Route(one, "GET", self._get_request, dialect),
            Route(one, "DELETE", self._interrupt, dialect),
            Route(f"{one}/events", "GET", self._watch_request, dialect),
            Route("/permissions", "GET", self._list_permissions, dialect),
            Route("/permissions/events", "GET", self._watch_permissions, dialect),
            Route("/permissions/<permission_id>", "POST", self._decide, dialect),
        )

    def _list_requests(self) -> Response:
        return json_response(requests.build_list(self._service.activity.entries(owner_of(self._service)), time.time()))

    def _get_request(self, request_id: str) -> Response:
        return json_response(requests.build_one(self._find(request_id), time.time()))

    def _find(self, request_id: str) -> Entry:
        entry = self._service.activity.get(owner_of(self._service), request_id)
        if entry is None:
            raise NotFound(f"There is no request {request_id[:80]!r}, or not any more")
        return entry

    def _interrupt(self, request_id: str) -> Response:
        entry = self._find(request_id)
        if not self._service.interrupt(entry.owner, entry.id):
            raise AlreadyEnded(f"The request {entry.id} has ended already")
        return json_response({"ok": True, "message": f"Request {entry.id} interrupted"})

    def _watch_request(self, request_id: str) -> Response:
        """From its first event, or from the one after `?after=N`, to `done`."""
        entry = self._find(request_id)
        number = requests.parse_after(request.args)

        def poll(timeout: float) -> tuple[bytes | None, bool]:
            nonlocal number
            notices, ended = self._service.activity.wait(entry.id, number, timeout)
            number = notices[-1].number + 1 if notices else number
            return b"".join(map(requests.render_notice, notices)) or None, ended

        self._audience.enter()
        return self._audience.respond(watch(poll, client_of(self._service)))

    def _list_permissions(self) -> Response:
        return json_response(permissions.build_list(self._service.permissions.pending(owner_of(self._service))))

    def _watch_permissions(self) -> Response:
        """What waits now, then what happens, until the client goes or the proxy ends."""
        owner = owner_of(self._service)
        registry = self._service.permissions
        number = -1

        def poll(timeout: float) -> tuple[bytes | None, bool]:
            nonlocal number
            if number < 0:
                pending, number = registry.snapshot(owner)
                return permissions.render_snapshot(pending), False
            events, closed = registry.wait(owner, number, timeout)
            number = events[-1].number + 1 if events else number
            return b"".join(map(permissions.render_event, events)) or None, closed

        self._audience.enter()
        return self._audience.respond(watch(poll, client_of(self._service)))

    def _decide(self, permission_id: str) -> Response:
        choice, message = permissions.parse_decision(read_json())
        pending = self._service.permissions.decide(owner_of(self._service), permission_id, choice, message)
        return json_response(permissions.build_decided(pending, choice))
