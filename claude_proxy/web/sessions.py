"""`/v1/sessions`: what is remembered of conversations, in the shapes that other proxies of this kind use.

In: records. Out: JSON objects; times as ISO 8601 in UTC.
"""

from typing import Any

from flask import Response, request
from werkzeug.datastructures import Headers

from ..core.errors import BadRequest, NotFound
from ..core.session_key import SessionKey
from ..core.times import iso_time
from ..service import Service
from ..storage.sessions import Name, Record, make_id
from .client import json_response, owner_of
from .negotiation import Dialects
from .routing import Route

LONGEST_NAME = 10_000


class SessionViews:
    """The views: a caller sees and forgets the sessions of its own key."""

    def __init__(self, service: Service, dialects: Dialects) -> None:
        self._service = service
        self._dialects = dialects

    def routes(self) -> tuple[Route, ...]:
        one, dialect = "/sessions/<path:session_id>", self._dialects.chat
        return (
            Route("/sessions", "GET", self._list, dialect),
            Route("/sessions", "DELETE", self._delete_all, dialect),
            Route(one, "GET", self._get, dialect),
            Route(one, "DELETE", self._delete, dialect),
        )

    def _list(self) -> Response:
        return json_response(build_list(self._service.sessions.records(owner_of(self._service))))

    def _get(self, session_id: str) -> Response:
        record = self._service.sessions.get(self._key(session_id))
        if record is None:
            raise _not_found(session_id)
        return json_response(build_one(record))

    def _delete(self, session_id: str) -> Response:
        """Under /v1 `{ok, message}`, without it `{ok, invalidated}`, as the proxies of this kind answer."""
        if not self._service.delete_session(self._key(session_id)):
            raise _not_found(session_id)
        if request.path.startswith("/v1/"):
            return json_response({"ok": True, "message": f"Session {session_id} deleted"})
        return json_response({"ok": True, "invalidated": session_id})

    def _key(self, session_id: str) -> SessionKey:
        return SessionKey(owner_of(self._service), session_id)

    def _delete_all(self) -> Response:
        owner = owner_of(self._service)
        records = self._service.sessions.records(owner)
        deleted = sum(self._service.delete_session(SessionKey(owner, record.id)) for record in records)
        return json_response({"ok": True, "message": f"Reset {deleted} sessions"})


def build_list(records: list[Record]) -> dict[str, Any]:
    return {"sessions": [build_one(record) for record in records], "total": len(records)}


def build_one(record: Record) -> dict[str, Any]:
    return {
        "externalId": record.id,
        "claudeSessionId": record.claude_session_id,
        "model": record.model,
        "mode": record.mode,
        "messageCount": record.message_count,
        "createdAt": iso_time(record.created_at, milliseconds=True),
        "lastUsedAt": iso_time(record.last_used_at, milliseconds=True),
    }


def parse_name(headers: Headers, hints: tuple[str | None, ...], owner: str) -> Name:
    """The name a client gave: by header (`hdr_`), else by the first of the dialect's own fields (`usr_`), else none.

    Raises BadRequest for a name that is too long; whatever else it holds, it is a key.
    """
    for header in ("X-Session-Id", "X-Claude-Code-Session-Id"):
        name = headers.get(header)
        if name:
            return Name(owner, make_id("hdr", _checked(name, header)))
    for hint in hints:
        if hint:
            return Name(owner, make_id("usr", _checked(hint, "user")))
    return Name(owner)


def wants_server_history(headers: Headers) -> bool:
    """True for a client that sends only what is new. Raises BadRequest for another value, or without a session's id."""
    value = headers.get("X-Session-History")
    if value is None:
        return False
    if value.lower() != "server":
        raise BadRequest("X-Session-History must be `server`", param="X-Session-History")
    if not headers.get("X-Session-Id"):
        raise BadRequest("X-Session-History needs X-Session-Id", param="X-Session-Id")
    return True


def _not_found(session_id: str) -> NotFound:
    return NotFound(f"There is no session {session_id[:80]!r}")


def _checked(name: str, where: str) -> str:
    if len(name) > LONGEST_NAME:
        raise BadRequest(f"A session's name has at most {LONGEST_NAME} characters", param=where)
    return name
