"""JSON schemas: is this one, and does this answer meet it? The work is `jsonschema`'s.

In: schemas and texts of clients and models. Out: None, or what is wrong, in a few words. The library is imported when a
schema is first met: most requests bring none, and it is not small.
"""

import json
from typing import Any

MESSAGE_LENGTH = 200


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
