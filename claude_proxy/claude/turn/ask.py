"""One turn on one child: send what is new, yield the answer's events.

In: a leased `Connection`, the messages it does not hold yet, the parameters. Out: canonical events, `MessageEnd` last.
Rule: the generator returns only when the CLI's `result` has arrived, the turn is parked, or the answer was cut on
purpose; whatever else happens is an exception, and the child must then be retired.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...core.conversation import Message
from ...core.errors import ChildSilent
from ...core.events import Event
from ..wire.profile import Profile
from ..wire.protocol import Inbound
from .connection import Connection
from .turn_translator import TurnTranslator


def prepare_turn(
    connection: Connection,
    profile: Profile,
    messages: Sequence[Message],
    chain: Sequence[bytes],
    settings: dict[str, Any],
    alive: Callable[[], None],
    *,
    keep: int,
    cache_breakpoint: bool = True,
) -> None:
    """Everything but the question: make the child what it must be, set parameters, replay what it does not hold.

    Raises what `Connection` does.

    Args:
        messages: all of the conversation, oldest first; the last one is the user's, or the results of parked calls.
        chain: H₀ … Hₙ of these messages.
        settings: parameters of the turn, in full.
        alive: called whenever the child was heard, and before it is waited for.
        keep: how many of the messages the child holds and keeps; what else it holds is taken out.
        cache_breakpoint: a history that is replayed from its start ends with a cache breakpoint.
    """
    alive()
    # A live history has the CLI's own breakpoint where it needs one; one that is put in has none but ours.
    marked = last_stable(messages) if cache_breakpoint and (keep == 0 or keep < len(connection.history)) else None
    if connection.profile is None:
        connection.prepare(profile)
    elif not (connection.is_parked and keep == len(connection.history)):
        keep, marked = _make_way(connection, keep, marked)
        connection.become(profile, keep, alive)
    connection.begin_turn(chain[0])
    connection.apply(settings)
    for index in range(keep, len(messages) - 1):
        connection.replay(messages[index], chain[index + 1], alive, cache_breakpoint=index == marked)


def _make_way(connection: Connection, keep: int, marked: int | None) -> tuple[int, int | None]:
    """How many messages to keep, and where to put a breakpoint: a history with one of ours takes no second one, so the
    messages from that on are put in anew. Without messages to be put in there is none to mark."""
    if marked is None or marked < keep:
        return keep, None
    unmarked = connection.history.without_breakpoint(keep)
    return (keep, None) if unmarked is None else (unmarked, marked)


def last_stable(messages: Sequence[Message]) -> int | None:
    """Where a replayed history best ends a cache entry: the last message before the question that stays as it is.

    The CLI joins user messages in a row, so that one of them looks different in the next request.
    """
    for index in range(len(messages) - 2, -1, -1):
        if messages[index].role == "assistant" or messages[index + 1].role == "assistant":
            return index
    return None


def ask_question(connection: Connection, message: Message, digest: bytes) -> None:
    """Send the newest message: the question, or the results a parked child waits for. Raises ChildDied.

    digest: of the conversation up to this message.
    """
    if connection.is_parked:
        connection.answer(message, digest)
    else:
        connection.ask(message, digest)


def read_answer(
    connection: Connection,
    translator: TurnTranslator,
    alive: Callable[[], None],
    on_message: Callable[[Inbound], None],
    end_timeout: float,
) -> Iterator[Event]:
    """Yield what comes after `ask_question`. Raises what `Connection` and the translator do.

    Args:
        translator: makes events of messages; says when the answer is over.
        alive: called whenever the child was heard.
        on_message: called with each message once it has been translated, before its events are yielded.
        end_timeout: seconds that the CLI may be silent once the model has stopped.
    """
    while not translator.done:
        try:
            inbound = connection.receive(alive, end_timeout if translator.is_ending else None)
        except ChildSilent:
            if not translator.is_ending:
                raise
            events = translator.cut_off()
            connection.stop_answer()
            yield from events
            return
        events = translator.feed(inbound)
        if translator.cut:
            connection.stop_answer()  # before anything else: the CLI is about to ask the API to go on
        on_message(inbound)
        yield from events
