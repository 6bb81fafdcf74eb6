"""What a client's model name stands for on a server."""

import pytest

from claude_proxy.core.errors import ModelNotFound
from claude_proxy.core.models import Catalogue, CliModel
from claude_proxy.turns.model_names import ModelNames


def names(*, refuses_unknown: bool = False) -> ModelNames:
    catalogue = Catalogue()
    catalogue.update([CliModel("opus", "claude-opus-9", "Opus 9")])
    return ModelNames(catalogue, "sonnet", refuses_unknown=refuses_unknown)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("", "sonnet"), ("opus", "opus"), ("gpt-4o", "sonnet"), ("claude-x-1", "claude-x-1"), ("made up", "sonnet")],
)
def test_a_name_is_resolved(name: str, wanted: str) -> None:
    """An unknown one is answered by the default, and so is none."""
    assert names().resolve(name) == wanted


def test_a_substitution_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """For each name."""
    resolver = names()
    for name in ("made up", "made up", "another"):
        resolver.resolve(name)
    assert [record.getMessage().split("'")[1] for record in caplog.records] == ["made up", "another"]


def test_an_unknown_name_may_be_refused() -> None:
    """It is cut: a client may send anything."""
    resolver = names(refuses_unknown=True)
    assert resolver.resolve("opus") == "opus" and resolver.resolve("") == "sonnet"
    with pytest.raises(ModelNotFound) as raised:
        resolver.resolve("x" * 1000)
    assert raised.value.param == "model" and len(raised.value.message) < 200


@pytest.mark.parametrize(("name", "listed"), [("opus", True), ("claude-opus-9", True), ("claude-x-1", False)])
def test_a_name_that_metrics_may_show_is_one_that_the_account_has(name: str, listed: bool) -> None:
    """Anything else would be a client's text."""
    assert names().is_listed(name) is listed
