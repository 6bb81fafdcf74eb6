"""When the demo's bytes leave."""

import math
import threading
from typing import Iterator

import pytest

from claude_proxy.demo.commands import Commands
from claude_proxy.demo.limits import build_limit_headers
from claude_proxy.demo.pacing import Abandoned, Fault, Waiter, cut_frames, find_fault, inject_fault, pace
from claude_proxy.demo.render import Frame


class FakeEvent(threading.Event):
    """An event on which waiting moves a clock instead of sleeping; each wait takes a millisecond too long."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        """Move the clock."""
        self.now += (timeout or 0.0) + 0.001
        return self.is_set()


@pytest.fixture
def event() -> FakeEvent:
    """The event that says that the server stops."""
    return FakeEvent()


def make_waiter(event: FakeEvent, gone_at: float = math.inf) -> Waiter:
    """A waiter on the fake clock, with a client that leaves at a time."""
    return Waiter(event, lambda: event.now >= gone_at, lambda: event.now)


def make_frames(tokens: int) -> Iterator[Frame]:
    """A head, some tokens, an end."""
    yield b"<", 0
    for number in range(tokens):
        yield b"%d" % number, 1
    yield b">", 0


def test_tokens_keep_to_the_schedule_without_drift(event: FakeEvent) -> None:
    """Token n leaves at n delays after the start, although every wait takes longer than asked."""
    times = [(chunk, event.now) for chunk in pace(make_frames(100), 0.01, make_waiter(event))]
    assert [chunk for chunk, _ in times[:2]] == [b"<", b"0"]
    assert [time for _, time in times[:2]] == pytest.approx([0.0, 0.011])
    assert event.now == pytest.approx(1.001)


def test_without_delay_everything_leaves_at_once(event: FakeEvent) -> None:
    """One write, no wait; only very long answers come in several."""
    assert list(pace(make_frames(3), 0.0, make_waiter(event))) == [b"<012>"]
    assert len(list(pace(((b"x" * 9000, 1) for _ in range(5)), 0.0, make_waiter(event)))) == 3
    assert event.now == 0.0


def test_a_wait_ends_when_the_client_is_gone(event: FakeEvent) -> None:
    """Soon, not at the end of the wait."""
    with pytest.raises(Abandoned):
        make_waiter(event, gone_at=5.0).wait(math.inf)
    assert event.now < 5.2


def test_a_wait_ends_when_the_server_stops(event: FakeEvent) -> None:
    """At once."""
    event.set()
    with pytest.raises(Abandoned):
        make_waiter(event).wait(1.0)
    assert event.now == 0.0


def test_a_wait_of_nothing_is_none(event: FakeEvent) -> None:
    """Not even a look at the client."""
    make_waiter(event, gone_at=0.0).wait(0.0)


@pytest.mark.parametrize(("after", "expected"), [(0, b"<"), (1, b"<0"), (3, b"<012"), (9, b"<012>")])
def test_frames_are_cut_behind_a_token(after: int, expected: bytes) -> None:
    """0 leaves the head."""
    assert b"".join(data for data, _ in cut_frames(make_frames(3), after)) == expected


def test_a_fault_comes_at_the_end_of_an_answer_that_is_shorter() -> None:
    """It always comes."""
    assert find_fault(Commands(stall=5), 3) == Fault("stall", 3)
    assert find_fault(Commands(cut=0), 3) == Fault("cut", 0)
    assert find_fault(Commands(), 3) is None


def test_faults_end_the_stream_each_in_its_way(event: FakeEvent) -> None:
    """An event, a cut, or silence until the client is gone."""
    assert list(inject_fault(Fault("error", 1), b"event", make_waiter(event))) == [b"event"]
    with pytest.raises(Abandoned):
        list(inject_fault(Fault("cut", 1), b"event", make_waiter(event)))
    assert event.now == 0.0
    with pytest.raises(Abandoned):
        list(inject_fault(Fault("stall", 1), b"event", make_waiter(event, gone_at=3.0)))
    assert event.now >= 3.0


def test_limit_headers_are_sent_only_when_asked_for() -> None:
    """Resets are seconds since the epoch; a warning is known by its threshold."""
    assert build_limit_headers(Commands(), 1000.0) == {}
    headers = build_limit_headers(Commands(limit="allowed_warning", reset=60), 1000.0)
    assert headers["anthropic-ratelimit-unified-reset"] == "1060"
    assert headers["anthropic-ratelimit-unified-5h-surpassed-threshold"] == "0.9"
