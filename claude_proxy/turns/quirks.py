"""What models were seen to refuse with a 400, and what a turn can be run without.

`turns/runner.py` asks for a turn's parameters, less what is refused, and notes refusals. Invariant: a model is asked
once; what it was seen to refuse is left out from then on, as long as the proxy runs.
"""

import threading
from dataclasses import dataclass, field, replace

from ..claude.wire.parameters import Parameters, Refusals, build_parameters
from .turn import Turn


@dataclass(slots=True)
class Experiments:
    """What a turn is tried without, one after the other, once the API has answered it with a 400."""

    before: Refusals
    left: list[Refusals]


@dataclass(slots=True)
class ModelQuirks:
    """What is known of the models, by the CLI's names for them."""

    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards: _refusals, _accepting
    _refusals: dict[str, Refusals] = field(default_factory=dict)
    _accepting: set[str] = field(default_factory=set)

    def parameters(self, turn: Turn) -> Parameters:
        """The settings of a turn, less what its model refuses.

        An agent's schema is not one of them: they hold for all its calls, the schema for its last word.
        """
        known = self.known(turn)
        known = known if turn.mode.schema_per_request else replace(known, schema=True)
        return build_parameters(turn.conversation.options, turn.profile.toolset, known)

    def known(self, turn: Turn) -> Refusals:
        """What the model of a turn was seen to refuse."""
        with self._lock:
            return self._refusals.get(turn.profile.model, Refusals())

    def note_cache_breakpoint(self, turn: Turn) -> None:
        """The API has begun to answer a history that ends with a cache breakpoint of ours."""
        with self._lock:
            self._accepting.add(turn.profile.model)

    def begin_experiments(self, turn: Turn) -> Experiments:
        """What a turn that met a 400 can be tried without, in this order."""
        before = self.known(turn)
        return Experiments(before, self._find(turn, before))

    def note_refusal(self, turn: Turn, experiments: Experiments) -> bool:
        """Remember what the model seems to refuse; True when the turn can be run without it.

        Where leaving everything out does not help either, the 400 was about something else, and nothing is remembered.
        """
        with self._lock:
            if not experiments.left:
                self._refusals[turn.profile.model] = experiments.before
                return False
            self._refusals[turn.profile.model] = experiments.left.pop(0)
            return True

    def _find(self, turn: Turn, known: Refusals) -> list[Refusals]:
        """What may be left out, to be tried in this order: parameters, the schema, both, our cache breakpoint too."""
        parameters = self.parameters(turn)
        found = []
        if parameters.refusable and (parameters.tacit or not turn.request.strict):
            found.append(parameters.without(known))
        if turn.conversation.options.json_schema is not None and not known.schema and turn.mode.schema_per_request:
            found += [replace(one, schema=True) for one in (known, *found)]
        with self._lock:
            is_accepted = turn.profile.model in self._accepting
        if len(turn.conversation.messages) > 1 and not known.cache_breakpoint and not is_accepted:
            found += [replace(one, cache_breakpoint=True) for one in (known, *found)]
        return found
