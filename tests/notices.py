"""Requests and what happens to them, as sinks hear of it: made by a real `Activity` on a clock turned by hand."""

from typing import Any

from claude_proxy.core.errors import ChildSilent, ProxyError
from claude_proxy.monitoring.activity import Activity, Kind, Listener

AT = 1_700_000_000.0


class Requests:
    """An `Activity` with these listeners."""

    def __init__(self, *listeners: Listener) -> None:
        self.activity = Activity(lambda: AT, listeners)

    def begin(self, request_id: str = "req_1", session: str = "hdr_chat") -> None:
        """One that runs."""
        self.activity.begin(request_id, owner="o", dialect="chat", mode="agent", model="sonnet")
        self.note("leased", request_id, session=session, model="sonnet", how="INIT")

    def note(self, kind: Kind, request_id: str = "req_1", **data: Any) -> None:
        self.activity.note(request_id, kind, **data)

    def start_tool(self, name: str = "t1", label: str = "make test", request_id: str = "req_1") -> None:
        self.note("tool_started", request_id, tool_id=name, tool="Bash", label=label)

    def end_tool(self, name: str = "t1", seconds: float = 1.5, *, ok: bool = True, request_id: str = "req_1") -> None:
        self.note("tool_ended", request_id, tool_id=name, tool="Bash", label="", seconds=seconds, ok=ok)

    def ask(self, name: str = "perm_1", label: str = "rm -r build", request_id: str = "req_1") -> None:
        self.note("permission_asked", request_id, permission_id=name, tool="Bash", label=label)

    def decide(self, name: str = "perm_1", request_id: str = "req_1") -> None:
        self.note("permission_decided", request_id, permission_id=name, decision="allow")

    def limit(self, status: str = "allowed_warning", **data: Any) -> None:
        given = {"type": "five_hour", "utilization": 0.91, "resets_at": AT + 3600, **data}
        self.note("rate_limit", status=status, **given)

    def end(self, error: ProxyError | None = None, request_id: str = "req_1") -> None:
        self.activity.done(request_id, error)

    def kill_for_silence(self) -> None:
        self.end(ChildSilent("The CLI was silent"))
