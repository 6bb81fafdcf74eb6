"""PURE: what a failed turn of the CLI means: one error of the tree.

In: the message that told of it, and what was told before. Out: a ProxyError. Told apart by fields, never by words.
"""

from ...core.errors import (
    BadRequest,
    BodyTooLarge,
    ContextTooLong,
    ModelNotFound,
    NotAuthenticated,
    Overloaded,
    PlanLimitReached,
    ProxyError,
    RateLimited,
    UpstreamError,
)
from ..process.locate import build_advice
from ..wire.protocol import ApiRetry, Assistant, RateLimitInfo, Result

TOO_LONG = frozenset(("blocking_limit", "prompt_too_long"))

# The CLI tries these again for a while; another try cannot mend them, or the client must be told when to come back.
FINAL_STATUSES = frozenset((400, 401, 403, 404, 413, 429))


def classify_result(
    result: Result, notice: Assistant | None, rate_limit: RateLimitInfo | None, now: float
) -> ProxyError:
    """The error of a turn that ended badly. notice: what the CLI itself said in it; now: Unix time in seconds."""
    message = result.result or "The Claude Code CLI failed"
    if result.terminal_reason in TOO_LONG:
        return ContextTooLong("The conversation is longer than the model's context: prompt is too long")
    unauthenticated = notice is not None and notice.error == "authentication_failed"
    status = 401 if result.api_error_status is None and unauthenticated else result.api_error_status
    return _classify(status, message, rate_limit, now, wait=None)


def classify_retry(retry: ApiRetry, rate_limit: RateLimitInfo | None, now: float) -> ProxyError:
    """The error of a call that the CLI would make again, for nothing."""
    wait = retry.retry_delay_ms / 1000
    return _classify(retry.error_status, f"The API answered {retry.error_status}", rate_limit, now, wait=wait)


def _classify(
    status: int | None, message: str, rate_limit: RateLimitInfo | None, now: float, wait: float | None
) -> ProxyError:
    if status in (401, 403):
        return NotAuthenticated(f"The Claude Code CLI is not logged in. Run: {build_advice('claude')}")
    if status == 429:
        return _limit(rate_limit, now, wait)
    known, own_message = _BY_STATUS.get(status or 0, (UpstreamError, None))
    return known(own_message or message)


def _limit(info: RateLimitInfo | None, now: float, wait: float | None) -> ProxyError:
    if info is not None and info.status == "rejected" and info.resets_at is not None:
        # A plain 429 is reported as rejected too, but only a plan's window says when it is reset.
        left = max(1.0, info.resets_at - now)
        return PlanLimitReached("The plan's limit is reached. Requests are refused until it resets", retry_after=left)
    return RateLimited("The API takes no more requests at the moment", retry_after=max(1.0, wait or 0.0))


_OVERLOADED = "The API is overloaded; try again in a moment"
_BY_STATUS: dict[int, tuple[type[ProxyError], str | None]] = {
    400: (BadRequest, None),
    404: (ModelNotFound, "The model does not exist, or this account has no access to it"),
    413: (BodyTooLarge, "The conversation is larger than the API takes (32 MB)"),
    503: (Overloaded, _OVERLOADED),
    529: (Overloaded, _OVERLOADED),
}
