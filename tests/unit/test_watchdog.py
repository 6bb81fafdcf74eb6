"""Deadlines on a clock that is turned by hand: no thread, no waiting."""

from claude_proxy.turns.watchdog import Watch, Watchdog
from tests.clocks import Clock


class Bench:
    """A watchdog with one watch, and what it called."""

    def __init__(self, **limits: float) -> None:
        self.clock = Clock(100.0)
        self.calls: list[str] = []
        self.watchdog = Watchdog(self.clock)
        self.watch = Watch(
            self.clock,
            **limits,
            on_silence=lambda: self.calls.append("silence"),
            on_deadline=lambda: self.calls.append("deadline"),
        )
        self.watchdog.add(self.watch)

    def at(self, seconds: float) -> list[str]:
        """Everything called once the clock shows so many seconds after the start."""
        self.clock.now = 100.0 + seconds
        self.watchdog.sweep()
        return self.calls


def test_silence_counts_from_the_last_sign_of_life() -> None:
    """And is told once."""
    bench = Bench(silence_timeout=10.0)
    assert bench.at(1_000.0) == []
    bench.watch.alive()
    assert bench.at(1_009.9) == []
    bench.watch.alive()
    assert bench.at(1_019.8) == []
    assert bench.at(1_019.9) == ["silence"]
    assert bench.at(2_000.0) == ["silence"]
    bench.watch.alive()
    assert bench.at(2_010.0) == ["silence", "silence"]


def test_who_is_not_waited_for_may_be_silent() -> None:
    """Until it is waited for again."""
    bench = Bench(silence_timeout=10.0)
    bench.watch.alive()
    bench.watch.pause()
    assert bench.at(1_000.0) == []
    bench.watch.alive()
    assert bench.at(1_010.0) == ["silence"]


def test_a_deadline_counts_whatever_happens() -> None:
    """Once, however lively the child is."""
    bench = Bench(deadline=130.0, silence_timeout=10.0)
    bench.at(29.0)
    bench.watch.alive()
    assert bench.at(30.0) == ["deadline"]
    assert bench.at(31.0) == ["deadline"]
    assert bench.at(39.0) == ["deadline", "silence"]


def test_both_limits_can_pass_at_once() -> None:
    """Each is told."""
    bench = Bench(deadline=110.0, silence_timeout=5.0)
    bench.watch.alive()
    assert bench.at(20.0) == ["silence", "deadline"]


def test_without_limits_nothing_is_ever_called() -> None:
    """That is the default."""
    bench = Bench()
    bench.watch.alive()
    assert bench.at(1e12) == []
    for call in (Watch(bench.clock).on_silence, Watch(bench.clock).on_deadline):
        call()


def test_a_watch_that_was_removed_is_forgotten() -> None:
    """Twice is no error; `sweep` says how many calls it made."""
    bench = Bench(deadline=101.0)
    other = Watch(bench.clock, deadline=101.0)
    bench.watchdog.add(other)
    bench.watchdog.remove(bench.watch)
    bench.watchdog.remove(bench.watch)
    bench.clock.now = 102.0
    assert bench.watchdog.sweep() == 1 and bench.calls == []


def test_every_sweep_does_the_housekeeping() -> None:
    """Whether something is due or not."""
    swept: list[str] = []
    watchdog = Watchdog(Clock(100.0), housekeeping=lambda: swept.append("swept"))
    assert (watchdog.sweep(), watchdog.sweep(), swept) == (0, 0, ["swept", "swept"])


def test_a_watchdog_that_was_never_started_can_be_stopped() -> None:
    """As after a failed start."""
    Watchdog(Clock(100.0)).stop()
