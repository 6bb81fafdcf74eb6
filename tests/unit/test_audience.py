"""Watchers: how many may, what they are told, when they leave."""

import pytest

from claude_proxy.core.errors import QueueFull
from claude_proxy.dialects.dialect import KEEP_ALIVE
from claude_proxy.web.audience import LARGEST_AUDIENCE, Audience, watch
from claude_proxy.web.client import Client
from claude_proxy.web.heartbeats import DISCONNECT_POLL


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


def test_a_watched_stream_is_what_comes_and_comments_between() -> None:
    """Up to its end."""
    script = [(b"a", False), (None, False), (b"b", True)]
    client = Client(lambda: False, DISCONNECT_POLL)
    assert list(watch(lambda timeout: script.pop(0), client)) == [b"a", KEEP_ALIVE, b"b"]


def test_the_stream_of_a_watcher_that_has_gone_ends() -> None:
    """Without a word: an error would be logged as one of ours."""
    assert list(watch(lambda timeout: (b"a", False), Client(lambda: True, 10.0))) == []
