"""`/v1/sessions`: what is remembered of conversations, in the shapes that other proxies of this kind use.

In: records. Out: JSON objects; times as ISO 8601 in UTC.
"""

from datetime import UTC, datetime
from typing import Any

from werkzeug.datastructures import Headers

from ..core.errors import BadRequest
from ..storage.sessions import Name, Record, make_id

LONGEST_NAME = 10_000


def build_list(records: list[Record]) -> dict[str, Any]:
    return {"sessions": [build_one(record) for record in records], "total": len(records)}


def build_one(record: Record) -> dict[str, Any]:
    return {
        "externalId": record.id,
        "claudeSessionId": record.claude_session_id,
        "model": record.model,
        "mode": record.mode,
        "messageCount": record.message_count,
        "createdAt": build_time(record.created_at),
        "lastUsedAt": build_time(record.last_used_at),
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


def _checked(name: str, where: str) -> str:
    if len(name) > LONGEST_NAME:
        raise BadRequest(f"A session's name has at most {LONGEST_NAME} characters", param=where)
    return name


def build_time(seconds: float) -> str:
    """Unix seconds as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
