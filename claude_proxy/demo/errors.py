"""The API's errors: a status, the type that goes with it, a message.

The pairs are those of https://docs.claude.com/en/api/errors.
"""

from typing import Mapping

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


MAX_PROMPT_TOKENS = 1_000_000


class ApiError(Exception):
    """A request that gets an error instead of an answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def type(self) -> str:
        """The error type that the API sends with this status."""
        fallback = "invalid_request_error" if self.status < 500 else "api_error"
        return ERROR_TYPES.get(self.status, fallback)

    def build_body(self, request_id: str) -> dict[str, object]:
        """The JSON body, also the data of an `error` event in a stream."""
        return {
            "type": "error",
            "error": {"type": self.type, "message": self.message},
            "request_id": request_id,
        }


def prompt_too_long(tokens: int) -> ApiError:
    """The error for a prompt of so many tokens; clients match this very text."""
    return ApiError(400, f"prompt is too long: {tokens} tokens > {MAX_PROMPT_TOKENS} maximum")
