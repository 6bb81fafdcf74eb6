"""From a client's list of messages to the canonical form: where system messages go, which result belongs to which call.

In: roles and blocks, in the client's order. Out: the system prompt and the messages, of which this holds: every tool
call has its result, right after it and in the same order; ids of calls are unique, and such as the API takes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..core.conversation import ContentBlock, Message, Text, Thinking, ToolResult, ToolUse, plain_id
from ..core.errors import BadRequest

AnyRole = Literal["system", "user", "assistant"]
Entry = tuple[AnyRole, tuple[ContentBlock, ...]]

_UNUSABLE = re.compile(r"[^a-zA-Z0-9_-]")


def arrange(
    entries: Iterable[Entry], path: str = "messages", before: tuple[Message, ...] = ()
) -> tuple[str | None, tuple[Message, ...]]:
    """System prompt (None where there is none) and messages, oldest first, the last one the user's.

    System messages at the head become the prompt: the CLI takes one only at the start. A later one goes with the next
    user message; one that an answer follows, or nothing yet, with the message before it: so it stays where it was when
    it came last (Claude Code's first request ends with one). It is marked as what it is. An assistant message without
    content is left out, as the CLI does. before: messages that come first, and are none of the client's now.
    Raises BadRequest for calls without results and results without calls.
    """
    arrangement = _Arrangement(path)
    for message in before:
        arrangement.add(message.role, message.content)
    for role, blocks in entries:
        if role == "system" and not arrangement.system_is_over:
            arrangement.system.extend(texts_of(blocks))
        else:
            arrangement.system_is_over |= role != "system"
            arrangement.add(role, blocks)
    return arrangement.finish()


def texts_of(blocks: tuple[ContentBlock, ...]) -> list[str]:
    """The texts that are not empty."""
    return [block.text for block in blocks if isinstance(block, Text) and block.text]


def mark_system(text: str) -> Text:
    """A system message as part of a user message."""
    return Text(f"<system>\n{text}\n</system>")


@dataclass(slots=True)
class _Arrangement:
    """One pass over the entries. `asked` are calls of the last assistant message, by the client's plain id."""

    path: str
    system: list[str] = field(default_factory=list)
    system_is_over: bool = False
    messages: list[Message] = field(default_factory=list)
    _waiting: list[ContentBlock] = field(default_factory=list)
    _asked: dict[str, ToolUse] = field(default_factory=dict)
    _results: dict[str, ToolResult] = field(default_factory=dict)
    _texts: list[Message] = field(default_factory=list)
    _used: set[str] = field(default_factory=set)

    def add(self, role: AnyRole, blocks: tuple[ContentBlock, ...]) -> None:
        if role == "system":
            self._waiting.extend(mark_system(text) for text in texts_of(blocks))
        elif role == "user":
            self.add_user(blocks)
        else:
            self.add_assistant(blocks)

    def add_user(self, blocks: tuple[ContentBlock, ...]) -> None:
        others: list[ContentBlock] = []
        for block in blocks:
            if isinstance(block, ToolResult):
                self._add_result(block)
            elif not isinstance(block, Text) or block.text:
                others.append(block)
        if others or self._waiting:
            self._texts.append(Message("user", (*self._waiting, *others)))
            self._waiting.clear()
        elif not any(isinstance(block, ToolResult) for block in blocks):
            self._texts.append(Message("user", (Text(""),)))

    def add_assistant(self, blocks: tuple[ContentBlock, ...]) -> None:
        self._close_round()
        self._append_waiting()
        kept = tuple(self._adopt(block) for block in blocks if not isinstance(block, Text) or block.text)
        if any(not isinstance(block, Thinking) and not _is_blank(block) for block in kept):
            self.messages.append(Message("assistant", kept))

    def finish(self) -> tuple[str | None, tuple[Message, ...]]:
        self._close_round()
        self._append_waiting()
        if not self.messages:
            raise BadRequest(f"{self.path} must hold at least one user message", param=self.path)
        if self.messages[-1].role != "user":
            raise BadRequest("The last message must be the user's: an answer cannot be begun for it", param=self.path)
        return "\n\n".join(self.system) or None, tuple(self.messages)

    def _append_waiting(self) -> None:
        if not self._waiting or not self.messages:
            return
        last = self.messages[-1]
        if last.role == "user" and not any(isinstance(block, ToolResult) for block in last.content):
            self.messages[-1] = Message("user", (*last.content, *self._waiting))
        else:
            self.messages.append(Message("user", tuple(self._waiting)))
        self._waiting.clear()

    def _add_result(self, result: ToolResult) -> None:
        """Of two results for one call the last one counts."""
        name = plain_id(result.tool_use_id)
        call = self._asked.get(name)
        if call is None:
            message = f"No tool call {result.tool_use_id[:80]!r} precedes its result"
            raise BadRequest(message, param=self.path)
        self._results[name] = ToolResult(call.id, result.content, result.is_error)

    def _close_round(self) -> None:
        """What followed the last assistant message: results first, in the order of the calls, then the rest."""
        missing = [call.id for name, call in self._asked.items() if name not in self._results]
        if missing:
            raise BadRequest(f"These tool calls have no result: {', '.join(missing)[:400]}", param=self.path)
        if self._asked:
            self.messages.append(Message("user", tuple(self._results[name] for name in self._asked)))
        self.messages.extend(self._texts)
        self._asked.clear()
        self._results.clear()
        self._texts.clear()

    def _adopt(self, block: ContentBlock) -> ContentBlock:
        """A call under an id that is unique in the conversation: of two equal ones the CLI deletes the second."""
        if not isinstance(block, ToolUse):
            return block
        usable = _UNUSABLE.sub("_", block.id)[:100] or "call"
        unique, number = usable, 1
        while plain_id(unique) in self._used:
            number += 1
            unique = f"{usable}x{number}"
        self._used.add(plain_id(unique))
        call = ToolUse(unique, block.name, block.input)
        if plain_id(block.id) in self._asked:
            raise BadRequest(f"Two calls of one message have the id {block.id[:80]!r}", param=self.path)
        self._asked[plain_id(block.id)] = call
        return call


def _is_blank(block: ContentBlock) -> bool:
    return isinstance(block, Text) and not block.text.strip()
