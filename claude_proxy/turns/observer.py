"""What a turn's messages mean beside its answer: tools that start and end, questions of permission, the plan's state.

`turns/runner.py` calls `TurnObserver.on_message` with each message once it is translated. Out: notices, pending
permissions, how long the child may be silent. Invariant: a tool that runs has a limit of its own; a question that waits
for a person is not silence, it has its own end.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from ..claude.turn.agent_translator import AgentTranslator
from ..claude.turn.progress import describe
from ..claude.turn.turn_translator import TurnTranslator
from ..claude.wire.protocol import ControlCancel, Inbound, PermissionAsk, RateLimit, Result
from ..monitoring.activity import Activity
from ..monitoring.permissions import Decision, Permissions
from ..monitoring.plan import PlanLimits
from .turn import Turn


class Permitter(Protocol):
    """The child that asked for a permission."""

    def permit(self, ask: PermissionAsk, allow: bool, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Observers:
    """What follows turns: each of their messages is noted in these."""

    activity: Activity
    permissions: Permissions
    plan_limits: PlanLimits


class TurnObserver:
    """One turn on one child."""

    def __init__(
        self,
        observers: Observers,
        turn: Turn,
        child: Permitter,
        translator: TurnTranslator,
        *,
        silence_timeout: float,
    ) -> None:
        """Args:
        observers: where things are noted.
        child: takes the decisions.
        translator: has the tools that run, and the totals, of an agent's turn.
        silence_timeout: seconds that the child may be silent while no tool of its own runs.
        """
        self._observers = observers
        self._turn = turn
        self._child = child
        self._translator = translator
        self._silence_timeout = silence_timeout
        self._lock = threading.Lock()  # guards: _asked, and that the clock is what it says
        self._asked: dict[str, str] = {}

    def on_message(self, inbound: Inbound) -> None:
        """Called with every message of the turn, once it has been translated."""
        match inbound:
            case RateLimit(info):
                self._observers.plan_limits.note(info)
                if info.status != "allowed":
                    self._observers.activity.note(
                        self._turn.id,
                        "rate_limit",
                        status=info.status,
                        type=info.rate_limit_type,
                        utilization=info.utilization,
                        resets_at=info.resets_at,
                    )
            case PermissionAsk():
                self._ask(inbound)
            case ControlCancel(request_id):
                self._cancel(request_id)
            case Result() if inbound.spent():
                self._turn.report.note_cost(sum(one.cost_usd for one in inbound.spent()))
        if isinstance(self._translator, AgentTranslator):
            for kind, data in self._translator.take():
                self._observers.activity.note(self._turn.id, kind, **data)
            self._turn.report.note_total(self._translator.total)  # for a turn that is ended before it has an end
            self._set_clock(self._translator)

    def _ask(self, ask: PermissionAsk) -> None:
        turn = self._turn
        assert turn.session is not None
        with self._lock:
            self._asked[ask.request_id] = ""
        permission_id = self._observers.permissions.ask(
            request_id=turn.id,
            session=turn.session.key,
            tool=ask.tool_name,
            input=ask.input,
            label=describe(ask.tool_name, ask.input),
            decide=self._answer(ask),
        )
        with self._lock:
            if ask.request_id in self._asked:  # it may have been decided at once
                self._asked[ask.request_id] = permission_id

    def _answer(self, ask: PermissionAsk) -> Callable[[Decision], None]:
        def decide(decision: Decision) -> None:
            with self._lock:
                self._asked.pop(ask.request_id, None)
            self._child.permit(ask, decision.allow, decision.message)
            assert isinstance(self._translator, AgentTranslator)  # a chat's connection refuses by itself
            self._set_clock(self._translator)

        return decide

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            permission_id = self._asked.pop(request_id, None)
        if permission_id:
            self._observers.permissions.cancel(permission_id)

    def _set_clock(self, translator: AgentTranslator) -> None:
        """How long the child may now be silent. Called by the turn's worker, and by the thread that decides."""
        watch = self._turn.watch
        assert watch is not None
        with self._lock:
            labels = [running.label for running in list(translator.running.values())]
            self._turn.note_busy(labels[0] if labels else "")
            limit = self._turn.mode.tool_timeout if labels else self._silence_timeout
            watch.limit_silence(inf if self._asked else limit)
