"""`/v1/requests`: what requests are doing, as JSON and as events.

In: entries and notices of `activity`. Out: JSON objects in the manner of `/v1/sessions`; times as ISO 8601 in UTC.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import BadRequest
from ..core.times import iso_time, iso_time_or_none
from ..dialects.dialect import sse
from ..monitoring.activity import Entry, Notice


def build_list(entries: Sequence[Entry], now: float) -> dict[str, Any]:
    """`now`: Unix seconds, for those that have not ended."""
    return {"requests": [build_one(entry, now) for entry in entries], "total": len(entries)}


def build_one(entry: Entry, now: float) -> dict[str, Any]:
    """`seconds`: since it came, or what it took in all. `tokens`: as its client sees them; `cached` is part of `input`.

    `tools`: labels of those that run now.
    """
    end = now if entry.ended_at is None else entry.ended_at
    first = entry.first_token_at
    return {
        "id": entry.id,
        "state": entry.state,
        "dialect": entry.dialect,
        "mode": entry.mode,
        "model": entry.model,
        "sessionId": entry.session or None,
        "how": entry.how or None,
        "seconds": _round(end - entry.created_at),
        "firstTokenSeconds": None if first is None else _round(first - entry.created_at),
        "tokens": {
            "input": entry.usage.prompt_tokens,
            "cached": entry.usage.cache_read_input_tokens,
            "output": entry.usage.output_tokens,
        },
        "tools": list(entry.tools.values()),
        "status": entry.status,
        "error": entry.error,
        "createdAt": iso_time(entry.created_at, milliseconds=True),
        "startedAt": iso_time_or_none(entry.leased_at, milliseconds=True),
        "firstTokenAt": iso_time_or_none(first, milliseconds=True),
        "endedAt": iso_time_or_none(entry.ended_at, milliseconds=True),
    }


def render_notice(notice: Notice) -> bytes:
    """One event of a request: its kind as the name, `requestId`, `number` and `at` beside its own data."""
    head = {"requestId": notice.request_id, "number": notice.number, "at": iso_time(notice.at, milliseconds=True)}
    return sse({**head, **{_in_camel_case(name): value for name, value in notice.data.items()}}, notice.kind)


def parse_after(query: Mapping[str, str]) -> int:
    """The number of the first event that is wanted: `?after=N` leaves out N and all before it. Raises BadRequest."""
    raw = query.get("after")
    if raw is None:
        return 0
    if not (raw.isascii() and raw.isdigit()):
        raise BadRequest("after must be the number of an event", param="after")
    return int(raw[:18]) + 1


def _round(seconds: float) -> float:
    """To milliseconds; a clock that was set back makes nothing negative."""
    return round(max(0.0, seconds), 3)


def _in_camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
