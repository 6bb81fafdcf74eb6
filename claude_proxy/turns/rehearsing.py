"""What the next request of a conversation will probably begin with, where its last messages move with every turn.

In: a turn that was answered. Out: a preload for the fleet, or nothing. What is learnt is in `foresight`.
"""

from ..claude.fleet.fleet import Preload
from ..core.conversation import Message, digest_chain, digest_message, digest_profile
from ..storage.sessions import without_thinking
from .foresight import Foresight
from .turn import Turn


def foresee(foresight: Foresight, turn: Turn, reply: Message) -> Preload | None:
    """What to prepare for the next request; None where the child itself can go on.

    A first request that ends with two user messages in a row is taken for one of such a client's, to be on the safe
    side; its child is kept all the same.
    """
    assert turn.session is not None
    messages = turn.conversation.messages
    start = digest_profile(turn.name.partition, turn.mode.digest_kind, turn.profile.model, turn.conversation)
    opening = digest_message(start, messages[0])
    digests = [digest_message(b"", message) for message in messages]
    dropped = foresight.dropped(opening, digests)
    foresight.note(opening, digests, digest_message(b"", reply))
    certain = bool(dropped)
    if dropped is None and [message.role for message in messages[-2:]] == ["user", "user"]:
        dropped = 1
    kept = messages[: len(messages) - (dropped or 0)]
    if not dropped or not kept:
        return None
    history = (*kept, without_thinking(reply))
    return Preload(turn.profile, history, digest_chain(start, history)[-1], turn.session.key, certain)
