"""What is kept of responses and conversations, as the API shows it: objects, lists with cursors, deletions.

In: ids, query strings, JSON bodies, and the owner: what another owner has is not there. Out: JSON objects, or the 404
and 400 of the official API. Nothing here runs a turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from ..core.errors import BadRequest, InternalError, NotFound
from ..dialects.dialect import decode
from ..dialects.responses.events import Json
from ..dialects.responses.items import Item, build_stored, parse_item
from ..dialects.responses.request import check_metadata
from ..storage.responses import ResponseBook, StoredConversation, StoredResponse, make_item_id
from .responses_runs import Run, Runs

LARGEST_PAGE = 100
DEFAULT_PAGE = 20
LARGEST_ADDITION = 20
ENDED = {"code": "server_error", "message": "The proxy that was making this response has ended"}

Query = Mapping[str, str]


class NewConversation(msgspec.Struct):
    items: list[Item] | None = None
    metadata: dict[str, str] | None = None


class NewMetadata(msgspec.Struct):
    metadata: dict[str, str] | None = None


class NewItems(msgspec.Struct):
    items: list[Item]


class ResponseObjects:
    """`/v1/responses/{id}` and below."""

    def __init__(self, book: ResponseBook, runs: Runs) -> None:
        self._book = book
        self._runs = runs

    def get(self, owner: str, response_id: str) -> Json:
        run = self._runs.get(owner, response_id)
        return run.view if run is not None else self._find(owner, response_id).body

    def open_stream(self, owner: str, response_id: str, query: Query) -> tuple[Run | list[Json], int]:
        """What to stream, a run or the events of one that has ended, and from which event on. 400 for others."""
        position = _parse_number(query, "starting_after", -1) + 1
        run = self._runs.get(owner, response_id)
        if run is not None:
            return run, position
        if not self._find(owner, response_id).background:
            raise BadRequest("Only background responses can be streamed later", param="stream")
        return self._book.events(owner, response_id), position

    def delete(self, owner: str, response_id: str) -> Json:
        """One that still runs is cancelled first."""
        self._runs.cancel(owner, response_id)
        if not self._book.delete(owner, response_id):
            raise _not_found("Response", response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def cancel(self, owner: str, response_id: str) -> Json:
        """The response as it then is; one that had ended stays what it was."""
        cancelled = self._runs.cancel(owner, response_id)
        if cancelled is not None:
            return cancelled
        stored = self._find(owner, response_id)
        if not stored.background:
            raise BadRequest("Only background responses can be cancelled", param="response_id")
        return stored.body

    def input_items(self, owner: str, response_id: str, query: Query) -> Json:
        """What this request brought; what it continued is listed under the response it continued."""
        return build_page(self._find(owner, response_id).input_items, query)

    def _find(self, owner: str, response_id: str) -> StoredResponse:
        stored = self._look_up(owner, response_id)
        if not self._book.is_abandoned(stored) or self._runs.get(owner, response_id) is not None:
            return stored
        failed = replace(stored, status="failed", body={**stored.body, "status": "failed", "error": ENDED})
        self._book.finish(failed, ())
        # Looked up again: it may have ended by itself just now, and then it stays what it became.
        return self._look_up(owner, response_id)

    def _look_up(self, owner: str, response_id: str) -> StoredResponse:
        stored = self._book.get(owner, response_id)
        if stored is None:
            raise _not_found("Response", response_id)
        return stored


class ConversationObjects:
    """`/v1/conversations` and below."""

    def __init__(self, book: ResponseBook) -> None:
        self._book = book

    def create(self, owner: str, body: bytes) -> Json:
        """`items` and `metadata` may be left out, and the body with them."""
        if not self._book.stores_text:
            raise BadRequest("Nothing is kept here: the server was started with --no-store")
        wanted = decode(body or b"{}", NewConversation)
        check_metadata(wanted.metadata or {})
        items = _prepare(wanted.items or [])
        made = self._book.create_conversation(owner, wanted.metadata or {}, items)
        if made is None:
            raise InternalError("The conversation could not be written; the log says why")
        return build_conversation(made)

    def get(self, owner: str, conversation_id: str) -> Json:
        return build_conversation(self._find(owner, conversation_id))

    def update(self, owner: str, conversation_id: str, body: bytes) -> Json:
        """New metadata in place of the old."""
        found = self._find(owner, conversation_id)
        metadata = decode(body, NewMetadata).metadata or {}
        check_metadata(metadata)
        _demand(self._book.set_metadata(found.id, metadata))
        return build_conversation(replace(found, metadata=metadata))

    def delete(self, owner: str, conversation_id: str) -> Json:
        _demand(self._book.delete_conversation(self._find(owner, conversation_id).id))
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    def list_items(self, owner: str, conversation_id: str, query: Query) -> Json:
        return build_page(self._book.items(self._find(owner, conversation_id).id), query)

    def add_items(self, owner: str, conversation_id: str, body: bytes) -> Json:
        """The new items alone, as a list, with the ids they got."""
        found = self._find(owner, conversation_id)
        items = _prepare(decode(body, NewItems).items)
        _demand(self._book.add_items(found.id, items))
        return build_list(items, has_more=False)

    def get_item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        found = self._find(owner, conversation_id)
        for item in self._book.items(found.id):
            if item["id"] == item_id:
                return item
        raise _not_found("Item", item_id)

    def delete_item(self, owner: str, conversation_id: str, item_id: str) -> Json:
        """Answers with the conversation, as the official API does."""
        self.get_item(owner, conversation_id, item_id)
        _demand(self._book.delete_item(conversation_id, item_id))
        return self.get(owner, conversation_id)

    def _find(self, owner: str, conversation_id: str) -> StoredConversation:
        found = self._book.conversation(owner, conversation_id)
        if found is None:
            raise _not_found("Conversation", conversation_id)
        return found


def build_conversation(conversation: StoredConversation) -> Json:
    """https://platform.openai.com/docs/api-reference/conversations/object"""
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at),
        "metadata": conversation.metadata,
    }


def build_page(items: Sequence[Item], query: Query) -> Json:
    """One page of these items (oldest first): newest first unless `order=asc`, those behind the cursor `after`."""
    limit = _parse_number(query, "limit", DEFAULT_PAGE)
    if not 1 <= limit <= LARGEST_PAGE:
        raise BadRequest(f"limit must be between 1 and {LARGEST_PAGE}", param="limit")
    order = query.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc", param="order")
    ordered = list(items) if order == "asc" else list(reversed(items))
    after = query.get("after")
    if after:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise BadRequest(f"There is no item {after[:80]!r} in this list", param="after")
        ordered = ordered[ids.index(after) + 1 :]
    return build_list(ordered[:limit], has_more=len(ordered) > limit)


def build_list(items: Sequence[Item], *, has_more: bool) -> Json:
    """`first_id` and `last_id` are strings, also where nothing is listed."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": list(items), **ends, "has_more": has_more}


def _prepare(items: Sequence[Item]) -> list[Item]:
    """Checked, and with ids of ours. Raises BadRequest with the path of an item that cannot be understood."""
    if len(items) > LARGEST_ADDITION:
        raise BadRequest(f"At most {LARGEST_ADDITION} items can be added at once", param="items")
    for index, item in enumerate(items):
        parse_item(item, f"items[{index}]")
    return [build_stored(item, make_item_id(str(item.get("type") or "message"), 0)) for item in items]


def _parse_number(query: Query, name: str, default: int) -> int:
    text = query.get(name)
    if text is None or text == "":
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"{name} must be a number, 0 or more", param=name)
    return int(text)


def _demand(written: bool) -> None:
    if not written:
        raise InternalError("It could not be written; the log says why")


def _not_found(kind: str, name: str) -> NotFound:
    return NotFound(f"{kind} with id {name[:80]!r} not found.")


def parse_flag(query: Query, name: str) -> bool:
    """`true` and `1`; everything else is false."""
    return query.get(name, "").lower() in ("true", "1")
