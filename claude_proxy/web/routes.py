"""What answers where: all routes, and why some paths that clients try have none.

In: the service. Out: the table of routes for `app`. Every view belongs to the file of its resource; only those of the
dialects that need nothing else stand here.
"""

from flask import Response, request

from ..dialects.messages.answer import count_tokens
from ..service import Service
from .audience import Audience
from .client import json_response, read_json
from .guard import Guard
from .health import HealthViews
from .models import ModelViews
from .negotiation import Dialects
from .responses import ResponsesViews
from .routing import Route, RouteTable
from .serving import serve
from .sessions import SessionViews
from .usage import UsageViews
from .watch import WatchViews

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


def build_table(service: Service, guard: Guard) -> RouteTable:
    """All routes, and the dialect for paths that are like none of them."""
    dialects, audience = Dialects(service), Audience()
    routes = (
        *TurnViews(service, dialects).routes(),
        *ResponsesViews(service, audience, dialects).routes(),
        *WatchViews(service, audience, dialects).routes(),
        *ModelViews(service.catalogue, dialects).routes(),
        *SessionViews(service, dialects).routes(),
        *UsageViews(service, dialects).routes(),
    )
    return RouteTable((*routes, *HealthViews(service, guard, dialects).routes(routes)), dialects.shared)


class TurnViews:
    """Chat Completions and Messages: each request is a turn, or is counted as one."""

    def __init__(self, service: Service, dialects: Dialects) -> None:
        self._service = service
        self._dialects = dialects

    def routes(self) -> tuple[Route, ...]:
        chat, messages = self._dialects.chat, self._dialects.messages
        return (
            Route("/chat/completions", "POST", self._chat, chat),
            # One proxy of this kind documents a base URL that ends in /chat.
            Route("/chat/chat/completions", "POST", self._chat, chat),
            Route("/messages", "POST", self._messages, messages),
            Route("/messages/count_tokens", "POST", self._count_tokens, messages),
        )

    def _chat(self) -> Response:
        return serve(self._dialects.chat(request.headers), self._service)

    def _messages(self) -> Response:
        return serve(self._dialects.messages(request.headers), self._service)

    def _count_tokens(self) -> Response:
        """Starts no child and waits for no worker."""
        response = json_response({"input_tokens": count_tokens(read_json())})
        response.headers["X-Claude-Proxy-Token-Count"] = "estimate"
        return response


def why_not_served(path: str) -> str:
    """Why a path that some clients try is a 404 here."""
    head = path.removeprefix("/v1").strip("/").split("/", 1)[0]
    return UNSERVED.get(head, f"There is nothing at {path[:80]}")
