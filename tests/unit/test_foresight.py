"""Which part of a conversation the next request keeps."""

import pytest

from claude_proxy.turns.foresight import Foresight

OPENING = b"opening"


def of(text: str) -> list[bytes]:
    """One digest a letter."""
    return [letter.encode() for letter in text]


@pytest.mark.parametrize(
    ("before", "now", "dropped"),
    [
        ("ax", "axRb", 0),
        ("ax", "aRbx", 1),
        ("ax", "aRby", 1),
        ("aRbx", "aRbRcx", 1),
        ("abxy", "abRcxy", 2),
        ("abxyz", "abRcxyz", 3),
        ("abwxyz", "abRcwxyz", 0),
        ("ax", "bRcx", 0),
        ("ax", "ax", 0),
        ("a", "Rb", 0),
        ("aRa", "aRaRa", 0),
        ("aRaRa", "aRaRaRa", 0),
    ],
)
def test_what_the_next_request_dropped(before: str, now: str, dropped: int) -> None:
    """The answer stands where the dropped messages stood; at most three are looked for, never the first."""
    foresight = Foresight()
    foresight.note(OPENING, of(before), b"R")
    assert foresight.dropped(OPENING, of(now)) == dropped


def test_nothing_is_known_of_a_first_request() -> None:
    """None, which is not zero."""
    assert Foresight().dropped(OPENING, of("ab")) is None


def test_only_so_many_conversations_are_remembered() -> None:
    """The oldest is forgotten first."""
    foresight = Foresight(capacity=2)
    for name in (b"1", b"2", b"3"):
        foresight.note(name, of("a"), b"R")
    assert foresight.dropped(b"1", of("ab")) is None
    assert foresight.dropped(b"3", of("ab")) == 0
