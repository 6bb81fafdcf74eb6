"""`GET /health` and `GET /`: how the proxy is, without asking anyone who could be busy."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flask import Response, request

from .. import __version__
from ..core.times import iso_time
from ..service import Service, Status
from .client import json_response
from .guard import Guard
from .negotiation import Dialects
from .routing import Route


class HealthViews:
    """The views. `guard` decides how much of `/health` a caller may see."""

    def __init__(self, service: Service, guard: Guard, dialects: Dialects) -> None:
        self._service = service
        self._guard = guard
        self._dialects = dialects

    def routes(self, others: Sequence[Route]) -> tuple[Route, ...]:
        """`others`: the routes that `GET /` lists beside `/health`."""
        health = Route("/health", "GET", self._health, self._dialects.chat, public=True)
        listed = build_service(sorted({f"{route.method} {route.paths[0]}" for route in (*others, health)}))
        root = Route("/", "GET", lambda: json_response(listed), self._dialects.chat, prefixes=("",))
        return health, root

    def _health(self) -> Response:
        best = request.accept_mimetypes.best_match(["application/json", "text/plain"])
        if best == "text/plain":
            return Response("ok\n", mimetype="text/plain")
        return json_response(build_health(self._service.status(), full=self._guard.has_key(request.headers)))


def build_health(status: Status, *, full: bool) -> dict[str, Any]:
    """`full` only for who may know: without the key it is `status` and `timestamp` alone."""
    state = "draining" if status.draining else "ok" if status.cli_problem is None else "degraded"
    brief = {"status": state, "timestamp": iso_time(time.time())}
    if not full:
        return brief
    return {
        **brief,
        "provider": "claude-code-cli",
        "version": __version__,
        "cli": {"path": status.cli_path, "version": status.cli_version, "problem": status.cli_problem},
        "logged_in": status.logged_in,
        "sessions": status.sessions,
        "active": status.active,
        "queued": status.queued,
        "warm": status.fleet.spare,
        "live": status.fleet.live,
        "parked": status.fleet.parked,
        "recycling": {**asdict(status.recycling), "reason": status.recycling_reason or None},
    }


def build_service(endpoints: list[str]) -> dict[str, Any]:
    """What answers here, for who opens the address."""
    return {"name": "claude_proxy", "version": __version__, "endpoints": endpoints}
