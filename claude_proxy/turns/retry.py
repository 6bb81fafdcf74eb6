"""PURE: whether a turn that failed may be run once more, and how.

`turns/runner.py` asks with the error, how far the turn had come and what was tried before. Invariant: a turn of which
the client may have seen a part is never run again, and nothing is tried twice for the same reason.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from ..core.errors import (
    BadRequest,
    ChildDied,
    NotAuthenticated,
    PlanLimitReached,
    ProxyError,
    RecycleRefused,
    UpstreamError,
)


class Remedy(Enum):
    """How the next attempt differs from the one that failed."""

    GIVE_UP = auto()
    FRESH_CHILD = auto()  # the reused child, or its stored session, was at fault
    NEW_PROCESS = auto()  # spares may have died with the child: start one for this turn
    LOG_IN_AGAIN = auto()  # children that wait may hold an old login: retire them, then use a fresh one
    LEAVE_OUT = auto()  # the model may refuse a parameter
    OTHER_MODEL = auto()  # the plan refuses this one


@dataclass(slots=True)
class Attempts:
    """What one turn has tried. fresh: no child that holds a conversation, no stored session. skip_spares: a process
    started for this turn alone."""

    replaced: bool = False
    logged_in_again: bool = False
    fresh: bool = False
    skip_spares: bool = False
    has_experimented: bool = False

    def note(self, remedy: Remedy) -> None:
        """The next attempt follows this remedy."""
        match remedy:
            case Remedy.FRESH_CHILD | Remedy.NEW_PROCESS:
                self.replaced = self.fresh = True
                self.skip_spares = remedy is Remedy.NEW_PROCESS
            case Remedy.LOG_IN_AGAIN:
                self.logged_in_again = self.fresh = True
            case Remedy.LEAVE_OUT:
                self.has_experimented = True


# A 400 that names no parameter of the client's may be about one that the proxy sent for it.
_ANONYMOUS: Final = "invalid_request"


def choose_remedy(error: ProxyError, attempts: Attempts, *, has_begun: bool, was_resumed: bool) -> Remedy:
    """What to try after a failure.

    Args:
        error: what the attempt failed with.
        attempts: what the turn has tried before.
        has_begun: a part of the answer was handed to the client.
        was_resumed: the attempt ran on a session that the CLI had stored; it may not know it any more.
    """
    if has_begun:
        return Remedy.GIVE_UP
    match error:
        case ChildDied() if not attempts.replaced:
            return Remedy.NEW_PROCESS
        case RecycleRefused() if not attempts.replaced:
            return Remedy.FRESH_CHILD
        case UpstreamError() if was_resumed and not attempts.replaced:
            return Remedy.FRESH_CHILD
        case NotAuthenticated() if not attempts.logged_in_again:
            return Remedy.LOG_IN_AGAIN
        case BadRequest() if error.kind == _ANONYMOUS and error.param is None and not attempts.has_experimented:
            return Remedy.LEAVE_OUT
        case PlanLimitReached():
            return Remedy.OTHER_MODEL
    return Remedy.GIVE_UP
