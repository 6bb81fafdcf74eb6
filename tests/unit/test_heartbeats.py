"""The loop of every stream: what comes, heartbeats while nothing comes, an end when the client has gone."""

import pytest

from claude_proxy.core.errors import ClientGone
from claude_proxy.web.client import Client
from claude_proxy.web.heartbeats import DISCONNECT_POLL, Poll, with_heartbeats


def play(*script: tuple[str | None, bool]) -> Poll[str]:
    """A source that returns these one after another, and fails when it is asked once more."""
    rest = list(script)

    def poll(timeout: float) -> tuple[str | None, bool]:
        assert timeout == DISCONNECT_POLL
        return rest.pop(0)

    return poll


def staying(heartbeat_interval: float = 10.0) -> Client:
    return Client(lambda: False, heartbeat_interval)


def test_what_comes_is_passed_on_up_to_the_end() -> None:
    """Also what comes with the end; nothing is asked for after it."""
    assert list(with_heartbeats(play(("a", False), (None, False), ("b", True)), staying())) == ["a", "b"]
    assert list(with_heartbeats(play(("a", False), (None, True)), staying())) == ["a"]


def test_a_heartbeat_is_due_after_each_quiet_interval() -> None:
    """Something that comes begins the interval again."""
    quiet, last = (None, False), (None, True)
    script = play(quiet, quiet, ("a", False), quiet, quiet, quiet, quiet, quiet, quiet, last)
    assert list(with_heartbeats(script, staying(2.5 * DISCONNECT_POLL))) == ["a", None, None]


def test_a_client_that_has_gone_ends_it() -> None:
    """What has just come is not passed on."""
    looks = iter([False, False, True])
    stream = with_heartbeats(play(("a", False), (None, False), ("b", False)), Client(lambda: next(looks), 10.0))
    assert next(stream) == "a"
    with pytest.raises(ClientGone):
        next(stream)


def test_an_end_without_anything_new_is_an_end_for_a_client_that_has_gone_too() -> None:
    """It has everything: that it hung up then is not a failure."""
    assert list(with_heartbeats(play((None, True)), Client(lambda: True, 10.0))) == []
