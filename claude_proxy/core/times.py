"""Points in time as the proxy shows them: in JSON, in messages, in its log.

Pure. Invariant: always UTC, always ISO 8601 with a `Z`, so that one parser reads all of them.
"""

from datetime import UTC, datetime


def iso_time(seconds: float, *, milliseconds: bool = False) -> str:
    """Unix seconds as `2026-01-31T15:00:00Z`, or as `2026-01-31T15:00:00.000Z`; what is smaller is cut off."""
    timespec = "milliseconds" if milliseconds else "seconds"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def iso_time_or_none(seconds: float | None, *, milliseconds: bool = False) -> str | None:
    """The same for a time that may not be known."""
    return None if seconds is None else iso_time(seconds, milliseconds=milliseconds)
