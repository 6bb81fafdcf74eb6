"""A JSON value that fits a JSON Schema: what the demo "model" fills into a tool call or a structured answer.

In goes a schema (any JSON), out comes a value. Objects get all their properties; below `MAX_DEPTH`, where a
schema that contains itself would go on for ever, only the required ones, and arrays get only what they
must. Patterns are not obeyed.
"""

import math
from typing import Any, Callable, Mapping

MAX_DEPTH = 5
_HARD_LIMIT = 50

_FORMATS: Mapping[str, str] = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/demo",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def build_instance(schema: Any) -> Any:
    """A value that fits the schema, as far as the module's docstring promises."""
    return _Builder(schema).build(schema, 0)


class _Builder:
    """Keeps the whole schema for its `$ref`s."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._by_type: Mapping[str, Callable[[Mapping[str, Any], int], Any]] = {
            "object": self._build_object,
            "array": self._build_array,
            "string": _build_string,
            "integer": lambda schema, depth: round(_build_number(schema, step=1)),
            "number": lambda schema, depth: _build_number(schema, step=0.5),
            "boolean": lambda schema, depth: True,
            "null": lambda schema, depth: None,
        }

    def build(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _HARD_LIMIT:
            return None
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        if "$ref" in schema:
            return self.build(self._resolve(str(schema["$ref"])), depth + 1)
        for keyword in ("anyOf", "oneOf"):
            if schema.get(keyword):
                return self.build({**schema, keyword: None, **_choose(schema[keyword], depth)}, depth)
        if schema.get("allOf"):
            return self.build(self._merge(schema), depth)
        build = self._by_type.get(_guess_type(schema))
        return build(schema, depth) if build else None

    def _resolve(self, reference: str) -> Any:
        """Follow a pointer such as `#/$defs/Node` in this schema; None when it leads nowhere."""
        node = self._root
        for step in reference.lstrip("#").split("/")[1:]:
            node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
        return node

    def _merge(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            part = self._resolve(str(part["$ref"])) if "$ref" in part else part
            properties = {**merged.get("properties", {}), **(part or {}).get("properties", {})}
            required = [*merged.get("required", ()), *(part or {}).get("required", ())]
            merged = {**merged, **(part or {}), "properties": properties, "required": required}
        return merged

    def _build_object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        wanted = [name for name in properties if depth < MAX_DEPTH or name in required]
        wanted += [name for name in required if name not in properties]
        return {name: self.build(properties.get(name, {"type": "string"}), depth + 1) for name in wanted}

    def _build_array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = int(schema.get("minItems") or 0)
        length = max(least, 1 if depth < MAX_DEPTH else 0)
        length = min(length, int(schema.get("maxItems", length)))
        return [self.build(schema.get("items", {"type": "string"}), depth + 1) for _ in range(length)]


def _choose(options: list[Any], depth: int) -> Mapping[str, Any]:
    """The first option that is not null; when deep, the first that does not lead further down."""
    usable = [option for option in options if isinstance(option, Mapping) and option.get("type") != "null"]
    if depth >= MAX_DEPTH:
        plain = [option for option in options if isinstance(option, Mapping) and "$ref" not in option]
        usable = plain or usable
    return usable[0] if usable else {"type": "null"}


def _guess_type(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _build_string(schema: Mapping[str, Any], depth: int) -> str:
    text = _FORMATS.get(str(schema.get("format")), "demo")
    shortest, longest = int(schema.get("minLength") or 0), schema.get("maxLength")
    text += "o" * (shortest - len(text))
    return text if longest is None else text[: int(longest)]


def _build_number(schema: Mapping[str, Any], *, step: float) -> float:
    """The multiple of `multipleOf` nearest to 1 that the bounds allow."""
    step = float(schema.get("multipleOf") or step)
    low, high = float(schema.get("minimum", -math.inf)), float(schema.get("maximum", math.inf))
    low = max(low, float(schema.get("exclusiveMinimum", -math.inf)) + step)
    high = min(high, float(schema.get("exclusiveMaximum", math.inf)) - step)
    value = min(max(1.0, low), high)
    rounded = math.ceil(value / step) * step
    return rounded if rounded <= high else math.floor(high / step) * step
