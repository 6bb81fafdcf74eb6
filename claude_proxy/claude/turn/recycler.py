"""What a child that has been used can be made to hold and to be: rewind, another model, system prompt, tools.

`Connection` has one; the runner and the fleet use it. Invariant: nothing is asked of a child before it has confirmed
what it was told to forget, and the place where it says it stands is the expected one; anything else is RecycleRefused,
and the child must be retired.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ...core.errors import RecycleRefused
from ..wire import outbound
from ..wire.history import History, Rewind
from ..wire.profile import Profile
from ..wire.protocol import ControlAnswer
from ..wire.recycling import Recycling

# 2.1.266 wants a rewind right behind a question to be sent again; later releases take it.
REWIND_TRIES = 25
REWIND_PAUSE = 0.02


class Controls(Protocol):
    """The control channel of a child. `wait_for` drops what a turn that was stopped still says."""

    def request(self, what: str, build: Callable[[str], bytes]) -> str: ...

    def wait_for(self, request_id: str, alive: Callable[[], None]) -> ControlAnswer: ...


@dataclass(frozen=True, slots=True)
class SentRewind:
    """A rewind whose answer was not looked at yet. keep: how many messages it leaves."""

    keep: int
    rewind: Rewind
    request_id: str


class Recycler:
    """The history of one child, and the ways back in it."""

    def __init__(self, controls: Controls, recycling: Recycling) -> None:
        self.history = History()
        self._controls = controls
        self._recycling = recycling
        self._before_turn = 0
        self._sent: SentRewind | None = None

    @property
    def is_allowed(self) -> bool:
        """True where this CLI was seen to take a rewind."""
        return self._recycling.abilities.rewind

    @property
    def can_take_back(self) -> bool:
        """True where the turn that began last can be taken back, whatever has become of it."""
        return self.is_allowed and self.history.reachable(self._before_turn) is not None

    def begin_turn(self, start: bytes) -> None:
        """What follows can be taken back to here. start: H₀ of the turn's conversation."""
        if not self.history.messages:
            self.history.begin(start)
        self._before_turn = len(self.history)

    def rewind(self, keep: int, alive: Callable[[], None]) -> None:
        """Hold the first `keep` messages only; a turn that runs or is parked is stopped. `keep` must be reachable.

        Raises RecycleRefused, ChildDied.
        """
        if keep < len(self.history):
            self._finish(self._send(keep), alive)

    def stop_turn(self) -> bool:
        """Begin to take back the turn that began last, at once; `take_back` must follow. False where it cannot be."""
        keep = self.history.reachable(self._before_turn) if self.is_allowed else None
        if keep is None or keep == len(self.history):
            return False
        self._sent = self._send(keep)
        return True

    def take_back(self, alive: Callable[[], None]) -> None:
        """Hold what was held before the turn that began last. Raises RecycleRefused, ChildDied."""
        if self._sent is not None or self.stop_turn():
            sent, self._sent = self._sent, None
            assert sent is not None
            self._finish(sent, alive)

    def switch(self, have: Profile, want: Profile, alive: Callable[[], None]) -> None:
        """Another model, system prompt or set of tools, for a history that is empty; see `can_become`.

        After the rewind: some releases would keep a note about it. All requests, then all answers: the CLI keeps their
        order. Raises RecycleRefused, ChildDied.
        """
        asked = [self._controls.request(what, build) for what, build in plan_switch(have, want)]
        for request_id in asked:
            answer = self._controls.wait_for(request_id, alive)
            if answer.subtype != "success" or _left_connected(answer):
                raise RecycleRefused(f"The Claude Code CLI did not take another profile: {_reason(answer)}")

    def _send(self, keep: int) -> SentRewind:
        rewind = self.history.way_back(keep)
        build = partial(outbound.build_rewind, rewind=rewind)
        return SentRewind(keep, rewind, self._controls.request("rewind_conversation", build))

    def _finish(self, sent: SentRewind, alive: Callable[[], None]) -> None:
        """Wait for the answer to a rewind, and check it: the history must be what we think it is."""
        answer = self._controls.wait_for(sent.request_id, alive)
        for _ in range(REWIND_TRIES):
            if _reason(answer) != "commands_queued":
                break
            time.sleep(REWIND_PAUSE)
            answer = self._controls.wait_for(self._send(sent.keep).request_id, alive)
        try:
            _check(answer, sent.rewind)
        except RecycleRefused as error:
            self._recycling.note_refusal(error.message, for_good=answer.subtype != "success")
            raise
        self._recycling.note_success()
        self.history.cut(sent.keep)
        self._before_turn = min(self._before_turn, sent.keep)


def plan_switch(have: Profile, want: Profile) -> list[tuple[str, Callable[[str], bytes]]]:
    """The control requests that make one profile of another: a name for each, and what builds its line."""
    plan: list[tuple[str, Callable[[str], bytes]]] = []
    if (have.model, have.system) != (want.model, want.system):
        system = want.system if have.system != want.system else None
        plan.append(("switch", partial(outbound.build_set_model, model=want.model, system=system)))
    if have.tools != want.tools:
        plan.append(("mcp_set_servers", outbound.build_drop_servers))
        if want.tools:
            plan.append(("retool", partial(outbound.build_second_initialize, manifest=want.toolset.manifest())))
    return plan


def _check(answer: ControlAnswer, rewind: Rewind) -> None:
    response = answer.response or {}
    if answer.subtype != "success" or response.get("rewound") is not True:
        raise RecycleRefused(f"The Claude Code CLI did not rewind a conversation: {_reason(answer)}")
    if rewind.is_checkable and response.get("precedingAssistantUuid") != rewind.preceding:
        raise RecycleRefused("The Claude Code CLI rewound a conversation to another place than it was asked to")


def _reason(answer: ControlAnswer) -> str:
    response = answer.response or {}
    return str(response.get("reason") or answer.error or "no reason given")


def _left_connected(answer: ControlAnswer) -> bool:
    """True where a second `initialize` left the old tools connected; 2.1.266 does not say."""
    states: Any = (answer.response or {}).get("sdk_mcp_manifests_parked")
    return isinstance(states, dict) and "already_connected" in states.values()
