"""What answers where: one table of routes, and the views that are too small for a file of their own.

In: a `Service`. Out: rules of the Flask application; which dialect a request speaks before anyone has read its body.
Every route is there with and without `/v1`.
"""

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

from ..core.errors import NotFound
from ..core.session_key import SessionKey
from ..dialects.chat.answer import ChatCompletions
from ..dialects.dialect import Dialect, encode
from ..dialects.messages.answer import DEFAULT_VERSION, Messages, Signatures, count_tokens
from ..monitoring.metrics import CONTENT_TYPE
from ..service import Service
from ..storage.sessions import Record
from . import health, models, sessions, usage
from .audience import Audience
from .guard import Guard
from .responses import CursorChat, ResponsesViews
from .serving import owner_of, read_json, serve
from .watch import WatchViews

View = Callable[..., Response]

# Paths that clients try and that are not served: why.
UNSERVED = {
    "completions": "Legacy completions are not served: an agent's model is too slow for a call per keystroke",
    "embeddings": "Claude Code has no embedding model",
    "rerank": "Claude Code has no reranking model",
    "audio": "Claude Code neither hears nor speaks",
    "images": "Claude Code makes no images",
    "moderations": "Claude Code has no moderation model",
    "messages": "Of the Messages API only /v1/messages and /v1/messages/count_tokens are served; there are no batches",
    "files": "There is no file store: send files inside the request",
}
LONGEST_BETA = 1000


def add_routes(app: Flask, service: Service, guard: Guard) -> None:
    signatures = Signatures()
    audience = Audience()
    routes: tuple[tuple[str, str, View, str], ...] = (
        ("chat_completions", "/chat/completions", lambda: serve(CursorChat(), service), "POST"),
        # One proxy of this kind documents a base URL that ends in /chat.
        ("chat_chat_completions", "/chat/chat/completions", lambda: serve(CursorChat(), service), "POST"),
        ("messages", "/messages", lambda: serve(Messages(signatures), service), "POST"),
        ("count_tokens", "/messages/count_tokens", _count_tokens, "POST"),
        *ResponsesViews(service, audience).routes(),
        *WatchViews(service, audience).routes(),
        ("models", "/models", lambda: _models(service), "GET"),
        ("chat_models", "/chat/models", lambda: _models(service), "GET"),
        ("model", "/models/<path:name>", lambda name: _model(service, name), "GET"),
        ("sessions", "/sessions", lambda: json_response(sessions.build_list(_records(service))), "GET"),
        ("delete_sessions", "/sessions", lambda: _delete_sessions(service), "DELETE"),
        ("session", "/sessions/<path:session_id>", lambda session_id: _session(service, session_id), "GET"),
        (
            "delete_session",
            "/sessions/<path:session_id>",
            lambda session_id: _delete_session(service, session_id),
            "DELETE",
        ),
        ("usage", "/usage", lambda: _usage(service), "GET"),
        ("metrics", "/metrics", lambda: Response(service.metrics.render(), content_type=CONTENT_TYPE), "GET"),
        ("health", "/health", lambda: _health(service, guard), "GET"),
    )
    for name, path, view, method in routes:
        app.add_url_rule(f"/v1{path}", f"v1_{name}", view, methods=[method])
        app.add_url_rule(path, name, view, methods=[method])
    served = sorted({f"{method} /v1{path}" for _, path, _, method in routes})
    app.add_url_rule("/", "service", lambda: json_response(health.build_service(served)), methods=["GET"])


def speaks_messages() -> bool:
    """True for a client of the Messages API: by the path, or by headers that only its clients send."""
    path = request.path.removeprefix("/v1")
    return path == "/messages" or path.startswith("/messages/") or "anthropic-version" in request.headers


def native_dialect() -> Dialect:
    """The dialect of errors that are told before a dialect has read the body."""
    return Messages(Signatures()) if speaks_messages() or _asks_for_models() else ChatCompletions()


def messages_headers() -> dict[str, str]:
    """What an answer to a client of the Messages API repeats of its request; nothing for others."""
    if not speaks_messages():
        return {}
    headers = {"anthropic-version": request.headers.get("anthropic-version", DEFAULT_VERSION)}
    betas = ",".join(request.headers.getlist("anthropic-beta"))[:LONGEST_BETA]
    return {**headers, "anthropic-beta": betas} if betas else headers


def _asks_for_models() -> bool:
    """`/v1/models` serves two dialects; a client that shows its key as `x-api-key` is one of the Messages API."""
    return request.endpoint in _MODEL_ENDPOINTS and "x-api-key" in request.headers


_MODEL_ENDPOINTS = frozenset(f"{prefix}{name}" for prefix in ("", "v1_") for name in ("models", "chat_models", "model"))


def _models(service: Service) -> Response:
    if speaks_messages() or _asks_for_models():
        return json_response(models.build_page(service.catalogue, request.args))
    return json_response(models.build_list(service.catalogue))


def _model(service: Service, name: str) -> Response:
    build = models.build_info if speaks_messages() or _asks_for_models() else models.build_one
    return json_response(build(service.catalogue, name))


def _count_tokens() -> Response:
    """Starts no child and waits for no worker."""
    response = json_response({"input_tokens": count_tokens(read_json())})
    response.headers["X-Claude-Proxy-Token-Count"] = "estimate"
    return response


def _records(service: Service) -> list[Record]:
    return service.sessions.records(owner_of(service))


def _session(service: Service, session_id: str) -> Response:
    record = service.sessions.get(SessionKey(owner_of(service), session_id))
    if record is None:
        raise NotFound(f"There is no session {session_id[:80]!r}")
    return json_response(sessions.build_one(record))


def _delete_session(service: Service, session_id: str) -> Response:
    """Under /v1 `{ok, message}`, without it `{ok, invalidated}`, as the proxies of this kind answer."""
    if not service.delete_session(SessionKey(owner_of(service), session_id)):
        raise NotFound(f"There is no session {session_id[:80]!r}")
    if request.path.startswith("/v1/"):
        return json_response({"ok": True, "message": f"Session {session_id} deleted"})
    return json_response({"ok": True, "invalidated": session_id})


def _delete_sessions(service: Service) -> Response:
    owner = owner_of(service)
    deleted = sum(service.delete_session(SessionKey(owner, record.id)) for record in service.sessions.records(owner))
    return json_response({"ok": True, "message": f"Reset {deleted} sessions"})


def _usage(service: Service) -> Response:
    """Waits for the CLI's word on the plan, but not for long, and does without it where it does not come."""
    since, until = usage.parse_range(request.args)
    service.plan_question.refresh()
    report = service.ledger.report(owner_of(service), since, until)
    return json_response(usage.build_usage(service.plan_limits.snapshot(), report))


def _health(service: Service, guard: Guard) -> Response:
    best = request.accept_mimetypes.best_match(["application/json", "text/plain"])
    if best == "text/plain":
        return Response("ok\n", mimetype="text/plain")
    return json_response(health.build_health(service.status(), full=guard.has_key(request.headers)))


def json_response(body: dict[str, Any], status: int = 200) -> Response:
    return Response(encode(body), status=status, mimetype="application/json")


def why_not_served(path: str) -> str:
    """Why a path that some clients try is a 404 here."""
    head = path.removeprefix("/v1").strip("/").split("/", 1)[0]
    return UNSERVED.get(head, f"There is nothing at {path[:80]}")
