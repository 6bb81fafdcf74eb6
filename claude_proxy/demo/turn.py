"""What the newest turn of the user holds: text, commands, pictures and files, results of tools.

In goes a request, out comes a frozen `NewestTurn`: everything after the last
assistant message, but without what Claude Code adds by itself (messages of role `system`, blocks that begin
with `<system-reminder>`).
"""

import re
import secrets
from dataclasses import dataclass
from typing import Any, Iterator

from .commands import Commands, parse_commands
from .request import (
    AnyBlock,
    Base64Source,
    Document,
    Image,
    MessagesRequest,
    Text,
    TextSource,
    ToolResult,
    ToolUse,
    UrlSource,
)

MAX_RESULT_CHARACTERS = 200
_ROUNDS_LEFT = re.compile(r"demo(\d+)r")
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Result:
    """A tool's result together with the call it answers. text: shortened, one line per part."""

    call: ToolUse
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class NewestTurn:
    """text: what the user wrote, without commands. attachments: such as `[image/png, 70 bytes]`."""

    text: str
    commands: Commands
    attachments: tuple[str, ...]
    results: tuple[Result, ...]


def read_newest_turn(request: MessagesRequest) -> NewestTurn:
    """Gather the newest turn of a request."""
    calls: dict[str, ToolUse] = {}
    newest: list[AnyBlock] = []
    for message in request.messages:
        if message.role == "assistant":
            calls = {block.id: block for block in message.blocks if isinstance(block, ToolUse)} | calls
            newest = []
        elif message.role == "user":
            newest.extend(message.blocks)
    texts = [block.text for block in newest if isinstance(block, Text)]
    text, commands = parse_commands("\n".join(text for text in texts if not text.startswith("<system-reminder>")))
    return NewestTurn(
        text=text,
        commands=commands,
        attachments=tuple(describe_file(block) for block in newest if isinstance(block, (Image, Document))),
        results=tuple(_gather_results(newest, calls)),
    )


def make_tool_use_id(rounds_left: int) -> str:
    """A new id that remembers how often the call is to be made again, in letters and digits alone.

    Clients change ids: some cut them down to letters and digits, some put a prefix in front.
    """
    return f"toolu_01demo{rounds_left}r{secrets.token_hex(10)}"


def read_rounds_left(tool_use_id: str) -> int:
    """How often the call with this id is to be made again; 0 for ids of others."""
    match = _ROUNDS_LEFT.search(_NOT_ALPHANUMERIC.sub("", tool_use_id))
    return int(match[1]) if match else 0


def describe_file(block: Image | Document) -> str:
    """A picture or file in a few words."""
    match block.source:
        case Base64Source(media_type=media_type, data=data):
            return f"[{media_type}, {len(data) * 3 // 4 - data[-2:].count('=')} bytes]"
        case TextSource(media_type=media_type, data=data):
            return f"[{media_type}, {len(data.encode())} bytes]"
        case UrlSource(url=url):
            return f"[{'image' if isinstance(block, Image) else 'document'} at {url}]"
    return "[image]" if isinstance(block, Image) else "[document]"


def _gather_results(blocks: list[AnyBlock], calls: dict[str, ToolUse]) -> Iterator[Result]:
    for block in blocks:
        if isinstance(block, ToolResult) and block.tool_use_id in calls:
            yield Result(calls[block.tool_use_id], _read_result(block.content), bool(block.is_error))


def _read_result(content: str | tuple[Any, ...] | None) -> str:
    parts = (Text(text=content),) if isinstance(content, str) else content or ()
    texts = []
    for part in parts:
        match part:
            case Text(text=text):
                texts.append(text)
            case Image():
                texts.append("[image]")
            case _:
                texts.append("[document]")
    joined = "\n".join(texts)
    return joined if len(joined) <= MAX_RESULT_CHARACTERS else joined[:MAX_RESULT_CHARACTERS] + "…"
