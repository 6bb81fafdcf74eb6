"""The bounded pool: what it takes, what it refuses, what it gives back."""

import pytest

from claude_proxy.core.errors import QueueFull, ShuttingDown
from claude_proxy.turns.workers import WorkerPool


def nothing() -> None:
    """A job."""


def other() -> None:
    """Another one."""


def test_workers_and_queue_together_are_the_limit() -> None:
    """Beyond it a job is refused, with the time after which to try again."""
    pool = WorkerPool(1, 2)
    for _ in range(3):
        pool.submit(nothing)
    assert (pool.active, pool.queued) == (0, 3)
    with pytest.raises(QueueFull) as raised:
        pool.submit(nothing)
    assert raised.value.retry_after


def test_a_job_that_waits_can_be_cancelled() -> None:
    """Its place is free at once; one that is not there is nobody's loss."""
    pool = WorkerPool(1, 0)
    pool.submit(nothing)
    assert pool.cancel_queued(other) is False
    assert pool.cancel_queued(nothing) is True
    assert pool.cancel_queued(nothing) is False
    pool.submit(other)
    assert pool.queued == 1


def test_a_pool_that_refuses_takes_nothing_more() -> None:
    """What it has taken it keeps, until it is stopped."""
    pool = WorkerPool(1, 1)
    pool.submit(nothing)
    pool.refuse()
    with pytest.raises(ShuttingDown):
        pool.submit(nothing)
    assert pool.queued == 1 and pool.drain(0.0) is False
    pool.stop(0.0)
    assert pool.queued == 0 and pool.drain(0.0) is True
