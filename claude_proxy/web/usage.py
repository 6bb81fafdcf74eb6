"""`/v1/usage`: what the plan has left, as the CLI tells it, and what the caller's own requests have used.

In: a snapshot of the plan's limits, a report of the ledger, the query. Out: a JSON object; times as ISO 8601 in UTC.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from flask import Response, request

from ..core.errors import BadRequest
from ..core.times import iso_time_or_none
from ..monitoring.metrics import CONTENT_TYPE
from ..monitoring.plan import Snapshot, Window
from ..service import Service
from ..storage.ledger import Report, Sums
from .client import json_response, owner_of
from .negotiation import Dialects
from .routing import Route

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class UsageViews:
    """The views of usage, and of the same for Prometheus."""

    def __init__(self, service: Service, dialects: Dialects) -> None:
        self._service = service
        self._dialects = dialects

    def routes(self) -> tuple[Route, ...]:
        dialect = self._dialects.chat
        return Route("/usage", "GET", self._usage, dialect), Route("/metrics", "GET", self._metrics, dialect)

    def _usage(self) -> Response:
        """Waits for the CLI's word on the plan, but not for long, and does without it where it does not come."""
        since, until = parse_range(request.args)
        self._service.plan_question.refresh()
        report = self._service.ledger.report(owner_of(self._service), since, until)
        return json_response(build_usage(self._service.plan_limits.snapshot(), report))

    def _metrics(self) -> Response:
        return Response(self._service.metrics.render(), content_type=CONTENT_TYPE)


def parse_range(arguments: Mapping[str, str]) -> tuple[date | None, date | None]:
    """The days of `?since=YYYY-MM-DD&until=YYYY-MM-DD`, None where there is no such bound. Raises BadRequest."""
    since, until = _parse_day(arguments, "since"), _parse_day(arguments, "until")
    if since is not None and until is not None and since > until:
        raise BadRequest("since is a day after until", param="since")
    return since, until


def build_usage(plan: Snapshot, report: Report) -> dict[str, Any]:
    """`plan` for the whole login, `use` for the owner of the report."""
    return {
        "plan": {
            "subscription": plan.subscription,
            "windows": [_build_window(window) for window in plan.windows],
            "overage": {"status": plan.overage, "inUse": plan.using_overage},
            "source": plan.source,
            "asOf": iso_time_or_none(plan.as_of),
        },
        "use": {
            "total": _build_sums(report.total),
            "days": _build_group("day", report.days),
            "models": _build_group("model", report.models),
            "sessions": _build_group("session", report.sessions),
        },
    }


def _build_window(window: Window) -> dict[str, Any]:
    return {
        "type": window.type,
        "utilization": window.utilization,
        "resetsAt": iso_time_or_none(window.resets_at),
        "status": window.status,
        "refuses": window.refuses,
    }


def _build_group(name: str, group: Mapping[str, Sums]) -> list[dict[str, Any]]:
    return [{name: key, **_build_sums(sums)} for key, sums in group.items()]


def _build_sums(sums: Sums) -> dict[str, Any]:
    usage = sums.usage
    return {
        "requests": sums.requests,
        "failed": sums.failed,
        "inputTokens": usage.input_tokens,
        "cacheReadTokens": usage.cache_read_input_tokens,
        "cacheCreationTokens": usage.cache_creation_input_tokens,
        "outputTokens": usage.output_tokens,
        "thinkingTokens": usage.thinking_tokens,
        "costUsd": None if sums.cost_usd is None else round(sums.cost_usd, 6),
    }


def _parse_day(arguments: Mapping[str, str], name: str) -> date | None:
    text = arguments.get(name)
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise BadRequest(f"{name} must be a day such as 2026-01-31", param=name)
