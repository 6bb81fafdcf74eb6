"""`GET /health` and `GET /`: how the proxy is, without asking anyone who could be busy."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from .. import __version__
from ..service import Status


def build_health(status: Status, *, full: bool) -> dict[str, Any]:
    """`full` only for who may know: without the key it is `status` and `timestamp` alone."""
    state = "draining" if status.draining else "ok" if status.cli_problem is None else "degraded"
    brief = {
        "status": state,
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if not full:
        return brief
    return {
        **brief,
        "provider": "claude-code-cli",
        "version": __version__,
        "cli": {"path": status.cli_path, "version": status.cli_version, "problem": status.cli_problem},
        "logged_in": status.logged_in,
        "sessions": status.sessions,
        "active": status.active,
        "queued": status.queued,
        "warm": status.fleet.spare,
        "live": status.fleet.live,
        "parked": status.fleet.parked,
        "recycling": {**asdict(status.recycling), "reason": status.recycling_reason or None},
    }


def build_service(endpoints: list[str]) -> dict[str, Any]:
    """What answers here, for who opens the address."""
    return {"name": "claude_proxy", "version": __version__, "endpoints": endpoints}
