"""PURE: the client's functions, as the CLI and the API take them.

In: the client's tools. Out: the manifest of an MCP server named `client` for `initialize`, and the definitions that go
upstream verbatim. The manifest only makes the CLI route the calls to us: it says `{"type": "object"}` for every schema,
because the CLI drops all tools without a word when it dislikes one schema, cuts descriptions, and coerces arguments to
the schema it knows. What the model sees are the definitions, which replace the CLI's in the request.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from ...core.conversation import ContentBlock, Message, Tool, ToolUse

SERVER = "client"
LARGEST_RESULT = 490_000

# Names that the API takes; and one that the CLI keeps for itself.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_RESERVED = frozenset(("ToolSearch", "StructuredOutput"))
# `system/init` calls a tool by its older name; the model is offered it under the newer one all the same.
_REPORTED_AS = {"Task": "Agent"}


class Toolset:
    """The tools of one conversation, with names that can be used, and the way back."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = tuple(tools)
        self._to_cli = {tool.name: usable_name(tool.name) for tool in tools}
        self._to_client = {usable: name for name, usable in self._to_cli.items()}

    def __bool__(self) -> bool:
        return bool(self._tools)

    def offers(self, name: str) -> bool:
        """True for a name under which the CLI offers one of them."""
        return name in self._to_client

    def client_name(self, name: str) -> str:
        """The name that the client knows; a name that was never offered stays as it is."""
        return self._to_client.get(name, name)

    def cli_name(self, name: str) -> str:
        """The name that the API takes for one of the client's."""
        return self._to_cli.get(name, name)

    def missing(self, offered: Sequence[str]) -> tuple[str, ...]:
        """The client's names of tools that the CLI does not report as offered."""
        reported = {_REPORTED_AS.get(name, name) for name in offered} | set(offered)
        return tuple(name for name, usable in self._to_cli.items() if usable not in reported)

    def manifest(self) -> dict[str, Any]:
        """The fields of `initialize` that offer the tools; empty without tools."""
        if not self._tools:
            return {}
        listed = [
            {
                "name": name,
                "description": name,
                "inputSchema": {"type": "object"},
                # Without the hint parallel calls are made one after the other.
                "annotations": {"readOnlyHint": True},
                "_meta": {"anthropic/maxResultSizeChars": LARGEST_RESULT + 10_000},
            }
            for name in self._to_client
        ]
        server = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
        info = {"name": SERVER, "version": "1"}
        manifest = {"initializeResult": {**server, "serverInfo": info}, "toolsListResult": {"tools": listed}}
        return {"sdkMcpServers": [SERVER], "sdkMcpServerManifests": {SERVER: manifest}}

    def definitions(self, allowed: Sequence[str] | None) -> list[dict[str, Any]]:
        """What the model sees, in the client's order; only the `allowed` ones where some are named."""
        return [
            {"name": self._to_cli[tool.name], "description": tool.description, "input_schema": tool.input_schema}
            for tool in self._tools
            if allowed is None or tool.name in allowed
        ]

    def rename(self, message: Message) -> Message:
        """A message of the history with the names that the API takes."""
        if not any(isinstance(block, ToolUse) for block in message.content):
            return message
        return Message(message.role, tuple(self._rename(block) for block in message.content))

    def _rename(self, block: ContentBlock) -> ContentBlock:
        if isinstance(block, ToolUse):
            return ToolUse(block.id, usable_name(block.name), block.input)
        return block


def usable_name(name: str) -> str:
    """The name itself where the API takes it; else one made of it that stays apart from all others."""
    if _NAME.fullmatch(name) and name not in _RESERVED:
        return name
    mark = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    return f"{re.sub('[^a-zA-Z0-9_-]', '_', name)[:100]}_{mark}"
