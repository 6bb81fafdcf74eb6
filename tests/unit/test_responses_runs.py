"""Background runs: what their worker writes down, what watchers see, how they end. The test is the worker."""

from typing import Any

import pytest

from claude_proxy.core.conversation import Conversation, Text, user
from claude_proxy.core.errors import ClientGone, InternalError, Interrupted, ProxyError
from claude_proxy.core.events import BlockStart, BlockStop, Event, MessageEnd, MessageStart, TextDelta, Usage
from claude_proxy.dialects.responses.events import ResponseWriter
from claude_proxy.turns.turn import Turn
from claude_proxy.web.client import Client
from claude_proxy.web.responses_runs import Run, Runs, follow, replay_from
from tests.standins import make_turn

Json = dict[str, Any]

ANSWER: list[Event] = [
    MessageStart("msg_1", "sonnet", Usage()),
    BlockStart(0, Text("")),
    TextDelta(0, "Hi"),
    BlockStop(0),
    MessageEnd("end_turn", None, Usage()),
]


class Desk:
    """A run, and what was kept of it."""

    def __init__(self) -> None:
        self.kept: list[tuple[Json, list[Json]]] = []
        self.done: list[ProxyError | None] = []
        head = {"id": "resp_" + "a" * 32, "error": None, "incomplete_details": None}
        self.run = Run(ResponseWriter(head, {}, lambda: 5.0), self._keep, self.done.append)

    def _keep(self, response: Json, events: Any) -> None:
        assert self.told == [] or self.told[-1]["type"] not in ("response.completed", "response.failed")
        self.kept.append((response, list(events)))

    @property
    def told(self) -> list[Json]:
        return self.run.wait(0, 0.0)[0]

    def put(self, *events: Event) -> None:
        for event in events:
            self.run.put(event, 0.0)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_run_is_queued_then_under_way_then_kept_and_then_told(desk: Desk) -> None:
    """Its end is kept, with the whole stream, before any watcher hears of it."""
    assert desk.run.view["status"] == "queued"
    desk.put(*ANSWER[:3])
    assert (desk.run.view["status"], desk.kept) == ("in_progress", [])
    desk.put(*ANSWER[3:])
    desk.run.finish()
    [(response, events)] = desk.kept
    assert (response["status"], events) == ("completed", desk.told)
    assert desk.run.view == desk.told[-1]["response"] == response
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert desk.done == [None]


def test_a_run_that_fails_says_so_in_its_stream(desk: Desk) -> None:
    """The object says it, too."""
    desk.put(*ANSWER[:3])
    error = InternalError("Bug.")
    desk.run.finish(error)
    assert [event["type"] for event in desk.told[-2:]] == ["error", "response.failed"]
    assert (desk.run.view["status"], desk.kept[0][0]["status"], desk.done) == ("failed", "failed", [error])


def test_a_cancelled_run_takes_no_more(desk: Desk) -> None:
    """Its worker is told so at its next word; what it says at its end changes nothing."""
    desk.put(*ANSWER[:3])
    assert desk.run.cancel()
    assert not desk.run.cancel()
    for event in ANSWER[3:]:
        with pytest.raises(ClientGone):
            desk.put(event)
    desk.run.finish(ClientGone("cancelled"))
    assert (desk.run.view["status"], len(desk.kept), len(desk.done)) == ("cancelled", 1, 1)
    assert desk.told[-1]["response"]["status"] == "cancelled"


def test_an_interrupted_run_is_cancelled(desk: Desk) -> None:
    """Nothing has failed: somebody stopped it."""
    desk.put(*ANSWER[:3])
    error = Interrupted("Stopped.")
    desk.run.finish(error)
    assert (desk.run.view["status"], desk.run.view["error"], desk.done) == ("cancelled", None, [error])
    assert desk.told[-1]["response"]["status"] == desk.kept[0][0]["status"] == "cancelled"


def test_an_aborted_run_takes_no_more(desk: Desk) -> None:
    """The reason is the one given."""
    desk.run.abort(InternalError("Why."))
    with pytest.raises(InternalError):
        desk.put(ANSWER[0])


def test_signs_of_life_are_part_of_the_stream(desk: Desk) -> None:
    """The first is the opening; nothing is added where something has come meanwhile, or after the end."""
    desk.run.keep_alive(0)
    assert [event["type"] for event in desk.told] == ["response.created", "response.in_progress"]
    desk.run.keep_alive(0)
    desk.run.keep_alive(2)
    assert [event["type"] for event in desk.told[2:]] == ["keepalive"]
    desk.put(*ANSWER)
    count = len(desk.told)
    desk.run.keep_alive(count)
    assert len(desk.told) == count


def test_a_watcher_sees_the_stream_from_any_point(desk: Desk) -> None:
    """While it runs or afterwards."""
    desk.put(*ANSWER)
    client = Client(lambda: False, 10.0)
    whole = b"".join(follow(desk.run, 0, client))
    assert whole == b"".join(replay_from(desk.told, 0))
    assert b"".join(follow(desk.run, 3, client)) == b"".join(replay_from(desk.told, 3))
    assert whole.endswith(b"".join(replay_from(desk.told, 3)))
    assert list(follow(desk.run, 99, client)) == []


def test_a_watcher_that_goes_away_ends_its_own_stream_alone(desk: Desk) -> None:
    """The run goes on; before that a quiet one gave a sign of life."""
    asked: list[int] = []

    def is_gone() -> bool:
        asked.append(1)
        return len(asked) > 2

    assert b"response.created" in b"".join(follow(desk.run, 0, Client(is_gone, 0.0)))
    desk.put(*ANSWER)
    assert desk.run.view["status"] == "completed"


def test_runs_belong_to_their_owners() -> None:
    """Another owner neither finds nor cancels one."""
    released: list[Turn] = []
    runs, desk = Runs(released.append), Desk()
    turn = make_turn(Conversation("m", (user("hi"),)), channel=desk.run)
    runs.add("me", "resp_1", desk.run, turn)
    assert runs.get("you", "resp_1") is None
    assert runs.cancel("you", "resp_1") is None
    assert runs.get("me", "resp_1") is desk.run
    for _ in range(2):
        cancelled = runs.cancel("me", "resp_1")
        assert cancelled is not None and cancelled["status"] == "cancelled"
    assert released == [turn]
    assert runs.discard("me", "resp_1") is turn and runs.discard("me", "resp_1") is None
    assert runs.get("me", "resp_1") is None
