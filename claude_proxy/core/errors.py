"""Every failure a client can be told of: one tree, each class with its HTTP status and its kind.

    ProxyError
    ├── BadRequest                400 invalid_request        (param: JSON path)
    │   ├── ContextTooLong        400 context_length_exceeded
    │   ├── PreviousResponseNotFound  400 previous_response_not_found
    │   ├── MethodNotAllowed      405 method_not_allowed
    │   ├── BodyTooLarge          413 request_too_large
    │   └── UnsupportedMediaType  415 unsupported_media_type
    ├── Unauthorized              401 unauthorized
    ├── Forbidden                 403 forbidden
    ├── Interrupted               409 interrupted            (by whoever may stop it: DELETE /v1/requests/{id})
    ├── AlreadyDecided            409 already_decided
    ├── AlreadyEnded              409 already_ended
    ├── NotFound                  404 not_found
    │   └── ModelNotFound         404 model_not_found
    ├── QueueFull                 429 queue_full
    ├── PlanLimitReached          429 plan_limit
    ├── RateLimited               429 rate_limited
    ├── CliUnavailable            503 cli_unavailable
    ├── NotAuthenticated          503 not_authenticated
    ├── Overloaded                503 overloaded             (Anthropic dialect: 529)
    ├── ShuttingDown              503 shutting_down
    ├── UpstreamError             502 upstream_error
    │   ├── ChildDied             502 upstream_error
    │   └── RecycleRefused        502 upstream_error         (the turn is run again in another child)
    ├── ChildSilent               504 timeout
    │   └── RequestTimedOut       504 timeout
    ├── ClientGone                499 client_gone            (nobody is left to tell)
    └── InternalError             500 internal_error         (our own bug)

A dialect maps `kind` to its own words; nothing here knows a dialect. Causes are told apart by fields of the CLI's
messages (`api_error_status`, `terminal_reason`, `error`), never by the words of a text.
"""

from typing import ClassVar


class ProxyError(Exception):
    """A failure with a status. `message` is shown to the client; it holds no prompt, answer, key or path of a secret.

    param: JSON path into the request body, such as `messages[2].content`, or None.
    retry_after: seconds after which a new try makes sense, or None.
    should_retry: what `x-should-retry` tells the official SDKs; None leaves it to their own rules by status.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal_error"
    should_retry: bool | None = None
    # A child whose turn failed like this cannot be trusted to stop, or to forget the turn.
    spoils_child: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def no_retry(self) -> "ProxyError":
        """Mark that the CLI had begun: running the turn again would repeat its cost and its side effects."""
        self.should_retry = False
        return self


class BadRequest(ProxyError):
    status = 400
    kind = "invalid_request"


class ContextTooLong(BadRequest):
    kind = "context_length_exceeded"


class PreviousResponseNotFound(BadRequest):
    """What a Responses request continues is not kept, not any more, or not whole."""

    kind = "previous_response_not_found"


class MethodNotAllowed(BadRequest):
    status = 405
    kind = "method_not_allowed"

    def __init__(self, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class BodyTooLarge(BadRequest):
    status = 413
    kind = "request_too_large"


class UnsupportedMediaType(BadRequest):
    status = 415
    kind = "unsupported_media_type"


class Unauthorized(ProxyError):
    status = 401
    kind = "unauthorized"


class Forbidden(ProxyError):
    status = 403
    kind = "forbidden"


class Interrupted(ProxyError):
    """Somebody stopped the request, through another one."""

    status = 409
    kind = "interrupted"
    should_retry = False


class AlreadyDecided(ProxyError):
    """A permission request that somebody has answered, or that has run out."""

    status = 409
    kind = "already_decided"
    should_retry = False


class AlreadyEnded(ProxyError):
    """What was to be stopped has stopped by itself."""

    status = 409
    kind = "already_ended"
    should_retry = False


class NotFound(ProxyError):
    status = 404
    kind = "not_found"


class ModelNotFound(NotFound):
    kind = "model_not_found"


class QueueFull(ProxyError):
    status = 429
    kind = "queue_full"


class PlanLimitReached(ProxyError):
    """The plan's window is used up; `retry_after` may be hours, so the SDKs are told not to sleep on it."""

    status = 429
    kind = "plan_limit"
    should_retry = False


class RateLimited(ProxyError):
    status = 429
    kind = "rate_limited"


class CliUnavailable(ProxyError):
    """No usable CLI on this machine; the message names the command that mends it."""

    status = 503
    kind = "cli_unavailable"
    should_retry = False


class NotAuthenticated(ProxyError):
    """The CLI has no login, or the API refuses it; the message names the command that mends it."""

    status = 503
    kind = "not_authenticated"
    should_retry = False


class Overloaded(ProxyError):
    status = 503
    kind = "overloaded"


class ShuttingDown(ProxyError):
    status = 503
    kind = "shutting_down"


class UpstreamError(ProxyError):
    """The CLI or the API behind it failed, or sent invalid output."""

    status = 502
    kind = "upstream_error"


class ChildDied(UpstreamError):
    """The child's stdout ended. `returncode` is negative for a signal, None where it is not known yet."""

    spoils_child = True

    def __init__(self, message: str, *, returncode: int | None = None) -> None:
        super().__init__(message)
        self.returncode = returncode


class RecycleRefused(UpstreamError):
    """A child that has been used could not be made to forget what it holds, or to become what was wanted."""

    spoils_child = True


class ChildSilent(ProxyError):
    status = 504
    kind = "timeout"
    spoils_child = True


class RequestTimedOut(ChildSilent):
    spoils_child = False


class ClientGone(ProxyError):
    """The client closed its connection or stopped reading."""

    status = 499
    kind = "client_gone"


class InternalError(ProxyError):
    pass
