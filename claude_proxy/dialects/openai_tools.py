"""Functions in the shapes that clients of OpenAI's dialects send them in, and what they say of their use.

In: `tools`, `functions`, `tool_choice`, `function_call`. Out: canonical tools and a `ToolChoice`; the text of a call's
arguments. Cursor and others mix
the shapes of three APIs on one route, so that all of them are understood.
"""

from typing import Any, Literal

import msgspec

from ..core.conversation import Tool, ToolChoice, ToolUse
from ..core.errors import BadRequest
from .content import parse_schema
from .dialect import encode

MODES: dict[str, Literal["auto", "any", "none"]] = {"auto": "auto", "required": "any", "any": "any", "none": "none"}


class FunctionSpec(msgspec.Struct):
    """The inner object of the nested shape, and a legacy function."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class ToolSpec(msgspec.Struct):
    """A tool in any shape: nested `function`, flat `name` and `parameters`, or `name` and `input_schema`."""

    type: str | None = None
    function: FunctionSpec | None = None
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    input_schema: Any = None
    strict: bool | None = None


def parse_tools(specs: list[ToolSpec], path: str = "tools") -> tuple[Tool, ...]:
    """Canonical tools, in the client's order. Raises BadRequest with the path of a tool that cannot be offered."""
    tools = tuple(parse_tool(spec, f"{path}[{index}]") for index, spec in enumerate(specs))
    check_names(tools, path)
    return tools


def parse_functions(specs: list[FunctionSpec]) -> tuple[Tool, ...]:
    """Legacy `functions`."""
    tools = tuple(
        _build(spec.name, spec.description, spec.parameters, f"functions[{i}]") for i, spec in enumerate(specs)
    )
    check_names(tools, "functions")
    return tools


def parse_tool_choice(raw: Any, tools: tuple[Tool, ...], parallel: bool, path: str = "tool_choice") -> ToolChoice:
    """`auto`, `none`, `required`, a named function in any shape, `allowed_tools`. Raises BadRequest."""
    if raw is None or isinstance(raw, str):
        mode = MODES.get(raw or "auto")
        if mode is None:
            raise BadRequest(f"Unknown tool_choice {str(raw)[:40]!r}", param=path)
        return _checked(ToolChoice(mode, parallel=parallel), tools, path)
    if not isinstance(raw, dict):
        raise BadRequest("tool_choice must be a string or an object", param=path)
    if raw.get("type") == "allowed_tools":
        return _parse_allowed(raw.get("allowed_tools", raw), tools, parallel, path)
    name = _name_of(raw)
    if name is not None:
        return _checked(ToolChoice("tool", name, parallel=parallel), tools, path)
    return parse_tool_choice(str(raw.get("type")), tools, parallel, path)


def parse_tool(spec: ToolSpec, path: str) -> Tool:
    """One tool, whatever its shape; `path` is where it stands in the request."""
    if spec.function is not None:
        inner = spec.function
        return _build(inner.name, inner.description, inner.parameters, f"{path}.function")
    if not spec.name:
        kind = spec.type or "without a type"
        raise BadRequest(f"Tools {kind[:40]!r} are not available: only functions with a name are", param=path)
    schema = spec.parameters if spec.parameters is not None else spec.input_schema
    return _build(spec.name, spec.description, schema, path)


def build_arguments(call: ToolUse) -> str:
    """The arguments of a call as OpenAI's dialects give them: the text that the model wrote, `{}` for none."""
    if call.arguments.strip():
        return call.arguments
    return encode(call.input).decode()


def _build(name: str, description: str | None, schema: Any, path: str) -> Tool:
    if not name:
        raise BadRequest("A function needs a name", param=f"{path}.name")
    return Tool(name, description or "", parse_schema(schema, f"{path}.parameters"))


def check_names(tools: tuple[Tool, ...], path: str) -> None:
    """Raises BadRequest where two tools have one name."""
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in seen:
            raise BadRequest(f"Two functions are named {tool.name[:80]!r}", param=f"{path}[{index}]")
        seen.add(tool.name)


def _parse_allowed(raw: Any, tools: tuple[Tool, ...], parallel: bool, path: str) -> ToolChoice:
    listed = raw.get("tools") if isinstance(raw, dict) else None
    if not isinstance(listed, list):
        raise BadRequest("allowed_tools needs a list of tools", param=path)
    names = tuple(name for item in listed if isinstance(item, dict) and (name := _name_of(item)) is not None)
    mode = MODES.get(str(raw.get("mode", "auto")), "auto")
    return _checked(ToolChoice(mode, None, names, parallel), tools, path)


def _name_of(raw: dict[str, Any]) -> str | None:
    inner = raw.get("function")
    name = inner.get("name") if isinstance(inner, dict) else raw.get("name")
    return name if isinstance(name, str) else None


def _checked(choice: ToolChoice, tools: tuple[Tool, ...], path: str) -> ToolChoice:
    known = {tool.name for tool in tools}
    named = (*([choice.name] if choice.name is not None else []), *(choice.allowed or ()))
    unknown = [name for name in named if name not in known]
    if unknown:
        raise BadRequest(f"tool_choice names {unknown[0][:80]!r}, which is not among the tools", param=path)
    if choice.mode in ("any", "tool") and not tools:
        raise BadRequest("tool_choice demands a call, but there are no tools", param=path)
    return choice
