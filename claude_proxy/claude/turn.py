"""One turn on one child: send what is new, yield the answer's events.

In: a leased `Dialogue`, the messages it does not hold yet, the parameters. Out: canonical events, `MessageEnd` last.
Rule: the generator returns only when the CLI's `result` has arrived, or the answer was cut on purpose; whatever else
happens is an exception, and the child must then be retired.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..conversation import Message
from ..events import Event
from .dialogue import Dialogue, Profile
from .translator import Translator


def run_turn(
    dialogue: Dialogue,
    profile: Profile,
    messages: Sequence[Message],
    settings: dict[str, Any],
    translator: Translator,
    alive: Callable[[], None],
) -> Iterator[Event]:
    """Drive one turn. `messages`: those the child does not hold, oldest first, the last one the user's; for a parked
    child the one message that answers its calls.

    alive: called whenever the child was heard, and before it is waited for. Raises what `Dialogue` and `Translator` do.
    """
    alive()
    dialogue.prepare(profile)
    dialogue.apply(settings)
    if dialogue.is_parked:
        dialogue.answer(messages[-1])
    else:
        for message in messages[:-1]:
            dialogue.replay(message, alive)
        dialogue.ask(messages[-1])
    while not translator.done:
        yield from translator.feed(dialogue.receive(alive))
