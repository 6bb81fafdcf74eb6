"""The loop of every stream: wait for what comes next, until it ends or the client has gone, with heartbeats between.

In: a function that waits a little, and the client. Out: what came, in order. Called by `answering` for turns, by
`watchers` for streams of events, by `responses_runs` for background responses. Invariant: a vanished client is noticed
within `DISCONNECT_POLL` seconds, also while nothing comes.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

from ..core.errors import ClientGone
from .client import Client

T = TypeVar("T")

# How soon a vanished client is noticed while nothing is written to it.
DISCONNECT_POLL = 0.1

# Waits at most so many seconds. What has come, None for nothing; and whether nothing more will come after it.
Poll = Callable[[float], tuple[T | None, bool]]


def with_heartbeats(poll: Poll[T], client: Client) -> Iterator[T | None]:
    """What `poll` returns, up to its end; None, for a heartbeat, after each quiet `heartbeat_interval`.

    Raises ClientGone, and whatever `poll` raises.
    """
    quiet = 0.0
    while True:
        found, ended = poll(DISCONNECT_POLL)
        if found is None and ended:
            return
        # Also where something has come: an answer that is not streamed would otherwise be made to its end.
        if client.is_gone():
            raise ClientGone("The client has gone")
        if found is not None:
            quiet = 0.0
            yield found
            if ended:
                return
            continue
        quiet += DISCONNECT_POLL
        if quiet >= client.heartbeat_interval:
            quiet = 0.0
            yield None
