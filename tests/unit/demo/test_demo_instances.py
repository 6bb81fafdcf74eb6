"""Values made from JSON Schemas."""

from typing import Any

import jsonschema
import pytest

from claude_proxy.demo.instances import build_instance

NODE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
    },
    "required": ["name", "children"],
    "additionalProperties": False,
}
LINKED = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Linked"}, {"type": "null"}]}},
    "required": ["next"],
}

SCHEMAS: list[Any] = [
    {},
    {"type": "string", "minLength": 7, "maxLength": 9},
    {"type": "string", "maxLength": 2},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "made-up"},
    {"type": "integer"},
    {"type": "integer", "minimum": 5},
    {"type": "integer", "maximum": -5},
    {"type": "integer", "exclusiveMinimum": 7, "exclusiveMaximum": 9},
    {"type": "integer", "multipleOf": 7, "minimum": 8},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "maximum": 0.25},
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["null", "integer"]},
    {"type": ["null"]},
    {"const": {"a": 1}},
    {"enum": ["b", "a"]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 3},
    {"type": "array", "maxItems": 0},
    {"type": "array"},
    {"items": {"type": "boolean"}},
    {"properties": {"a": {"type": "integer"}}},
    {"type": "object", "required": ["unnamed"]},
    {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {"anyOf": [{"type": "null"}]},
    {
        "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"type": "integer"}}, "required": ["b"]}],
        "$defs": {"A": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
    },
    {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}},
    {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}},
    {"type": "array", "items": {"$ref": "#/$defs/Node"}, "$defs": {"Node": NODE}},
    {"$ref": "#/$defs/Linked", "$defs": {"Linked": LINKED}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_value_fits_the_schema(schema: Any) -> None:
    """A validator that knows nothing of the builder agrees."""
    jsonschema.validate(build_instance(schema), schema)


@pytest.mark.parametrize(
    "schema",
    [True, {"type": "unheard-of"}, {"$ref": "#/$defs/nowhere"}, {"$ref": "#"}],
)
def test_what_cannot_be_made_is_null(schema: Any) -> None:
    """A schema that makes no sense, or only contains itself, ends in null."""
    assert build_instance(schema) is None
