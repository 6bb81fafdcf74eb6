"""What a child's history holds, and how far back a rewind can take it."""

import pytest

from claude_proxy.claude.wire.history import HeldMessage, History, Rewind

CHAIN = (b"0", b"1", b"2", b"3", b"4", b"5")


def history(kinds: str, start: bytes = b"0") -> History:
    """`q` a question, `a` an answer, `r` results of tools, `b` an answer with a breakpoint of ours; digests 1, 2, …"""
    held = History()
    if kinds:
        held.begin(start)
    for number, kind in enumerate(kinds, 1):
        name = f"{kind}{number}"
        target, uuid = (name if kind == "q" else None), (name if kind in "ab" else None)
        held.append(HeldMessage(b"%d" % number, target, uuid, has_breakpoint=kind == "b"))
    return held


@pytest.mark.parametrize(
    ("held", "common"),
    [(history(""), 0), (history("q"), 1), (history("qa"), 2), (history("qaqaqaqa"), 5), (history("qa", b"x"), 0)],
)
def test_a_conversation_begins_with_what_both_have_in_common(held: History, common: int) -> None:
    """Nothing, where the profile or the owner is another: H₀ differs."""
    assert held.common(CHAIN) == common


def test_what_differs_ends_what_is_common() -> None:
    """An edit in the middle."""
    assert history("qaqa").common((b"0", b"1", b"x", b"3")) == 1


@pytest.mark.parametrize(
    ("kinds", "keep", "reachable"),
    [
        ("qaqa", 4, 4),
        ("qaqa", 9, 4),
        ("qaqa", 3, 2),
        ("qaqa", 2, 2),
        ("qaqa", 1, 0),
        ("qara", 3, 0),  # a round of tools goes with its question
        ("qaqqa", 3, 3),  # each of two questions in a row can be taken out
        ("aqa", 2, 1),
        ("aqa", 0, None),  # what stands before the first question cannot
        ("ra", 1, None),
    ],
)
def test_how_far_back_a_rewind_can_go(kinds: str, keep: int, reachable: int | None) -> None:
    """To a question, or nowhere."""
    assert history(kinds).reachable(keep) == reachable


@pytest.mark.parametrize(
    ("kinds", "keep", "wanted"),
    [
        ("qaqa", 2, Rewind("q3", "q3", "a2", True)),
        ("qaqa", 0, Rewind("q1", "q3", None, True)),
        ("qaraqa", 0, Rewind("q1", "q5", None, True)),
        ("qaqqa", 3, Rewind("q4", "q4", None, False)),
    ],
)
def test_the_way_back_is_one_request(kinds: str, keep: int, wanted: Rewind) -> None:
    """It names the newest question too, and what must then stand before it, where that is an answer."""
    assert history(kinds).way_back(keep) == wanted


def test_an_answer_is_not_a_target() -> None:
    """The CLI would not find it."""
    with pytest.raises(ValueError):
        history("qaqa").way_back(1)


def test_a_history_that_was_cut_begins_again() -> None:
    """With another conversation, once nothing is left."""
    held = history("qaqa")
    held.cut(2)
    assert (len(held), held.head, held.start) == (2, b"2", b"0")
    with pytest.raises(ValueError):
        held.begin(b"x")
    held.cut(0)
    held.begin(b"x")
    assert (held.head, held.start) == (None, b"x")


@pytest.mark.parametrize(("kinds", "one_shot"), [("", True), ("q", True), ("qa", True), ("qaqa", False)])
def test_a_conversation_with_one_answer_was_not_continued(kinds: str, one_shot: bool) -> None:
    """Most such conversations never are."""
    assert history(kinds).is_one_shot is one_shot


@pytest.mark.parametrize(
    ("kinds", "keep", "wanted"), [("qaqa", 2, 2), ("qbqa", 4, 0), ("qaqbqa", 5, 2), ("qaqb", 3, 3), ("bqa", 2, None)]
)
def test_a_breakpoint_of_ours_is_not_kept_for_a_second_one(kinds: str, keep: int, wanted: int | None) -> None:
    """Four are the API's limit, and three are the CLI's."""
    assert history(kinds).without_breakpoint(keep) == wanted
