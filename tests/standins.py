"""Typed stand-ins for the parts of the proxy, and builders of what they exchange; shared by all unit tests."""

from typing import Any

from claude_proxy.core.conversation import Conversation
from claude_proxy.core.events import Event
from claude_proxy.turns.channel import Channel
from claude_proxy.turns.modes import Mode, Modes, build_modes
from claude_proxy.turns.turn import Turn, build_request

MODES = build_modes(tool_timeout=3600.0)
TURN_ID = "req_1"


def make_turn(
    conversation: Conversation,
    model: str | None = None,
    *,
    agent: bool = False,
    modes: Modes = MODES,
    id: str = TURN_ID,
    channel: Channel[Event] | None = None,
    **about: Any,
) -> Turn:
    """A turn as `serving` builds it; about: fields of `Request`."""
    mode = mode_of(conversation, agent=agent, modes=modes)
    return Turn(build_request(conversation, model or conversation.model, mode, **about), id=id, channel=channel)


def mode_of(conversation: Conversation, *, agent: bool = False, modes: Modes = MODES) -> Mode:
    """The mode in which a request with this conversation runs."""
    return modes.choose(agent=agent, has_tools=bool(conversation.tools))
