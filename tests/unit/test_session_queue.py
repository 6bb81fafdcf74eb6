"""Turns of one session: one at a time, in order."""

import threading

import pytest

from claude_proxy.core.errors import QueueFull
from claude_proxy.core.session_key import SessionKey
from claude_proxy.turns.session_queue import SessionQueue

A, B = SessionKey("", "a"), SessionKey("", "b")


def test_one_at_a_time_in_order_of_arrival() -> None:
    """The queue lets the next one pass when the one before has left, not sooner."""
    queue, order = SessionQueue(10), []
    first = queue.enter(A, lambda: False, 1.0)
    entered = [threading.Event() for _ in range(3)]

    def look(number: int) -> bool:
        entered[number].set()
        return False

    def pass_through(number: int) -> None:
        ticket = queue.enter(A, lambda: look(number), 10.0, poll=0.01)
        order.append(number)
        assert ticket is not None
        queue.leave(A, ticket)

    threads = [threading.Thread(target=pass_through, args=(number,)) for number in range(3)]
    for thread, event in zip(threads, entered, strict=True):
        thread.start()
        assert event.wait(5.0)
    assert order == []
    assert queue.enter(B, lambda: False, 1.0) is not None
    assert first is not None
    queue.leave(A, first)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]


@pytest.mark.parametrize(("is_gone", "timeout"), [(True, 10.0), (False, 0.0)])
def test_who_goes_away_or_waits_too_long_holds_nobody_up(is_gone: bool, timeout: float) -> None:
    """Its place in the queue is given up."""
    queue = SessionQueue(10)
    first = queue.enter(A, lambda: False, 1.0)
    assert queue.enter(A, lambda: is_gone, timeout, poll=0.001) is None
    assert first is not None
    queue.leave(A, first)
    assert queue.enter(A, lambda: False, 1.0) is not None


def test_only_so_many_wait_for_others() -> None:
    """Each holds a thread; who need not wait is not counted."""
    queue = SessionQueue(0)
    first = queue.enter(A, lambda: False, 1.0)
    with pytest.raises(QueueFull):
        queue.enter(A, lambda: False, 1.0)
    assert queue.enter(B, lambda: False, 1.0) is not None and first is not None
    queue.leave(A, first)
    assert queue.enter(A, lambda: False, 1.0) is not None
