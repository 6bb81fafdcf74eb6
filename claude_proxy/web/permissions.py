"""`/v1/permissions`: what the CLI's agent asks, and what somebody decides.

In: questions and their events; the body of a decision. Out: JSON objects in the manner of `/v1/sessions`; a decision.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from ..core.times import iso_time
from ..dialects.dialect import decode, sse
from ..monitoring.permissions import Choice, Pending, PermissionEvent

LONGEST_MESSAGE = 10_000


class DecisionRequest(msgspec.Struct, frozen=True):
    """The body of a decision. message: what the model is told of a denial."""

    decision: Choice
    message: Annotated[str, msgspec.Meta(max_length=LONGEST_MESSAGE)] | None = None


def parse_decision(body: bytes) -> tuple[Choice, str]:
    """The choice and its message, empty without one. Raises BadRequest with the path of what is wrong."""
    request = decode(body, DecisionRequest)
    return request.decision, request.message or ""


def build_list(pending: Sequence[Pending]) -> dict[str, Any]:
    return {"permissions": [build_one(one) for one in pending], "total": len(pending)}


def build_one(pending: Pending) -> dict[str, Any]:
    """`input` is null once it is decided."""
    return {
        "id": pending.id,
        "requestId": pending.request_id,
        "sessionId": pending.session.id,
        "tool": pending.tool,
        "input": pending.input,
        "label": pending.label,
        "createdAt": iso_time(pending.created_at, milliseconds=True),
        "expiresAt": iso_time(pending.expires_at, milliseconds=True),
    }


def build_decided(pending: Pending, choice: Choice) -> dict[str, Any]:
    """The answer to a decision."""
    return {"ok": True, "id": pending.id, "decision": choice, "message": f"{pending.tool}: {choice}"}


def render_snapshot(pending: Sequence[Pending]) -> bytes:
    """The first event of a stream: everything that waits."""
    return sse(build_list(pending), "snapshot")


def render_event(event: PermissionEvent) -> bytes:
    """`asked`, or `decided` with `decision`: `allowed`, `denied`, `expired` or `withdrawn`."""
    if event.kind == "asked":
        return sse(build_one(event.pending), "asked")
    return sse({**build_one(event.pending), "decision": event.kind}, "decided")
