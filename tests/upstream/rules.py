"""What the real API refuses in a request's parameters, tools and cache breakpoints.

Each rule is a function from a request to its complaints, in the API's words where they are known;
`check_request` raises the first. Rules about the messages are in `history`.
"""

import re
from typing import Any, Callable, Iterator, Sequence

from claude_proxy.demo.errors import MAX_PROMPT_TOKENS, ApiError, prompt_too_long
from claude_proxy.demo.request import CacheControl, MessagesRequest, ToolResult

from .history import check_history, find_all_blocks

MAX_OUTPUT_TOKENS = 128_000
MIN_THINKING_BUDGET = 1_024
MAX_BREAKPOINTS = 4

# `claude-opus-5-5`, `claude-opus-5`, `claude-opus-4-5-20251101`, `claude-sonnet-4-20250514`; before version 5
# a bare major such as `claude-opus-4` is nobody's id.
_MODEL = re.compile(
    r"claude-(?P<family>opus|sonnet|haiku|fable)-"
    r"(?P<version>[5-9]|\d{1,2}-\d{1,2}|\d{1,2}(?=-\d{8}))(?P<date>-\d{8})?"
    r"|claude-3(-\d)?-(opus|sonnet|haiku)-(\d{8}|latest)"
)
_NO_STRUCTURED_OUTPUT = re.compile(r"claude-3-.*|claude-\w+-4-20250514")
_NO_SAMPLING = re.compile(r"claude-fable-.*")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")

Complaints = Iterator[str]


def is_known_model(name: str) -> bool:
    """Whether the name is shaped like an id of the API."""
    return _MODEL.fullmatch(name) is not None


def check_request(request: MessagesRequest, *, counting: bool = False) -> None:
    """Raise ApiError for the first rule that the request breaks.

    counting: the request is for `count_tokens`, which takes no `max_tokens`.
    """
    if not is_known_model(request.model):
        raise ApiError(404, f"model: {request.model}")
    rules: Sequence[Callable[[MessagesRequest], Complaints]] = RULES if counting else (_check_max_tokens, *RULES)
    for rule in rules:
        for complaint in rule(request):
            raise ApiError(400, complaint)


def check_prompt_size(tokens: int) -> None:
    """Raise ApiError when the prompt does not fit; clients match this very text."""
    if tokens > MAX_PROMPT_TOKENS:
        raise prompt_too_long(tokens)


def _check_max_tokens(request: MessagesRequest) -> Complaints:
    if request.max_tokens is None:
        yield "max_tokens: Field required"
    elif request.max_tokens < 1:
        yield "max_tokens: Input should be greater than or equal to 1"
    elif request.max_tokens > MAX_OUTPUT_TOKENS:
        yield (
            f"max_tokens: {request.max_tokens} > {MAX_OUTPUT_TOKENS}, "
            f"which is the maximum allowed number of output tokens for {request.model}"
        )


def _check_sampling(request: MessagesRequest) -> Complaints:
    given = [name for name in ("temperature", "top_p", "top_k") if getattr(request, name) is not None]
    if given and _NO_SAMPLING.fullmatch(request.model):
        yield f"{given[0]}: this parameter is not supported on {request.model}"
    for name in ("temperature", "top_p"):
        value = getattr(request, name)
        if value is not None and not 0 <= value <= 1:
            yield f"{name}: Input should be between 0 and 1"
    if request.temperature is not None and request.top_p is not None:
        yield "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    if request.top_k is not None and request.top_k < 0:
        yield "top_k: Input should be greater than or equal to 0"


def _check_thinking(request: MessagesRequest) -> Complaints:
    thinking = request.thinking
    if thinking is None:
        return
    if thinking.type == "disabled" and _NO_SAMPLING.fullmatch(request.model):
        yield f"thinking.type: `disabled` is not supported on {request.model}"
    if thinking.type != "enabled":
        return
    if thinking.budget_tokens is None:
        yield "thinking.enabled.budget_tokens: Field required"
        return
    if thinking.budget_tokens < MIN_THINKING_BUDGET:
        yield f"thinking.enabled.budget_tokens: must be greater than or equal to {MIN_THINKING_BUDGET}"
    if request.max_tokens is not None and thinking.budget_tokens >= request.max_tokens:
        yield "`max_tokens` must be greater than `thinking.budget_tokens`"


def _check_beside_thinking(request: MessagesRequest) -> Complaints:
    if not request.thinking_on:
        return
    if request.temperature not in (None, 1):
        yield "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode"
    if request.top_p is not None and request.top_p < 0.95:
        yield ("`top_p` must be greater than or equal to 0.95 or unset " "when thinking is enabled or in adaptive mode")
    if request.top_k is not None:
        yield "`top_k` must be unset when thinking is enabled or in adaptive mode"
    if request.tool_choice is not None and request.tool_choice.type in ("any", "tool"):
        yield "Thinking may not be enabled when tool_choice forces tool use."


def _check_context_management(request: MessagesRequest) -> Complaints:
    if request.context_management is None or request.thinking_on:
        return
    for edit in request.context_management.edits:
        if edit.type.startswith("clear_thinking"):
            yield f"`{edit.type}` strategy requires `thinking` to be enabled or adaptive"


def _check_tools(request: MessagesRequest) -> Complaints:
    tools = request.tools or ()
    for index, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(tool.name):
            yield f"tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'"
        if tool.custom and tool.input_schema is None:
            yield f"tools.{index}.custom.input_schema: Field required"
        elif tool.custom and (tool.input_schema or {}).get("type") != "object":
            yield f"tools.{index}.custom.input_schema.type: Input should be 'object'"
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        yield "tools: Tool names must be unique."


def _check_tool_choice(request: MessagesRequest) -> Complaints:
    choice = request.tool_choice
    if choice is None or choice.type in ("auto", "none"):
        return
    names = [tool.name for tool in request.tools or ()]
    if not names:
        yield "tool_choice: may only be specified while providing tools"
    elif choice.type == "tool" and choice.name not in names:
        yield f"Tool '{choice.name}' not found in provided tools"


def _check_stop_sequences(request: MessagesRequest) -> Complaints:
    if any(not sequence.strip() for sequence in request.stop_sequences or ()):
        yield "stop_sequences: each stop sequence must contain non-whitespace"


def _check_system(request: MessagesRequest) -> Complaints:
    for block in request.system or () if not isinstance(request.system, str) else ():
        if not block.text:
            yield "system: text content blocks must be non-empty"
        elif not block.text.strip():
            yield "system: text content blocks must contain non-whitespace text"


def _check_output_format(request: MessagesRequest) -> Complaints:
    wanted = request.format
    if wanted is None:
        return
    if _NO_STRUCTURED_OUTPUT.fullmatch(request.model):
        yield f"'{request.model}' does not support output format."
    if wanted.type != "json_schema":
        yield "output_config.format.type: Input should be 'json_schema'"
    elif wanted.schema is None:
        yield "output_config.format.schema: Field required"
    else:
        yield from _check_closed(wanted.schema)


def _check_closed(schema: Any) -> Complaints:
    """Every object of a schema for structured output must forbid further properties."""
    match schema:
        case {"type": "object", **rest} if rest.get("additionalProperties") is not False:
            yield (
                "output_config.format.schema: For 'object' type, "
                "'additionalProperties' must be explicitly set to false"
            )
        case dict():
            for keyword, part in schema.items():
                named = keyword in ("properties", "$defs", "definitions") and isinstance(part, dict)
                for inner in part.values() if named else (part,):
                    yield from _check_closed(inner) if keyword not in ("const", "enum", "default") else ()
        case list():
            for inner in schema:
                yield from _check_closed(inner)


def _check_breakpoints(request: MessagesRequest) -> Complaints:
    breakpoints = list(_find_breakpoints(request))
    if len(breakpoints) > MAX_BREAKPOINTS:
        yield (
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. " f"Found {len(breakpoints)}."
        )
    ttls = [control.ttl or "5m" for control in breakpoints]
    if ttls != sorted(ttls):  # "1h" sorts before "5m"
        yield "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block"


def _find_breakpoints(request: MessagesRequest) -> Iterator[CacheControl]:
    """In the order of the prompt: tools, system, messages; a top-level one stands for the last block."""
    system = request.system if not isinstance(request.system, str) else ()
    controls = [tool.cache_control for tool in request.tools or ()]
    controls += [text.cache_control for text in system or ()]
    yield from (control for control in controls if control)
    for _, block in find_all_blocks(request.messages):
        inner = block.content if isinstance(block, ToolResult) else None
        for part in inner if isinstance(inner, tuple) else ():
            if part.cache_control:
                yield part.cache_control
        if block.cache_control:
            yield block.cache_control
    if request.cache_control:
        yield request.cache_control


RULES: Sequence[Callable[[MessagesRequest], Complaints]] = (
    _check_sampling,
    _check_thinking,
    _check_beside_thinking,
    _check_context_management,
    _check_tools,
    _check_tool_choice,
    _check_stop_sequences,
    _check_system,
    _check_output_format,
    _check_breakpoints,
    check_history,
)
