"""The official description of OpenAI's API, as a judge of what the proxy sends.

In: JSON values. Out: nothing, or an AssertionError with what the schema says against them. The document is
`tests/data/contract/openai-openapi.json`, trimmed, unchanged otherwise, with its licence beside it.
"""

import functools
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

DOCUMENT = Path(__file__).parent / "data" / "contract" / "openai-openapi.json"


@functools.cache
def validator(name: str) -> Draft202012Validator:
    """The judge for one schema of the document."""
    document = _allow_null(json.loads(DOCUMENT.read_text(encoding="utf-8")))
    resource: Resource[Any] = Resource.from_contents(document, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("openai", resource)
    return Draft202012Validator({"$ref": f"openai#/components/schemas/{name}"}, registry=registry)


def check(name: str, value: Any) -> None:
    """AssertionError with every complaint of the schema."""
    complaints = [f"{error.json_path}: {error.message[:200]}" for error in validator(name).iter_errors(value)]
    assert complaints == [], (name, value)


def _allow_null(value: Any) -> Any:
    """`nullable: true` is OpenAPI's older word for what JSON Schema says with the type `null`."""
    if isinstance(value, list):
        return [_allow_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    walked = {key: _allow_null(item) for key, item in value.items() if key != "nullable"}
    return {"anyOf": [walked, {"type": "null"}]} if value.get("nullable") is True else walked
