"""PURE: how many tokens a request has, estimated: text, tools, images, documents.

In: canonical blocks and tools. Out: a number, for the routes that count tokens and for the error of a prompt that is
too long. Invariant: nothing is asked or fetched for it; every place that shows the number calls it an estimate.

A tokenizer of the newer Claude models that runs offline does not exist, so words, digits, signs and scripts are weighed
by class. The weights were read, not measured against the API: about 3.5 characters of English prose to a token
(Anthropic's glossary), fewer in code and JSON, about one for a character of Chinese or Japanese; `width * height / 750`
for an image, some 1,600 at most (https://docs.anthropic.com/en/docs/build-with-claude/vision); 346 tokens of system
prompt where tools are offered (https://docs.anthropic.com/en/docs/build-with-claude/tool-use).
"""

import base64
import binascii
import math
import re
import struct
from collections.abc import Callable, Iterable, Sequence

import msgspec

from .conversation import (
    Base64Source,
    ContentBlock,
    Conversation,
    Document,
    Image,
    Text,
    TextSource,
    Thinking,
    Tool,
    ToolResult,
    ToolUse,
)

REQUEST_TOKENS = 3
MESSAGE_TOKENS = 4
CALL_TOKENS = 12
TOOLS_TOKENS = 346
TOOL_TOKENS = 12
LARGEST_IMAGE_TOKENS = 1600
LARGEST_IMAGE_EDGE = 1568
UNREADABLE_IMAGE_TOKENS = 1500
PAGE_TOKENS = 2000
PAGE_BYTES = 50_000
LARGEST_PDF_PAGES = 600
UNSEEN_DOCUMENT_TOKENS = 3000

# More text than this is sampled: the answer must come within a tenth of a second.
SAMPLED_CHARACTERS = 100_000
SAMPLE_CHARACTERS = 2_000

_PIECES = re.compile(
    r"(?P<word>[A-Za-z]+)|(?P<digits>[0-9]+)|(?P<gap>\s+)|(?P<sign>[!-/:-@\[-`{-~]+)"
    r"|(?P<wide>[\u2e80-\u9fff\uac00-\ud7ff]+)|(?P<script>[\u00a1-\u2e7f\ua000-\uabff\uf900-\ufdff]+)|(?P<rest>.)"
)
_CAPITALS = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PAGE = re.compile(rb"/Type\s*/Page\b(?!s)")
_JPEG_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))

Entry = tuple[str, Sequence[ContentBlock]]


def estimate_conversation(conversation: Conversation) -> int:
    """Tokens of a whole canonical request."""
    system = () if conversation.system is None else (("system", (Text(conversation.system),)),)
    return estimate(
        (*system, *((message.role, message.content) for message in conversation.messages)), conversation.tools
    )


def estimate(entries: Iterable[Entry], tools: Sequence[Tool] = ()) -> int:
    """Tokens of messages (role and blocks; `system` is one of the roles) and tools; at least 1."""
    tally = _Tally()
    for _, blocks in entries:
        tally.add_message(blocks)
    tally.add_tools(tools)
    return tally.total()


def estimate_text(texts: Sequence[str]) -> float:
    """Tokens of texts, not rounded; of long ones evenly spaced samples are weighed."""
    length = sum(map(len, texts))
    if length <= SAMPLED_CHARACTERS:
        return sum(map(_weigh, texts))
    samples = _sample("".join(texts), length)
    return sum(map(_weigh, samples)) * length / sum(map(len, samples))


class _Tally:
    """What was met so far: `fixed` tokens, and texts that are weighed together at the end."""

    def __init__(self) -> None:
        self.fixed = REQUEST_TOKENS
        self._texts: list[str] = []

    def add_message(self, blocks: Sequence[ContentBlock]) -> None:
        """One message; one without blocks costs nothing."""
        self.fixed += MESSAGE_TOKENS if blocks else 0
        for block in blocks:
            self.add(block)

    def add_tools(self, tools: Sequence[Tool]) -> None:
        """All tools of a request; offering any costs a system prompt."""
        self.fixed += TOOLS_TOKENS if tools else 0
        for tool in tools:
            self._add_tool(tool)

    def add(self, block: ContentBlock) -> None:
        """Thinking of earlier turns is not counted: the API takes it out again."""
        match block:
            case Text(text):
                self._texts.append(text)
            case Image(source):
                self.fixed += _image_tokens(source.data) if isinstance(source, Base64Source) else LARGEST_IMAGE_TOKENS
            case Document():
                self._add_document(block)
            case ToolUse():
                self.fixed += CALL_TOKENS
                self._texts += (block.name, msgspec.json.encode(block.input).decode())
            case ToolResult():
                self.fixed += CALL_TOKENS
                for part in block.content:
                    self.add(part)
            case Thinking():
                pass

    def _add_tool(self, tool: Tool) -> None:
        self.fixed += TOOL_TOKENS
        self._texts += (tool.name, tool.description, msgspec.json.encode(tool.input_schema).decode())

    def total(self) -> int:
        return max(1, self.fixed + math.ceil(estimate_text(self._texts)))

    def _add_document(self, document: Document) -> None:
        self._texts.append(document.title or "")
        match document.source:
            case TextSource(data):
                self._texts.append(data)
            case Base64Source(_, data):
                self.fixed += PAGE_TOKENS * _count_pages(data)
            case _:
                self.fixed += UNSEEN_DOCUMENT_TOKENS


def _sample(text: str, length: int) -> list[str]:
    step = length * SAMPLE_CHARACTERS // SAMPLED_CHARACTERS
    return [text[start : start + SAMPLE_CHARACTERS] for start in range(0, length, step)]


def _weigh(text: str) -> float:
    """Tokens of one text, piece by piece."""
    tokens = 0.0
    for match in _PIECES.finditer(text):
        piece = match.group()
        tokens += _WEIGHTS[match.lastgroup or "rest"](piece)
    return tokens


def _weigh_word(word: str) -> float:
    """A blank before a word is part of it; names in camelCase are several words."""
    if word.islower() or word.istitle():
        return 1.05 + 0.16 * max(0, len(word) - 3)
    parts = _CAPITALS.split(word)
    if len(parts) > 1:
        return sum(map(_weigh_word, parts))
    return max(1.0, len(word) / 2.5)


def _weigh_gap(gap: str) -> float:
    return 0.0 if gap == " " else 1.0 + 0.04 * len(gap)


_WEIGHTS: dict[str, Callable[[str], float]] = {
    "word": _weigh_word,
    "digits": lambda digits: math.ceil(len(digits) / 3),
    "gap": _weigh_gap,
    "sign": lambda signs: max(1.0, 0.7 * len(signs)),
    "wide": lambda text: 1.1 * len(text),
    "script": lambda text: max(1.0, 0.5 * len(text)),
    "rest": lambda text: 2.0,
}


def _image_tokens(data: str) -> int:
    """`width * height / 750`, after the API has shrunk it to 1,568 pixels a side."""
    size = read_image_size(data)
    if size is None:
        return UNREADABLE_IMAGE_TOKENS
    shrink = min(1.0, LARGEST_IMAGE_EDGE / max(1, *size))
    return min(LARGEST_IMAGE_TOKENS, max(1, math.ceil(size[0] * size[1] * shrink * shrink / 750)))


def read_image_size(data: str) -> tuple[int, int] | None:
    """Width and height from the header of a base64 image; None where it holds none that is understood."""
    try:
        head = base64.b64decode(data[: 1 << 18])
        if head.startswith(b"\x89PNG"):
            return struct.unpack(">II", head[16:24])
        if head.startswith(b"GIF8"):
            return struct.unpack("<HH", head[6:10])
        if head.startswith(b"\xff\xd8"):
            return _jpeg_size(head)
        return _webp_size(head)
    except (struct.error, IndexError, binascii.Error):
        return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Segment by segment to the frame header (ITU-T T.81, B.2.2)."""
    position = 2
    while position + 9 < len(head):
        marker, length = head[position + 1], int.from_bytes(head[position + 2 : position + 4], "big")
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">HH", head[position + 5 : position + 9])
            return width, height
        position += 2 + max(2, length)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """https://developers.google.com/speed/webp/docs/riff_container"""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack("<I", head[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _count_pages(data: str) -> int:
    """Page objects that lie open in the PDF; where they are compressed, what its size lets one guess."""
    raw = base64.b64decode(data)
    pages = len(_PAGE.findall(raw)) or math.ceil(len(raw) / PAGE_BYTES)
    return max(1, min(LARGEST_PDF_PAGES, pages))
