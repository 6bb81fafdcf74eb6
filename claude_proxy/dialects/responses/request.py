"""OpenAI Responses, the request: what is read of it, and how it becomes canonical.

In: the JSON body, and the items of what it continues. Out: `Parsed`. As lenient as chat: null is absent, unknown fields
are named as ignored, and so are tools that only OpenAI's own servers have.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from ...core.conversation import Conversation, Effort, Message, Options, Text, Tool, ToolChoice
from ...core.errors import BadRequest
from ...core.schemas import find_flaw
from ..dialect import Parsed, convert
from ..openai_tools import ToolSpec, check_names, parse_tool, parse_tool_choice
from ..transcript import Entry, arrange
from .items import Item, is_harmless, join_name, merge, parse_items

LARGEST_INPUT = 1000
LARGEST_METADATA = (16, 64, 512)
LOGPROBS = "message.output_text.logprobs"

# Values that ask for nothing beyond what happens anyway; anything else in these fields is named as ignored.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "max_tool_calls": (0,),
    "prompt_cache_options": ({},),
    "service_tier": ("auto", "default"),
    "truncation": ("disabled",),
}
# What clients send for OpenAI's own bookkeeping; nothing is lost without it.
UNHEARD = ("client_metadata", "prompt_cache_retention", "prompt_cache_options", "safety_identifier")
# Names of what `Parameters` may call ignored, in the words of this API.
NAMES = {"reasoning_effort": "reasoning.effort", "max_tokens": "max_output_tokens"}

Names = dict[str, tuple[str, str]]


class TextFormat(msgspec.Struct):
    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct):
    format: TextFormat | None = None
    verbosity: str | None = None


class Reasoning(msgspec.Struct):
    effort: Effort | None = None
    summary: str | None = None


class StreamOptions(msgspec.Struct):
    """`include_usage` is chat's; Cursor sends it with `input`."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ConversationRef(msgspec.Struct):
    id: str


class ResponsesRequest(msgspec.Struct):
    """What is read of a request; null means absent everywhere."""

    input: str | list[Item] | None = None
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    include: list[str] | None = None
    truncation: str | None = None
    top_logprobs: int | None = None
    service_tier: str | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationRef | None = None

    # For the chat route, which asks this of its own requests.
    is_legacy: ClassVar[bool] = False

    @property
    def conversation_id(self) -> str | None:
        return self.conversation.id if isinstance(self.conversation, ConversationRef) else self.conversation

    @property
    def items(self) -> list[Item]:
        """The input as items; a string is a message of the user's."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": self.input}]
        return self.input or []


READ = frozenset(ResponsesRequest.__struct_fields__) - {"truncation", "service_tier"}


def is_responses_shaped(fields: dict[str, Any]) -> bool:
    """True for a body with `input` and without `messages`: Cursor sends such ones to the chat route."""
    return fields.get("input") is not None and fields.get("messages") is None


def parse_responses_shaped(fields: dict[str, Any], before: tuple[Message, ...] = ()) -> Parsed:
    """Such a body, for an answer in chat's shape: nothing is kept, and what was kept is not found."""
    request = read_request(fields)
    if request.previous_response_id is not None or request.conversation is not None:
        raise BadRequest("Kept responses and conversations are known to /v1/responses alone", param="input")
    return build_parsed(fields, request, request.items, before=before)


def read_request(fields: dict[str, Any]) -> ResponsesRequest:
    """The typed request. Raises BadRequest with the path of what is wrong, apart from the items themselves."""
    request = convert(fields, ResponsesRequest)
    _check(request)
    return request


def build_parsed(
    fields: dict[str, Any],
    request: ResponsesRequest,
    items: Sequence[Item],
    *,
    history: Sequence[Item] = (),
    before: tuple[Message, ...] = (),
) -> Parsed:
    """The canonical request.

    Args:
        fields: the decoded body.
        request: the same, typed.
        items: the input, references resolved.
        history: the items of what it continues.
        before: messages that the server keeps for this client.

    Raises:
        BadRequest: with the path of what is wrong.
    """
    tools, _, unavailable = parse_function_tools(request.tools or [])
    choice = parse_tool_choice(request.tool_choice, tools, request.parallel_tool_calls is not False)
    entries: list[Entry] = [("system", (Text(request.instructions),))] if request.instructions else []
    entries += merge((*parse_items(history, "previous_response_id"), *parse_items(items, "input")))
    system, messages = arrange(entries, "input", before)
    conversation = Conversation(request.model or "", messages, system, tools, _parse_options(request, choice))
    ignored = tuple(dict.fromkeys((*_ignored(fields, request), *unavailable, *_left_out(items))))
    hints = (request.prompt_cache_key, request.user)
    return Parsed(conversation, bool(request.stream), request, ignored, hints, NAMES)


def parse_function_tools(raw: Sequence[dict[str, Any]]) -> tuple[tuple[Tool, ...], Names, tuple[str, ...]]:
    """Tools to offer; for those of a namespace how it calls them: offered name -> (namespace, name); names of the rest.

    Codex sends `namespace` tools, which hold functions; each is offered as `namespace__name`.
    """
    tools: list[Tool] = []
    names: Names = {}
    unavailable: list[str] = []
    for index, given in enumerate(raw):
        path = f"tools[{index}]"
        if given.get("type") == "namespace" and isinstance(given.get("tools"), list):
            namespace = str(given.get("name"))
            for number, inner in enumerate(given["tools"]):
                if isinstance(inner, dict) and _is_function(inner):
                    tool = _parse_tool(inner, f"{path}.tools[{number}]")
                    names[join_name(namespace, tool.name)] = (namespace, tool.name)
                    offered = join_name(namespace, tool.name)
                    tools.append(Tool(offered, tool.description, tool.input_schema))
        elif _is_function(given):
            tools.append(_parse_tool(given, path))
        else:
            unavailable.append(f"tools.{given.get('type')}"[:60])
    check_names(tuple(tools), "tools")
    return tuple(tools), names, tuple(unavailable)


def _is_function(raw: dict[str, Any]) -> bool:
    return raw.get("type") in (None, "function")


def _parse_tool(raw: dict[str, Any], path: str) -> Tool:
    return parse_tool(convert(raw, ToolSpec, path), path)


def _parse_options(request: ResponsesRequest, choice: ToolChoice) -> Options:
    return Options(
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        effort=request.reasoning.effort if request.reasoning else None,
        tool_choice=choice,
        json_schema=_parse_format(request.text.format if request.text else None),
    )


def _parse_format(wanted: TextFormat | None) -> dict[str, Any] | None:
    """The schema that the answer must have; `json_object` is any object."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.type != "json_schema":
        raise BadRequest(f"Unknown text format {wanted.type[:40]!r}", param="text.format.type")
    if wanted.schema is None:
        raise BadRequest("json_schema needs a schema", param="text.format.schema")
    flaw = find_flaw(wanted.schema)
    if flaw is not None:
        raise BadRequest(f"This is not a JSON schema: {flaw}", param="text.format.schema")
    return wanted.schema


def _check(request: ResponsesRequest) -> None:
    """What is not a matter of types. Raises BadRequest."""
    limit = request.max_output_tokens
    continues = request.previous_response_id is not None or request.conversation is not None
    rules = (
        (not (request.previous_response_id and request.conversation), "previous_response_id", _BOTH),
        (bool(request.input) or continues, "input", "input must not be empty"),
        ((request.model or "").isprintable(), "model", "The model's name holds characters that no name has"),
        (len(request.items) <= LARGEST_INPUT, "input", f"input has more than {LARGEST_INPUT} items"),
        (limit is None or limit >= 1, "max_output_tokens", "max_output_tokens must be at least 1"),
        (0 <= (request.temperature or 0) <= 2, "temperature", "temperature must be between 0 and 2"),
        (0 <= (request.top_p or 0) <= 1, "top_p", "top_p must be between 0 and 1"),
        (not request.top_logprobs, "top_logprobs", "logprobs are not available"),
        (LOGPROBS not in (request.include or ()), "include", "logprobs are not available"),
        (not (request.background and request.store is False), "background", "background needs store"),
    )
    for holds, param, message in rules:
        if not holds:
            raise BadRequest(message, param=param)
    check_metadata(request.metadata or {})


_BOTH = "previous_response_id and conversation cannot be used together"


def check_metadata(metadata: dict[str, str], path: str = "metadata") -> None:
    """At most 16 pairs, of at most 64 and 512 characters, as the official document says. Raises BadRequest."""
    most, longest_key, longest_value = LARGEST_METADATA
    if len(metadata) > most:
        raise BadRequest(f"metadata has more than {most} entries", param=path)
    for key, value in metadata.items():
        if len(key) > longest_key or len(value) > longest_value:
            message = f"A key has at most {longest_key} characters, a value {longest_value}"
            raise BadRequest(message, param=f"{path}.{key[:longest_key]}")


def _ignored(fields: dict[str, Any], request: ResponsesRequest) -> list[str]:
    """Fields that were sent, ask for something, and are not read."""
    unread = (name for name in fields if name not in READ and name not in UNHEARD)
    names = [name for name in unread if fields[name] is not None and fields[name] not in NEUTRAL.get(name, ())]
    if request.text is not None and request.text.verbosity not in (None, "medium"):
        names.append("text.verbosity")
    return names


def _left_out(items: Sequence[Item]) -> list[str]:
    """Kinds of items that are not read, apart from reasoning, which every client sends back."""
    return [f"input.{item['type']}"[:60] for item in items if is_harmless(item) and item["type"] != "reasoning"]
