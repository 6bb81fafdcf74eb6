"""The three modes a request can run in: chat, the client's tools, the CLI's agent.

`Modes` is built once from the settings; `web/serving.py` chooses one for each request, and everything behind it asks
the mode instead of testing what it is. Invariant: a mode is frozen, so that two requests of one mode cannot differ.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import msgspec

from ..claude.turn.agent_translator import AgentTranslator
from ..claude.turn.translator import Translator
from ..claude.turn.turn_translator import TurnTranslator
from ..claude.wire.profile import Profile
from ..core.conversation import Conversation, Options, ThinkingMode, ToolChoice
from ..core.schemas import meets_schema

ModeName = Literal["chat", "client-tools", "agent"]


@dataclass(frozen=True, slots=True)
class Mode:
    """What a mode decides about a request.

    digest_kind: goes into a conversation's digest, so that an agent's history is never a chat's.
    runs_agent: the CLI's own tools run, and its child was started for that.
    persists: the CLI keeps its session on disk, so that a long history is resumed instead of replayed.
    request_timeout: seconds a request may take from its arrival on; 0 for no limit.
    tool_timeout: seconds one tool of the CLI may be silent.
    """

    name: ModeName
    digest_kind: Literal["chat", "agent"]
    runs_agent: bool = False
    persists: bool = False
    request_timeout: float = 0.0
    tool_timeout: float = 0.0
    progress: str = "reasoning"

    @property
    def schema_per_request(self) -> bool:
        """A JSON schema goes with the request's parameters. An agent's binds only its last call: it is the child's."""
        return not self.runs_agent

    @property
    def kills_cut_child(self) -> bool:
        """A child whose answer was cut is killed at once; an agent's is ended with its commands, which takes longer."""
        return not self.runs_agent

    def strip(self, conversation: Conversation) -> tuple[Conversation, tuple[str, ...]]:
        """The conversation less what this mode does not take from a client, and OpenAI's names for what that is."""
        return strip_for_agent(conversation) if self.runs_agent else (conversation, ())

    def build_translator(
        self, profile: Profile, options: Options, *, now: float, clock: Callable[[], float]
    ) -> TurnTranslator:
        """What turns the CLI's messages of one turn into events. now: Unix seconds; clock: for the tools' durations."""
        structured = profile.json_schema is not None
        if self.runs_agent:
            return AgentTranslator(now, clock, progress=self.progress, structured=structured)
        # The API looks for stop sequences that hold more than blanks; the others are looked for here.
        stops = [stop for stop in options.stop_sequences if not stop.strip()]
        schema = options.json_schema
        accepts = partial(meets_schema, schema) if structured and schema is not None else None
        return Translator(now, profile.toolset, structured=structured, stops=stops, accepts=accepts)


@dataclass(frozen=True, slots=True)
class Modes:
    """The three modes of a server."""

    chat: Mode
    client_tools: Mode
    agent: Mode

    def choose(self, *, agent: bool, has_tools: bool) -> Mode:
        """The mode of one request."""
        if agent:
            return self.agent
        return self.client_tools if has_tools else self.chat


def build_modes(
    *,
    request_timeout: float = 0.0,
    tool_timeout: float = 0.0,
    persist: bool = False,
    agent_persist: bool = True,
    progress: str = "reasoning",
) -> Modes:
    """The modes of a server with these settings.

    Args:
        request_timeout: seconds for chat and client tools; an agent's work has no limit but on silence.
        tool_timeout: seconds that one of the agent's tools may be silent.
        persist, agent_persist: whether the CLI keeps its sessions, outside agent mode and in it.
        progress: how a client sees an agent's tools (`--progress`).
    """
    chat = Mode("chat", "chat", persists=persist, request_timeout=request_timeout)
    agent = Mode(
        "agent", "agent", runs_agent=True, persists=agent_persist, tool_timeout=tool_timeout, progress=progress
    )
    return Modes(chat, replace(chat, name="client-tools"), agent)


# What of `Options` an agent takes from a client, as it is. Everything else is put back to its default and named.
KEPT_BY_AGENT = frozenset(("temperature", "top_p", "top_k", "effort", "json_schema"))


def strip_for_agent(conversation: Conversation) -> tuple[Conversation, tuple[str, ...]]:
    """A conversation less what an agent does not take from a client, and OpenAI's names for what that is.

    The limits of one model call would cut an agent's work somewhere in the middle.
    """
    options = conversation.options
    thinking = options.thinking if options.thinking is not None and options.thinking.asked else None
    kept = {name: getattr(options, name) for name in KEPT_BY_AGENT}
    stripped = msgspec.structs.replace(conversation, tools=(), options=Options(**kept, thinking=thinking))
    dropped = (["tools"] if conversation.tools else []) + [
        name for field in Options.__struct_fields__ for name in _dropped(options, field)
    ]
    return stripped, tuple(dropped)


def _dropped(options: Options, field: str) -> list[str]:
    """OpenAI's names for what a field that an agent does not take asks for; a field nobody thought of has its own."""
    value = getattr(options, field)
    match field, value:
        case "tool_choice", ToolChoice():
            chosen = value.mode != "auto" or value.allowed is not None
            return [*(["tool_choice"] if chosen else []), *([] if value.parallel else ["parallel_tool_calls"])]
        case "thinking", ThinkingMode() | None:
            return []
        case _:
            is_default = value == getattr(Options(), field)
            return [] if field in KEPT_BY_AGENT or is_default else [_OPENAI_NAMES.get(field, field)]


_OPENAI_NAMES = {"stop_sequences": "stop"}
