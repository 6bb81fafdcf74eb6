"""The Flask application: routes, who may call, and one shape of error for each dialect.

In: a `Service`. Out: a WSGI application. Rule: every answer is JSON or an event stream, whatever goes wrong.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

from .api import health, models
from .api.answering import Answer, Client
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
        ("chat_completions", "/chat/completions", lambda: _serve(ChatCompletions(), service), "POST"),
        ("models", "/models", lambda: _json(models.build_list(service.catalogue)), "GET"),
        (
            "model",
            "/models/<path:name>",
            lambda name: _json(models.build_one(service.catalogue, name)),
            "GET",
        ),
        ("health", "/health", lambda: _health(service, guard), "GET"),
    )
    for name, path, view, method in routes:
        app.add_url_rule(f"/v1{path}", f"v1_{name}", view, methods=[method])
        app.add_url_rule(path, name, view, methods=[method])
    served = sorted({f"{method} /v1{path}" for _, path, _, method in routes})
    app.add_url_rule("/", "service", lambda: _json(health.build_service(served)), methods=["GET"])


def _serve(dialect: Dialect, service: Service) -> Response:
    """One request of any dialect, from the body to the response."""
    g.dialect = dialect
    parsed = dialect.parse(_read_json())
    conversation = parsed.conversation
    turn = Turn(
        conversation,
        service.resolve_model(conversation.model),
        ignored=parsed.ignored,
        strict=service.config.strict,
    )
    turn.id = g.request_id
    g.requested_model = conversation.model or service.config.model
    arrived = time.monotonic()
    if service.config.log_requests or service.config.debug:
        log.info("%s %s %s begins", turn.id, dialect.name, g.requested_model)
    if service.config.debug:
        log.info("%s body %s", turn.id, request.get_data().decode("utf-8", "replace"))
    gone = request.environ.get("waitress.client_disconnected", lambda: False)

    def end(turn: Turn, error: ProxyError | None) -> None:
        service.forget(turn)
        _log_turn(dialect, turn, error, arrived)

    service.submit(turn)
    return Answer(dialect, turn, parsed, Client(gone, service.config.heartbeat_interval), end).respond()


def _read_json() -> bytes:
    """The body. Only application/json: a page may post text/plain without asking first."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(f"Content-Type must be application/json, not {request.mimetype or 'absent'}")
    return request.get_data()


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


def _log_turn(dialect: Dialect, turn: Turn, error: ProxyError | None, arrived: float) -> None:
    """The one line of a request."""
    report = turn.report
    status = error.status if error is not None else 200
    first = report.first - arrived if report.first else -1.0
    log.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "%s %s %s %s %d first=%.3fs total=%.3fs in=%d out=%d%s",
        turn.id,
        dialect.name,
        report.model or turn.profile.model,
        report.how,
        status,
        first,
        time.monotonic() - arrived,
        report.usage.prompt_tokens,
        report.usage.output_tokens,
        f" {error.kind}: {error.message.splitlines()[0][:200]}" if error is not None else "",
    )
