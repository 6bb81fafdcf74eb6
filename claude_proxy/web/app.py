"""The Flask application: who may call, and one shape of error for each dialect. The routes are in `routes`.

In: a `Service`. Out: a WSGI application. Rule: every answer is JSON or an event stream, whatever goes wrong.
"""

import logging

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

from ..core.errors import (
    BadRequest,
    BodyTooLarge,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    UnsupportedMediaType,
)
from ..dialects.dialect import Dialect
from ..service import Service
from ..turns.turn import new_id
from .client import json_response
from .guard import Guard
from .routes import build_table, why_not_served
from .routing import RouteTable

log = logging.getLogger(__name__)


def create_app(service: Service) -> Flask:
    """The application; `service` must be started before the first request and stopped after the last."""
    app = Flask("claude_proxy", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = service.config.max_body_bytes
    app.url_map.strict_slashes = False
    guard = Guard.from_config(service.config)
    table = build_table(service, guard)
    table.register(app)
    _add_hooks(app, guard, table)
    _add_error_handlers(app)
    return app


def _add_hooks(app: Flask, guard: Guard, table: RouteTable) -> None:
    @app.before_request
    def check() -> Response | None:
        g.request_id = new_id()
        # First of all: every refusal below is answered in it.
        g.dialect = table.dialect_for(request)
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin")
        guard.check_host(host)
        guard.check_origin(origin, host)
        if request.method == "OPTIONS":
            requested = request.headers.get("Access-Control-Request-Headers", "")
            return Response(status=204, headers=guard.cors_headers(origin, requested))
        route = table.find(request)
        if route is None or not route.public:
            guard.check_key(request.headers)
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        request_id = g.get("request_id", "")
        response.headers["x-request-id"] = response.headers["request-id"] = request_id
        response.headers.update(g.dialect.headers)
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
    dialect: Dialect = g.dialect
    status, body = dialect.error(error, g.get("request_id", ""))
    response = json_response(body, status)
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
            return NotFound(why_not_served(request.path))
        case 413:
            return BodyTooLarge("The body is larger than the limit")
        case 415:
            return UnsupportedMediaType("Content-Type must be application/json")
        case code if code is not None and code < 500:
            return BadRequest(error.description or "The request is not valid")
    return InternalError("The proxy failed; its log says where")
