"""The routes of the Responses API and of Conversations.

In: a `Service`, Flask's request. Out: responses. What is kept belongs to who sent it: the digest of the API key.
"""

import time
from collections.abc import Callable
from functools import partial

from flask import Response, g, request

from ..core.errors import NotFound, ProxyError
from ..core.tokens import estimate_conversation
from ..dialects.dialect import Context, Dialect, Parsed, encode
from ..dialects.responses.answer import Responses, response_id
from ..service import Service
from ..turns.turn import Request as TurnRequest
from ..turns.turn import Turn
from .answering import build_headers
from .audience import Audience
from .client import Client, client_of, json_response, owner_of, read_json
from .negotiation import Dialects
from .responses_objects import ConversationObjects, ResponseObjects, parse_flag
from .responses_runs import Run, Runs, follow, replay_from
from .routing import Route, View
from .serving import End, respond, serve


class ResponsesViews:
    """The views, and the background runs of this process. `audience`: all that watch anything."""

    def __init__(self, service: Service, audience: Audience, dialects: Dialects) -> None:
        self._service = service
        self._audience = audience
        self._dialects = dialects
        self._book = service.responses
        self._runs = Runs(service.release)
        self._objects = ResponseObjects(self._book, self._runs)
        self._conversations = ConversationObjects(self._book)

    def routes(self) -> tuple[Route, ...]:
        one, talk = "/responses/<response_id>", "/conversations/<conversation_id>"
        objects, talks = self._objects, self._conversations
        views: tuple[tuple[str, str, View], ...] = (
            ("POST", "/responses", self._create),
            ("POST", "/responses/input_tokens", self._count_tokens),
            ("POST", "/responses/compact", _refuse_to_compact),
            ("GET", one, self._get),
            ("DELETE", one, self._plain(objects.delete)),
            ("POST", f"{one}/cancel", self._plain(objects.cancel)),
            ("GET", f"{one}/input_items", self._queried(objects.input_items)),
            ("POST", "/conversations", self._posted(talks.create)),
            ("GET", talk, self._plain(talks.get)),
            ("POST", talk, self._posted(talks.update)),
            ("DELETE", talk, self._plain(talks.delete)),
            ("GET", f"{talk}/items", self._queried(talks.list_items)),
            ("POST", f"{talk}/items", self._posted(talks.add_items)),
            ("GET", f"{talk}/items/<item_id>", self._plain(talks.get_item)),
            ("DELETE", f"{talk}/items/<item_id>", self._plain(talks.delete_item)),
        )
        return tuple(Route(path, method, view, self._dialects.responses) for method, path, view in views)

    def _plain(self, build: Callable[..., object]) -> View:
        return lambda **names: json_response(build(owner_of(self._service), *names.values()))

    def _queried(self, build: Callable[..., object]) -> View:
        return lambda **names: json_response(build(owner_of(self._service), *names.values(), request.args))

    def _posted(self, build: Callable[..., object]) -> View:
        def view(**names: str) -> Response:
            body = read_json() if request.get_data() else b""
            return json_response(build(owner_of(self._service), *names.values(), body))

        return view

    def _count_tokens(self) -> Response:
        """Starts no child and waits for no worker."""
        parsed = self._dialect().parse(read_json())
        count = estimate_conversation(parsed.conversation)
        response = json_response({"object": "response.input_tokens", "input_tokens": count})
        response.headers["X-Claude-Proxy-Token-Count"] = "estimate"
        return response

    def _dialect(self) -> Responses:
        return self._dialects.responses(request.headers)

    def _create(self) -> Response:
        dialect = self._dialect()

        def answer(
            service: Service, _: Dialect, asked: TurnRequest, parsed: Parsed, client: Client, end: End
        ) -> Response:
            if parsed.request.background:
                return self._begin(dialect, asked, parsed, client, end)
            return respond(service, dialect, asked, parsed, client, end)

        return serve(dialect, self._service, answer)

    def _begin(self, dialect: Responses, asked: TurnRequest, parsed: Parsed, client: Client, end: End) -> Response:
        """A turn whose worker writes down what it says; the client may watch, and may go."""
        owner = owner_of(self._service)
        turn_id: str = g.request_id
        context = Context(turn_id, int(time.time()), parsed.conversation.model, parsed.request)
        name = response_id(context)
        run = Run(dialect.open(context), dialect.finish, partial(self._end_run, owner, name, end))
        turn = Turn(asked, id=turn_id, channel=run)
        if parsed.stream:
            self._audience.enter()
        self._runs.add(owner, name, run, turn)
        dialect.keep(run.view)
        try:
            self._service.submit(turn)
        except ProxyError:
            self._runs.discard(owner, name)
            self._book.delete(owner, name)
            if parsed.stream:
                self._audience.leave()
            raise
        if not parsed.stream:
            return Response(encode(run.view), mimetype="application/json", headers=build_headers(turn))
        return self._audience.respond(follow(run, 0, client), build_headers(turn))

    def _end_run(self, owner: str, name: str, end: End, error: ProxyError | None) -> None:
        turn = self._runs.discard(owner, name)
        if turn is not None:
            end(turn, error)

    def _get(self, response_id: str) -> Response:
        owner = owner_of(self._service)
        if not parse_flag(request.args, "stream"):
            return json_response(self._objects.get(owner, response_id))
        source, position = self._objects.open_stream(owner, response_id, request.args)
        client = client_of(self._service)
        told = follow(source, position, client) if isinstance(source, Run) else replay_from(source, position)
        self._audience.enter()
        return self._audience.respond(told)


def _refuse_to_compact() -> Response:
    raise NotFound("Conversations are not compacted here: start a new one, or let the client summarise")
