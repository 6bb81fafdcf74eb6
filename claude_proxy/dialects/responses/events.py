"""The answer of a Responses request: canonical events folded into the response object, step by step.

In: canonical events, one at a time. Out: JSON objects with `type` and `sequence_number`. A pure core: the stream, the
whole answer and the background run are made by it, so that they are equal. Shapes and order:
https://platform.openai.com/docs/api-reference/responses-streaming, and recordings of the live API.
Rules: numbers are consecutive; ids never change; `output` holds what `output_item.done` said.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, assert_never

from ...core.conversation import AnswerBlock, Text, Thinking, ToolUse
from ...core.errors import ProxyError
from ...core.events import (
    BlockStart,
    BlockStop,
    Completion,
    Event,
    MessageEnd,
    MessageStart,
    SignatureDelta,
    TextDelta,
    ThinkingDelta,
    ToolInputDelta,
    Usage,
)
from ...storage.responses import make_item_id
from ..openai_errors import build_error
from ..openai_tools import build_arguments

Json = dict[str, Any]

# Codex knows these: it reads "try again in Ns" beside `rate_limit_exceeded`, and all others are final to it. What
# somebody stopped must be: it would begin again, as after any code that it does not know.
FAILURE_CODES = {
    "plan_limit": "insufficient_quota",
    "context_length_exceeded": "context_length_exceeded",
    "queue_full": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "invalid_request": "invalid_prompt",
    "request_too_large": "invalid_prompt",
    "interrupted": "invalid_prompt",
}
CUT_SHORT = ("max_tokens", "model_context_window_exceeded")


@dataclass(slots=True)
class _Open:
    """An output item under way: its index, itself, and the pieces of its text or arguments."""

    index: int
    item: Json
    pieces: list[str] = field(default_factory=list)

    @property
    def where(self) -> Json:
        return {"item_id": self.item["id"], "output_index": self.index}

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class ResponseWriter:
    """One answer. `response` is the object as far as it is known; `head` its fields that do not change."""

    def __init__(
        self, head: Json, names: dict[str, tuple[str, str]], now: Callable[[], float], *, encrypted: bool = False
    ) -> None:
        """names: offered name -> (namespace, name). encrypted: reasoning items say that they have no encrypted form."""
        self.response: Json = {**head, "status": "in_progress", "output": [], "usage": None}
        self._names = names
        self._now = now
        self._encrypted = encrypted
        self._number = 0
        self._opened = False
        self._open: _Open | None = None
        self._closing: _Open | None = None

    @property
    def is_open(self) -> bool:
        """True once something was said."""
        return self._opened

    def add(self, event: Event | None) -> list[Json]:
        """What one event means for the stream; None asks for a sign of life. The opening comes first."""
        if not self._opened:
            opening = self._begin()
            return opening if event is None else [*opening, *self._translate(event)]
        return [self._event("keepalive")] if event is None else self._translate(event)

    def fail(self, error: ProxyError) -> list[Json]:
        """The end of a stream that failed; an error nested as the live API has it, unlike the official document."""
        events = self._close("completed") if self._opened else self._begin()
        code = FAILURE_CODES.get(error.kind, "server_error")
        message = error.message
        if code == "rate_limit_exceeded" and "try again in" not in message:
            message += f" (try again in {max(1, round(error.retry_after or 1))}s)"
        self.response.update(status="failed", error={"code": code, "message": message})
        return [*events, self._event("error", **build_error(error)), self._said("response.failed")]

    def cancel(self) -> list[Json]:
        """The end of a background run that was cancelled; there is no event of that name."""
        events = self._close("completed") if self._opened else self._begin()
        self.response.update(status="cancelled")
        return [*events, self._said("response.incomplete")]

    def _begin(self) -> list[Json]:
        self._opened = True
        return [self._said("response.created"), self._said("response.in_progress")]

    def _translate(self, event: Event) -> list[Json]:
        match event:
            case MessageStart() | SignatureDelta():
                return []
            case BlockStart(index, block):
                return [*self._close("completed"), *self._start(index, block)]
            case TextDelta(_, piece):
                return self._delta("response.output_text.delta", piece, content_index=0, logprobs=[])
            case ThinkingDelta(_, piece):
                return [
                    *self._start_summary(),
                    *self._delta("response.reasoning_summary_text.delta", piece, summary_index=0),
                ]
            case ToolInputDelta(_, piece):
                return self._delta("response.function_call_arguments.delta", piece)
            case BlockStop():
                return self._stop()
            case MessageEnd():
                return self._finish(event)
            case _:
                assert_never(event)

    def _start(self, index: int, block: AnswerBlock) -> list[Json]:
        match block:
            case Text():
                item = self._item("message", index, role="assistant", status="in_progress", content=[])
            case Thinking():
                encrypted = {"encrypted_content": None} if self._encrypted else {}
                item = self._item("reasoning", index, summary=[], **encrypted)
            case ToolUse(call_id, name):
                called = self._called(name)
                item = self._item("function_call", index, call_id=call_id, **called, arguments="", status="in_progress")
        self._open = _Open(index, item)
        events = [self._event("response.output_item.added", output_index=index, item=dict(item))]
        if isinstance(block, Text):
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            events.append(self._part("added", part))
        return events

    def _start_summary(self) -> list[Json]:
        """A summary begins with its first word: thinking that is not shown has none."""
        assert self._open is not None
        if self._open.pieces:
            return []
        part = {"type": "summary_text", "text": ""}
        return [self._event("response.reasoning_summary_part.added", **self._open.where, summary_index=0, part=part)]

    def _delta(self, kind: str, piece: str, **fields: Any) -> list[Json]:
        assert self._open is not None
        self._open.pieces.append(piece)
        return [self._event(kind, **self._open.where, **fields, delta=piece)]

    def _stop(self) -> list[Json]:
        """The content is complete; how the item ended is known when the next one begins, or the answer ends."""
        opened, self._open = self._open, None
        assert opened is not None
        self._closing = opened
        match opened.item["type"]:
            case "message":
                return self._stop_text(opened)
            case "reasoning":
                return self._stop_summary(opened)
        return self._stop_call(opened)

    def _stop_text(self, opened: _Open) -> list[Json]:
        part = {"type": "output_text", "text": opened.text, "annotations": [], "logprobs": []}
        opened.item["content"] = [part]
        done = self._event("response.output_text.done", **opened.where, content_index=0, text=opened.text, logprobs=[])
        return [done, self._event("response.content_part.done", **opened.where, content_index=0, part=part)]

    def _stop_summary(self, opened: _Open) -> list[Json]:
        if not opened.pieces:
            return []
        part = {"type": "summary_text", "text": opened.text}
        opened.item["summary"] = [part]
        where = {**opened.where, "summary_index": 0}
        return [
            self._event("response.reasoning_summary_text.done", **where, text=opened.text),
            self._event("response.reasoning_summary_part.done", **where, part=part),
        ]

    def _stop_call(self, opened: _Open) -> list[Json]:
        """Arguments are never empty: without any they are `{}`, and the fragments add up to that."""
        events: list[Json] = []
        if not opened.text.strip():
            opened.pieces.append("{}")
            events.append(self._event("response.function_call_arguments.delta", **opened.where, delta="{}"))
        opened.item["arguments"] = opened.text
        done = {"name": opened.item["name"], "arguments": opened.text}
        return [*events, self._event("response.function_call_arguments.done", **opened.where, **done)]

    def _close(self, status: str) -> list[Json]:
        closing, self._closing = self._closing, None
        if closing is None:
            return []
        if closing.item["type"] != "reasoning":
            closing.item["status"] = status
        self.response["output"].append(closing.item)
        return [self._event("response.output_item.done", output_index=closing.index, item=closing.item)]

    def _finish(self, end: MessageEnd) -> list[Json]:
        cut = end.stop_reason in CUT_SHORT
        events = self._close("incomplete" if cut else "completed")
        reason = "max_output_tokens" if cut else None
        if end.stop_reason == "refusal":
            if end.explanation:
                events += self._refuse(end.explanation)
            else:
                reason = "content_filter"
        self.response["usage"] = build_usage(end.usage)
        if reason is not None:
            self.response.update(status="incomplete", incomplete_details={"reason": reason})
            return [*events, self._said("response.incomplete")]
        self.response.update(status="completed", completed_at=int(self._now()))
        return [*events, self._said("response.completed")]

    def _refuse(self, explanation: str) -> list[Json]:
        """Why the model refused, as an item of its own: what it had said before has been sent as text."""
        index = len(self.response["output"])
        item = self._item("message", index, role="assistant", status="in_progress", content=[])
        opened = self._open = _Open(index, item)
        part = {"type": "refusal", "refusal": explanation}
        events = [
            self._event("response.output_item.added", output_index=index, item=dict(item)),
            self._part("added", {"type": "refusal", "refusal": ""}),
            *self._delta("response.refusal.delta", explanation, content_index=0),
            self._event("response.refusal.done", **opened.where, content_index=0, refusal=explanation),
            self._part("done", part),
        ]
        item["content"] = [part]
        self._open, self._closing = None, opened
        return [*events, *self._close("completed")]

    def _part(self, step: str, part: Json) -> Json:
        assert self._open is not None
        return self._event(f"response.content_part.{step}", **self._open.where, content_index=0, part=part)

    def _item(self, kind: str, index: int, **fields: Any) -> Json:
        return {"id": make_item_id(kind, index, self.response["id"], output=True), "type": kind, **fields}

    def _called(self, name: str) -> Json:
        namespace, inner = self._names.get(name, (None, name))
        return {"name": inner} if namespace is None else {"name": inner, "namespace": namespace}

    def _said(self, kind: str) -> Json:
        return self._event(kind, response={**self.response, "output": list(self.response["output"])})

    def _event(self, kind: str, **fields: Any) -> Json:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **fields}


def replay(completion: Completion) -> list[Event]:
    """The events that a whole answer could have come in."""
    events: list[Event] = [MessageStart(completion.id, completion.model, completion.usage)]
    for index, block in enumerate(completion.blocks):
        match block:
            case Text(text):
                delta: list[Event] = [TextDelta(index, text)] if text else []
                start: AnswerBlock = Text("")
            case Thinking(thinking):
                delta, start = [ThinkingDelta(index, thinking)] if thinking else [], Thinking("")
            case ToolUse(call_id, name):
                delta, start = [ToolInputDelta(index, build_arguments(block))], ToolUse(call_id, name, {})
        events += [BlockStart(index, start), *delta, BlockStop(index)]
    return [*events, completion.end]


def build_usage(usage: Usage) -> Json:
    """`input_tokens` includes the cache; https://platform.openai.com/docs/api-reference/responses/object."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "cache_write_tokens": usage.cache_creation_input_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
