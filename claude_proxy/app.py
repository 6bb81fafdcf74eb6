"""The Flask application: routes, who may call, and one shape of error for each dialect.

In: a `Service`. Out: a WSGI application. Rule: every answer is JSON or an event stream, whatever goes wrong.
"""

import logging
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

from .api import health, models, sessions
from .api.chat_completions import ChatCompletions
from .api.dialect import Dialect, encode
from .errors import (
    BadRequest,
    BodyTooLarge,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    UnsupportedMediaType,
)
from .guard import Guard
from .service import Service
from .serving import owner_of, serve
from .sessions import Record
from .turns import Turn

log = logging.getLogger(__name__)

# Paths that clients try and that are not served: why.
UNSERVED = {
    "completions": "Legacy completions are not served: an agent's model is too slow for a call per keystroke",
    "embeddings": "Claude Code has no embedding model",
    "rerank": "Claude Code has no reranking model",
    "audio": "Claude Code neither hears nor speaks",
    "images": "Claude Code makes no images",
    "moderations": "Claude Code has no moderation model",
}


def create_app(service: Service) -> Flask:
    """The application; `service` must be started before the first request and stopped after the last."""
    app = Flask("claude_proxy", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.config.max_body_bytes
    app.url_map.strict_slashes = False
    guard = Guard.from_config(service.config)
    _add_routes(app, service, guard)
    _add_hooks(app, guard)
    _add_error_handlers(app)
    return app


def _add_routes(app: Flask, service: Service, guard: Guard) -> None:
    routes: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
        ("chat_completions", "/chat/completions", lambda: serve(ChatCompletions(), service), "POST"),
        ("models", "/models", lambda: _json(models.build_list(service.catalogue)), "GET"),
        ("model", "/models/<path:name>", lambda name: _json(models.build_one(service.catalogue, name)), "GET"),
        ("sessions", "/sessions", lambda: _json(sessions.build_list(_records(service))), "GET"),
        ("delete_sessions", "/sessions", lambda: _delete_sessions(service), "DELETE"),
        ("session", "/sessions/<path:session_id>", lambda session_id: _session(service, session_id), "GET"),
        (
            "delete_session",
            "/sessions/<path:session_id>",
            lambda session_id: _delete_session(service, session_id),
            "DELETE",
        ),
        ("health", "/health", lambda: _health(service, guard), "GET"),
    )
    for name, path, view, method in routes:
        app.add_url_rule(f"/v1{path}", f"v1_{name}", view, methods=[method])
        app.add_url_rule(path, name, view, methods=[method])
    served = sorted({f"{method} /v1{path}" for _, path, _, method in routes})
    app.add_url_rule("/", "service", lambda: _json(health.build_service(served)), methods=["GET"])


def _records(service: Service) -> list[Record]:
    return service.sessions.records(owner_of(service))


def _session(service: Service, session_id: str) -> Response:
    record = service.sessions.get(owner_of(service), session_id)
    if record is None:
        raise NotFound(f"There is no session {session_id[:80]!r}")
    return _json(sessions.build_one(record))


def _delete_session(service: Service, session_id: str) -> Response:
    """Under /v1 `{ok, message}`, without it `{ok, invalidated}`, as the proxies of this kind answer."""
    if not service.delete_session(owner_of(service), session_id):
        raise NotFound(f"There is no session {session_id[:80]!r}")
    if request.path.startswith("/v1/"):
        return _json({"ok": True, "message": f"Session {session_id} deleted"})
    return _json({"ok": True, "invalidated": session_id})


def _delete_sessions(service: Service) -> Response:
    owner = owner_of(service)
    deleted = sum(service.delete_session(owner, record.id) for record in service.sessions.records(owner))
    return _json({"ok": True, "message": f"Reset {deleted} sessions"})


def _health(service: Service, guard: Guard) -> Response:
    best = request.accept_mimetypes.best_match(["application/json", "text/plain"])
    if best == "text/plain":
        return Response("ok\n", mimetype="text/plain")
    return _json(health.build_health(service.status(), full=guard.has_key(request.headers)))


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(encode(body), status=status, mimetype="application/json")


def _add_hooks(app: Flask, guard: Guard) -> None:
    @app.before_request
    def check() -> Response | None:
        g.request_id = Turn.new_id()
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        guard.check_host(host)
        guard.check_origin(origin, host)
        if request.method == "OPTIONS":
            requested = request.headers.get("Access-Control-Request-Headers", "")
            return Response(status=204, headers=guard.cors_headers(origin, requested))
        if request.endpoint not in ("health", "v1_health"):
            guard.check_key(request.headers)
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        request_id = g.get("request_id", "")
        response.headers["x-request-id"] = response.headers["request-id"] = request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.update(guard.cors_headers(request.headers.get("Origin")))
        return response


def _add_error_handlers(app: Flask) -> None:
    @app.errorhandler(ProxyError)
    def proxy_error(error: ProxyError) -> Response:
        return _error_response(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return _error_response(_from_http(error))

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        log.exception("%s failed for a reason of our own", g.get("request_id", "A request"))
        return _error_response(InternalError("The proxy failed; its log says where"))


def _error_response(error: ProxyError) -> Response:
    dialect: Dialect = g.get("dialect") or ChatCompletions()
    status, body = dialect.error(error, g.get("request_id", ""))
    response = _json(body, status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if error.should_retry is not None:
        response.headers["x-should-retry"] = "true" if error.should_retry else "false"
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = error.allow
    return response


def _from_http(error: HTTPException) -> ProxyError:
    """Flask's own refusals, in our tree."""
    if isinstance(error, WerkzeugMethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return MethodNotAllowed(f"{request.method} is not allowed here; allowed: {allowed}", allow=allowed)
    match error.code:
        case 404:
            return NotFound(_why_not_served(request.path))
        case 413:
            return BodyTooLarge("The body is larger than the limit")
        case 415:
            return UnsupportedMediaType("Content-Type must be application/json")
        case code if code is not None and code < 500:
            return BadRequest(error.description or "The request is not valid")
    return InternalError("The proxy failed; its log says where")


def _why_not_served(path: str) -> str:
    head = path.removeprefix("/v1").strip("/").split("/", 1)[0]
    return UNSERVED.get(head, f"There is nothing at {path[:80]}")
