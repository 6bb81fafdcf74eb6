"""Which model of the CLI a client's model name stands for, and the list that `/v1/models` shows.

In: the name as the client sent it, and the models that the CLI reported for this account in its answer to
`initialize`. Out: the name to give to the CLI: an alias (`sonnet`) where one fits, because an alias costs nothing to
set in a running child, otherwise the full id.
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass

ALIASES = ("opus", "sonnet", "haiku", "fable")

# Names that other proxies of this kind and OpenAI clients use; each stands for the newest model of that size.
FAMILY = {
    "claude-opus-4": "opus",
    "claude-sonnet-4": "sonnet",
    "claude-haiku-4": "haiku",
    "gpt-4": "opus",
    "gpt-4o": "sonnet",
    "gpt-4o-mini": "haiku",
    "gpt-3.5-turbo": "haiku",
}
LISTED_FAMILY = ("claude-opus-4", "claude-sonnet-4", "claude-haiku-4")

_DOTTED = re.compile(r"(?:claude-)?(opus|sonnet|haiku|fable)-\d+\.\d+")
_BARE = re.compile(r"(opus|sonnet|haiku|fable)(?:-\d+)*")
_WIDE = re.compile(r"\[1m\]$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Resolution:
    """`cli_model` is what the CLI is given; `substituted` when the client named a model that is not known here."""

    cli_model: str
    substituted: bool = False


@dataclass(frozen=True, slots=True)
class CliModel:
    """A model as the CLI reports it: `alias` is what `--model` takes, `id` what answers."""

    alias: str
    id: str
    display_name: str
    description: str = ""


def resolve(name: str, default: str) -> Resolution:
    """What to give to the CLI for a client's model name; `default` serves unknown names.

    A `provider/` prefix is dropped, dotted and bare spellings go to their alias, other `claude-*` ids and a `[1m]`
    suffix pass through unchanged.
    """
    bare = name.rsplit("/", 1)[-1].strip()
    stem = _WIDE.sub("", bare)
    suffix = bare[len(stem) :]
    known = _known_alias(stem.lower())
    if known is not None:
        return Resolution(known + suffix)
    if stem.lower().startswith("claude-"):
        return Resolution(bare)
    for alias in ("opus", "haiku"):
        if alias in stem.lower():
            return Resolution(alias + suffix, substituted=True)
    return Resolution(default, substituted=True)


def _known_alias(stem: str) -> str | None:
    if stem in FAMILY:
        return FAMILY[stem]
    match = _DOTTED.fullmatch(stem) or _BARE.fullmatch(stem)
    return match.group(1) if match else None


def is_alias(cli_model: str) -> bool:
    """True where `set_model` costs nothing; a full id would make the CLI send a paid probe."""
    return _WIDE.sub("", cli_model) in ALIASES


class Catalogue:
    """The models this account has, as the CLI last reported them; empty until the first child has told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _models
        self._models: tuple[CliModel, ...] = ()

    def update(self, models: Iterable[CliModel]) -> None:
        fresh = tuple(models)
        if fresh:
            with self._lock:
                self._models = fresh

    def models(self) -> tuple[CliModel, ...]:
        with self._lock:
            return self._models

    def listing(self) -> dict[str, str]:
        """Ids to show, each with its display name: real ids, the CLI's aliases, then the family's names."""
        shown: dict[str, str] = {}
        models = self.models()
        for model in models:
            shown.setdefault(model.id, model.display_name)
        for model in models:
            if model.alias != "default":
                shown.setdefault(model.alias, model.display_name)
        if not models:
            shown.update({alias: alias.capitalize() for alias in ("opus", "sonnet", "haiku")})
        for name in LISTED_FAMILY:
            shown.setdefault(name, f"{FAMILY[name].capitalize()} (newest)")
        return shown

    def knows(self, name: str) -> bool:
        """True for a listed id, and for any spelling that would not be substituted."""
        return name in self.listing() or not resolve(name, "sonnet").substituted
