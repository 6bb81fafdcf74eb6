"""What models were seen to refuse, and in which order a turn is tried without it."""

import json
from typing import Any

import pytest

from claude_proxy.claude.wire.parameters import Refusals
from claude_proxy.core.conversation import Conversation, Options, ThinkingMode, assistant, user
from claude_proxy.turns.quirks import ModelQuirks
from claude_proxy.turns.turn import Turn
from tests.standins import make_turn

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
ONE, MORE = (user("a"),), (user("a"), assistant("b"), user("c"))
SAMPLING, JSON, BOTH = Options(temperature=0.5), Options(json_schema=SCHEMA), Options(temperature=0, json_schema=SCHEMA)
NOTHING = Refusals()


def turn(options: Options = Options(), messages: Any = ONE, **fields: Any) -> Turn:
    return make_turn(Conversation("sonnet", messages, options=options), **fields)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (turn(), None),
        (turn(SAMPLING), Refusals(sampling=True)),
        (turn(JSON), Refusals(schema=True)),
        (turn(BOTH), Refusals(sampling=True, schema=True)),
        (turn(Options(thinking=ThinkingMode("enabled", 2000))), Refusals(thinking=True)),
        (turn(messages=MORE), Refusals(cache_breakpoint=True)),
        (turn(SAMPLING, MORE), Refusals(sampling=True, cache_breakpoint=True)),
        (turn(SAMPLING, strict=True), None),
        (turn(JSON, strict=True), Refusals(schema=True)),
        (turn(JSON, agent=True), None),
        (turn(SAMPLING, agent=True), Refusals(sampling=True)),
    ],
)
def test_a_turn_is_tried_once_more_without_all_that_may_have_been_refused(given: Turn, wanted: Refusals | None) -> None:
    """There is one further attempt: who pays for each is the user."""
    quirks = ModelQuirks()
    assert quirks.find_suspects(given, NOTHING) == wanted
    if wanted is not None:
        assert quirks.find_suspects(given, wanted) is None


def test_an_experiment_that_did_not_help_is_nobodys_business() -> None:
    """Nothing is remembered before an attempt went well."""
    quirks, given = ModelQuirks(), turn(SAMPLING)
    quirks.find_suspects(given, NOTHING)
    assert quirks.left_out(given) == NOTHING


def test_what_helped_is_remembered_for_the_model() -> None:
    """It is left out at once, and named; another model is another matter."""
    quirks, given = ModelQuirks(), turn(SAMPLING)
    quirks.note_success(given, Refusals(sampling=True))
    left_out = quirks.left_out(turn(SAMPLING))
    assert left_out == Refusals(sampling=True)
    assert "temperature" in quirks.parameters(turn(SAMPLING), left_out).ignored
    assert quirks.find_suspects(turn(SAMPLING), left_out) is None
    other = make_turn(Conversation("opus", ONE, options=SAMPLING))
    assert quirks.left_out(other) == NOTHING


def test_what_helped_together_is_left_out_together_only() -> None:
    """Which of the two was refused is not known: a request with one of them alone finds out."""
    quirks = ModelQuirks()
    quirks.note_success(turn(BOTH), Refusals(sampling=True, schema=True))
    assert quirks.left_out(turn(SAMPLING)) == NOTHING and quirks.left_out(turn(JSON)) == NOTHING
    assert quirks.left_out(turn(BOTH)) == Refusals(sampling=True, schema=True)
    quirks.note_success(turn(JSON), Refusals(schema=True))
    assert quirks.left_out(turn(JSON, MORE)) == Refusals(schema=True)


def test_a_breakpoint_that_was_taken_once_is_not_suspected() -> None:
    """The API has answered with it."""
    quirks = ModelQuirks()
    quirks.note_cache_breakpoint(turn())
    assert quirks.find_suspects(turn(messages=MORE), NOTHING) is None


def test_the_schema_of_an_agent_does_not_bind_all_its_calls() -> None:
    """It is for its last word, and the CLI's own affair; the other parameters are for all."""
    quirks = ModelQuirks()

    def body(of: Turn) -> Any:
        return json.loads(quirks.parameters(of, NOTHING).settings["env"]["CLAUDE_CODE_EXTRA_BODY"] or "{}")

    assert "output_config" in body(turn(JSON))
    assert body(turn(JSON, agent=True)) == {}
    assert body(turn(BOTH, agent=True))["temperature"] == 0
