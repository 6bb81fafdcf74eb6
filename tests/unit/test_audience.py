"""Watchers: how many may, what they are told, when they leave."""

from collections.abc import Iterable

import pytest

from claude_proxy.core.errors import QueueFull
from claude_proxy.dialects.dialect import KEEP_ALIVE
from claude_proxy.web.answering import DISCONNECT_POLL
from claude_proxy.web.audience import LARGEST_AUDIENCE, Audience, watch
from claude_proxy.web.client import Client


def test_an_audience_is_limited() -> None:
    """Each watcher holds a thread; the one too many is told when to come back."""
    audience = Audience()
    for _ in range(LARGEST_AUDIENCE):
        audience.enter()
    with pytest.raises(QueueFull) as raised:
        audience.enter()
    assert raised.value.retry_after == 5
    audience.leave()
    audience.enter()


def test_a_watcher_leaves_when_its_stream_is_closed() -> None:
    """Also where nothing of it was ever read."""
    audience = Audience()
    responses = []
    for _ in range(LARGEST_AUDIENCE):
        audience.enter()
        responses.append(audience.respond(iter([b"x"]), {"X-A": "b"}))
    assert (responses[0].mimetype, responses[0].headers["X-A"]) == ("text/event-stream", "b")
    assert responses[0].headers["Cache-Control"] == "no-cache"
    for response in responses:
        response.close()
    for _ in range(LARGEST_AUDIENCE):
        audience.enter()


def test_a_stream_is_what_it_is_told_up_to_the_end() -> None:
    """What comes with the end is a part of it."""
    told = [([b"a", b"b"], False), ([], False), ([b"c"], True)]
    assert list(watch(lambda timeout: told.pop(0), Client(lambda: False, 10.0))) == [b"ab", b"c"]


def test_a_quiet_stream_gives_signs_of_life() -> None:
    """After each quiet interval; what is told starts it anew."""
    script = [b"", b"", b"a", b"", b"", b"", b"", b""]

    def next_events(timeout: float) -> tuple[Iterable[bytes], bool]:
        assert timeout == DISCONNECT_POLL
        return [script.pop(0)], not script

    quiet = Client(lambda: False, 2.5 * DISCONNECT_POLL)
    assert list(watch(next_events, quiet)) == [b"a", KEEP_ALIVE]


def test_a_watcher_that_has_gone_is_told_no_more() -> None:
    """It is looked for after everything that is told, and in every quiet moment."""
    looks = iter([False, False, True])
    assert list(watch(lambda timeout: ([b"a"], False), Client(lambda: next(looks), 10.0))) == [b"a"] * 3
