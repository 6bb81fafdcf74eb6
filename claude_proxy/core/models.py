"""What this proxy itself knows of models: one table of facts, the names that clients use, the list of `/v1/models`.

Called by the service (which model a request gets), the fleet (`is_alias`), the plan's limits (whose window it is), the
Messages dialect (`context_window`) and the routes of models.
Invariant: every fact about a model stands in `FAMILIES`; what differs from account to account or from version to
version is not a fact here. Effort levels are the CLI's to report; whether a model can do without thinking, a client's
way of thinking or a JSON schema is learned from the API's refusals (`turns.quirks`).
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass

SMALL_CONTEXT, LARGE_CONTEXT = 200_000, 1_000_000

# The first version whose context is the family's own (`modelUsage.contextWindow` in `tests/data/transcripts`).
LARGE_SINCE = 5
LARGE_SUFFIX = "[1m]"


@dataclass(frozen=True, slots=True)
class Family:
    """The models that have one word of their names in common.

    alias: that word; as a name it is the CLI's for the newest of them. names: what other proxies of this kind and
    OpenAI clients call the newest; the ones that begin with `claude-` are listed. context_window: tokens that it reads
    from version `LARGE_SINCE` on. plan_window: type of the `rate_limit_event` that is about these models alone, where
    it is not `seven_day_<alias>`. is_common: every account has it, as far as is known before the CLI has reported the
    models. stands_for_unknown: it serves unknown names that contain its alias.
    """

    alias: str
    names: tuple[str, ...] = ()
    context_window: int = LARGE_CONTEXT
    plan_window: str = ""
    is_common: bool = True
    stands_for_unknown: bool = False

    @property
    def title(self) -> str:
        return self.alias.capitalize()


FAMILIES = (
    Family("opus", names=("claude-opus-4", "gpt-4"), stands_for_unknown=True),
    Family("sonnet", names=("claude-sonnet-4", "gpt-4o")),
    Family(
        "haiku",
        names=("claude-haiku-4", "gpt-4o-mini", "gpt-3.5-turbo"),
        context_window=SMALL_CONTEXT,
        stands_for_unknown=True,
    ),
    # The API names the weekly window of its largest model after the plan ("Fable limit" in the CLI).
    Family("fable", plan_window="seven_day_overage_included", is_common=False),
)
_BY_ALIAS = {family.alias: family for family in FAMILIES}
_BY_NAME = {name: family for family in FAMILIES for name in family.names}
_BY_WINDOW = {family.plan_window: family for family in FAMILIES if family.plan_window}

# `opus`, `opus-4`, `sonnet-4-5`, `sonnet-4.5`, `claude-sonnet-4.5`. A `claude-` name without a dot is an id of the API.
_SPELLING = re.compile(rf"(?:claude-(?=.*\.))?({'|'.join(_BY_ALIAS)})(?:(?:-\d+)*|-\d+\.\d+)")
# `claude-opus-5-5`, `claude-3-5-haiku-latest`
_MAJOR_VERSION = re.compile(rf"(?:claude|{'|'.join(_BY_ALIAS)})-(\d+)")


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

    A `provider/` prefix is dropped, dotted and bare spellings become their alias, other `claude-*` ids and a `[1m]`
    suffix pass through unchanged. An alias is preferred because a running child takes it at no cost.
    """
    bare = name.rsplit("/", 1)[-1].strip()
    stem, suffix = _split_suffix(bare)
    known = _known_family(stem)
    if known is not None:
        return Resolution(known.alias + suffix)
    if stem.lower().startswith("claude-"):
        return Resolution(bare)
    guess = family_of(stem)
    if guess is not None and guess.stands_for_unknown:
        return Resolution(guess.alias + suffix, substituted=True)
    return Resolution(default, substituted=True)


def is_alias(cli_model: str) -> bool:
    """True where `set_model` costs nothing; a full id would make the CLI send a paid probe."""
    return _split_suffix(cli_model)[0] in _BY_ALIAS


def family_of(model: str) -> Family | None:
    """The family that an alias or an id belongs to, by the word in it; None for a name without such a word."""
    return next((family for family in FAMILIES if family.alias in model.lower()), None)


def family_of_window(window: str) -> Family | None:
    """The models that a plan's window (`rate_limit_event`) is for; None where it is for all.

    A window of one model ends with its alias: `seven_day_opus`.
    """
    return _BY_WINDOW.get(window) or _BY_ALIAS.get(window.rpartition("_")[2])


def context_window(model: str) -> int:
    """Tokens that a model reads at most, by the name that a client gave; without a version it is the newest."""
    stem, suffix = _split_suffix(model.lower())
    version = _MAJOR_VERSION.search(stem)
    if suffix:
        return LARGE_CONTEXT
    if version is not None and int(version[1]) < LARGE_SINCE:
        return SMALL_CONTEXT
    family = _BY_NAME.get(stem) or family_of(stem)
    return family.context_window if family is not None else LARGE_CONTEXT


def _split_suffix(name: str) -> tuple[str, str]:
    """`opus[1m]` -> `opus`, `[1m]` as it is written."""
    length = len(name) - (len(LARGE_SUFFIX) if name.lower().endswith(LARGE_SUFFIX) else 0)
    return name[:length], name[length:]


def _known_family(stem: str) -> Family | None:
    lower = stem.lower()
    match = _SPELLING.fullmatch(lower)
    return _BY_NAME.get(lower) or (_BY_ALIAS[match[1]] if match else None)


class Catalogue:
    """The models this account has, as the CLI last reported them; empty until the first child has answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _models
        self._models: tuple[CliModel, ...] = ()

    def update(self, models: Iterable[CliModel]) -> None:
        """Replace the list, unless the new one is empty: some answers of the CLI have none."""
        fresh = tuple(models)
        if fresh:
            with self._lock:
                self._models = fresh

    def models(self) -> tuple[CliModel, ...]:
        with self._lock:
            return self._models

    def listing(self) -> dict[str, str]:
        """Ids to show, each with its display name: real ids, the CLI's aliases, then names of other proxies."""
        shown: dict[str, str] = {}
        models = self.models()
        for model in models:
            shown.setdefault(model.id, model.display_name)
        for model in models:
            if model.alias != "default":
                shown.setdefault(model.alias, model.display_name)
        if not models:
            shown.update({family.alias: family.title for family in FAMILIES if family.is_common})
        for name, family in _BY_NAME.items():
            if name.startswith("claude-"):
                shown.setdefault(name, f"{family.title} (newest)")
        return shown

    def knows(self, name: str) -> bool:
        """True for a listed id, and for any spelling that would not be substituted."""
        return name in self.listing() or not resolve(name, "sonnet").substituted
