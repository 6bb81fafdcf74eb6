"""Anthropic Messages, the request: what is read of it, and how it becomes canonical.

In: the JSON body of `POST /v1/messages`, or of `count_tokens`. Out: `Parsed`, or what is to be counted. Shapes:
https://docs.anthropic.com/en/api/messages, read leniently: null is absent, `cache_control` may stand anywhere and is
left out, and so is what newer clients bring; it is named as ignored where it asked for something.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ...core.conversation import Conversation, Message, Options, ThinkingMode, Tool, ToolChoice
from ...core.errors import BadRequest
from ...core.schemas import find_flaw
from ..dialect import Parsed, convert, decode, decode_object
from ..transcript import Entry, arrange
from .content import Block, InputMessage, ModelOf, Reader, ToolSpec, required

SMALLEST_BUDGET = 1024
# Values that ask for nothing beyond what happens anyway, or only of the API's own bookkeeping; None for any value.
NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "anthropic_beta": None,
    "anthropic_version": None,
    "betas": None,
    "cache_control": None,
    "context_management": None,
    "diagnostics": None,
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
}
# The client's names of what `Parameters` names as OpenAI does.
NAMES = {"reasoning_effort": "thinking"}


class Choice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(msgspec.Struct):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(msgspec.Struct):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct):
    user_id: str | None = None


class Prompt(msgspec.Struct, kw_only=True):
    """What `count_tokens` is asked about; null means absent everywhere. Other fields are named as ignored."""

    model: str
    messages: list[InputMessage]
    system: str | list[Block] | None = None
    tools: list[ToolSpec] | None = None


class MessagesRequest(Prompt, kw_only=True):
    """What is read of a request. `output_format` is what `output_config.format` was called at first."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tool_choice: Choice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    metadata: Metadata | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """What is to be counted: roles with their blocks, in order, and tools."""

    entries: tuple[Entry, ...]
    tools: tuple[Tool, ...]


def parse_messages(body: bytes, model_of: ModelOf, before: tuple[Message, ...] = ()) -> Parsed:
    """See `Dialect.parse`. `model_of`: which model of ours signed some thinking, None for a foreign signature.

    Raises BadRequest with the path of what is wrong.
    """
    fields = decode_object(body)
    request = convert(fields, MessagesRequest)
    _check(request)
    reader = Reader(model_of)
    tools = reader.read_tools(request.tools or [])
    choice = _read_choice(request.tool_choice, tools)
    system, messages = arrange(reader.read_entries(request.system, request.messages), before=before)
    conversation = Conversation(request.model, messages, system, tools, _read_options(request, choice))
    ignored = tuple(dict.fromkeys((*_find_unread(fields), *reader.ignored)))
    hints = (request.metadata.user_id if request.metadata else None,)
    return Parsed(conversation, bool(request.stream), request, ignored, hints, NAMES)


def parse_prompt(body: bytes) -> Counted:
    """The body of `count_tokens`: messages may end with any role, and calls may lack their results."""
    prompt = decode(body, Prompt)
    _check_prompt(prompt)
    reader = Reader(lambda signature: None)
    return Counted(tuple(reader.read_entries(prompt.system, prompt.messages)), reader.read_tools(prompt.tools or []))


def _read_choice(choice: Choice | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    if choice.type in ("any", "tool") and not tools:
        raise BadRequest("tool_choice demands a call, but there are no tools", param="tool_choice")
    name = required(choice.name, "tool_choice.name") if choice.type == "tool" else None
    if name is not None and name not in {tool.name for tool in tools}:
        raise BadRequest(f"tool_choice names {name[:80]!r}, which is not among the tools", param="tool_choice.name")
    return ToolChoice(choice.type, name, parallel=not choice.disable_parallel_tool_use)


def _read_options(request: MessagesRequest, choice: ToolChoice) -> Options:
    config = request.output_config or OutputConfig()
    return Options(
        max_tokens=request.max_tokens,
        stop_sequences=tuple(text for text in request.stop_sequences or () if text),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        effort=config.effort,
        thinking=_read_thinking(request),
        tool_choice=choice,
        json_schema=_read_format(config.format, "output_config.format")
        or _read_format(request.output_format, "output_format"),
    )


def _read_thinking(request: MessagesRequest) -> ThinkingMode:
    """Absent means disabled: the API thinks only where it is told to, and many a client reads `content[0].text`."""
    config = request.thinking
    if config is None:
        return ThinkingMode("disabled", asked=False)
    if config.type != "enabled":
        return ThinkingMode(config.type, display=config.display)
    budget = required(config.budget_tokens, "thinking.budget_tokens")
    if budget < SMALLEST_BUDGET:
        raise BadRequest(f"budget_tokens must be at least {SMALLEST_BUDGET}", param="thinking.budget_tokens")
    # With tools the budget may be that of several answers (interleaved thinking).
    if budget >= request.max_tokens and not request.tools:
        raise BadRequest("max_tokens must be greater than thinking.budget_tokens", param="max_tokens")
    return ThinkingMode("enabled", budget, config.display)


def _read_format(wanted: OutputFormat | None, path: str) -> dict[str, Any] | None:
    if wanted is None:
        return None
    if wanted.type != "json_schema":
        raise BadRequest(f"Unknown output format {wanted.type[:40]!r}", param=f"{path}.type")
    schema = required(wanted.schema, f"{path}.schema")
    problem = find_flaw(schema)
    if problem is not None:
        raise BadRequest(f"This is not a JSON schema: {problem}", param=f"{path}.schema")
    return schema


def _check_prompt(prompt: Prompt) -> None:
    if not prompt.model.strip():
        raise BadRequest("model must not be empty", param="model")
    if not prompt.messages:
        raise BadRequest("messages must not be empty", param="messages")


def _check(request: MessagesRequest) -> None:
    """What is not a matter of types. Raises BadRequest."""
    _check_prompt(request)
    rules = (
        (request.max_tokens >= 1, "max_tokens", "max_tokens must be at least 1"),
        (0 <= (request.temperature or 0) <= 1, "temperature", "temperature must be between 0 and 1"),
        (0 <= (request.top_p or 0) <= 1, "top_p", "top_p must be between 0 and 1"),
        ((request.top_k or 0) >= 0, "top_k", "top_k must not be negative"),
    )
    for holds, param, message in rules:
        if not holds:
            raise BadRequest(message, param=param)


def _find_unread(fields: dict[str, Any]) -> Iterator[str]:
    """Fields that were sent, ask for something, and are not read."""
    for name, value in fields.items():
        if name in MessagesRequest.__struct_fields__ or value is None:
            continue
        neutral = NEUTRAL.get(name, ())
        if neutral is not None and value not in neutral:
            yield name
