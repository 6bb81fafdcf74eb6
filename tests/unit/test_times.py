"""Points in time as the proxy shows them."""

import pytest

from claude_proxy.core.times import iso_time, iso_time_or_none


@pytest.mark.parametrize(
    ("seconds", "whole", "fine"),
    [
        (0.0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
        (1_769_871_600.9996, "2026-01-31T15:00:00Z", "2026-01-31T15:00:00.999Z"),
        (1_769_871_600, "2026-01-31T15:00:00Z", "2026-01-31T15:00:00.000Z"),
    ],
)
def test_a_time_is_shown_in_utc_and_cut_off(seconds: float, whole: str, fine: str) -> None:
    """To the second, or to the millisecond; never rounded up to a time that has not come."""
    assert (iso_time(seconds), iso_time(seconds, milliseconds=True)) == (whole, fine)
    assert iso_time_or_none(seconds) == whole


def test_a_time_that_is_not_known_is_none() -> None:
    """In JSON null."""
    assert iso_time_or_none(None) is None
