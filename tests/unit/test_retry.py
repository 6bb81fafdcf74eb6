"""Whether a turn that failed may be run once more, and how: one table."""

from collections.abc import Iterator

import pytest

from claude_proxy.core import errors
from claude_proxy.core.errors import (
    BadRequest,
    ChildDied,
    ContextTooLong,
    ModelNotFound,
    NotAuthenticated,
    PlanLimitReached,
    ProxyError,
    RecycleRefused,
    UpstreamError,
)
from claude_proxy.turns.retry import Attempts, Remedy, choose_remedy

NEW, FRESH, LOGIN, LEAVE, OTHER, GIVE_UP = (
    Remedy.NEW_PROCESS,
    Remedy.FRESH_CHILD,
    Remedy.LOG_IN_AGAIN,
    Remedy.LEAVE_OUT,
    Remedy.OTHER_MODEL,
    Remedy.GIVE_UP,
)
# What is tried first for each kind of failure; everything that is not named is given up.
FIRST: dict[type[ProxyError], Remedy] = {
    ChildDied: NEW,
    RecycleRefused: FRESH,
    NotAuthenticated: LOGIN,
    BadRequest: LEAVE,
    PlanLimitReached: OTHER,
}


def every_error(of: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from every_error(kind)


def make(kind: type[ProxyError]) -> ProxyError:
    return kind("it failed")


@pytest.mark.parametrize("kind", [*dict.fromkeys(every_error())])
def test_what_is_tried_first(kind: type[ProxyError]) -> None:
    """And nothing at all once the client may have seen a part of the answer."""
    error = make(kind)
    wanted = FIRST.get(kind, GIVE_UP)
    assert choose_remedy(error, Attempts(), has_begun=False, was_resumed=False) is wanted
    assert choose_remedy(error, Attempts(), has_begun=True, was_resumed=True) is GIVE_UP


@pytest.mark.parametrize("kind", [ChildDied, RecycleRefused, NotAuthenticated, BadRequest])
def test_nothing_is_tried_twice_for_the_same_reason(kind: type[ProxyError]) -> None:
    """A turn ends, whatever happens."""
    attempts = Attempts()
    attempts.note(choose_remedy(make(kind), attempts, has_begun=False, was_resumed=False))
    assert choose_remedy(make(kind), attempts, has_begun=False, was_resumed=False) is GIVE_UP


@pytest.mark.parametrize(
    ("error", "was_resumed", "wanted"),
    [
        (UpstreamError("x"), True, FRESH),
        (UpstreamError("x"), False, GIVE_UP),
        (BadRequest("x", param="messages[0]"), False, GIVE_UP),
        (ContextTooLong("x"), False, GIVE_UP),
        (ModelNotFound("x"), False, GIVE_UP),
    ],
)
def test_the_error_says_whether_another_attempt_can_help(error: ProxyError, was_resumed: bool, wanted: Remedy) -> None:
    """A session that the CLI does not know any more is replayed; what names a parameter is the client's."""
    assert choose_remedy(error, Attempts(), has_begun=False, was_resumed=was_resumed) is wanted


def test_what_a_remedy_asks_of_the_next_attempt() -> None:
    """A child that died may have died with the spares; one that did not forget is merely not used again."""
    died, refused, login = Attempts(), Attempts(), Attempts()
    died.note(NEW)
    refused.note(FRESH)
    login.note(LOGIN)
    assert [(one.fresh, one.skip_spares) for one in (died, refused, login)] == [
        (True, True),
        (True, False),
        (True, False),
    ]
