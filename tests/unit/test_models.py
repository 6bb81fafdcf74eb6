"""Names of models: what the CLI is given for them, and what is listed."""

import pytest

from claude_proxy.core.models import (
    FAMILIES,
    Catalogue,
    CliModel,
    Family,
    Resolution,
    context_window,
    family_of,
    family_of_window,
    is_alias,
    resolve,
)

NAMES = (
    ("claude-opus-4", "opus"),
    ("claude-sonnet-4", "sonnet"),
    ("claude-haiku-4", "haiku"),
    ("gpt-4", "opus"),
    ("gpt-4o", "sonnet"),
    ("gpt-4o-mini", "haiku"),
    ("gpt-3.5-turbo", "haiku"),
    ("GPT-4o", "sonnet"),
    ("opus", "opus"),
    ("sonnet", "sonnet"),
    ("haiku", "haiku"),
    ("fable", "fable"),
    ("opus-4", "opus"),
    ("sonnet-4-5", "sonnet"),
    ("claude-sonnet-4.5", "sonnet"),
    ("sonnet-4.5", "sonnet"),
    ("Claude-Opus-4.1", "opus"),
    ("provider/claude-opus-4", "opus"),
    ("a/b/gpt-4o", "sonnet"),
    (" opus ", "opus"),
    ("opus[1m]", "opus[1m]"),
    ("claude-sonnet-4[1m]", "sonnet[1m]"),
    ("claude-opus-4-5-20251101", "claude-opus-4-5-20251101"),
    ("claude-opus-4-5-20251101[1m]", "claude-opus-4-5-20251101[1m]"),
    ("claude-opus-5-5", "claude-opus-5-5"),
    ("claude-of-tomorrow", "claude-of-tomorrow"),
    ("anthropic/claude-sonnet-5-5", "claude-sonnet-5-5"),
)
UNKNOWN = (
    ("my-opus", "opus"),
    ("Haiku-like", "haiku"),
    ("opus-latest[1m]", "opus[1m]"),
    ("o3", "DEFAULT"),
    ("gpt-5", "DEFAULT"),
    ("", "DEFAULT"),
    ("local/llama", "DEFAULT"),
)


@pytest.mark.parametrize(("name", "wanted"), NAMES)
def test_a_known_name_stands_for_its_model(name: str, wanted: str) -> None:
    """An alias where one fits, the full id otherwise."""
    assert resolve(name, "DEFAULT") == Resolution(wanted)


@pytest.mark.parametrize(("name", "wanted"), UNKNOWN)
def test_an_unknown_name_is_substituted_and_said_to_be(name: str, wanted: str) -> None:
    """By its size where it names one, by the default otherwise."""
    assert resolve(name, "DEFAULT") == Resolution(wanted, substituted=True)


@pytest.mark.parametrize(
    ("name", "wanted"), [("opus", True), ("sonnet[1m]", True), ("claude-opus-5-5", False), ("gpt-4o", False)]
)
def test_only_an_alias_can_be_set_at_no_cost(name: str, wanted: bool) -> None:
    """A full id would make the CLI ask the API."""
    assert is_alias(name) is wanted


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-5-5", 1_000_000),
        ("sonnet", 1_000_000),
        ("claude-sonnet-4-20250514", 200_000),
        ("claude-sonnet-4-20250514[1m]", 1_000_000),
        ("claude-3-5-haiku-latest", 200_000),
        ("haiku", 200_000),
        ("gpt-4o-mini", 200_000),
        ("gpt-4o", 1_000_000),
        ("my-model", 1_000_000),
    ],
)
def test_the_context_of_a_model(model: str, tokens: int) -> None:
    """A million from version 5 on, but not for the small ones; a name without a version is the newest."""
    assert context_window(model) == tokens


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.alias)
def test_a_family_is_known_by_its_alias_in_ids_and_in_windows_of_the_plan(family: Family) -> None:
    """Every row of the table, whatever its other facts are."""
    assert family_of(family.alias) is family
    assert family_of(f"claude-{family.alias.upper()}-5-5") is family
    assert family_of_window(f"seven_day_{family.alias}") is family
    assert all(resolve(name, "DEFAULT") == Resolution(family.alias) for name in (family.alias, *family.names))


def test_a_window_for_all_models_belongs_to_no_family() -> None:
    """One is named after the plan, and is the largest model's."""
    assert [family_of_window(window) for window in ("five_hour", "seven_day", "overage", "")] == [None] * 4
    largest = family_of_window("seven_day_overage_included")
    assert largest is not None and largest.alias == "fable"


MODELS = (
    CliModel("default", "claude-opus-5-5", "Default"),
    CliModel("opus", "claude-opus-5-5", "Opus"),
    CliModel("haiku", "claude-haiku-5-5", "Haiku"),
)


def test_an_empty_catalogue_lists_the_aliases() -> None:
    """Until the first child has told."""
    assert {"opus", "sonnet", "haiku", "claude-opus-4"} <= set(Catalogue().listing())


def test_a_catalogue_lists_ids_aliases_and_the_familys_names() -> None:
    """Not the CLI's own `default`; nothing twice."""
    catalogue = Catalogue()
    catalogue.update(MODELS)
    catalogue.update(())
    assert catalogue.models() == MODELS
    assert list(catalogue.listing()) == [
        "claude-opus-5-5",
        "claude-haiku-5-5",
        "opus",
        "haiku",
        "claude-opus-4",
        "claude-sonnet-4",
        "claude-haiku-4",
    ]


@pytest.mark.parametrize(
    ("name", "known"),
    [("claude-opus-5-5", True), ("gpt-4o", True), ("provider/haiku", True), ("o3", False), ("my-opus", False)],
)
def test_a_catalogue_knows_what_needs_no_substitute(name: str, known: bool) -> None:
    """Listed or not."""
    catalogue = Catalogue()
    catalogue.update(MODELS)
    assert catalogue.knows(name) is known
