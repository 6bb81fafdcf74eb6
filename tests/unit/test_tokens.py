"""The estimate of tokens: plausible, never zero, and quick."""

import base64
import struct
import time

import pytest

from claude_proxy.core.conversation import (
    Base64Source,
    Conversation,
    Document,
    Image,
    Message,
    Text,
    TextSource,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
    UrlSource,
    user,
)
from claude_proxy.core.tokens import (
    UNREADABLE_IMAGE_TOKENS,
    estimate,
    estimate_conversation,
    estimate_text,
    read_image_size,
)

PROSE = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. "
CODE = "def add(self, other: Vector) -> Vector:\n    return Vector(self.x + other.x, self.y + other.y)\n"
JSON = '{"id":"abc-123","values":[1,2,3],"nested":{"enabled":true,"name":"thing"}}'


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [(PROSE, 3.3, 4.2), (CODE, 2.0, 3.5), (JSON, 1.5, 3.0), ("今天天气很好我们去公园", 0.7, 1.2)],
)
def test_characters_to_a_token_are_those_of_the_kind_of_text(text: str, low: float, high: float) -> None:
    """Prose takes the fewest tokens, then code, then JSON."""
    assert low <= len(text) / estimate_text([text]) <= high


@pytest.mark.parametrize("text", ["", " ", "\x00", "🎉", "é", "camelCaseName", "SHOUT", "12345", "\n\n    x"])
def test_every_text_has_a_count(text: str) -> None:
    """Whatever the characters are."""
    assert 0 <= estimate_text([text]) <= 2 * len(text) + 1


def test_long_texts_are_sampled() -> None:
    """The estimate of a long text is that of its parts, and takes less than a tenth of a second."""
    part = estimate_text([PROSE])
    started = time.perf_counter()
    whole = estimate_text([PROSE * 50_000])
    assert time.perf_counter() - started < 1.0  # a tenth, on a machine that does nothing else
    assert whole == pytest.approx(50_000 * part, rel=0.05)


def image(head: bytes) -> str:
    return base64.b64encode(head).decode()


JPEG = b"\xff\xd8\xff\xe0\x00\x04ab" + b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", 200, 300) + b"\0" * 9
RIFF = b"RIFF\0\0\0\0WEBP"


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 300, 200), (300, 200)),
        (b"GIF89a" + struct.pack("<HH", 300, 200), (300, 200)),
        (JPEG, (300, 200)),
        (RIFF + b"VP8X" + b"\0" * 8 + b"\x2b\x01\0" + b"\xc7\0\0", (300, 200)),
        (RIFF + b"VP8 " + b"\0" * 10 + struct.pack("<HH", 300, 200), (300, 200)),
        (RIFF + b"VP8L" + b"\0" * 5 + struct.pack("<I", 299 | 199 << 14), (300, 200)),
        (RIFF + b"ODD ", None),
        (b"\xff\xd8\xff", None),
        (b"\x89PNG", None),
    ],
)
def test_the_size_of_an_image_stands_in_its_header(head: bytes, size: tuple[int, int] | None) -> None:
    """Of every type that the API takes; a broken one counts as a middling one."""
    assert read_image_size(image(head)) == size
    counted = estimate([("user", (Image(Base64Source("image/png", image(head))),))]) - estimate([("user", (Text(""),))])
    assert counted == (80 if size else UNREADABLE_IMAGE_TOKENS)


def test_everything_in_a_conversation_counts() -> None:
    """System, tools, calls, results, documents; but no thinking of earlier turns."""
    bare = Conversation("m", (user("x"),))
    tool = Tool("f", "does it", {"type": "object"})
    pdf = Base64Source("application/pdf", base64.b64encode(b"%PDF /Type /Page /Type /Page /Type /Pages").decode())
    more = [
        Conversation("m", (user("x"),), "You are MUSE."),
        Conversation("m", (user("x"),), None, (tool,)),
        Conversation("m", (user("x"), Message("assistant", (ToolUse("1", "f", {"a": 1}),)))),
        Conversation("m", (Message("user", (Text("x"), ToolResult("1", (Text("y"),)))),)),
        *(
            Conversation("m", (Message("user", (Text("x"), Document(source))),))
            for source in (pdf, TextSource("much text"), UrlSource("https://a.b/c"))
        ),
        Conversation("m", (Message("user", (Text("x"), Image(UrlSource("https://a.b/c")))),)),
    ]
    counts = [estimate_conversation(one) for one in more]
    assert all(count > estimate_conversation(bare) for count in counts)
    assert counts[4] == estimate_conversation(bare) + 2 * 2000
    thought = Conversation("m", (Message("user", (Text("x"), Thinking("long thoughts"))),))
    assert estimate_conversation(thought) == estimate_conversation(bare)
