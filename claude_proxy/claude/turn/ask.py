"""One turn on one child: send what is new, yield the answer's events.

In: a leased `Connection`, the messages it does not hold yet, the parameters. Out: canonical events, `MessageEnd` last.
Rule: the generator returns only when the CLI's `result` has arrived, the turn is parked, or the answer was cut on
purpose; whatever else happens is an exception, and the child must then be retired.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...core.conversation import Message
from ...core.events import Event
from ..wire.profile import Profile
from ..wire.protocol import Inbound
from .connection import Connection
from .turn_translator import TurnTranslator


def prepare_turn(
    connection: Connection,
    profile: Profile,
    messages: Sequence[Message],
    settings: dict[str, Any],
    alive: Callable[[], None],
    *,
    cache_breakpoint: bool = True,
) -> None:
    """Send everything but the question: initialise, set parameters, replay what the child does not hold.

    Args:
        messages: those the child does not hold, oldest first, the last one the user's; for a parked child the one
            message that answers its calls.
        settings: the parameters of the turn, as `Connection.apply` takes them.
        alive: called whenever the child was heard, and before it is waited for.
        cache_breakpoint: a history that is replayed from its start ends with a cache breakpoint.

    Raises:
        ProxyError: as `Connection` does.
    """
    alive()
    connection.prepare(profile)
    connection.apply(settings)
    stable = last_stable(messages) if cache_breakpoint and connection.history_digest is None else None
    for index, message in enumerate(messages[:-1]):
        connection.replay(message, alive, cache_breakpoint=index == stable)


def last_stable(messages: Sequence[Message]) -> int | None:
    """Where a replayed history best ends a cache entry: the last message before the question that stays as it is.

    The CLI joins user messages in a row, so that one of them looks different in the next request.
    """
    for index in range(len(messages) - 2, -1, -1):
        if messages[index].role == "assistant" or messages[index + 1].role == "assistant":
            return index
    return None


def ask_question(connection: Connection, messages: Sequence[Message]) -> None:
    """Send the newest message: the question, or the results a parked child waits for. Raises ChildDied."""
    if connection.is_parked:
        connection.answer(messages[-1])
    else:
        connection.ask(messages[-1])


def read_answer(
    connection: Connection,
    translator: TurnTranslator,
    alive: Callable[[], None],
    on_message: Callable[[Inbound], None],
) -> Iterator[Event]:
    """Yield what comes after `ask_question`. Raises what `Connection` and the translator do.

    Args:
        translator: makes events of messages; says when the answer is over.
        alive: called whenever the child was heard.
        on_message: called with each message once it has been translated, before its events are yielded.
    """
    while not translator.done:
        inbound = connection.receive(alive)
        events = translator.feed(inbound)
        if translator.cut and not connection.agent:
            connection.stop_now()  # before anything else: the CLI is about to ask the API to go on
        on_message(inbound)
        yield from events
