"""What a turn hears beside its answer, on clocks that are turned by hand: notices, questions, the limits of silence."""

import threading
from math import inf
from typing import Any, cast

import pytest

from claude_proxy.activity import Activity
from claude_proxy.claude.agent_translator import AgentTranslator
from claude_proxy.claude.dialogue import Dialogue
from claude_proxy.claude.protocol import ControlCancel, PermissionAsk, parse_line
from claude_proxy.claude.translator import Translator
from claude_proxy.claude.watchdog import Watch
from claude_proxy.conversation import Conversation, user
from claude_proxy.errors import AlreadyDecided, ChildDied
from claude_proxy.limits import PlanLimits
from claude_proxy.listening import Circle, Listener
from claude_proxy.permissions import Permissions
from claude_proxy.sessions import Name, Session
from claude_proxy.turns import Turn
from tests.cli_lines import RESULT, Json, feed

SILENCE, TOOL, PATIENCE = 600.0, 3600.0, 300.0
NOW = 1_700_000_000.0
ASK = PermissionAsk("r1", "Bash", {"command": "rm -r build"}, "t1")


class Pretender:
    """What a listener sees of a dialogue."""

    def __init__(self) -> None:
        self.permitted: list[tuple[str, bool, str]] = []
        self.is_dead = False

    def permit(self, ask: PermissionAsk, allow: bool, message: str) -> None:
        if self.is_dead:
            raise ChildDied("It is dead", returncode=1)
        self.permitted.append((ask.request_id, allow, message))


class Bench:
    """A turn with its listener, and everyone who is told."""

    def __init__(self, *, agent: bool = True) -> None:
        self.now = 100.0
        self.silent = 0
        self.activity = Activity(lambda: NOW)
        self.permissions = Permissions(PATIENCE, self.clock, lambda: NOW)
        self.plan_limits = PlanLimits(lambda: NOW)
        self.turn = Turn(Conversation("sonnet", None, (user("hi"),)), "sonnet", name=Name("me"), agent=agent)
        self.turn.session = Session("me", "auto_1", 0, 0)
        self.turn.watch = Watch(self.clock, silence_timeout=SILENCE, on_silence=self.note_silence)
        self.activity.begin(self.turn.id, owner="me", dialect="chat", mode=self.turn.mode, model="sonnet")
        self.translator = AgentTranslator(NOW, self.clock) if agent else Translator(NOW)
        self.dialogue = Pretender()
        self.listener = self.listen()
        self.turn.watch.alive()

    def listen(self) -> Listener:
        return Listener(
            Circle(self.activity, self.permissions, self.plan_limits),
            self.turn,
            cast(Dialogue, self.dialogue),
            self.translator,
            silence_timeout=SILENCE,
            tool_timeout=TOOL,
        )

    def clock(self) -> float:
        return self.now

    def note_silence(self) -> None:
        self.silent += 1

    def hear(self, *messages: Json) -> None:
        """As a turn does: the translator first."""
        for message in messages:
            inbound = parse_line(str_to_line(message))
            assert inbound is not None
            feed(self.translator, message)
            self.listener.heed(inbound)

    def ask(self, ask: PermissionAsk = ASK) -> str:
        """A question; its id."""
        self.listener.heed(ask)
        return self.permissions.pending("me")[-1].id

    def silence(self) -> float:
        """Seconds of silence from now on that end the turn."""
        assert self.turn.watch is not None
        watch, low, high = self.turn.watch, 0.0, 10_000.0
        if not self.is_due(watch, high):
            return inf
        while high - low > 0.5:
            middle = (low + high) / 2
            low, high = (low, middle) if self.is_due(watch, middle) else (middle, high)
        return round(high)

    def is_due(self, watch: Watch, after: float) -> bool:
        again = Watch(self.clock)
        again._silence = watch._silence
        return bool(again.due(self.now + after))

    def notices(self) -> list[tuple[str, dict[str, Any]]]:
        """Kind and data, without that of the start."""
        return [(notice.kind, dict(notice.data)) for notice in self.activity.wait(self.turn.id, 1, 0.0)[0]]
