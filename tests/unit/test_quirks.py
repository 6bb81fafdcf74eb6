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


def tried(quirks: ModelQuirks, of: Turn) -> list[Refusals]:
    """What is left out, attempt by attempt, where every one of them is refused."""
    experiments, found = quirks.begin_experiments(of), []
    while quirks.note_refusal(of, experiments):
        found.append(quirks.known(of))
    return found


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (turn(), []),
        (turn(SAMPLING), [Refusals(sampling=True)]),
        (turn(JSON), [Refusals(schema=True)]),
        (turn(BOTH), [Refusals(sampling=True), Refusals(schema=True), Refusals(sampling=True, schema=True)]),
        (turn(Options(thinking=ThinkingMode("enabled", 2000))), [Refusals(thinking=True)]),
        (turn(messages=MORE), [Refusals(cache_breakpoint=True)]),
        (
            turn(SAMPLING, MORE),
            [Refusals(sampling=True), Refusals(cache_breakpoint=True), Refusals(sampling=True, cache_breakpoint=True)],
        ),
        (turn(SAMPLING, strict=True), []),
        (turn(JSON, strict=True), [Refusals(schema=True)]),
        (turn(JSON, agent=True), []),
        (turn(SAMPLING, agent=True), [Refusals(sampling=True)]),
    ],
)
def test_a_turn_is_tried_without_one_thing_after_the_other(given: Turn, wanted: list[Refusals]) -> None:
    """Where nothing helps, the 400 was about something else, and nothing is remembered."""
    quirks = ModelQuirks()
    assert tried(quirks, given) == wanted
    assert quirks.known(given) == NOTHING


def test_what_helped_is_remembered_for_the_model() -> None:
    """It is not tried again, nor sent; another model is another matter."""
    quirks = ModelQuirks()
    given = turn(SAMPLING)
    assert quirks.note_refusal(given, quirks.begin_experiments(given))
    assert quirks.known(turn()) == Refusals(sampling=True)
    assert "temperature" in quirks.parameters(turn(SAMPLING)).ignored
    assert tried(quirks, turn(SAMPLING)) == []
    assert quirks.known(turn()) == Refusals(sampling=True)
    other = make_turn(Conversation("opus", ONE, options=SAMPLING))
    assert quirks.known(other) == NOTHING and quirks.parameters(other).ignored == ()


def test_a_breakpoint_that_was_taken_once_is_not_suspected() -> None:
    """Nor one that is left out already."""
    quirks = ModelQuirks()
    quirks.note_cache_breakpoint(turn())
    assert tried(quirks, turn(messages=MORE)) == []


def test_the_schema_of_an_agent_does_not_bind_all_its_calls() -> None:
    """It is for its last word, and the CLI's own affair; the other parameters are for all."""
    quirks = ModelQuirks()

    def body(of: Turn) -> Any:
        return json.loads(quirks.parameters(of).settings["env"]["CLAUDE_CODE_EXTRA_BODY"] or "{}")

    assert "output_config" in body(turn(JSON))
    assert body(turn(JSON, agent=True)) == {}
    assert body(turn(BOTH, agent=True))["temperature"] == 0
    assert quirks.known(turn(JSON, agent=True)) == NOTHING
