"""JSON schemas: is this one, and does this answer meet it? The work is `jsonschema`'s.

In: schemas and texts of clients and models. Out: None, or what is wrong, in a few words. The library is imported when a
schema is first met: most requests bring none, and it is not small.
"""

import json
from typing import Any

MESSAGE_LENGTH = 200

# What the CLI's own validator knows: draft-07. It drops a schema that holds another keyword, without a word.
_KEYWORDS = frozenset(
    (
        *("$ref", "$defs", "definitions", "$comment", "type", "enum", "const", "title", "description", "default"),
        *("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength"),
        *("pattern", "items", "maxItems", "minItems", "uniqueItems", "contains", "maxProperties", "minProperties"),
        *("required", "properties", "patternProperties", "additionalProperties", "propertyNames", "dependencies"),
        *("if", "then", "else", "allOf", "anyOf", "oneOf", "not", "examples", "readOnly", "writeOnly"),
    )
)
# Keywords whose value is a schema for each name, and those whose value is data.
_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependencies"))
_DATA = frozenset(("enum", "const", "default", "examples", "required", "type"))


def find_flaw(schema: dict[str, Any]) -> str | None:
    """What makes this no JSON schema; None where it is one. Remote references are never fetched."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return error.message[:MESSAGE_LENGTH]
    except RecursionError:
        return "it is nested too deeply"
    return None


def find_problem(schema: dict[str, Any], text: str) -> str | None:
    """Why this text is no JSON of this schema; None where it is."""
    from jsonschema import Draft202012Validator
    from referencing.exceptions import Unresolvable

    try:
        value = json.loads(text)
    except ValueError:
        return "it is not JSON"
    try:
        for error in Draft202012Validator(schema).iter_errors(value):
            return f"at {error.json_path}: {error.validator} is not met"
    except (Unresolvable, RecursionError):
        return "a reference in the schema leads nowhere"
    return None


def meets_schema(schema: dict[str, Any], text: str) -> bool:
    """True for a text that is JSON of this schema."""
    return find_problem(schema, text) is None


def simplify(schema: Any) -> Any:
    """A schema less the keywords that the CLI's validator does not know; whoever uses it checks the answer in full."""
    if isinstance(schema, list):
        return [simplify(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    simple = {}
    for keyword, value in schema.items():
        if keyword in _BY_NAME and isinstance(value, dict):
            simple[keyword] = {name: simplify(one) for name, one in value.items()}
        elif keyword in _KEYWORDS:
            simple[keyword] = value if keyword in _DATA else simplify(value)
    return simple
