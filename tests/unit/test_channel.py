"""The queue between worker and view, without either."""

import pytest

from claude_proxy.core.errors import ClientGone, ShuttingDown, UpstreamError
from claude_proxy.turns.channel import Channel, Closed


def test_items_come_out_in_order_and_then_the_end() -> None:
    """None stands for nothing yet; the end is said again to who asks again."""
    channel: Channel[int] = Channel()
    assert channel.get(0.0) is None
    channel.put(1, 0.0)
    channel.put(2, 0.0)
    channel.finish()
    assert [channel.get(0.0), channel.get(0.0)] == [1, 2]
    for _ in range(2):
        with pytest.raises(Closed):
            channel.get(0.0)


def test_a_failure_comes_after_what_was_said_before_it() -> None:
    """Nothing is lost."""
    channel: Channel[int] = Channel()
    channel.put(1, 0.0)
    channel.finish(UpstreamError("x"))
    assert channel.get(0.0) == 1
    with pytest.raises(UpstreamError):
        channel.get(0.0)


def test_a_full_channel_holds_the_producer_back() -> None:
    """It says that it waits, once; a consumer that takes nothing has gone."""
    channel: Channel[int] = Channel(capacity=2)
    waits: list[str] = []
    channel.put(1, 0.0, lambda: waits.append("early"))
    channel.put(2, 0.0)
    with pytest.raises(ClientGone):
        channel.put(3, 0.0, lambda: waits.append("now"))
    assert waits == ["now"]
    assert channel.get(0.0) == 1
    channel.put(3, 0.0)
    assert [channel.get(0.0), channel.get(0.0)] == [2, 3]


def test_either_side_hears_of_an_abort() -> None:
    """The first reason counts; what was there can still be taken."""
    channel: Channel[int] = Channel(capacity=1)
    channel.put(1, 0.0)
    channel.abort(ShuttingDown("x"))
    channel.abort(ClientGone("y"))
    assert isinstance(channel.aborted, ShuttingDown)
    with pytest.raises(ShuttingDown):
        channel.put(2, 0.0)
    assert channel.get(0.0) == 1
    with pytest.raises(ShuttingDown):
        channel.get(0.0)


def test_what_has_ended_cannot_be_aborted() -> None:
    """The end was said."""
    channel: Channel[int] = Channel()
    channel.finish()
    channel.abort(ShuttingDown("x"))
    assert channel.aborted is None
    with pytest.raises(Closed):
        channel.get(0.0)
