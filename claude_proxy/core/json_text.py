"""JSON text as it comes over an edge, mended where it holds what UTF-8 cannot.

JavaScript cuts strings in the middle of an emoji and writes the half as an escape, models do the same in arguments:
valid JSON, which no strict decoder takes. Called where bytes come in (the bodies of clients, the lines of the CLI) and
where arguments that a model wrote are parsed. Invariant: what was valid UTF-8 and well paired is returned unchanged.
"""

import re

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPLACEMENT = b"\xef\xbf\xbd"

# An escape that is not \u stands first, an escaped backslash above all: what follows it is text. Then a whole pair,
# which stays; the group is half of one.
_ESCAPE = re.compile(
    rb"\\(?:[^u]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2}))"
)
# A surrogate in the bytes themselves, as `surrogatepass` writes it.
_RAW = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


def clean(body: bytes) -> bytes:
    """A client's body without its byte order mark, and mended."""
    return mend(body.removeprefix(BYTE_ORDER_MARK))


def mend(text: bytes) -> bytes:
    """JSON in which each unpaired surrogate is U+FFFD."""
    if b"\\ud" in text or b"\\uD" in text:
        text = _ESCAPE.sub(_replace, text)
    if b"\xed" in text:
        text = _RAW.sub(REPLACEMENT, text)
    return text


def mend_text(text: str) -> str:
    """The same for text, for example arguments in which a surrogate stands escaped or not."""
    return mend(text.encode("utf-8", "surrogatepass")).decode()


def _replace(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match[1] is not None else match[0]
