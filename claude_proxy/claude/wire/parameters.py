"""PURE: what a client asked of one turn -> settings of the CLI, and what of it cannot be honoured.

In: canonical options, what is known of the model. Out: `Parameters`. The API takes a temperature other than 1, a
changed `top_p` and `thinking: enabled` only one way: sampling parameters need thinking off, and `clear_thinking` needs
it on. So a request that sets them runs without thinking, unless it asks for thinking itself: then thinking wins.
"""

import json
from dataclasses import astuple, dataclass, replace
from typing import Any

from ...core.conversation import Options, ThinkingMode, ToolChoice
from .toolset import Toolset

LARGEST_TEMPERATURE = 1.0
IMPLICIT = ("thinking off",)
THINKING_OFF: dict[str, Any] = {"thinking": {"type": "disabled"}, "context_management": {"edits": []}}
EFFORT_LEVELS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """settings: for `apply_flag_settings`, in full. ignored: OpenAI's names for what cannot be honoured, sorted.
    refusable: names among the honoured ones that some models refuse altogether, with a 400. implicit: none of these was
    asked for in so many words. thinks: they are about how to think, not about what needs thinking to be off.
    """

    settings: dict[str, Any]
    ignored: tuple[str, ...] = ()
    refusable: tuple[str, ...] = ()
    implicit: bool = False
    thinks: bool = False

    def without(self, known: "Refusals") -> "Refusals":
        """What is known of the model once it has refused these."""
        return replace(known, thinking=True) if self.thinks else replace(known, sampling=True)


@dataclass(frozen=True, slots=True)
class Refusals:
    """What a model was seen to refuse with a 400: sampling parameters and thinking off; a way of thinking that a
    client chose (newer models take no `budget_tokens`); a JSON schema; a cache breakpoint of ours among the CLI's."""

    sampling: bool = False
    thinking: bool = False
    schema: bool = False
    cache_breakpoint: bool = False

    def joined(self, other: "Refusals") -> "Refusals":
        """What either of the two names."""
        return Refusals(*(one or two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def within(self, other: "Refusals") -> bool:
        """True where the other names all that this one does."""
        return self.joined(other) == other


def build_parameters(options: Options, toolset: Toolset | None = None, refusals: Refusals = Refusals()) -> Parameters:
    """Settings for one turn, in full; what `refusals` names is left out."""
    body: dict[str, Any] = {}
    ignored: list[str] = []
    stops = [stop for stop in options.stop_sequences if stop.strip()]  # the others: `stops.StopScanner`
    if stops:
        body["stop_sequences"] = stops
    body.update(_tools(options.tool_choice, toolset))
    thinks = _wants_thinking(options) and "tool_choice" not in _needing_no_thinking(body)
    if thinks:
        refusable = _let_think(options, body, ignored, refusals)
    else:
        refusable = _stop_thinking(options, body, ignored, refusals)
    if options.json_schema is not None and not refusals.schema and not is_open(options.json_schema):
        body["output_config"] = {"format": {"type": "json_schema", "schema": close_objects(options.json_schema)}}
    settings = {
        "env": {
            "CLAUDE_CODE_EXTRA_BODY": json.dumps(body) if body else "",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(options.max_tokens) if options.max_tokens else "",
        },
        "effortLevel": EFFORT_LEVELS.get(options.effort or ""),
    }
    return Parameters(settings, tuple(sorted(set(ignored))), refusable, refusable == IMPLICIT, thinks)


def _wants_thinking(options: Options) -> bool:
    """True where the client asks for it: by itself in the Messages API, by an effort in OpenAI's dialects."""
    if options.thinking is not None:
        return options.thinking.type != "disabled"
    return options.effort not in (None, "none")


def _needing_no_thinking(body: dict[str, Any]) -> list[str]:
    """The API takes a forced tool call only while thinking is off."""
    return ["tool_choice"] if body.get("tool_choice", {}).get("type") in ("any", "tool") else []


def _let_think(options: Options, body: dict[str, Any], ignored: list[str], refusals: Refusals) -> tuple[str, ...]:
    """Leave out what needs thinking to be off; put in how to think, where the client says more than that it should."""
    ignored.extend(_sampling(options, ignored))
    mode = options.thinking
    if mode is None or (mode.type == "adaptive" and mode.display is None):
        return ()  # the CLI's own choice
    if refusals.thinking:
        ignored.append("thinking")
        return ()
    body["thinking"] = _build_thinking(mode)
    return ("thinking",)


def _build_thinking(mode: ThinkingMode) -> dict[str, Any]:
    fields = {"type": mode.type, "budget_tokens": mode.budget_tokens, "display": mode.display}
    return {name: value for name, value in fields.items() if value is not None}


def _stop_thinking(options: Options, body: dict[str, Any], ignored: list[str], refusals: Refusals) -> tuple[str, ...]:
    """Put in what needs thinking to be off, and turn it off; returns OpenAI's names for what was put in."""
    sampling = _sampling(options, ignored)
    forced = _needing_no_thinking(body)
    mode = options.thinking
    off = options.effort == "none" or (mode is not None and mode.type == "disabled" and mode.asked)
    wishes = (*sampling, *forced, *(["reasoning_effort"] if off else []))
    if mode is not None and mode.type != "disabled":
        ignored.append("thinking")  # a forced call was asked for as well
    if not wishes and mode is None:
        return ()
    if refusals.sampling:
        ignored.extend(wishes)
        if forced:
            body["tool_choice"] = {**body["tool_choice"], "type": "auto"}
            body["tool_choice"].pop("name", None)
        return ()
    body.update(THINKING_OFF)
    body.update(sampling)
    return wishes or IMPLICIT


def _tools(choice: ToolChoice, toolset: Toolset | None) -> dict[str, Any]:
    """Definitions as the client wrote them, and which may be called now; nothing without tools."""
    if not toolset:
        return {}
    body: dict[str, Any] = {"tools": toolset.definitions(choice.allowed)}
    wanted: dict[str, Any] = {"type": choice.mode}
    if choice.mode == "tool" and choice.name is not None:
        wanted["name"] = toolset.cli_name(choice.name)
    if not choice.parallel and choice.mode != "none":
        wanted["disable_parallel_tool_use"] = True
    if wanted != {"type": "auto"}:
        body["tool_choice"] = wanted
    return body


def close_objects(schema: Any) -> Any:
    """A schema in which every object says `additionalProperties: false`, as the API demands of it."""
    if isinstance(schema, list):
        return [close_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: value if key in _LITERAL else close_objects(value) for key, value in schema.items()}
    if closed.get("type") == "object" or (isinstance(closed.get("properties"), dict) and "type" not in closed):
        closed.setdefault("additionalProperties", False)
    return closed


def is_open(schema: dict[str, Any]) -> bool:
    """True for a schema that any object meets: closed, as the API demands, it would leave the empty one alone."""
    return schema.get("type") == "object" and not any(key in schema for key in ("properties", "$ref", "anyOf", "allOf"))


_LITERAL = frozenset(("const", "enum", "default", "examples"))


def _sampling(options: Options, ignored: list[str]) -> dict[str, Any]:
    """Sampling parameters that differ from the API's defaults, in its range; one of the two at most."""
    sampling: dict[str, Any] = {}
    if options.temperature is not None and options.temperature != 1:
        if options.temperature > LARGEST_TEMPERATURE:
            ignored.append("temperature")  # OpenAI goes up to 2; the API's own highest is its default
        else:
            sampling["temperature"] = options.temperature
    if options.top_p is not None and options.top_p != 1:
        if sampling:
            ignored.append("top_p")
        else:
            sampling["top_p"] = options.top_p
    if options.top_k is not None:
        sampling["top_k"] = options.top_k
    return sampling
