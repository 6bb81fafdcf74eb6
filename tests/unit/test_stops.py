"""Stop sequences of blanks, found in a text that comes in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.claude.turn.stops import StopScanner


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["a\n", "\nb"], ["\n\n"], "a", "\n\n"),
        (["a\n", "b\n", "\n", "c"], ["\n\n"], "a\nb", "\n\n"),
        (["a\n"], ["\n\n"], "a\n", None),
        (["a b"], [" ", "\n"], "a", " "),
        (["a\n b"], ["\n ", "\n"], "a", "\n"),
        (["abc"], [], "abc", None),
    ],
)
def test_the_text_ends_before_the_first_sequence(
    pieces: list[str], stops: list[str], shown: str, found: str | None
) -> None:
    """Nothing of the sequence is shown, and nothing before it is lost."""
    scanner = StopScanner(stops)
    text = "".join(scanner.feed(piece) for piece in pieces) + scanner.flush()
    assert (text, scanner.found) == (shown, found)


@given(st.text(alphabet="a\n ", max_size=30), st.lists(st.sampled_from(["\n\n", " \n", "\n"]), max_size=2), st.data())
def test_it_does_not_matter_how_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    """Pieces of any size give what the whole text gives."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    scanner = StopScanner(stops)
    shown = "".join(scanner.feed(piece) for piece in pieces) + scanner.flush()
    ends = [text.find(stop) for stop in stops if stop in text]
    assert shown == (text[: min(ends)] if ends else text)
    assert (scanner.found is not None) == bool(ends)
