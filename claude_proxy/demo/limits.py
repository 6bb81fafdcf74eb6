"""The headers by which the API tells a subscriber how much of the plan is used.

In goes what the prompt asked for, out come headers. Claude Code makes its `rate_limit_event` from them,
when it is logged in by token and only then. It takes a warning not from the status but from a
`surpassed-threshold`, hence that header.
"""

from .commands import Commands

_SEVEN_DAYS = 7 * 86_400
_USED = {"allowed": "0.2", "allowed_warning": "0.92", "rejected": "1"}


def build_limit_headers(commands: Commands, now: float) -> dict[str, str]:
    """Headers of a plan limit, none when the prompt did not ask.

    now: seconds since the epoch; resets are such seconds too. Utilisations are shares of 1.
    """
    if commands.limit is None:
        return {}
    prefix = "anthropic-ratelimit-unified"
    reset = str(int(now) + commands.reset)
    headers = {
        f"{prefix}-status": commands.limit,
        f"{prefix}-reset": reset,
        f"{prefix}-representative-claim": "five_hour",
        f"{prefix}-5h-status": commands.limit,
        f"{prefix}-5h-reset": reset,
        f"{prefix}-5h-utilization": _USED[commands.limit],
        f"{prefix}-7d-status": "allowed",
        f"{prefix}-7d-reset": str(int(now) + _SEVEN_DAYS // 2),
        f"{prefix}-7d-utilization": "0.1",
        f"{prefix}-fallback-percentage": "0.5",
        f"{prefix}-overage-status": "rejected",
        f"{prefix}-overage-disabled-reason": "org_level_disabled",
    }
    if commands.limit == "allowed_warning":
        headers[f"{prefix}-5h-surpassed-threshold"] = "0.9"
    return headers
