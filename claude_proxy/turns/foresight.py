"""PURE: which part of a conversation the next request will keep, learnt from how the last two differ.

Some clients append a message that moves to the end with every turn (OpenClaw's context block), so that no child ever
holds what the next request begins with: every turn would be a replay. Once a request was seen to drop the last messages
of the one before, the next one is expected to drop as many, and a child can be prepared with the rest meanwhile.

In: digests of single messages, no text. Out: how many messages were dropped.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

CAPACITY = 64
MOST_DROPPED = 3


class Foresight:
    """Remembers the last request of each conversation, as digests of its messages and of the answer.

    A conversation is known by its profile and its opening: two that are alike in this are mixed up at times, which
    costs a child prepared in vain, and never an answer.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()  # guards: _last
        self._last: OrderedDict[bytes, tuple[tuple[bytes, ...], bytes]] = OrderedDict()

    def dropped(self, conversation: bytes, messages: Sequence[bytes]) -> int | None:
        """How many of the last request's last messages are gone, with its answer in their place; 0 for none.

        None where no request of this conversation was seen before.
        """
        with self._lock:
            known = self._last.get(conversation)
        if known is None:
            return None
        before, reply = known
        # Nothing dropped is looked for first: of a conversation that repeats itself more than one count would fit.
        for count in range(min(MOST_DROPPED, len(before) - 1) + 1):
            kept = len(before) - count
            if len(messages) > kept and tuple(messages[:kept]) == before[:kept] and messages[kept] == reply:
                return count
        return 0

    def note(self, conversation: bytes, messages: Sequence[bytes], reply: bytes) -> None:
        """A request was answered."""
        with self._lock:
            self._last[conversation] = (tuple(messages), reply)
            self._last.move_to_end(conversation)
            while len(self._last) > self._capacity:
                self._last.popitem(last=False)
