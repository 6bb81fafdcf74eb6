"""PURE: what a person gave for a setting -> a value of the setting's type, in its range.

`config` calls `convert` for texts of flags and variables and for values of TOML, and `describe` for the message when it
fails. Invariant: a type says everything that a single value must meet; rules between settings are `config`'s.
"""

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.inspect import BoolType, FloatType, IntType, VarTupleType, type_info

# Waits without end have a word of their own (0, where it is allowed): `inf` would overflow in waits of the system.
LARGEST = 1e9

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=1024)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=LARGEST)]
Texts = tuple[str, ...]

# Beside `true`, `false`, `1` and `0`, which msgspec knows.
_SWITCH = {"yes": True, "on": True, "no": False, "off": False}


def convert(value: Any, kind: Any) -> Any:
    """The value as this type: text becomes what it says. Raises ValueError for what does not fit."""
    match type_info(kind):
        case BoolType() if isinstance(value, str):
            value = _SWITCH.get(value.lower(), value)
        case VarTupleType() if isinstance(value, (str, list)):
            parts = value.split(",") if isinstance(value, str) else value
            value = [part.strip() if isinstance(part, str) else part for part in parts if part != ""]
            value = [part for part in value if part != ""]
        case IntType() | FloatType() if isinstance(value, str):
            value = value.strip()
            value = f"0{value}" if value.startswith(".") else value  # JSON's grammar, which msgspec keeps to, has no .5
    return msgspec.convert(value, kind, strict=False)


def describe(kind: Any) -> str:
    """What would fit: `a whole number from 0 to 65535`, after `is not`."""
    if words := choices(kind):
        return f"one of {', '.join(words)}"
    match type_info(kind):
        case BoolType():
            return "on or off"
        case IntType(gt=above, ge=least, le=most):
            return "a whole number" + _describe_range(above, least, most)
        case FloatType(gt=above, ge=least, le=most):
            return "a number" + _describe_range(above, least, most)
        case VarTupleType():
            return "a list of texts"
    return "text"


def choices(kind: Any) -> tuple[str, ...]:
    """The words that a `Literal` allows, in its own order; none for another type."""
    return get_args(kind) if get_origin(kind) is Literal else ()


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean --port?)`, or nothing where no known name is like this one."""
    nearest = difflib.get_close_matches(name, tuple(known), n=1, cutoff=0.7)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _describe_range(above: float | None, least: float | None, most: float | None) -> str:
    if above is not None:
        return f" greater than {above:g}" + (f", up to {most:,.0f}" if most is not None else "")
    if most is None:
        return f" of at least {least}" if least is not None else ""
    return f" from {least:g} to {int(most)}"
