"""Which process a note means, when the clock is set, the machine restarts, or the number is given to another."""

import pytest

from claude_proxy.claude.process.processes import ProcessIdentity

NOTED = ProcessIdentity(7, 1_000_000.0, 500.0)


@pytest.mark.parametrize(
    ("current", "surely", "surely_not"),
    [
        pytest.param(NOTED, True, False, id="the same"),
        pytest.param(ProcessIdentity(7, 1_000_001.0, 499.5), True, False, id="a boot time in whole seconds"),
        pytest.param(ProcessIdentity(7, 1_003_600.0, 500.0), False, False, id="Linux: the clock was set"),
        pytest.param(ProcessIdentity(7, 1_000_000.0, 4_100.0), False, False, id="macOS: the clock was set"),
        pytest.param(ProcessIdentity(7, 1_000_030.0, 530.0), False, True, id="its number is another's"),
        pytest.param(ProcessIdentity(7, 1_100_000.0, 40.0), False, True, id="the machine has restarted"),
        pytest.param(ProcessIdentity(8, 1_000_000.0, 500.0), False, True, id="another number"),
    ],
)
def test_a_process_is_known_by_two_clocks(current: ProcessIdentity, surely: bool, surely_not: bool) -> None:
    """Where they disagree nothing is certain: it is neither killed nor taken for dead."""
    assert (NOTED.is_surely(current), NOTED.is_surely_not(current)) == (surely, surely_not)
