"""Names of models: what the CLI is given for them, and what is listed."""

import pytest

from claude_proxy.core.models import Catalogue, CliModel, Resolution, is_alias, resolve

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
