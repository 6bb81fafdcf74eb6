"""One request of any dialect, from the body to the response, and its one line in the log.

In: a dialect, the service, Flask's request. Out: a response. Whose conversation it is, and what the server keeps of it
for the client, is settled here, before the dialect reads the body.
"""

import logging
import time
from collections.abc import Callable

from flask import Response, g, request

from .api.answering import Answer, Client
from .api.dialect import Dialect, Parsed
from .api.sessions import parse_name, wants_server_history
from .errors import BadRequest, ClientGone, ProxyError, UnsupportedMediaType
from .guard import presented_key
from .service import Service
from .sessions import make_owner
from .turns import Turn

log = logging.getLogger(__name__)


End = Callable[[Turn, ProxyError | None], None]
Respond = Callable[[Service, Dialect, Turn, Parsed, Client, End], Response]


def respond(service: Service, dialect: Dialect, turn: Turn, parsed: Parsed, client: Client, end: End) -> Response:
    """Submit the turn and answer its client; `end` is called once the turn is over."""
    service.submit(turn)
    return Answer(dialect, turn, parsed, client, end).respond()


def serve(dialect: Dialect, service: Service, answer: Respond = respond) -> Response:
    """Answer the request at hand. Raises the ProxyError of one that fails before anything was sent."""
    g.dialect = dialect
    body = read_json()
    owner = owner_of(service)
    if wants_server_history(request.headers):
        return _serve_with_history(dialect, service, body, owner, answer)
    return _answer(dialect, service, dialect.parse(body), owner, answer, keeps_history=False, leave=lambda: None)


def owner_of(service: Service) -> str:
    """The digest of the caller's key; empty where none is asked for."""
    return make_owner(presented_key(request.headers)) if service.config.api_key else ""


def read_json() -> bytes:
    """The body. Only application/json: a page may post text/plain without asking first."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(f"Content-Type must be application/json, not {request.mimetype or 'absent'}")
    return request.get_data()


def _serve_with_history(dialect: Dialect, service: Service, body: bytes, owner: str, answer: Respond) -> Response:
    """For a client that sends only what is new: one turn of a session at a time, in order of arrival."""
    if service.config.no_store:
        raise BadRequest("The server keeps no history: it was started with --no-store", param="X-Session-History")
    name = parse_name(request.headers, (), owner)
    key = f"{name.owner}/{name.given}"
    ticket = service.turnstile.enter(key, is_gone(), service.config.request_timeout or float("inf"))
    if ticket is None:
        raise ClientGone("The client has gone, or an earlier turn of its session took too long")
    try:
        before = service.sessions.history(owner, name.given or "")
        parsed = dialect.parse(body, before)
        fresh = len(parsed.conversation.messages) - len(before)
        return _answer(
            dialect,
            service,
            parsed,
            owner,
            answer,
            keeps_history=True,
            leave=lambda: service.turnstile.leave(key, ticket),
            fresh=fresh,
        )
    except BaseException:
        service.turnstile.leave(key, ticket)
        raise


def _answer(
    dialect: Dialect,
    service: Service,
    parsed: Parsed,
    owner: str,
    answer: Respond,
    *,
    keeps_history: bool,
    leave: Callable[[], None],
    fresh: int | None = None,
) -> Response:
    """Submit the turn and respond; `leave` is called once it is over. `fresh`: how many of its messages are new."""
    conversation = parsed.conversation
    turn = Turn(
        conversation,
        service.resolve_model(conversation.model),
        name=parse_name(request.headers, parsed.hints, owner),
        keeps_history=keeps_history,
        ignored=parsed.ignored,
        names=parsed.names,
        strict=service.config.strict,
    )
    turn.id = g.request_id
    turn.new_messages = len(conversation.messages) if fresh is None else fresh
    arrived = time.monotonic()
    if service.config.log_requests or service.config.debug:
        log.info("%s %s %s begins", turn.id, dialect.name, conversation.model or service.config.model)
    if service.config.debug:
        log.info("%s body %s", turn.id, request.get_data().decode("utf-8", "replace"))

    def end(turn: Turn, error: ProxyError | None) -> None:
        leave()
        service.forget(turn)
        log_turn(dialect, turn, error, arrived)

    client = Client(is_gone(), service.config.heartbeat_interval)
    return answer(service, dialect, turn, parsed, client, end)


def is_gone() -> Callable[[], bool]:
    """Waitress's own look at the client's socket; it sees a closed one only with `channel_request_lookahead`."""
    look: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return look


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
        report.how,
        status,
        f"{report.first - arrived:.3f}s" if report.first else "-",
        time.monotonic() - arrived,
        report.usage.prompt_tokens,
        report.usage.output_tokens,
        f" {error.kind}: {error.message.splitlines()[0][:200]}" if error is not None and error.message else "",
    )
