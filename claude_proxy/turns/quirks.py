"""What models were seen to refuse with a 400, and what a turn can be run without.

`turns/runner.py` asks what to leave out of a turn, and tells which attempt without something went well. Invariant: an
experiment belongs to its own turn; only one that went well is remembered, for the model and for requests that wish for
at least as much, so that a request which is wrong for another reason takes nothing away from others.
"""

import threading
from dataclasses import dataclass, field, replace

from ..claude.wire.parameters import Parameters, Refusals, build_parameters
from .turn import Turn

NOTHING = Refusals()


@dataclass(slots=True)
class ModelQuirks:
    """What is known of the models, by the CLI's names for them."""

    _lock: threading.Lock = field(default_factory=threading.Lock)  # guards: _refused, _accepting
    _refused: dict[str, set[Refusals]] = field(default_factory=dict)
    _accepting: set[str] = field(default_factory=set)

    def left_out(self, turn: Turn) -> Refusals:
        """What of a turn's wishes its model is known to refuse."""
        wishes = self._wishes(turn)
        with self._lock:
            refused = [one for one in self._refused.get(turn.profile.model, ()) if one.within(wishes)]
        found = NOTHING
        for one in refused:
            found = found.joined(one)
        return found

    def parameters(self, turn: Turn, left_out: Refusals) -> Parameters:
        """The settings of a turn without these.

        An agent's schema is not one of them: they hold for all its calls, the schema for its last word.
        """
        known = left_out if turn.mode.schema_per_request else replace(left_out, schema=True)
        return build_parameters(turn.conversation.options, turn.profile.toolset, known)

    def find_suspects(self, turn: Turn, left_out: Refusals) -> Refusals | None:
        """What else may have been refused, all of it; None where nothing is left that could be left out."""
        wishes = self._wishes(turn).joined(left_out)
        return None if wishes == left_out else wishes

    def note_success(self, turn: Turn, without: Refusals) -> None:
        """The model has answered a turn without these, which it did not answer with them."""
        with self._lock:
            self._refused.setdefault(turn.profile.model, set()).add(without)

    def note_cache_breakpoint(self, turn: Turn) -> None:
        """The API has begun to answer a history that ends with a cache breakpoint of ours."""
        with self._lock:
            self._accepting.add(turn.profile.model)

    def _wishes(self, turn: Turn) -> Refusals:
        """What of a turn a model may refuse, and what the turn can be run without."""
        parameters = self.parameters(turn, NOTHING)
        may_leave_out = parameters.refusable and (parameters.implicit or not turn.request.strict)
        wishes = parameters.without(NOTHING) if may_leave_out else NOTHING
        has_schema = turn.conversation.options.json_schema is not None and turn.mode.schema_per_request
        with self._lock:
            is_accepted = turn.profile.model in self._accepting
        has_breakpoint = len(turn.conversation.messages) > 1 and not is_accepted
        return replace(wishes, schema=has_schema, cache_breakpoint=has_breakpoint)
