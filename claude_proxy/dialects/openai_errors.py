"""What OpenAI's two dialects have in common: the error object and its words for what happened."""

from typing import Any

from ..core.errors import ProxyError

# kind -> (type, code)
ERROR_WORDS: dict[str, tuple[str, str | None]] = {
    "invalid_request": ("invalid_request_error", None),
    "context_length_exceeded": ("invalid_request_error", "context_length_exceeded"),
    "previous_response_not_found": ("invalid_request_error", "previous_response_not_found"),
    "method_not_allowed": ("invalid_request_error", "method_not_allowed"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "unsupported_media_type": ("invalid_request_error", "unsupported_media_type"),
    "unauthorized": ("invalid_request_error", "invalid_api_key"),
    "forbidden": ("permission_error", "forbidden"),
    "interrupted": ("invalid_request_error", "interrupted"),
    "already_decided": ("invalid_request_error", "already_decided"),
    "already_ended": ("invalid_request_error", "already_ended"),
    "not_found": ("invalid_request_error", "not_found"),
    "model_not_found": ("invalid_request_error", "model_not_found"),
    "queue_full": ("rate_limit_error", "concurrency_limit"),
    "plan_limit": ("rate_limit_error", "plan_limit"),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "cli_unavailable": ("server_error", "cli_unavailable"),
    "not_authenticated": ("server_error", "not_authenticated"),
    "overloaded": ("server_error", "overloaded"),
    "shutting_down": ("server_error", "shutting_down"),
    "upstream_error": ("server_error", "upstream_error"),
    "timeout": ("server_error", "timeout"),
    "client_gone": ("server_error", "client_gone"),
    "internal_error": ("server_error", "internal_error"),
}


def build_error(error: ProxyError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`, all four keys always there."""
    kind, code = ERROR_WORDS[error.kind]
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": code}}
