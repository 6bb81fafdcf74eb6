"""The prompt cache, counted like the real one.

In goes a prompt as blocks, out comes how many of its tokens were read from the cache, written to it, or
neither. Every block with `cache_control` is a breakpoint; the prefix up to each is stored. A stored prefix
is found when it ends at one of the 20 blocks up to a breakpoint, the breakpoint's own being the first, as
in https://docs.claude.com/en/docs/build-with-claude/prompt-caching. Two things differ, so that a small demo
shows the cache at work: there is no minimum length, and nothing expires by time, only the least recently
used beyond `capacity`.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Sequence

from .prompt import PromptBlock

LOOKBACK_BLOCKS = 20


@dataclass(frozen=True, slots=True)
class InputUsage:
    """The prompt's tokens: read from the cache, written to it (by ttl), and behind the last breakpoint."""

    read: int
    written_5m: int
    written_1h: int
    plain: int

    @property
    def written(self) -> int:
        """All that was written."""
        return self.written_5m + self.written_1h


class PromptCache:
    """Stored prefixes of all models."""

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()  # guards _stored
        self._stored: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def account(self, model: str, blocks: Sequence[PromptBlock]) -> InputUsage:
        """Count a prompt against what is stored, then store its own breakpoints."""
        breakpoints = [index for index, block in enumerate(blocks) if block.ttl]
        with self._lock:
            read_end = self._find_longest(model, blocks, breakpoints) + 1
            for index in breakpoints:
                self._store((model, blocks[index].prefix))
        write_end = breakpoints[-1] + 1 if breakpoints else 0
        written = _count_written(blocks, read_end, breakpoints)
        return InputUsage(
            read=sum(block.tokens for block in blocks[:read_end]),
            written_5m=written["5m"],
            written_1h=written["1h"],
            plain=sum(block.tokens for block in blocks[write_end:]),
        )

    def _find_longest(self, model: str, blocks: Sequence[PromptBlock], breakpoints: Sequence[int]) -> int:
        """The last block of the longest stored prefix, -1 when there is none. The lock is held."""
        for last in reversed(breakpoints):
            for index in range(last, max(-1, last - LOOKBACK_BLOCKS), -1):
                key = (model, blocks[index].prefix)
                if key in self._stored:
                    self._stored.move_to_end(key)
                    return index
        return -1

    def _store(self, key: tuple[str, bytes]) -> None:
        self._stored[key] = None
        self._stored.move_to_end(key)
        if len(self._stored) > self._capacity:
            self._stored.popitem(last=False)


def _count_written(blocks: Sequence[PromptBlock], start: int, breakpoints: Sequence[int]) -> dict[str, int]:
    """Tokens from `start` to the last breakpoint, by the ttl of the breakpoint that ends their stretch."""
    written = {"5m": 0, "1h": 0}
    for index in breakpoints:
        written[blocks[index].ttl or "5m"] += sum(block.tokens for block in blocks[start : index + 1])
        start = max(start, index + 1)
    return written
