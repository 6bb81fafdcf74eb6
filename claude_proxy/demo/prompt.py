"""A prompt as the cache and the token count see it: tools, then system, then messages, block by block.

In goes a body whose shape was checked, out comes a tuple of `PromptBlock`. Each block's bytes are its JSON
with sorted keys and without `cache_control`, so that a moved breakpoint does not change the prompt.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Iterator

import msgspec

CHARACTERS_PER_TOKEN = 4
IMAGE_TOKENS = 1_500
DOCUMENT_TOKENS = 3_000

_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """One block of a prompt.

    prefix: digest of the prompt up to and including it. ttl: that of its breakpoint, None when it is none.
    """

    prefix: bytes
    tokens: int
    ttl: str | None


def split_prompt(body: dict[str, Any]) -> tuple[PromptBlock, ...]:
    """All blocks of the prompt, in order. A top-level `cache_control` is a breakpoint on the last block."""
    digest = hashlib.sha256()
    blocks: list[PromptBlock] = []
    for place, block in _walk(body):
        digest.update(place.encode() + b"\0" + _encode(_strip(block)) + b"\0")
        blocks.append(PromptBlock(digest.digest(), estimate_tokens(block), _find_ttl(block)))
    if blocks and body.get("cache_control") and blocks[-1].ttl is None:
        blocks[-1] = replace(blocks[-1], ttl=_find_ttl(body))
    return tuple(blocks)


def count_tokens(blocks: tuple[PromptBlock, ...]) -> int:
    """Tokens of the whole prompt."""
    return sum(block.tokens for block in blocks)


def estimate_tokens(block: dict[str, Any]) -> int:
    """Tokens of one block: four characters each, a flat sum for pictures and files; at least one."""
    match block:
        case {"type": "image"}:
            return IMAGE_TOKENS
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return _tokens(len(text))
        case {"type": "document"}:
            return DOCUMENT_TOKENS
        case {"type": "text", "text": str(text)}:
            return _tokens(len(text))
        case {"type": "thinking", "thinking": str(text)}:
            return _tokens(len(text))
        case {"type": "tool_result", "content": list(parts)}:
            return sum(map(estimate_tokens, parts)) or 1
        case {"type": "tool_result"}:
            return _tokens(len(block.get("content") or ""))
        case {"type": "tool_use", "name": name, "input": arguments}:
            return _tokens(len(name) + len(_encode(arguments)))
    return _tokens(len(_encode(_strip(block))))


def _tokens(characters: int) -> int:
    return max(1, -(-characters // CHARACTERS_PER_TOKEN))


def _walk(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for tool in body.get("tools") or ():
        yield "tools", tool
    for block in _as_blocks(body.get("system") or ()):
        yield "system", block
    for message in body["messages"]:
        for block in _as_blocks(message["content"]):
            yield message["role"], block


def _as_blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _strip(block: dict[str, Any]) -> dict[str, Any]:
    """Without `cache_control`, also in the parts of a tool's result."""
    bare = {key: value for key, value in block.items() if key != "cache_control"}
    if isinstance(bare.get("content"), list):
        bare["content"] = [_strip(part) if isinstance(part, dict) else part for part in bare["content"]]
    return bare


def _find_ttl(block: dict[str, Any]) -> str | None:
    parts = block.get("content")
    inner = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    for item in (block, *inner):
        if control := item.get("cache_control"):
            return str(control.get("ttl") or "5m")
    return None
