"""PURE: what a child must be to serve a conversation, and where one of the CLI's own sessions stands.

`Profile` goes to the fleet with every lease; `Point` goes to the store, and comes back as `--resume`.
"""

from dataclasses import dataclass

from ...core.conversation import Tool
from .toolset import Toolset


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a session of the CLI's: the session's id, and the uuid of the last message."""

    session_id: str
    message_uuid: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What a child must have been started and initialised with to serve a conversation; it cannot be changed
    afterwards. agent: its own tools run; where the client has no system prompt the CLI's own stays."""

    model: str
    system: str | None = None
    tools: tuple[Tool, ...] = ()
    json_schema: bytes | None = None
    agent: bool = False

    @property
    def toolset(self) -> Toolset:
        return Toolset(self.tools)
