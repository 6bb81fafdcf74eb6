"""The key of a session: which API key it belongs to, and its id. Every part that asks for a session asks by it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionKey:
    """owner: digest of the API key, empty without one; it holds no `/`. id: as clients see it, `hdr_…`, `usr_…`,
    `auto_…`."""

    owner: str
    id: str

    def __str__(self) -> str:
        """As the store holds it."""
        return f"{self.owner}/{self.id}"

    @classmethod
    def parse(cls, text: str) -> "SessionKey":
        """What `str` made; the id may hold `/`."""
        owner, _, session_id = text.partition("/")
        return cls(owner, session_id)
