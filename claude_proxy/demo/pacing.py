"""When the bytes of an answer leave.

In go frames (bytes, and whether they are a token), out come chunks, each at its time: token n at start + n
* delay, so that small delays do not add up to a drift. Frames whose time has come leave together. Every
wait ends at once when the server stops, and within `POLL_INTERVAL` when the client is gone.
"""

import math
import threading
import time
from dataclasses import dataclass
from typing import Callable, Iterable, Iterator

from .commands import Commands
from .render import Frame

POLL_INTERVAL = 0.1
MAX_CHUNK_BYTES = 16_384


class Abandoned(Exception):
    """Nobody waits for the rest: the client is gone, the server stops, or the prompt asked for a cut."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Waits for as long as somebody waits for the answer.

    stopping: set when the server stops. is_gone: whether the client has hung up.
    """

    stopping: threading.Event
    is_gone: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic

    def wait_until(self, due: float) -> None:
        """Return when the clock shows `due`. Raises Abandoned."""
        while True:
            if self.stopping.is_set() or self.is_gone():
                raise Abandoned
            left = due - self.clock()
            if left <= 0:
                return
            self.stopping.wait(min(left, POLL_INTERVAL))

    def wait(self, seconds: float) -> None:
        """Wait for a time, `math.inf` for ever. Raises Abandoned."""
        if seconds > 0:
            self.wait_until(self.clock() + seconds)


def pace(frames: Iterable[Frame], delay: float, waiter: Waiter) -> Iterator[bytes]:
    """Chunks at their time. Raises Abandoned from a wait."""
    start = waiter.clock()
    ready = bytearray()
    sent = 0
    for data, tokens in frames:
        sent += tokens
        if tokens and delay and (due := start + sent * delay) > waiter.clock():
            if ready:
                yield bytes(ready)
                ready.clear()
            waiter.wait_until(due)
        ready += data
        if len(ready) > MAX_CHUNK_BYTES:
            yield bytes(ready)
            ready.clear()
    if ready:
        yield bytes(ready)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in the middle of an answer, after so many of its tokens."""

    kind: str
    after: int


def find_fault(commands: Commands, output_tokens: int) -> Fault | None:
    """The fault that the prompt asked for; in an answer shorter than that it comes behind the last token."""
    for kind, after in (("stall", commands.stall), ("cut", commands.cut), ("error", commands.error)):
        if after is not None:
            return Fault(kind, min(after, output_tokens))
    return None


def cut_frames(frames: Iterable[Frame], after: int) -> Iterator[Frame]:
    """The frames up to that many tokens; with 0 up to the first frame, which begins the message."""
    sent = 0
    for data, tokens in frames:
        yield data, tokens
        sent += tokens
        if sent >= after:
            return


def inject_fault(fault: Fault, error_event: bytes, waiter: Waiter) -> Iterator[bytes]:
    """What comes where the frames were cut: an event, or silence or a cut, which both end in Abandoned."""
    if fault.kind == "error":
        yield error_event
        return
    if fault.kind == "stall":
        waiter.wait(math.inf)
    raise Abandoned
