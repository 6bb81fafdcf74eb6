"""`GET /v1/models` and `/v1/models/{id}`: what the account has, and the names that stand for it, in two dialects."""

import time
from collections.abc import Mapping
from typing import Any

from flask import Response, request

from ..core.errors import BadRequest, ModelNotFound
from ..core.models import Catalogue
from ..core.times import iso_time
from .client import json_response
from .negotiation import Dialects, speaks_messages
from .routing import Route

STARTED = int(time.time())
DEFAULT_LIMIT, LARGEST_LIMIT = 20, 1000


class ModelViews:
    """The views; each answers in the caller's dialect."""

    def __init__(self, catalogue: Catalogue, dialects: Dialects) -> None:
        self._catalogue = catalogue
        self._dialects = dialects

    def routes(self) -> tuple[Route, ...]:
        dialect = self._dialects.shared
        return (
            Route("/models", "GET", self._list, dialect),
            # For clients whose base URL ends in /chat.
            Route("/chat/models", "GET", self._list, dialect),
            Route("/models/<path:name>", "GET", self._get, dialect),
        )

    def _list(self) -> Response:
        if speaks_messages(request.headers):
            return json_response(build_page(self._catalogue, request.args))
        return json_response(build_list(self._catalogue))

    def _get(self, name: str) -> Response:
        build = build_info if speaks_messages(request.headers) else build_one
        return json_response(build(self._catalogue, name))


def build_list(catalogue: Catalogue) -> dict[str, Any]:
    """OpenAI's list object."""
    return {"object": "list", "data": [_build(name) for name in catalogue.listing()]}


def build_one(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """One model; ids may hold `/`. Raises ModelNotFound for a name that would have to be substituted."""
    if not catalogue.knows(name):
        raise ModelNotFound(f"The model {name[:80]!r} does not exist", param="model")
    return _build(name)


def _build(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "anthropic"}


def build_page(catalogue: Catalogue, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of the Messages API's list (https://docs.anthropic.com/en/api/models-list). `query`: `limit` (1 to 1000),
    `after_id`, `before_id`. Raises BadRequest for a wrong limit or cursor."""
    ids = list(catalogue.listing())
    limit = _parse_limit(query.get("limit"))
    start = _position(ids, query.get("after_id"), "after_id", -1) + 1
    end = _position(ids, query.get("before_id"), "before_id", len(ids))
    backwards = "before_id" in query and "after_id" not in query
    window = ids[start:end]
    page = window[-limit:] if backwards else window[:limit]
    return {
        "data": [build_info(catalogue, name) for name in page],
        "has_more": len(window) > len(page),
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }


def build_info(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """One model as the Messages API shows it; when it was made nobody here knows. Raises ModelNotFound."""
    if not catalogue.knows(name):
        raise ModelNotFound(f"The model {name[:80]!r} does not exist", param="model")
    return {
        "type": "model",
        "id": name,
        "display_name": catalogue.listing().get(name, name),
        "created_at": iso_time(STARTED),
        "lifecycle": "active",
    }


def _parse_limit(raw: str | None) -> int:
    if raw is None:
        return DEFAULT_LIMIT
    if not (raw.isascii() and raw.isdigit() and 1 <= int(raw[:9]) <= LARGEST_LIMIT):
        raise BadRequest(f"limit must be a number from 1 to {LARGEST_LIMIT}", param="limit")
    return int(raw)


def _position(ids: list[str], cursor: str | None, param: str, otherwise: int) -> int:
    if cursor is None:
        return otherwise
    if cursor not in ids:
        raise BadRequest(f"There is no model {cursor[:80]!r}", param=param)
    return ids.index(cursor)
