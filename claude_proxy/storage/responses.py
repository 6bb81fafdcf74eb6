"""Responses and conversations that clients asked to keep: their items, their state, and what follows what.

In: JSON objects in the shapes of the Responses API, and the owner: a digest of the API key, empty without one. Out: the
same objects. Called by the routes of responses and conversations and by the background runs.
Invariants: an owner sees only its own objects; text is deleted with the object that holds it; a stored item never
changes, because a chain of responses may branch at any of them.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from .store import Statement, Store

Item = dict[str, Any]

# Responses that are still being made; each has an owner process, which makes it; its column is `runner`.
UNFINISHED = ("queued", "in_progress")

_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})([io])([0-9]{1,6})")
_COLUMNS = "id, conversation_id, previous_id, status, background, body, input_items, runner"
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_ADD_ITEM = (
    "INSERT INTO conversation_items (conversation_id, position, item_id, item)"
    " SELECT id, (SELECT coalesce(max(position), 0) + 1 FROM conversation_items WHERE conversation_id = ?), ?, ?"
    " FROM conversations WHERE id = ?"
)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response object (`body`) and the items that it was asked with, ids included; its history is not repeated."""

    id: str
    conversation_id: str | None
    previous_id: str | None
    status: str
    background: bool
    body: dict[str, Any]
    input_items: list[Item]
    owner_process: str | None = None


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """`created_at` in Unix seconds."""

    id: str
    metadata: dict[str, str]
    created_at: float


class Processes(Protocol):
    """Names for processes that outlive them: a response may be made by another process with the same store."""

    @property
    def own(self) -> str:
        """The name of this process."""

    def has_ended(self, name: str) -> bool:
        """True where the process with this name has certainly ended."""


class ResponseBook:
    """What is kept of responses and conversations."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        processes: Processes,
        *,
        stores_text: bool = True,
    ) -> None:
        """
        Args:
            clock: Unix seconds.
            processes: tells which process makes a response that is not finished, and whether that one still runs.
            stores_text: False for a server that keeps no text (`--no-store`); the callers refuse such requests.
        """
        self._store = store
        self._clock = clock
        self._processes = processes
        self.stores_text = stores_text

    # Responses

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        rows = self._store.read(f"SELECT {_COLUMNS} FROM responses WHERE id = ? AND owner = ?", (response_id, owner))
        return _response(rows[0]) if rows else None

    def add(self, owner: str, response: StoredResponse) -> bool:
        """Keep a new response; add a finished one to its conversation as well."""
        finished = response.status not in UNFINISHED
        return self._store.write(
            [self._insert(owner, response), *(self._into_conversation(response) if finished else ())]
        )

    def finish(self, response: StoredResponse, events: Sequence[dict[str, Any]]) -> bool:
        """The end of one that was added unfinished, unless it was deleted or has ended; `events`: of its stream."""
        marks = ", ".join("?" * len(UNFINISHED))
        update = (
            "UPDATE responses SET status = ?, body = ?, events = ?, runner = NULL, used_at = ?"
            f" WHERE id = ? AND status IN ({marks})"
        )
        kept = (response.status, _pack(response.body), _pack(list(events)), self._clock(), response.id, *UNFINISHED)
        return self._store.write([(update, kept), *self._into_conversation(response)])

    def append(self, response: StoredResponse) -> bool:
        """Put the items of a response that is itself not kept into its conversation."""
        return self._store.write(self._into_conversation(response))

    def is_abandoned(self, response: StoredResponse) -> bool:
        """True for an unfinished one that another process does not make; whether this one does, the caller knows."""
        if response.status not in UNFINISHED:
            return False
        name = response.owner_process or ""
        return name == self._processes.own or self._processes.has_ended(name)

    def events(self, owner: str, response_id: str) -> list[dict[str, Any]]:
        """The events of a background response's stream, in order; none where it has not ended."""
        rows = self._store.read("SELECT events FROM responses WHERE id = ? AND owner = ?", (response_id, owner))
        return _unpack(rows[0][0]) if rows and rows[0][0] is not None else []

    def delete(self, owner: str, response_id: str) -> bool:
        """False where it is unknown. What continues it cannot be continued any further."""
        known = self.get(owner, response_id) is not None
        sql = "DELETE FROM responses WHERE id = ? AND owner = ?"
        return known and self._store.erase([(sql, (response_id, owner))])

    def history(self, owner: str, response_id: str) -> list[Item] | None:
        """Every item up to the end of this response, oldest first; None where a part is deleted or unfinished."""
        rows = self._store.read(
            "WITH RECURSIVE chain (id, previous_id, depth) AS ("
            " SELECT id, previous_id, 0 FROM responses WHERE id = ? AND owner = ? UNION ALL"
            " SELECT r.id, r.previous_id, depth + 1 FROM responses r JOIN chain ON r.id = chain.previous_id"
            " WHERE r.owner = ?)"
            f" SELECT {', '.join(f'responses.{name.strip()}' for name in _COLUMNS.split(','))}"
            " FROM chain JOIN responses USING (id) ORDER BY depth DESC",
            (response_id, owner, owner),
        )
        chain = [_response(row) for row in rows]
        if not chain or chain[0].previous_id is not None:
            return None
        if any(response.status not in ("completed", "incomplete") for response in chain):
            return None
        items = self._before_in_conversation(owner, chain[0])
        if items is None:
            return None
        for response in chain:
            items += [*response.input_items, *response.body["output"]]
        self._touch(response.id for response in chain)
        return items

    def item(self, owner: str, item_id: str) -> Item | None:
        """An item that was given out under this id: of a response, or of a conversation."""
        match = _ITEM_ID.fullmatch(item_id)
        response = self.get(owner, f"resp_{match[1]}") if match else None
        if response is not None:
            items = [*response.input_items, *response.body["output"]]
            return next((item for item in items if item.get("id") == item_id), None)
        rows = self._store.read(
            "SELECT item FROM conversation_items JOIN conversations ON id = conversation_id"
            " WHERE item_id = ? AND owner = ?",
            (item_id, owner),
        )
        return _unpack(rows[0][0]) if rows else None

    # Conversations

    def create_conversation(
        self, owner: str, metadata: dict[str, str], items: Sequence[Item]
    ) -> StoredConversation | None:
        """A new one; None where it could not be written. `items` have their ids."""
        conversation = StoredConversation(f"conv_{uuid.uuid4().hex}", metadata, self._clock())
        sql = "INSERT INTO conversations (id, owner, metadata, created_at, used_at) VALUES (?, ?, ?, ?, ?)"
        now = conversation.created_at
        row = (conversation.id, owner, _pack(metadata), now, now)
        return conversation if self._store.write([(sql, row), *_add_items(conversation.id, items)]) else None

    def conversation(self, owner: str, conversation_id: str) -> StoredConversation | None:
        rows = self._store.read(
            "SELECT id, metadata, created_at FROM conversations WHERE id = ? AND owner = ?", (conversation_id, owner)
        )
        return StoredConversation(rows[0][0], _unpack(rows[0][1]), rows[0][2]) if rows else None

    def set_metadata(self, conversation_id: str, metadata: dict[str, str]) -> bool:
        sql = "UPDATE conversations SET metadata = ?, used_at = ? WHERE id = ?"
        return self._store.write([(sql, (_pack(metadata), self._clock(), conversation_id))])

    def delete_conversation(self, conversation_id: str) -> bool:
        """Its items go with it."""
        return self._store.erase([("DELETE FROM conversations WHERE id = ?", (conversation_id,))])

    def items(self, conversation_id: str) -> list[Item]:
        """Oldest first. The caller must have checked who owns the conversation."""
        sql = "SELECT item FROM conversation_items WHERE conversation_id = ? ORDER BY position"
        return [_unpack(item) for (item,) in self._store.read(sql, (conversation_id,))]

    def add_items(self, conversation_id: str, items: Sequence[Item]) -> bool:
        return self._store.write(_add_items(conversation_id, items))

    def delete_item(self, conversation_id: str, item_id: str) -> bool:
        sql = "DELETE FROM conversation_items WHERE conversation_id = ? AND item_id = ?"
        return self._store.erase([(sql, (conversation_id, item_id))])

    def prune(self, ttl: float) -> int:
        """Delete what was not used for `ttl` seconds; returns how many responses and conversations that were."""
        oldest = self._clock() - ttl
        rows = self._store.read(
            "SELECT (SELECT count(*) FROM responses WHERE used_at < ?)"
            " + (SELECT count(*) FROM conversations WHERE used_at < ?)",
            (oldest, oldest),
        )
        count = int(rows[0][0]) if rows else 0
        tables = ("responses", "conversations")
        if count:
            self._store.erase([(f"DELETE FROM {table} WHERE used_at < ?", (oldest,)) for table in tables])
        return count

    def _insert(self, owner: str, response: StoredResponse) -> Statement:
        unfinished = response.status in UNFINISHED
        now = self._clock()
        row = (
            *(response.id, response.conversation_id, response.previous_id, response.status, response.background),
            *(_pack(response.body), _pack(response.input_items), self._processes.own if unfinished else None),
            *(owner, now, now),
        )
        sql = f"INSERT INTO responses ({_COLUMNS}, owner, created_at, used_at) VALUES ({', '.join('?' * len(row))})"
        return sql, row

    def _into_conversation(self, response: StoredResponse) -> list[Statement]:
        """Only an answer goes into the conversation: a question without one would precede the next."""
        if response.conversation_id is None or response.status not in ("completed", "incomplete"):
            return []
        used = ("UPDATE conversations SET used_at = ? WHERE id = ?", (self._clock(), response.conversation_id))
        items = [*response.input_items, *response.body["output"]]
        return [*_add_items(response.conversation_id, items), used]

    def _before_in_conversation(self, owner: str, response: StoredResponse) -> list[Item] | None:
        """What the conversation of a chain's first response held before it; None where it does not hold that one."""
        if response.conversation_id is None:
            return []
        if self.conversation(owner, response.conversation_id) is None:
            return None
        before: list[Item] = []
        for item in self.items(response.conversation_id):
            if response.id.removeprefix("resp_") in str(item.get("id")):
                return before
            before.append(item)
        return None

    def _touch(self, ids: Iterable[str]) -> None:
        now = self._clock()
        self._store.write([("UPDATE responses SET used_at = ? WHERE id = ?", (now, name)) for name in ids])


def make_item_id(item_type: str, number: int, response_id: str | None = None, *, output: bool = False) -> str:
    """`msg_<32 hex digits>o0`: the digits are those of the response, so that an item can be found by its id alone."""
    digits = response_id.removeprefix("resp_") if response_id is not None else uuid.uuid4().hex
    return f"{_PREFIXES.get(item_type, 'item')}_{digits}{'o' if output else 'i'}{number}"


def _add_items(conversation_id: str, items: Sequence[Item]) -> list[Statement]:
    return [(_ADD_ITEM, (conversation_id, item["id"], _pack(item), conversation_id)) for item in items]


def _response(row: tuple[Any, ...]) -> StoredResponse:
    name, conversation_id, previous_id, status, background, body, items, owner_process = row
    kept = _unpack(body), _unpack(items)
    return StoredResponse(name, conversation_id, previous_id, status, bool(background), *kept, owner_process)


def _pack(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _unpack(data: bytes) -> Any:
    return msgspec.json.decode(data)
