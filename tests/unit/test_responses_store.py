"""What is kept of responses and conversations: chains, branches, owners, deletion, restarts. One file in a folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.storage.responses import ResponseBook, StoredResponse, make_item_id
from claude_proxy.storage.store import Store
from tests.clocks import Clock

Json = dict[str, Any]
ME, YOU = "owner1", "owner2"


class Processes:
    """This process, one that runs and one that has ended."""

    own = "this"

    def has_ended(self, name: str) -> bool:
        return name != "other"


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def book(store: Store, clock: Clock) -> ResponseBook:
    return ResponseBook(store, clock, Processes())


def make(letter: str, previous: str | None = None, status: str = "completed", **fields: Any) -> StoredResponse:
    """A response whose id is made of one hex digit; it was asked `letter?` and answers `letter!`."""
    name = f"resp_{letter * 32}"
    question = {"type": "message", "id": make_item_id("message", 0, name), "role": "user", "content": f"{letter}?"}
    answer = {"type": "message", "id": make_item_id("message", 0, name, output=True), "content": f"{letter}!"}
    body = {"id": name, "status": status, "output": [answer]}
    before = None if previous is None else f"resp_{previous * 32}"
    given: Json = {"conversation_id": None, "background": False, **fields}
    return StoredResponse(name, given["conversation_id"], before, status, given["background"], body, [question])


def said(items: list[Json] | None) -> list[str] | None:
    return None if items is None else [item["content"] for item in items]


def test_a_response_is_found_by_its_owner_alone(book: ResponseBook) -> None:
    """What another owner has is not there, nor can it be deleted or gone on from."""
    response = make("a")
    assert book.add(ME, response)
    assert book.get(ME, response.id) == response
    assert book.get(YOU, response.id) is None
    assert book.history(YOU, response.id) is None
    assert book.item(YOU, response.input_items[0]["id"]) is None
    assert not book.delete(YOU, response.id)
    assert book.get(ME, response.id) == response


def test_chains_branch(book: ResponseBook) -> None:
    """Two responses that continue the same one have their own history each."""
    for response in (make("a"), make("b", "a"), make("c", "a"), make("d", "c")):
        book.add(ME, response)
    assert said(book.history(ME, make("b").id)) == ["a?", "a!", "b?", "b!"]
    assert said(book.history(ME, make("d").id)) == ["a?", "a!", "c?", "c!", "d?", "d!"]


def test_a_chain_without_its_beginning_is_not_continued(book: ResponseBook) -> None:
    """Deleted text is gone; what is left is no conversation."""
    book.add(ME, make("a"))
    book.add(ME, make("b", "a"))
    assert book.delete(ME, make("a").id)
    assert book.get(ME, make("a").id) is None
    assert book.history(ME, make("b").id) is None
    assert book.history(ME, make("f").id) is None


@pytest.mark.parametrize(("status", "usable"), [("incomplete", True), ("failed", False), ("queued", False)])
def test_only_what_has_an_answer_is_continued(book: ResponseBook, status: str, usable: bool) -> None:
    """An answer that was cut is one; a failure is none."""
    book.add(ME, make("a", status=status))
    assert (book.history(ME, make("a").id) is not None) is usable


def test_items_are_found_by_their_ids(book: ResponseBook) -> None:
    """Those of responses and those of conversations."""
    response = make("a")
    book.add(ME, response)
    assert book.item(ME, response.input_items[0]["id"]) == response.input_items[0]
    assert book.item(ME, response.body["output"][0]["id"]) == response.body["output"][0]
    assert book.item(ME, make_item_id("message", 7, response.id)) is None
    item = {"type": "message", "id": make_item_id("message", 0), "content": "kept"}
    assert book.create_conversation(ME, {}, [item]) is not None
    assert book.item(ME, item["id"]) == item
    assert book.item(YOU, item["id"]) is None
    assert book.item(ME, "theirs") is None


def test_an_answer_goes_into_its_conversation(book: ResponseBook) -> None:
    """With its question, in order; a failure does not."""
    made = book.create_conversation(ME, {"a": "b"}, [])
    assert made is not None
    book.add(ME, make("a", conversation_id=made.id))
    book.add(ME, make("b", status="failed", conversation_id=made.id))
    book.append(make("c", conversation_id=made.id))
    assert said(book.items(made.id)) == ["a?", "a!", "c?", "c!"]
    assert book.get(ME, make("c").id) is None
    assert book.conversation(ME, made.id) == made
    assert book.conversation(YOU, made.id) is None


def test_a_response_of_a_conversation_is_continued_with_what_came_before_it(book: ResponseBook) -> None:
    """But not with what came after; nothing of it is left once the conversation is gone."""
    made = book.create_conversation(ME, {}, [])
    assert made is not None
    for letter in "abc":
        book.add(ME, make(letter, conversation_id=made.id))
    assert said(book.history(ME, make("b").id)) == ["a?", "a!", "b?", "b!"]
    book.delete_conversation(made.id)
    assert book.history(ME, make("b").id) is None


def test_an_item_that_was_taken_out_of_a_conversation_ends_its_chain(book: ResponseBook) -> None:
    """A response that its conversation does not hold any more has no history."""
    made = book.create_conversation(ME, {}, [])
    assert made is not None
    response = make("a", conversation_id=made.id)
    book.add(ME, response)
    for item in book.items(made.id):
        book.delete_item(made.id, item["id"])
    assert book.items(made.id) == []
    assert book.history(ME, response.id) is None


def test_a_deleted_conversation_takes_nothing_more(book: ResponseBook) -> None:
    """The response that was under way is kept all the same."""
    made = book.create_conversation(ME, {}, [])
    assert made is not None
    book.delete_conversation(made.id)
    assert book.add(ME, make("a", conversation_id=made.id))
    assert book.items(made.id) == []


def test_a_background_response_ends_once(book: ResponseBook) -> None:
    """It is kept queued, then with its end and its stream; a second end changes nothing."""
    queued = make("a", status="queued", background=True)
    book.add(ME, queued)
    found = book.get(ME, queued.id)
    assert found is not None and found.status == "queued"
    assert book.events(ME, queued.id) == []
    events = [{"type": "response.created", "sequence_number": 0}]
    book.finish(make("a", background=True), events)
    book.finish(make("a", status="failed", background=True), [])
    found = book.get(ME, queued.id)
    assert found is not None and (found.status, found.owner_process) == ("completed", None)
    assert book.events(ME, queued.id) == events
    assert book.events(YOU, queued.id) == []


@pytest.mark.parametrize(
    ("owner_process", "status", "abandoned"),
    [
        ("other", "queued", False),
        ("other", "completed", False),
        ("this", "in_progress", True),
        ("ended", "in_progress", True),
        ("ended", "completed", False),
        (None, "queued", True),
        (None, "completed", False),
    ],
)
def test_an_unfinished_response_whose_process_has_ended_is_abandoned(
    book: ResponseBook, owner_process: str | None, status: str, abandoned: bool
) -> None:
    """Of those of this process the caller knows which are being made."""
    assert book.is_abandoned(replace(make("a", status=status), owner_process=owner_process)) is abandoned


def test_an_unfinished_response_names_the_process_that_makes_it(book: ResponseBook) -> None:
    """For another process with the same store."""
    book.add(ME, make("a", status="queued", background=True))
    found = book.get(ME, make("a").id)
    assert found is not None and found.owner_process == "this"


def test_everything_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    """Another store on the same folder has it."""
    first = Store(tmp_path)
    book = ResponseBook(first, clock, Processes())
    book.add(ME, make("a"))
    made = book.create_conversation(ME, {"k": "v"}, [{"id": "x", "content": "kept"}])
    assert made is not None and book.set_metadata(made.id, {"k": "w"})
    first.close()
    second = Store(tmp_path)
    book = ResponseBook(second, clock, Processes())
    assert said(book.history(ME, make("a").id)) == ["a?", "a!"]
    assert book.conversation(ME, made.id) == replace(made, metadata={"k": "w"})
    assert said(book.items(made.id)) == ["kept"]
    second.close()


def test_what_nobody_uses_is_forgotten(book: ResponseBook, clock: Clock) -> None:
    """Going on from a response is using it, and all that it goes on from."""
    for response in (make("a"), make("b", "a"), make("c")):
        book.add(ME, response)
    assert book.create_conversation(ME, {}, []) is not None
    clock.now += 100
    assert book.prune(200) == 0
    assert book.history(ME, make("b").id) is not None
    clock.now += 150
    assert book.prune(200) == 2
    assert book.get(ME, make("c").id) is None
    assert said(book.history(ME, make("b").id)) == ["a?", "a!", "b?", "b!"]


def test_a_store_that_fails_says_so(store: Store, clock: Clock) -> None:
    """And finds nothing."""
    book = ResponseBook(store, clock, Processes())
    store.close()
    assert not book.add(ME, make("a"))
    assert book.get(ME, make("a").id) is None
    assert book.history(ME, make("a").id) is None
    assert book.create_conversation(ME, {}, []) is None
    assert book.prune(1) == 0
