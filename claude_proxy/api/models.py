"""`GET /v1/models` and `/v1/models/{id}`: what the account has, and the names that stand for it."""

import time
from typing import Any

from ..errors import ModelNotFound
from ..models import Catalogue

STARTED = int(time.time())


def build_list(catalogue: Catalogue) -> dict[str, Any]:
    """OpenAI's list object."""
    return {"object": "list", "data": [_build(name) for name in catalogue.listing()]}


def build_one(catalogue: Catalogue, name: str) -> dict[str, Any]:
    """One model; ids may hold `/`. Raises ModelNotFound for a name that would have to be substituted."""
    if not catalogue.knows(name):
        raise ModelNotFound(f"The model {name[:80]!r} does not exist", param="model")
    return _build(name)


def _build(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": STARTED, "owned_by": "anthropic"}
