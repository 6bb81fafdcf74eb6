"""PURE: what a live child can be made to become, by what this CLI was seen to do.

The fleet asks before it hands out a child that holds something else. `rewind_conversation`, and the `system_prompt` of
`set_model`, are not in the CLI's public types: each is used only where the check of the start
(`claude/fleet/self_check.py`) has seen it work on this very binary.
"""

import threading
from dataclasses import dataclass

from ...core.models import is_alias
from .profile import Profile


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this CLI takes. rewind: a child forgets what it holds; switch: it takes another model and system prompt;
    retool: it takes other tools. Without `rewind` the others mean nothing."""

    rewind: bool = False
    switch: bool = False
    retool: bool = False


MOST_REFUSALS = 3
NOTHING = Abilities()
EVERYTHING = Abilities(rewind=True, switch=True, retool=True)


class Recycling:
    """What may be used now. Invariant: it only ever becomes less after the check of the start has set it."""

    def __init__(self, abilities: Abilities = NOTHING, reason: str = "not checked yet") -> None:
        """reason: why what is missing is missing; for `/health`."""
        self._lock = threading.Lock()  # guards: all that follows
        self._abilities = abilities
        self._reason = "" if abilities == EVERYTHING else reason
        self._refused = 0

    @property
    def abilities(self) -> Abilities:
        with self._lock:
            return self._abilities

    @property
    def reason(self) -> str:
        """Why something is not used; empty where all is."""
        with self._lock:
            return self._reason

    def allow(self, abilities: Abilities, reason: str = "") -> None:
        """What the check of the start has seen; reason: what it has not, and why."""
        with self._lock:
            self._abilities, self._reason = abilities, reason

    def note_refusal(self, reason: str, *, for_good: bool) -> None:
        """A child has refused. for_good: it does not know the request; else several in a row end the use of it."""
        with self._lock:
            self._refused += 1
            if for_good or self._refused >= MOST_REFUSALS:
                self._abilities, self._reason = NOTHING, reason

    def note_success(self) -> None:
        """A child has taken it."""
        with self._lock:
            self._refused = 0


def can_become(have: Profile, want: Profile, abilities: Abilities) -> bool:
    """True where a child that was initialised as `have`, and is rewound to its beginning, can be made `want`.

    There is no way back to having no system prompt, and a full model id would make the CLI send a paid probe.
    """
    if not abilities.rewind or have.agent or want.agent or have.json_schema != want.json_schema:
        return False
    if have.tools != want.tools and not abilities.retool:
        return False
    if (have.model, have.system) == (want.model, want.system):
        return True
    if not abilities.switch or not is_alias(want.model):
        return False
    return have.system == want.system or bool(want.system)
