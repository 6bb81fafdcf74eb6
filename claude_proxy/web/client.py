"""The client of the request at hand: whose it is, what it sent, whether it is still there, and JSON for it.

Called by every view. All but `Client` read Flask's request, so they work inside one only. Invariant: a body is handed
on only where it says that it is JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Response, request
from werkzeug.datastructures import Headers

from ..config import Config
from ..core.errors import UnsupportedMediaType
from ..core.json_text import clean
from ..dialects.dialect import encode
from ..service import Service
from ..storage.sessions import make_owner
from .guard import presented_key


@dataclass(frozen=True, slots=True)
class Client:
    """The other end of the connection. `is_gone` is waitress's own look at the socket."""

    is_gone: Callable[[], bool]
    heartbeat_interval: float


def client_of(service: Service) -> Client:
    """The client of this request."""
    return Client(is_gone(), service.config.heartbeat_interval)


def is_gone() -> Callable[[], bool]:
    """Waitress's own look at the client's socket; it sees a closed one only with `channel_request_lookahead`."""
    look: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return look


def owner_of(service: Service) -> str:
    """The digest of this caller's key; empty where the server asks for none."""
    return owner_by_key(request.headers, service.config)


def owner_by_key(headers: Headers, config: Config) -> str:
    """The digest of the key in these headers; empty where the server asks for none."""
    return make_owner(presented_key(headers)) if config.api_key else ""


def read_json() -> bytes:
    """The body. Raises UnsupportedMediaType unless it says it is JSON: a web page may post text/plain to any server
    without asking it first, but not application/json."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(f"Content-Type must be application/json, not {request.mimetype or 'absent'}")
    return clean(request.get_data())


def json_response(body: object, status: int = 200) -> Response:
    """This object as the answer."""
    return Response(encode(body), status=status, mimetype="application/json")
