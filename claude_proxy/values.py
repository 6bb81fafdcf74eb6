"""PURE: values of settings as they were given -> values of the type that a setting has.

In: texts of flags and variables, values of TOML. Out: bool, int, float, str or a tuple of texts. Raises ValueError or
TypeError for what does not fit; `WORDS` says what would.
"""

from collections.abc import Callable
from typing import Any


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if str(value).lower() not in words:
        raise ValueError(value)
    return words[str(value).lower()]


def _to_tuple(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(str(part).strip() for part in parts if str(part).strip())


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return value


def _to_int(value: Any) -> int:
    if isinstance(value, (bool, float)):
        raise ValueError(value)
    return int(value)


def _to_float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        raise ValueError(value)
    return number


CONVERTERS: dict[type, Callable[[Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_text,
    tuple: _to_tuple,
}


WORDS: dict[type, str] = {
    bool: "on or off",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of texts",
}
