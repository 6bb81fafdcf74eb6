"""PURE: the CLI's JSON lines, typed. Bytes in, frozen structs out.

In: lines of stdout (`parse_line`), pieces of stdout (`LineBuffer`). What is said to it is in `outbound`.
Rule: a line of an unknown type is `None` (new ones appear with almost every release); a line that is no JSON object,
or a known type of another shape, is a `ProtocolError`. Shapes as recorded in `tests/data/transcripts`.
"""

import contextlib
from typing import Any

import msgspec

from ...core.errors import UpstreamError
from ...core.json_text import mend

MAX_LINE_BYTES = 256 * 1024 * 1024


class ProtocolError(UpstreamError):
    """The child wrote something that is not the protocol."""

    spoils_child = True


class _Head(msgspec.Struct):
    type: str
    subtype: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one model call; absent ones are None in a `message_delta`."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: dict[str, Any] | None = None


class StreamMessage(msgspec.Struct, frozen=True):
    id: str
    model: str
    usage: Usage = Usage()


class StreamBlock(msgspec.Struct, frozen=True):
    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""


class StreamDelta(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: dict[str, Any] | None = None


class ApiEvent(msgspec.Struct, frozen=True):
    """One raw Messages API stream event, of any type."""

    type: str
    index: int = 0
    message: StreamMessage | None = None
    content_block: StreamBlock | None = None
    delta: StreamDelta = StreamDelta()
    usage: Usage | None = None


class StreamEvent(msgspec.Struct, frozen=True):
    """`parent_tool_use_id` is set for what a sub-agent says."""

    event: ApiEvent
    parent_tool_use_id: str | None = None


class ControlAnswer(msgspec.Struct, frozen=True):
    request_id: str
    subtype: str
    response: dict[str, Any] | None = None
    error: str | None = None


class ControlResponse(msgspec.Struct, frozen=True):
    """The answer to a control request of ours."""

    response: ControlAnswer


class ControlRequest(msgspec.Struct, frozen=True):
    """The CLI asks; every one must be answered, or the turn stalls."""

    request_id: str
    request: dict[str, Any]


class ToolCall(msgspec.Struct, frozen=True):
    """A `tools/call` for a function of the client's; unanswered, the turn waits for as long as it takes."""

    request_id: str
    rpc_id: int | str
    tool_use_id: str


class PermissionAsk(msgspec.Struct, frozen=True):
    """`can_use_tool`: may this tool run with this input? Unanswered, the turn waits for as long as it takes."""

    request_id: str
    tool_name: str
    input: dict[str, Any]
    tool_use_id: str = ""


class ControlCancel(msgspec.Struct, frozen=True):
    """The CLI takes back a control request of its own."""

    request_id: str


class ToolProgress(msgspec.Struct, frozen=True):
    """A tool still runs: no sign that it gets anywhere."""

    tool_use_id: str = ""


class UserLine(msgspec.Struct, frozen=True):
    """A `user` line: results that the CLI put into the history. `content` is raw."""

    message: dict[str, Any]
    parent_tool_use_id: str | None = None
    uuid: str | None = None

    def results(self) -> list[dict[str, Any]]:
        """Its `tool_result` blocks, raw."""
        content = self.message.get("content")
        blocks = content if isinstance(content, list) else []
        return [block for block in blocks if isinstance(block, dict) and "tool_use_id" in block]

    def answered_ids(self) -> tuple[str, ...]:
        """Ids of the tool calls that this line answers."""
        return tuple(block["tool_use_id"] for block in self.results())


class Init(msgspec.Struct, frozen=True):
    """`system/init`: what is really offered to the model in this turn."""

    session_id: str = ""
    model: str = ""
    tools: tuple[str, ...] = ()


class ApiRetry(msgspec.Struct, frozen=True):
    """`system/api_retry`: the upstream call failed with `error_status` and will be made again."""

    error_status: int | None = None
    error: str | None = None
    attempt: int = 0
    max_retries: int = 0
    retry_delay_ms: float = 0.0


class LimitWindow(msgspec.Struct, frozen=True):
    """One window of the plan, as `RateLimitInfo`; its `rejected` alone does not mean that requests are refused."""

    status: str | None = None
    resets_at: float | None = msgspec.field(name="resetsAt", default=None)
    utilization: float | None = None


class RateLimitInfo(msgspec.Struct, frozen=True):
    """`status` is allowed, allowed_warning or rejected; `resets_at` in Unix seconds; `utilization` 0 to 1, or more.

    Without `rate_limit_type` it is said of no window. windows: raw, see `all_windows`. Where `is_using_overage` or
    `overage_in_use`, a rejected window refuses nothing: paid use goes on. Source: `SDKRateLimitInfo` of
    `@anthropic-ai/claude-agent-sdk` 0.3.329.
    """

    status: str = "allowed"
    resets_at: float | None = msgspec.field(name="resetsAt", default=None)
    rate_limit_type: str | None = msgspec.field(name="rateLimitType", default=None)
    utilization: float | None = None
    windows: Any = msgspec.field(name="unifiedWindows", default=None)
    overage_status: str | None = msgspec.field(name="overageStatus", default=None)
    overage_resets_at: float | None = msgspec.field(name="overageResetsAt", default=None)
    is_using_overage: bool | None = msgspec.field(name="isUsingOverage", default=None)
    overage_in_use: bool | None = msgspec.field(name="overageInUse", default=None)

    def all_windows(self) -> dict[str, LimitWindow]:
        """Every window that the API told of, by type; those of another shape are left out: no turn may fail for it."""
        found = {}
        for name, raw in (self.windows if isinstance(self.windows, dict) else {}).items():
            with contextlib.suppress(msgspec.ValidationError):
                found[str(name)] = msgspec.convert(raw, LimitWindow)
        return found


class RateLimit(msgspec.Struct, frozen=True):
    """`rate_limit_event`: the state of the plan's window."""

    rate_limit_info: RateLimitInfo


class FinishedBlock(msgspec.Struct, frozen=True):
    type: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class FinishedMessage(msgspec.Struct, frozen=True):
    model: str = ""
    content: tuple[FinishedBlock, ...] = ()


class Assistant(msgspec.Struct, frozen=True):
    """A finished block: a tool call with its whole input, or a notice of the CLI (`error`, model `<synthetic>`)."""

    message: FinishedMessage = FinishedMessage()
    parent_tool_use_id: str | None = None
    uuid: str | None = None
    error: str | None = None
    api_error_status: int | None = None


class ModelUsage(msgspec.Struct, frozen=True, rename="camel"):
    """What one model was used for; cost_usd: the CLI's estimate in US dollars."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    thinking_tokens: int = 0
    cost_usd: float = msgspec.field(name="costUSD", default=0.0)


class Result(msgspec.Struct, frozen=True):
    """The end of a turn. `is_error` with `api_error_status` is a failure although `subtype` says success."""

    is_error: bool = False
    subtype: str = ""
    api_error_status: int | None = None
    terminal_reason: str | None = None
    stop_reason: str | None = None
    num_turns: int = 0
    result: str | None = None
    usage: Usage = Usage()
    session_id: str = ""
    structured_output: Any = None
    by_model: Any = msgspec.field(name="model_usage_since_last_result", default=None)

    def spent(self) -> tuple[ModelUsage, ...]:
        """What the turn took of each model, with sub-agents and the CLI's own calls, which `usage` leaves out.

        Empty where no model was called, and where it is told in another shape. The CLI's totals are no help: they go on
        where a session is resumed.
        """
        rows = self.by_model.values() if isinstance(self.by_model, dict) else ()
        with contextlib.suppress(msgspec.ValidationError):
            return tuple(msgspec.convert(row, ModelUsage) for row in rows)
        return ()


Inbound = (
    StreamEvent
    | ControlResponse
    | ControlRequest
    | ControlCancel
    | ToolCall
    | PermissionAsk
    | ToolProgress
    | UserLine
    | Init
    | ApiRetry
    | RateLimit
    | Assistant
    | Result
)

_head = msgspec.json.Decoder(_Head)
_DECODERS: dict[tuple[str, str | None], msgspec.json.Decoder[Inbound]] = {
    (kind, subtype): msgspec.json.Decoder(shape)
    for kind, subtype, shape in (
        ("stream_event", None, StreamEvent),
        ("control_response", None, ControlResponse),
        ("control_request", None, ControlRequest),
        ("control_cancel_request", None, ControlCancel),
        ("tool_progress", None, ToolProgress),
        ("system", "init", Init),
        ("system", "api_retry", ApiRetry),
        ("rate_limit_event", None, RateLimit),
        ("assistant", None, Assistant),
        ("user", None, UserLine),
        ("result", None, Result),
    )
}


def parse_line(line: bytes) -> Inbound | None:
    """One line of the child's stdout; None for a type that is not known here. Raises ProtocolError."""
    try:
        inbound = _decode_mended(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolError("The CLI wrote a line that is not its protocol") from error
    return (_parse_call(inbound) or _parse_ask(inbound) or inbound) if isinstance(inbound, ControlRequest) else inbound


def _decode_mended(line: bytes) -> Any:
    """A line as its type. It is mended only where it cannot be decoded: arguments may hold half a surrogate pair."""
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        mended = mend(line)
        if mended == line:
            raise
        return _decode(mended)


def _decode(line: bytes) -> Any:
    head = _head.decode(line)
    decoder = _DECODERS.get((head.type, head.subtype if head.type == "system" else None))
    return decoder.decode(line) if decoder is not None else None


def _parse_ask(request: ControlRequest) -> PermissionAsk | None:
    """The `can_use_tool` inside a control request, if that is what it is."""
    raw = request.request
    if raw.get("subtype") != "can_use_tool":
        return None
    name, arguments, call = raw.get("tool_name"), raw.get("input"), raw.get("tool_use_id")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ProtocolError("The CLI asked for a permission without saying which")
    return PermissionAsk(request.request_id, name, arguments, call if isinstance(call, str) else "")


def _parse_call(request: ControlRequest) -> ToolCall | None:
    """The `tools/call` inside a control request, if that is what it is."""
    rpc = request.request.get("message")
    if (
        request.request.get("subtype") != "mcp_message"
        or not isinstance(rpc, dict)
        or rpc.get("method") != "tools/call"
    ):
        return None
    try:
        return ToolCall(request.request_id, rpc["id"], str(rpc["params"]["_meta"]["claudecode/toolUseId"]))
    except (KeyError, TypeError) as error:
        raise ProtocolError("The CLI made a tool call without saying which") from error


class LineBuffer:
    """Cuts pieces of a stream into lines, whatever the pieces are; blank lines are dropped."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes, without their ends. Raises ProtocolError for an endless line."""
        lines: list[bytes] = []
        *whole, rest = piece.split(b"\n")
        for part in whole:
            line = b"".join((*self._pieces, part)) if self._pieces else part
            self._pieces.clear()
            self._size = 0
            if line.strip():
                lines.append(line)
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE_BYTES:
                raise ProtocolError(f"The CLI wrote a line of more than {MAX_LINE_BYTES} bytes")
        return lines
