"""Unpaired surrogates and byte order marks: mended at the edge, everything else is as it was."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_proxy.core.json_text import clean, mend, mend_text

ROWS = (
    ("half of a pair", rb'"cut \ud83d"', rb'"cut \ufffd"'),
    ("half of a pair in the middle", rb'"cut \uD83D here"', rb'"cut \ufffd here"'),
    ("the other half", rb'"\ude00 x"', rb'"\ufffd x"'),
    ("halves the wrong way round", rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"'),
    ("a half before a pair", rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
    ("a pair", rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
    ("an escaped backslash before it", rb'"\\ud83d"', rb'"\\ud83d"'),
    ("two of them before it", rb'"\\\ud83d"', rb'"\\\ufffd"'),
    ("another escape", rb'"\u00e9\n\ud83d"', rb'"\u00e9\n\ufffd"'),
    ("a half in bytes", b'"\xed\xa0\xbd"', b'"\xef\xbf\xbd"'),
    ("a character of the same first byte", "\ud55c".encode(), "\ud55c".encode()),
)


@pytest.mark.parametrize(("text", "wanted"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_half_a_pair_is_replaced(text: bytes, wanted: bytes) -> None:
    """By U+FFFD, escaped where it was."""
    assert mend(text) == wanted


def test_a_byte_order_mark_is_skipped() -> None:
    """Only at the start."""
    assert clean(b'\xef\xbb\xbf{"a":"\xef\xbb\xbf\\ud83d"}') == b'{"a":"\xef\xbb\xbf\\ufffd"}'


def test_text_that_holds_a_half_itself_is_mended_too() -> None:
    """Python's own decoder lets it in."""
    assert mend_text("a\ud83d") == "a\ufffd" and mend_text('{"a":"\\ud83d"}') == '{"a":"\\ufffd"}'


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_sound_stays_as_it_is(value: object) -> None:
    """Escaped or not."""
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert mend(text.encode()) == text.encode() and mend_text(text) == text


@given(st.text(st.characters(categories=["Cs", "L", "P"])))
def test_what_was_mended_is_valid(text: str) -> None:
    """For any text that JSON can hold."""
    mended = json.loads(mend(json.dumps(text).encode()))
    assert len(mended.encode().decode()) == len(mended)
