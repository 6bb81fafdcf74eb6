"""A request's reply, decided before its first byte is sent.

In goes the raw body of `POST /v1/messages`, out comes a `Reply`: status, headers, and a body that is still
to be waited for. Raises `ApiError` for a body that is not a request; an error that the prompt asked for is a `Reply`.
"""

import secrets
import time
from dataclasses import dataclass
from typing import Iterator, Mapping

import msgspec

from .answer import Answer, build_answer
from .cache import PromptCache
from .commands import Commands
from .errors import MAX_PROMPT_TOKENS, ApiError, prompt_too_long
from .limits import build_limit_headers
from .pacing import Waiter, cut_frames, find_fault, inject_fault, pace
from .prompt import count_tokens, split_prompt
from .render import Head, render_error_event, render_message, render_stream
from .request import MessagesRequest, parse_body, parse_request
from .turn import read_newest_turn

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

_ASKED_MESSAGES: Mapping[int, str] = {
    401: "OAuth authentication is currently not supported: the demo was asked to refuse the login.",
    429: "This request would exceed your account's rate limit. Please try again later.",
    529: "Overloaded",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What is to be sent.

    body: chunks, each at its time. It raises `pacing.Abandoned` where the connection is to be broken off.
    """

    status: int
    headers: Mapping[str, str]
    body: Iterator[bytes]


def reply_with_json(status: int, content: object, headers: Mapping[str, str] | None = None) -> Reply:
    """A reply that is there at once."""
    data = msgspec.json.encode(content)
    fixed = {"content-type": JSON, "content-length": str(len(data))}
    return Reply(status, {**fixed, **(headers or {})}, iter((data,)))


def reply_with_error(error: ApiError, request_id: str, headers: Mapping[str, str] | None = None) -> Reply:
    """An error that is there at once."""
    return reply_with_json(error.status, error.build_body(request_id), headers)


def reply_to_count(raw: bytes) -> Reply:
    """`POST /v1/messages/count_tokens`. Raises ApiError."""
    body = parse_body(raw)
    parse_request(body)
    return reply_with_json(200, {"input_tokens": count_tokens(split_prompt(body))})


def reply_to_messages(raw: bytes, cache: PromptCache, waiter: Waiter, request_id: str) -> Reply:
    """`POST /v1/messages`. Raises ApiError."""
    body = parse_body(raw)
    request = parse_request(body)
    blocks = split_prompt(body)
    turn = read_newest_turn(request)
    commands = turn.commands
    headers = build_limit_headers(commands, time.time())
    if commands.retry_after is not None:
        headers["retry-after"] = str(commands.retry_after)
    if failure := _find_failure(request, commands):
        reply = reply_with_error(failure, request_id, headers)
        return Reply(reply.status, reply.headers, _after_silence(reply.body, commands, waiter))
    head = Head(f"msg_01{secrets.token_hex(11)}", request.model, cache.account(request.model, blocks))
    answer = build_answer(request, turn)
    if request.stream:
        chunks = _stream(head, answer, commands, waiter, request_id)
        return Reply(200, {**headers, "content-type": EVENT_STREAM, "cache-control": "no-cache"}, chunks)
    data = render_message(head, answer)
    headers |= {"content-type": JSON, "content-length": str(len(data))}
    return Reply(200, headers, _wait_for_all(data, answer, commands, waiter))


def _find_failure(request: MessagesRequest, commands: Commands) -> ApiError | None:
    """The error that the prompt asked for in place of an answer."""
    if commands.status is not None:
        message = _ASKED_MESSAGES.get(commands.status, f"The demo was asked for status {commands.status}.")
        return ApiError(commands.status, message)
    if commands.limit == "rejected":
        return ApiError(429, _ASKED_MESSAGES[429])
    if commands.toolong:
        return prompt_too_long(MAX_PROMPT_TOKENS + 1)
    if commands.error is not None and not request.stream:
        return ApiError(529, _ASKED_MESSAGES[529])
    return None


def _after_silence(body: Iterator[bytes], commands: Commands, waiter: Waiter) -> Iterator[bytes]:
    waiter.wait(commands.silence)
    yield from body


def _stream(head: Head, answer: Answer, commands: Commands, waiter: Waiter, request_id: str) -> Iterator[bytes]:
    waiter.wait(commands.silence)
    fault = find_fault(commands, answer.output_tokens)
    frames = render_stream(head, answer)
    if fault is None:
        yield from pace(frames, commands.delay, waiter)
        return
    yield from pace(cut_frames(frames, fault.after), commands.delay, waiter)
    error = render_error_event(ApiError(529, _ASKED_MESSAGES[529]), request_id)
    yield from inject_fault(fault, error, waiter)


def _wait_for_all(data: bytes, answer: Answer, commands: Commands, waiter: Waiter) -> Iterator[bytes]:
    """A whole message, when its last token would have come; a fault leaves nothing of it."""
    waiter.wait(commands.silence)
    fault = find_fault(commands, answer.output_tokens)
    waiter.wait(commands.delay * (fault.after if fault else answer.output_tokens))
    yield from inject_fault(fault, b"", waiter) if fault else (data,)
