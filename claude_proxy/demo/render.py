"""An answer as bytes: one JSON message, or the events of a stream.

In go an `Answer` and the `Head` that goes before it; out come bytes. A stream comes as frames, each with
the count of tokens it stands for (0 or 1), so that `pacing` can say when each leaves. Event order and
shapes are those of https://docs.claude.com/en/docs/build-with-claude/streaming.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Iterator

import msgspec

from .answer import Answer, AnswerBlock
from .cache import InputUsage
from .errors import ApiError

Frame = tuple[bytes, int]

_encode = msgspec.json.encode
_DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a message before its first token."""

    id: str
    model: str
    usage: InputUsage


def sign_thinking(thinking: str) -> str:
    """The signature of a thinking block."""
    return f"demo-sig-{hashlib.sha256(thinking.encode()).hexdigest()[:32]}"


def render_message(head: Head, answer: Answer) -> bytes:
    """The body of an answer that is not streamed."""
    return _encode(
        {
            **_build_message(head),
            "content": [_build_block(block, answer.show_thinking) for block in answer.blocks],
            **_build_ending(answer),
            "usage": {
                **_build_input_usage(head.usage),
                **_build_output_usage(answer),
                "service_tier": "standard",
            },
        }
    )


def render_stream(head: Head, answer: Answer) -> Iterator[Frame]:
    """The events of a streamed answer, one frame each."""
    usage = {**_build_input_usage(head.usage), "output_tokens": 1, "service_tier": "standard"}
    message = {
        **_build_message(head),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield _render_event("message_start", message=message), 0
    for index, block in enumerate(answer.blocks):
        yield _render_event("content_block_start", index=index, content_block=_build_start(block)), 0
        if index == 0:
            yield _render_event("ping"), 0
        yield from _render_deltas(index, block, answer.show_thinking)
        yield _render_event("content_block_stop", index=index), 0
    total = {**_build_input_usage(head.usage), **_build_output_usage(answer)}
    yield _render_event("message_delta", delta=_build_ending(answer), usage=total), 0
    yield _render_event("message_stop"), 0


def render_error_event(error: ApiError, request_id: str) -> bytes:
    """An error in the middle of a stream."""
    return b"event: error\ndata: " + _encode(error.build_body(request_id)) + b"\n\n"


def _render_event(kind: str, **fields: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **fields}) + b"\n\n"


def _render_deltas(index: int, block: AnswerBlock, show_thinking: bool) -> Iterator[Frame]:
    """Everything around a token is the same for the whole block, hence put together once."""
    kind, field = _DELTAS[block.kind]
    before = (
        f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},'
        f'"delta":{{"type":"{kind}","{field}":'
    ).encode()
    hidden = block.kind == "thinking" and not show_thinking
    for token in block.tokens:
        yield (b"" if hidden else before + _encode(token) + b"}}\n\n"), 1
    if block.kind == "thinking":
        delta = {"type": "signature_delta", "signature": sign_thinking(block.text)}
        yield _render_event("content_block_delta", index=index, delta=delta), 0


def _build_message(head: Head) -> dict[str, Any]:
    return {"id": head.id, "type": "message", "role": "assistant", "model": head.model}


def _build_start(block: AnswerBlock) -> dict[str, Any]:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "text":
            return {"type": "text", "text": ""}
        case "tool_use":
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _build_block(block: AnswerBlock, show_thinking: bool) -> dict[str, Any]:
    match block.kind:
        case "thinking":
            shown = block.text if show_thinking else ""
            return {"type": "thinking", "thinking": shown, "signature": sign_thinking(block.text)}
        case "text":
            return {"type": "text", "text": block.text}
        case "tool_use":
            return {
                "type": "tool_use",
                "id": block.id,
                "name": block.name,
                "input": _parse_arguments(block.text),
            }


def _parse_arguments(text: str) -> Any:
    """Arguments that are no JSON have no place in a message that is: wrapped, as the API's manual advises.

    https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {"INVALID_JSON": text}


def _build_ending(answer: Answer) -> dict[str, Any]:
    ending: dict[str, Any] = {"stop_reason": answer.stop_reason, "stop_sequence": answer.stop_sequence}
    if answer.stop_reason == "refusal":
        ending["stop_details"] = {
            "type": "refusal",
            "category": None,
            "explanation": "The demo was asked to refuse.",
        }
    return ending


def _build_input_usage(usage: InputUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.plain,
        "cache_creation_input_tokens": usage.written,
        "cache_read_input_tokens": usage.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.written_5m,
            "ephemeral_1h_input_tokens": usage.written_1h,
        },
    }


def _build_output_usage(answer: Answer) -> dict[str, Any]:
    return {
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"thinking_tokens": answer.thinking_tokens},
    }
