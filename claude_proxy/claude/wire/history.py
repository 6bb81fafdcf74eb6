"""PURE: what a child's history holds, message by message, and how far back a rewind can take it.

`Connection` appends to it as messages are put in, asked and answered; the fleet compares it with the digest chain of a
request. Invariant: it names exactly what the CLI holds; whatever makes that doubtful makes the child unusable.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """One message. digest: of the conversation up to this message and with it.

    target: the uuid under which `rewind_conversation` takes it out, with all that follows; None for what goes with an
    earlier one: an assistant's message, and the results of a call that was parked.
    uuid: the CLI's name of an assistant's message, which a rewind gives back as the one before its target.
    has_breakpoint: an entry of the API's prompt cache ends here, because we asked for it; four are the API's limit.
    """

    digest: bytes
    target: str | None = None
    uuid: str | None = None
    has_breakpoint: bool = False


@dataclass(frozen=True, slots=True)
class Rewind:
    """A way back. target: the oldest user message to take out; last_seen: the newest one that the child holds, so that
    the CLI refuses where it holds another. preceding: the assistant's message before the target, as the CLI must name
    it (None for none); where the message before is another user's, `is_checkable` is False.
    """

    target: str
    last_seen: str
    preceding: str | None
    is_checkable: bool


@dataclass(slots=True)
class History:
    """What one child holds. start: H₀ of the conversation; None while it holds none."""

    start: bytes | None = None
    messages: list[HeldMessage] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def head(self) -> bytes | None:
        """The digest of all that it holds; None while it holds nothing."""
        return self.messages[-1].digest if self.messages else None

    @property
    def is_one_shot(self) -> bool:
        """True while the conversation has one answer at most: most of these are never continued."""
        return sum(held.uuid is not None for held in self.messages) <= 1

    def begin(self, start: bytes) -> None:
        """The conversation whose messages follow; the history must be empty."""
        if self.messages:
            raise ValueError("a history begins empty")
        self.start = start

    def append(self, message: HeldMessage) -> None:
        """The child has taken one more message."""
        self.messages.append(message)

    def common(self, chain: Sequence[bytes]) -> int:
        """How many of its messages a conversation with the digests H₀ … Hₙ begins with."""
        if self.start is None or self.start != chain[0]:
            return 0
        count = 0
        for held, digest in zip(self.messages, chain[1:], strict=False):
            if held.digest != digest:
                break
            count += 1
        return count

    def reachable(self, keep: int) -> int | None:
        """The largest count of messages, at most `keep`, that a rewind can leave; None where there is no such count.

        What stands before the first user message cannot be taken out.
        """
        if keep >= len(self.messages):
            return len(self.messages)
        for index in range(keep, -1, -1):
            if self.messages[index].target is not None:
                return index
        return None

    def without_breakpoint(self, keep: int) -> int | None:
        """The largest count of messages, at most `keep`, that a rewind can leave and that has no breakpoint of ours."""
        for index, held in enumerate(self.messages[:keep]):
            if held.has_breakpoint:
                return self.reachable(index)
        return keep

    def way_back(self, keep: int) -> Rewind:
        """The rewind that leaves `keep` messages; `keep` must be reachable, and less than it holds."""
        target = self.messages[keep].target
        newest = next(held.target for held in reversed(self.messages) if held.target is not None)
        if target is None:
            raise ValueError("only a user message can be the target of a rewind")
        before = self.messages[keep - 1] if keep else None
        preceding = before.uuid if before is not None else None
        return Rewind(target, newest, preceding, is_checkable=before is None or preceding is not None)

    def cut(self, keep: int) -> None:
        """The child has been rewound to this many messages."""
        del self.messages[keep:]
        if not self.messages:
            self.start = None
