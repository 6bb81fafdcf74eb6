"""PURE: what is said to the CLI: JSON lines for its stdin.

In: canonical messages, answers, settings. Out: bytes, one line each. What the CLI says is in `protocol`; shapes as
recorded in `tests/data/transcripts`.
"""

from typing import Any

import msgspec

from ...core.conversation import (
    Base64Source,
    ContentBlock,
    Document,
    Image,
    Message,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from .history import Rewind
from .protocol import PermissionAsk, ToolCall


def build_initialize(request_id: str, system: str | None, extra: dict[str, Any], *, keeps_own: bool = False) -> bytes:
    """The system prompt replaces the CLI's own; an empty list means none at all. It counts once per process.

    extra: the manifest of the client's tools, `jsonSchema`. keeps_own: without a system prompt the CLI's own stays.
    The snapshot would hold the first prompt for the life of the process, whatever `set_model` says later.
    """
    prompt: dict[str, Any] = (
        {} if system is None and keeps_own else {"systemPrompt": [] if system is None else [system]}
    )
    snapshot = {} if keeps_own else {"systemPromptSnapshot": False}
    return build_control(request_id, {"subtype": "initialize", **prompt, **snapshot, **extra})


def build_second_initialize(request_id: str, manifest: dict[str, Any]) -> bytes:
    """Other tools for a child that has been initialised; it changes neither the system prompt nor the schema."""
    return build_control(request_id, {"subtype": "initialize", **manifest})


def build_drop_servers(request_id: str) -> bytes:
    """Take all tools away. Without this a later `initialize` shows the new tools, and routes none of their calls."""
    return build_control(request_id, {"subtype": "mcp_set_servers", "servers": {}})


def build_set_model(request_id: str, model: str, system: str | None = None) -> bytes:
    """Only for aliases (see `models.is_alias`), and only while the history is empty.

    system: another system prompt, which holds from the next turn on; a member that the CLI's public types do not list.
    """
    prompt = {} if system is None else {"system_prompt": system}
    return build_control(request_id, {"subtype": "set_model", "model": model, **prompt})


def build_rewind(request_id: str, rewind: Rewind) -> bytes:
    """Take messages out of the history, the newest back to the target; a turn that runs or is parked is stopped first.

    A request that the CLI's public types do not list. `last_seen_user_message_uuid` allows more than one message, and
    makes the CLI refuse where its history ends otherwise than we think.
    """
    return build_control(
        request_id,
        {
            "subtype": "rewind_conversation",
            "target_message_uuid": rewind.target,
            "last_seen_user_message_uuid": rewind.last_seen,
            "interrupt_if_running": True,
        },
    )


def build_interrupt(request_id: str) -> bytes:
    """Stop the turn that runs. Not taken right behind a question: the turn then goes on."""
    return build_control(request_id, {"subtype": "interrupt"})


def build_settings(request_id: str, settings: dict[str, Any]) -> bytes:
    """Parameters of the next turn: `env` and `effortLevel`."""
    return build_control(request_id, {"subtype": "apply_flag_settings", "settings": settings})


def build_get_usage(request_id: str) -> bytes:
    """How much of the plan is used, without a look at local transcripts; what is sent later does not wait for it."""
    return build_control(request_id, {"subtype": "get_usage", "skip_behaviors": True, "detached": True})


def build_control(request_id: str, request: dict[str, Any]) -> bytes:
    """Any control request, as a line."""
    return _line({"type": "control_request", "request_id": request_id, "request": request})


def build_refusal(request_id: str, reason: str) -> bytes:
    """The answer to a control request that is not served here."""
    answer = {"subtype": "error", "request_id": request_id, "error": reason}
    return _line({"type": "control_response", "response": answer})


def build_permission(ask: PermissionAsk, allow: bool, message: str) -> bytes:
    """The answer to `can_use_tool`; the message is told to the model where it is a denial."""
    answer: dict[str, Any] = {"behavior": "allow", "updatedInput": ask.input}
    if not allow:
        answer = {"behavior": "deny", "message": message}
    response = {"subtype": "success", "request_id": ask.request_id, "response": answer}
    return _line({"type": "control_response", "response": response})


def build_tool_answer(call: ToolCall, result: ToolResult) -> bytes:
    """The client's result, in the shape of MCP; `is_deliverable` must hold for it."""
    answer = {"content": [_build_mcp(block) for block in result.content], "isError": result.is_error}
    rpc = {"jsonrpc": "2.0", "id": call.rpc_id, "result": answer}
    response = {"subtype": "success", "request_id": call.request_id, "response": {"mcp_response": rpc}}
    return _line({"type": "control_response", "response": response})


def is_deliverable(result: ToolResult, largest: int) -> bool:
    """True where a parked call takes this result unchanged: the CLI rewrites empty, huge and failed pictured ones."""
    texts = [block.text for block in result.content if isinstance(block, Text)]
    images = [block for block in result.content if isinstance(block, Image)]
    plain = all(isinstance(image.source, Base64Source) for image in images)
    fits = len(texts) + len(images) == len(result.content) and sum(map(len, texts)) <= largest
    return bool(any(texts) or images) and all(texts) and plain and fits and not (result.is_error and images)


def _build_mcp(block: Text | Image | Document) -> dict[str, Any]:
    match block:
        case Image(Base64Source(media_type, data)):
            return {"type": "image", "data": data, "mimeType": media_type}
        case Text(text):
            return {"type": "text", "text": text}
    raise ValueError("not deliverable")


def build_message(message: Message, uuid: str, *, query: bool, cache_ttl: str | None = None) -> bytes:
    """A message of the conversation; `query` asks for an answer to it and belongs to the last one, the user's.

    `client_composed` keeps `/command` and `@path` what they are: text. `model` goes with thinking: the CLI keeps such
    blocks only where it names the current model.

    Args:
        uuid: names the message for a later rewind. A new one for each line: the CLI drops a line with a uuid that
            it has seen, without a word, and the turn would hang.
        cache_ttl: put a cache breakpoint on the last block, `5m` or `1h`.
    """
    inner: dict[str, Any] = {"role": message.role, "content": [_build_block(block) for block in message.content]}
    if cache_ttl is not None:
        inner["content"][-1]["cache_control"] = {"type": "ephemeral", **({"ttl": "1h"} if cache_ttl == "1h" else {})}
    models = {block.model for block in message.content if isinstance(block, Thinking)}
    if len(models) == 1:
        inner["model"] = models.pop()
    line: dict[str, Any] = {"type": message.role, "uuid": uuid, "message": inner, "parent_tool_use_id": None}
    if message.role == "user":
        line["client_composed"] = True
        if not query:
            line["shouldQuery"] = False
    return _line(line)


def _build_block(block: ContentBlock) -> dict[str, Any]:
    match block:
        case Thinking(thinking, signature):
            return {"type": "thinking", "thinking": thinking, "signature": signature}
        case ToolUse(call_id, name, arguments):
            return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
    built: dict[str, Any] = msgspec.to_builtins(block)
    return built


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value) + b"\n"
