"""Messages of the CLI, recorded and built by hand, and the rules that what is made of them keeps."""

import json
from pathlib import Path
from typing import Any

from claude_proxy.claude.turn.agent_translator import AgentTranslator
from claude_proxy.claude.turn.translator import Translator
from claude_proxy.claude.wire.protocol import parse_line
from claude_proxy.core.events import BlockStart, BlockStop, Completion, Event, MessageEnd, MessageStart, collect

Json = dict[str, Any]

TRANSCRIPTS = Path(__file__).parent / "data" / "transcripts"


def read(name: str) -> list[Json]:
    """What the CLI wrote in a recording, in order."""
    lines = (json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines())
    return [line["msg"] for line in lines if line["dir"] == "out"]


def turns_of(messages: list[Json]) -> list[list[Json]]:
    """The recording cut after each `result`; the answers to replayed messages (no turn at all) are left out."""
    turns: list[list[Json]] = [[]]
    for message in messages:
        turns[-1].append(message)
        if message["type"] == "result":
            turns.append([])
    return [turn for turn in turns if turn and turn[-1]["type"] == "result" and turn[-1]["num_turns"] > 0]


def feed(translator: Translator | AgentTranslator, *messages: Json) -> list[Event]:
    """The events of these messages, up to the end of the answer."""
    events: list[Event] = []
    for message in messages:
        if translator.done:
            break
        inbound = parse_line(json.dumps(message).encode())
        if inbound is not None:
            events += translator.feed(inbound)
    return events


def check_rules(events: list[Event]) -> Completion:
    """The rule of the canonical stream: starts once, blocks one after another from 0, ends once."""
    assert isinstance(events[0], MessageStart) and isinstance(events[-1], MessageEnd)
    assert not any(isinstance(event, (MessageStart, MessageEnd)) for event in events[1:-1])
    open_index, next_index = None, 0
    for event in events[1:-1]:
        if isinstance(event, BlockStart):
            assert open_index is None and event.index == next_index
            open_index, next_index = event.index, next_index + 1
        else:
            assert getattr(event, "index") == open_index
            open_index = None if isinstance(event, BlockStop) else open_index
    assert open_index is None
    return collect(events)


def event(kind: str, **fields: Any) -> Json:
    return {"type": "stream_event", "event": {"type": kind, **fields}, "parent_tool_use_id": None}


def start(model: str = "claude-x", **usage: int) -> Json:
    return event("message_start", message={"id": "msg_1", "model": model, "usage": usage})


def opened(index: int, kind: str = "text", **fields: Any) -> Json:
    return event("content_block_start", index=index, content_block={"type": kind, **fields})


def delta(index: int, kind: str, **fields: Any) -> Json:
    return event("content_block_delta", index=index, delta={"type": kind, **fields})


def closed(index: int) -> Json:
    return event("content_block_stop", index=index)


def stopped(reason: str | None, sequence: str | None = None, **more: Any) -> Json:
    return event(
        "message_delta", delta={"stop_reason": reason, "stop_sequence": sequence, **more}, usage={"output_tokens": 9}
    )


def text(index: int, *pieces: str) -> list[Json]:
    return [opened(index), *(delta(index, "text_delta", text=piece) for piece in pieces), closed(index)]


def call(index: int, call_id: str, name: str, *pieces: str) -> list[Json]:
    made = (delta(index, "input_json_delta", partial_json=piece) for piece in pieces)
    return [opened(index, "tool_use", id=call_id, name=name), *made, closed(index)]


MESSAGE_STOP = event("message_stop")
RESULT: Json = {"type": "result", "subtype": "success", "is_error": False, "num_turns": 1}
