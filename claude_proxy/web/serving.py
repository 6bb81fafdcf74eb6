"""One request of any dialect, from the body to the response, and its one line in the log.

In: a dialect, the service, Flask's request. Out: a response. Whose conversation it is, and what the server keeps of it
for the client, is settled here, before the dialect reads the body.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from flask import Response, g, request

from ..core.errors import BadRequest, ClientGone, ProxyError
from ..dialects.dialect import Dialect, Parsed
from ..service import Service
from ..storage.sessions import Name
from ..turns.modes import Mode
from ..turns.turn import Request, Turn, build_request
from .answering import Answer
from .client import Client, client_of, is_gone, owner_of, read_json
from .modes import choose_mode
from .sessions import parse_name, wants_server_history

log = logging.getLogger(__name__)


End = Callable[[Turn, ProxyError | None], None]
Respond = Callable[[Service, Dialect, Request, Parsed, Client, End], Response]


def respond(service: Service, dialect: Dialect, request: Request, parsed: Parsed, client: Client, end: End) -> Response:
    """Submit a turn and answer its client; `end` is called once the turn is over."""
    turn = Turn(request, id=g.request_id)
    service.submit(turn)
    return Answer(dialect, turn, parsed, client, end).respond()


def serve(dialect: Dialect, service: Service, answer: Respond = respond) -> Response:
    """Answer the request at hand. Raises the ProxyError of one that fails before anything was sent."""
    g.dialect = dialect
    body = read_json()
    owner = owner_of(service)
    name = parse_name(request.headers, (), owner)
    if wants_server_history(request.headers):
        return _serve_with_history(dialect, service, body, name, answer)
    parsed = dialect.parse(body)
    job = _Job(dialect, service, parsed, owner, answer, _mode_of(service, parsed))
    if job.mode.runs_agent and name.given is not None:
        return _one_at_a_time(service, name, inf, lambda leave: _answer(replace(job, leave=leave)))
    return _answer(job)


def _mode_of(service: Service, parsed: Parsed) -> Mode:
    has_tools = bool(parsed.conversation.tools)
    return choose_mode(request.headers, service.config, service.modes, has_tools=has_tools)


def _serve_with_history(dialect: Dialect, service: Service, body: bytes, name: Name, answer: Respond) -> Response:
    """For a client that sends only what is new."""
    if service.config.no_store:
        raise BadRequest("The server keeps no history: it was started with --no-store", param="X-Session-History")

    def run(leave: Callable[[], None]) -> Response:
        before = service.sessions.history(name.key)
        parsed = dialect.parse(body, before)
        fresh = len(parsed.conversation.messages) - len(before)
        mode = _mode_of(service, parsed)
        job = _Job(dialect, service, parsed, name.owner, answer, mode, stores_history=True, leave=leave, fresh=fresh)
        return _answer(job)

    # An agent's turn has no limit, and neither has who waits for it.
    patience = inf if service.config.has_agent else service.config.request_timeout or inf
    return _one_at_a_time(service, name, patience, run)


def _one_at_a_time(
    service: Service, name: Name, patience: float, run: Callable[[Callable[[], None]], Response]
) -> Response:
    """Turns of one session in order of arrival; `run` is given what lets the next one pass. patience: seconds that one
    waits for those before it. Raises QueueFull."""
    key = name.key
    ticket = service.session_queue.enter(key, is_gone(), patience)
    if ticket is None:
        raise ClientGone("The client has gone, or an earlier turn of its session took too long")
    try:
        return run(lambda: service.session_queue.leave(key, ticket))
    except BaseException:
        service.session_queue.leave(key, ticket)
        raise


def do_nothing() -> None:
    """What leaves a queue that was not entered."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A parsed request and how it is to be answered. stores_history: the server keeps its messages for the client, of
    which `fresh` are new (None: all). leave: called once the turn is over."""

    dialect: Dialect
    service: Service
    parsed: Parsed
    owner: str
    answer: Respond
    mode: Mode
    stores_history: bool = False
    leave: Callable[[], None] = do_nothing
    fresh: int | None = None


def _answer(job: _Job) -> Response:
    """Submit the turn and respond."""
    dialect, service, parsed = job.dialect, job.service, job.parsed
    conversation = parsed.conversation
    asked = build_request(
        conversation,
        service.models.resolve(conversation.model),
        job.mode,
        name=parse_name(request.headers, parsed.hints, job.owner),
        dialect=dialect.name,
        ignored=parsed.ignored,
        names=parsed.names,
        strict=service.config.strict,
        new_messages=job.fresh,
        stores_history=job.stores_history,
    )
    arrived = time.monotonic()
    if service.config.log_requests or service.config.debug:
        log.info("%s %s %s begins", g.request_id, dialect.name, conversation.model or service.config.model)
    if service.config.debug:
        log.info("%s body %s", g.request_id, request.get_data().decode("utf-8", "replace"))

    def end(turn: Turn, error: ProxyError | None) -> None:
        job.leave()
        service.release(turn)
        log_turn(dialect, turn, error, arrived)

    return job.answer(service, dialect, asked, parsed, client_of(service), end)


def log_turn(dialect: Dialect, turn: Turn, error: ProxyError | None, arrived: float) -> None:
    """The one line of a request."""
    report = turn.report
    status = error.status if error is not None else 200
    log.log(
        logging.WARNING if status >= 500 else logging.INFO,
        "%s %s %s %s %d first=%s total=%.3fs in=%d out=%d%s",
        turn.id,
        dialect.name,
        report.model or turn.profile.model,
        report.origin,
        status,
        f"{report.first - arrived:.3f}s" if report.first else "-",
        time.monotonic() - arrived,
        report.usage.prompt_tokens,
        report.usage.output_tokens,
        f" {error.kind}: {error.message.splitlines()[0][:200]}" if error is not None and error.message else "",
    )
