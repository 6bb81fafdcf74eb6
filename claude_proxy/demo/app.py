"""The routes, as a Flask application: HTTP in, HTTP out; `server` runs it.

Invariant: every answer is JSON or an event stream and carries a `request-id`, and errors have the API's shape on
every route.
"""

import secrets
import threading
from typing import Any, Iterable, Iterator, Mapping

from flask import Flask, Response, g, request
from waitress.channel import ClientDisconnected
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from .cache import PromptCache
from .errors import ApiError
from .pacing import Abandoned, Waiter
from .replies import Reply, reply_to_count, reply_to_messages, reply_with_error, reply_with_json

MAX_BODY_BYTES = 32 * 1024 * 1024

MODELS: Mapping[str, str] = {
    "claude-fable-5-2": "Claude Fable 5.2",
    "claude-opus-5-5": "Claude Opus 5.5",
    "claude-sonnet-5-5": "Claude Sonnet 5.5",
    "claude-haiku-5-5": "Claude Haiku 5.5",
    "claude-opus-4-5-20251101": "Claude Opus 4.5",
    "claude-haiku-4-5-20251001": "Claude Haiku 4.5",
    "claude-sonnet-4-20250514": "Claude Sonnet 4",
}


def create_app(stopping: threading.Event) -> Flask:
    """The application. stopping: ends all waiting when it is set."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.strict_slashes = False
    app.before_request(_admit)
    app.after_request(_finish)
    app.register_error_handler(ApiError, lambda error: _send(reply_with_error(error, g.request_id)))
    app.register_error_handler(HTTPException, _send_http_error)
    _add_routes(app, PromptCache(), stopping)
    return app


def _add_routes(app: Flask, cache: PromptCache, stopping: threading.Event) -> None:
    @app.route("/", methods=["HEAD"], provide_automatic_options=False)
    def is_alive() -> Response:
        return Response(status=200)

    @app.post("/v1/messages")
    def answer_messages() -> Response:
        waiter = Waiter(stopping, request.environ.get("waitress.client_disconnected", lambda: False))
        return _send(reply_to_messages(request.get_data(), cache, waiter, g.request_id))

    @app.post("/v1/messages/count_tokens")
    def count_tokens() -> Response:
        return _send(reply_to_count(request.get_data()))

    @app.get("/v1/models")
    def list_models() -> Response:
        models = [_build_model(identity) for identity in MODELS]
        page = {"has_more": False, "first_id": models[0]["id"], "last_id": models[-1]["id"]}
        return _send(reply_with_json(200, {"data": models, **page}))

    @app.get("/v1/models/<path:identity>")
    def get_model(identity: str) -> Response:
        if not identity.startswith("claude-"):
            raise ApiError(404, f"model: {identity}")
        return _send(reply_with_json(200, _build_model(identity)))


def _build_model(identity: str) -> dict[str, Any]:
    name = MODELS.get(identity, identity)
    return {
        "type": "model",
        "id": identity,
        "display_name": name,
        "created_at": "2026-01-02T00:00:00Z",
        "lifecycle": "active",
    }


def has_key(headers: Headers) -> bool:
    """True where a request carries a key or a token; any will do."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    keys = (token if scheme.lower() == "bearer" else "", headers.get("x-api-key", ""))
    return any(key.strip() for key in keys)


def make_request_id() -> str:
    """An id in the API's manner."""
    return f"req_01{secrets.token_hex(11)}"


def _admit() -> None:
    """Give the request its id and look for a key. Raises ApiError 401."""
    g.request_id = make_request_id()
    if request.path != "/" and not has_key(request.headers):
        raise ApiError(401, "x-api-key header is required")


def _send(reply: Reply) -> Response:
    return Response(reply.body, reply.status, dict(reply.headers))


def _send_http_error(error: HTTPException) -> Response:
    """Flask's own errors: no such route, wrong method, body too large."""
    status = error.code or 500
    messages = {
        404: "Not found",
        413: f"Request exceeds the maximum size of {MAX_BODY_BYTES} bytes",
    }
    return _send(reply_with_error(ApiError(status, messages.get(status, str(error.description))), g.request_id))


def _finish(response: Response) -> Response:
    """Put the id on a response, and let a cut in its body reach waitress."""
    response.headers["request-id"] = g.request_id
    response.response = _cut(response.response)
    return response


def _cut(chunks: Iterable[Any]) -> Iterator[Any]:
    """The same chunks; Abandoned becomes the one exception on which waitress closes the connection without a last chunk
    and without a traceback."""
    try:
        yield from chunks
    except Abandoned as cause:
        raise ClientDisconnected from cause
