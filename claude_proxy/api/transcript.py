"""From a client's list of messages to the canonical form: where system messages go, what is left out.

In: roles and blocks, in the client's order. Out: the system prompt and the messages. The CLI takes a system prompt only
at the start, so what comes later travels with a user message, marked as what it is.
"""

from collections.abc import Iterable
from typing import Literal

from ..conversation import ContentBlock, Message, Text
from ..errors import BadRequest

AnyRole = Literal["system", "user", "assistant"]
Entry = tuple[AnyRole, tuple[ContentBlock, ...]]


def arrange(entries: Iterable[Entry], path: str = "messages") -> tuple[str | None, tuple[Message, ...]]:
    """System prompt (None where there is none) and messages, oldest first, the last one the user's.

    System messages at the head become the prompt; one in the middle goes with the next user message, one that comes
    last with the one before it. An assistant message without content is left out: the CLI drops it too.
    Raises BadRequest where no user message is left to answer.
    """
    system: list[str] = []
    messages: list[Message] = []
    waiting: list[ContentBlock] = []
    for role, blocks in entries:
        if role == "system":
            texts = [block.text for block in blocks if isinstance(block, Text) and block.text]
            if messages or waiting:
                waiting.extend(mark_system(text) for text in texts)
            else:
                system.extend(texts)
        elif role == "user":
            messages.append(Message("user", (*waiting, *_content(blocks))))
            waiting.clear()
        elif any(not isinstance(block, Text) or block.text.strip() for block in blocks):
            messages.append(Message("assistant", blocks))
    _append_trailing(messages, waiting)
    if not messages:
        raise BadRequest(f"{path} must hold at least one user message", param=path)
    if messages[-1].role != "user":
        raise BadRequest("The last message must be the user's: an answer cannot be begun for the model", param=path)
    return "\n\n".join(system) or None, tuple(messages)


def mark_system(text: str) -> Text:
    """A system message as part of a user message."""
    return Text(f"<system>\n{text}\n</system>")


def _append_trailing(messages: list[Message], waiting: list[ContentBlock]) -> None:
    if not waiting or not messages:
        return
    last = messages[-1]
    if last.role == "user":
        messages[-1] = Message("user", (*last.content, *waiting))
    else:
        messages.append(Message("user", tuple(waiting)))


def _content(blocks: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    """Without empty texts, which the API refuses, as long as something else is there."""
    kept = tuple(block for block in blocks if not isinstance(block, Text) or block.text)
    return kept or (Text(""),)
