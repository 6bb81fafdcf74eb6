"""What a used child can be made to become, and when it is no longer tried."""

import pytest

from claude_proxy.claude.wire.profile import Profile
from claude_proxy.claude.wire.recycling import EVERYTHING, MOST_REFUSALS, NOTHING, Abilities, Recycling, can_become
from claude_proxy.core.conversation import Tool

TOOL = Tool("f", "", {"type": "object"})
PLAIN, MUSE, CLIO = Profile("sonnet"), Profile("sonnet", "MUSE"), Profile("sonnet", "CLIO")
OPUS, TOOLS = Profile("opus", "MUSE"), Profile("sonnet", "MUSE", (TOOL,))
FULL, OTHER_FULL = Profile("claude-x-1", "MUSE"), Profile("claude-x-1", "CLIO")
SCHEMA, AGENT = Profile("sonnet", "MUSE", json_schema=b"{}"), Profile("sonnet", "MUSE", agent=True)
REWIND = Abilities(rewind=True)


@pytest.mark.parametrize(
    ("have", "want", "abilities", "possible"),
    [
        (MUSE, MUSE, REWIND, True),
        (MUSE, MUSE, NOTHING, False),
        (MUSE, MUSE, Abilities(switch=True, retool=True), False),
        (MUSE, CLIO, EVERYTHING, True),
        (MUSE, CLIO, Abilities(rewind=True, retool=True), False),
        (MUSE, OPUS, EVERYTHING, True),
        (MUSE, TOOLS, EVERYTHING, True),
        (MUSE, TOOLS, Abilities(rewind=True, switch=True), False),
        (TOOLS, MUSE, EVERYTHING, True),
        (PLAIN, MUSE, EVERYTHING, True),
        (MUSE, PLAIN, EVERYTHING, False),  # there is no way back to having no system prompt
        (PLAIN, Profile("opus"), EVERYTHING, True),
        (FULL, FULL, REWIND, True),
        (FULL, OTHER_FULL, EVERYTHING, False),  # a full id would be probed, which is paid for
        (FULL, MUSE, EVERYTHING, True),
        (MUSE, FULL, EVERYTHING, False),
        (SCHEMA, SCHEMA, REWIND, True),
        (SCHEMA, MUSE, EVERYTHING, False),
        (MUSE, SCHEMA, EVERYTHING, False),
        (AGENT, AGENT, EVERYTHING, False),
        (MUSE, AGENT, EVERYTHING, False),
        (AGENT, MUSE, EVERYTHING, False),
    ],
)
def test_what_a_used_child_can_become(have: Profile, want: Profile, abilities: Abilities, possible: bool) -> None:
    """By what this CLI was seen to do; an agent's child serves its own conversation only."""
    assert can_become(have, want, abilities) is possible


def test_nothing_is_used_before_it_was_seen() -> None:
    """Nor after the check has not seen it."""
    recycling = Recycling()
    assert (recycling.abilities, recycling.reason) == (NOTHING, "not checked yet")
    recycling.allow(REWIND, "this CLI does not switch")
    assert (recycling.abilities, recycling.reason) == (REWIND, "this CLI does not switch")


def test_a_request_that_is_not_known_ends_it_for_good() -> None:
    """The CLI was replaced by another one, say."""
    recycling = Recycling(EVERYTHING)
    recycling.note_refusal("not supported", for_good=True)
    assert (recycling.abilities, recycling.reason) == (NOTHING, "not supported")


def test_several_refusals_in_a_row_end_it() -> None:
    """One alone costs one child; a success between them starts the count anew."""
    recycling = Recycling(EVERYTHING)
    for _ in range(2):
        for _ in range(MOST_REFUSALS - 1):
            recycling.note_refusal("stale", for_good=False)
        recycling.note_success()
    assert recycling.abilities == EVERYTHING
    for _ in range(MOST_REFUSALS):
        recycling.note_refusal("stale", for_good=False)
    assert (recycling.abilities, recycling.reason) == (NOTHING, "stale")
