"""What models were seen to refuse with a 400, and what a turn can be run without.

In: turns, and the 400s they met. Out: their parameters, less what is refused. A model is asked once; what it was seen
to refuse is left out from then on, as long as the proxy runs.
"""

import threading
from dataclasses import dataclass, field, replace

from ..claude.wire.parameters import Parameters, Refusals, build_parameters
from .turn import Turn


@dataclass(slots=True)
class Attempts:
    """What must not be tried twice in one turn."""

    replaced: bool = False
    logged_in_again: bool = False
    fresh: bool = False
    newborn: bool = False
    before: Refusals = Refusals()
    remedies: list[Refusals] | None = None


@dataclass(slots=True)
class Remedies:
    """What is known of the models, by the CLI's names for them."""

    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards: _refusals, _marked
    _refusals: dict[str, Refusals] = field(default_factory=dict)
    _marked: set[str] = field(default_factory=set)

    def parameters(self, turn: Turn) -> Parameters:
        """The settings of a turn, less what its model refuses.

        An agent's schema is none of them: they hold for all its calls, the schema for its last word.
        """
        known = self.known(turn)
        known = replace(known, schema=True) if turn.profile.agent else known
        return build_parameters(turn.conversation.options, turn.profile.toolset, known)

    def known(self, turn: Turn) -> Refusals:
        """What the model of a turn was seen to refuse."""
        with self._lock:
            return self._refusals.get(turn.profile.model, Refusals())

    def takes_mark(self, turn: Turn) -> None:
        """The API has begun to answer a history that ends with a cache breakpoint of ours."""
        with self._lock:
            self._marked.add(turn.profile.model)

    def note_refusal(self, turn: Turn, attempts: Attempts) -> bool:
        """Remember what the model seems to refuse; True when the turn can be run without it.

        Where leaving everything out does not help either, the 400 was about something else, and nothing is remembered.
        """
        if attempts.remedies is None:
            attempts.before = self.known(turn)
            attempts.remedies = self._find(turn, attempts.before)
        with self._lock:
            if not attempts.remedies:
                self._refusals[turn.profile.model] = attempts.before
                return False
            self._refusals[turn.profile.model] = attempts.remedies.pop(0)
            return True

    def _find(self, turn: Turn, known: Refusals) -> list[Refusals]:
        """What may be left out, to be tried in this order: parameters, the schema, both, our cache breakpoint too."""
        parameters = self.parameters(turn)
        found = []
        if parameters.refusable and (parameters.tacit or not turn.strict):
            found.append(parameters.without(known))
        if turn.conversation.options.json_schema is not None and not known.schema and not turn.profile.agent:
            found += [replace(one, schema=True) for one in (known, *found)]
        with self._lock:
            marked = turn.profile.model in self._marked
        if len(turn.conversation.messages) > 1 and not known.mark and not marked:
            found += [replace(one, mark=True) for one in (known, *found)]
        return found
