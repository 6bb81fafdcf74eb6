"""OpenAI Responses: `POST /v1/responses`.

In: the JSON body, and what is kept of earlier responses. Out: a `response`, or the events of its stream. One object per
request: it holds the state of the stream, which a failure has to continue. What `store` and `conversation` ask for is
kept before the client hears that the answer is complete: its next request may build on it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from ...core.conversation import Message
from ...core.errors import BadRequest, NotFound, PreviousResponseNotFound, ProxyError
from ...core.events import Completion, Event, MessageEnd
from ...storage.responses import ResponseBook, StoredResponse, make_item_id
from ..dialect import EVENT_STREAM, NO_HEADERS, Context, Parsed, decode_object, sse
from ..openai_errors import build_error
from .events import Json, ResponseWriter, replay
from .items import Item, build_stored
from .request import ResponsesRequest, build_parsed, parse_function_tools, read_request


class Responses:
    """The dialect, for one request of one owner (the digest of its API key)."""

    name = "responses"
    content_type = EVENT_STREAM
    headers = NO_HEADERS

    def __init__(
        self, book: ResponseBook, owner: str, default_model: str, now: Callable[[], float] = time.time
    ) -> None:
        self._book = book
        self._owner = owner
        self._default_model = default_model
        self._now = now
        self._items: list[Item] = []
        self._writer: ResponseWriter | None = None
        self._request = ResponsesRequest()

    def parse(self, body: bytes, before: tuple[Message, ...] = ()) -> Parsed:
        """See `responses_request`. Raises BadRequest, PreviousResponseNotFound, NotFound for other ids."""
        fields = decode_object(body)
        self._request = request = read_request(fields)
        if not self._book.stores_text:
            _refuse_to_keep(request)
        self._items = [self._resolve(item, f"input[{index}]") for index, item in enumerate(request.items)]
        self._items = [item for item in self._items if item]
        parsed = build_parsed(fields, request, self._items, history=self._history(request), before=before)
        model = request.model or self._default_model
        return replace(parsed, conversation=msgspec.structs.replace(parsed.conversation, model=model))

    def stream(self, events: Iterable[Event | None], context: Context) -> Iterator[bytes]:
        """Numbered events; `created` and `in_progress` first, exactly one of the final ones last."""
        writer = self.open(context)
        for event in events:
            if event is None:
                yield self.heartbeat()
                continue
            said = writer.add(event)
            if isinstance(event, MessageEnd):
                self.keep(writer.response)
            yield render(said)

    def heartbeat(self) -> bytes:
        """A numbered event, as everything in this stream is numbered."""
        assert self._writer is not None
        return render(self._writer.add(None))

    def body(self, completion: Completion, context: Context) -> Json:
        """The object that a stream would have ended with."""
        writer = self.open(context)
        for event in replay(completion):
            writer.add(event)
        self.keep(writer.response)
        return writer.response

    def error(self, error: ProxyError, request_id: str) -> tuple[int, Json]:
        return error.status, build_error(error)

    def error_event(self, error: ProxyError, request_id: str) -> bytes:
        """`error`, which the SDKs raise, and `response.failed`, the only one that Codex reads."""
        assert self._writer is not None
        said = self._writer.fail(error)
        self.keep(self._writer.response)
        return render(said)

    def open(self, context: Context) -> ResponseWriter:
        """The writer of this answer, which goes on to be that of its failure."""
        request = self._request
        _, names, _ = parse_function_tools(request.tools or [])
        encrypted = "reasoning.encrypted_content" in (request.include or ())
        head = build_head(request, context, store=self.stores)
        self._writer = ResponseWriter(head, names, self._now, encrypted=encrypted)
        return self._writer

    @property
    def stores(self) -> bool:
        """`store` is true unless the client, or the server, says otherwise."""
        return self._book.stores_text and self._request.store is not False

    def keep(self, response: Json) -> None:
        """Put a finished response where the client asked for it."""
        stored = self.build_stored(response)
        if self.stores:
            self._book.add(self._owner, stored)
        elif stored.conversation_id is not None:
            self._book.append(stored)

    def finish(self, response: Json, events: Sequence[Json]) -> None:
        """The end of a background response, which was kept before, with its stream."""
        self._book.finish(self.build_stored(response), events)

    def build_stored(self, response: Json) -> StoredResponse:
        """The response with its input; the input's items get their ids now."""
        items = [
            build_stored(item, make_item_id(item.get("type") or "message", number, response["id"]))
            for number, item in enumerate(self._items)
        ]
        request = self._request
        return StoredResponse(
            response["id"],
            request.conversation_id,
            request.previous_response_id,
            response["status"],
            bool(request.background),
            response,
            items,
        )

    def _history(self, request: ResponsesRequest) -> list[Item]:
        if request.previous_response_id is not None:
            history = self._book.history(self._owner, request.previous_response_id)
            if history is None:
                raise PreviousResponseNotFound(
                    f"Previous response with id {request.previous_response_id[:80]!r} not found.",
                    param="previous_response_id",
                )
            return history
        conversation_id = request.conversation_id
        if conversation_id is None:
            return []
        if self._book.conversation(self._owner, conversation_id) is None:
            raise NotFound(f"Conversation with id {conversation_id[:80]!r} not found.", param="conversation")
        return self._book.items(conversation_id)

    def _resolve(self, item: Item, path: str) -> Item:
        """The item that a reference means; an empty one where that is not known and does not matter."""
        if item.get("type") != "item_reference":
            return item
        name = item.get("id")
        if not isinstance(name, str):
            raise BadRequest("id is missing", param=f"{path}.id")
        found = self._book.item(self._owner, name)
        if found is None and not name.startswith("rs_"):
            raise NotFound(f"Item with id {name[:80]!r} not found.", param=f"{path}.id")
        return found or {}


def render(events: Iterable[Json]) -> bytes:
    """Server-sent events, each with its type as its name."""
    return b"".join(sse(event, event["type"]) for event in events)


def response_id(context: Context) -> str:
    """`resp_…`, from the request's own id, so that a log line can be found by it."""
    return "resp_" + context.request_id.removeprefix("req_")


def build_head(request: ResponsesRequest, context: Context, *, store: bool) -> Json:
    """What does not change while the answer is made; keys that the document demands are there even where they are null.

    https://platform.openai.com/docs/api-reference/responses/object
    """
    given = {"user": request.user, "prompt_cache_key": request.prompt_cache_key}
    reasoning = request.reasoning
    return {
        "id": response_id(context),
        "object": "response",
        "created_at": context.created,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": request.instructions,
        "model": context.model,
        "background": bool(request.background),
        "conversation": None if request.conversation_id is None else {"id": request.conversation_id},
        "previous_response_id": request.previous_response_id,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "service_tier": "default",
        "store": store,
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": _build_text(request),
        "tool_choice": _build_choice(request.tool_choice),
        "tools": [_build_tool(tool) for tool in request.tools or []],
        "top_logprobs": 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": request.truncation or "disabled",
        **{name: value for name, value in given.items() if value is not None},
    }


def _build_text(request: ResponsesRequest) -> Json:
    wanted = request.text.format if request.text is not None else None
    verbosity = request.text.verbosity if request.text is not None else None
    shape: Json = {"type": "text"}
    if wanted is not None:
        fields = {name: getattr(wanted, name) for name in ("type", "name", "description", "schema", "strict")}
        shape = {name: value for name, value in fields.items() if value is not None}
        if wanted.type == "json_schema":
            shape.setdefault("name", "response")
    return {"format": shape} if verbosity is None else {"format": shape, "verbosity": verbosity}


def _build_choice(raw: Any) -> Any:
    """As it was sent, a function that is named in chat's shape apart."""
    inner = raw.get("function") if isinstance(raw, dict) else None
    return {"type": "function", "name": inner.get("name")} if isinstance(inner, dict) else raw or "auto"


def _build_tool(raw: Json) -> Json:
    """Functions in the flat shape, with the keys that the SDKs demand; other tools as they were sent."""
    if raw.get("type", "function") != "function":
        return raw
    function = raw["function"] if isinstance(raw.get("function"), dict) else raw
    schema = function.get("parameters", function.get("input_schema"))
    known = {"name": function.get("name"), "parameters": schema, "strict": function.get("strict")}
    return {"type": "function", "description": function.get("description"), **known}


def _refuse_to_keep(request: ResponsesRequest) -> None:
    """With --no-store. A client that does not say `store` is served without. Raises BadRequest."""
    wishes = {"store": request.store, "background": request.background, "conversation": request.conversation}
    for name, wish in wishes.items():
        if wish:
            raise BadRequest(f"{name}: nothing is kept here, the server was started with --no-store", param=name)
