"""PURE: stop sequences that the API does not take, because they are blanks alone, found in the answer as it comes.

In: pieces of text. Out: what can be shown, and whether a sequence was met. What might be the beginning of one is held
back until it is known, so that no character too many is ever shown.
"""

from collections.abc import Sequence


class StopScanner:
    """Looks for the first of `sequences` in one text. `found` is the one that was met."""

    def __init__(self, sequences: Sequence[str]) -> None:
        self._sequences = tuple(sequences)
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str) -> str:
        """What of the text so far can be shown now; nothing once a sequence was met."""
        if not self._sequences or self.found is not None:
            return "" if self.found is not None else piece
        text = self._held + piece
        hits = [(text.find(sequence), sequence) for sequence in self._sequences if sequence in text]
        if hits:
            position, self.found = min(hits)
            self._held = ""
            return text[:position]
        keep = max(_overlap(text, sequence) for sequence in self._sequences)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back at the end of the text."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, sequence: str) -> int:
    """How many characters at the end of the text may begin the sequence."""
    for length in range(min(len(text), len(sequence) - 1), 0, -1):
        if sequence.startswith(text[-length:]):
            return length
    return 0
