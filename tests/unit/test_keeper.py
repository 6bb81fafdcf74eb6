"""When the keeper starts, ends and clears up after children: sweeps by hand, with a clock that stands still."""

from collections.abc import Callable, Sequence
from typing import cast

import pytest

from claude_proxy.claude.fleet.fleet import Fleet, Limits
from claude_proxy.claude.fleet.keeper import Keeper
from claude_proxy.claude.fleet.launcher import Launcher
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.profile import Profile
from claude_proxy.core.models import Catalogue
from claude_proxy.core.timing import Timing

TIMING = Timing()
GRACE = TIMING.grace_interval
HOUR = TIMING.housekeeping_interval


class Process:
    """What the keeper sees of a child. ends_on: the step at which it ends."""

    pid = 7

    def __init__(self, clock: Callable[[], float], ends_on: str = "end_input") -> None:
        self._clock = clock
        self.ends_on = ends_on
        self.done: list[tuple[float, str]] = []
        self.was_terminated = False
        self.returncode: int | None = None

    def _do(self, step: str) -> None:
        self.done.append((self._clock(), step))
        if step == self.ends_on:
            self.returncode = {"end_input": 0, "terminate": -15, "kill": -9}[step]

    def end_input(self) -> None:
        self._do("end_input")

    def terminate(self) -> None:
        self.was_terminated = True
        self._do("terminate")

    def kill(self) -> None:
        self._do("kill")

    def reap(self) -> None:
        self._do("reap")

    def has_exited(self) -> bool:
        return self.returncode is not None

    def fileno(self) -> int:
        return -1


class Talk:
    """What fleet and keeper see of a connection."""

    last_used = 0.0
    was_interrupted = False

    def __init__(self, child: Process, is_parked: bool) -> None:
        self.child = child
        self.is_parked = is_parked

    def poll_idle(self) -> bool:
        return True

    def terminate(self) -> None:
        self.child.terminate()


class Bench:
    """A keeper whose thread is this one. It is also the fleet's clock, the launcher and what the keeper sleeps with."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cleared: list[object] = []
        self.slept: list[float] = []
        self.fleet = Fleet(Limits(0, 2, 10, 900.0, 600.0), lambda: self.now, self, TIMING)
        self.pruned: list[float] = []
        launcher = cast(Launcher, self)
        self.keeper = Keeper(self.fleet, self, launcher, Catalogue(), self, Profile("sonnet"), lambda: self.now, TIMING)

    def wake(self) -> None:
        """It does not sleep."""

    def wait(self, descriptors: Sequence[int], timeout: float) -> None:
        self.slept.append(timeout)
        self.now += timeout

    def prune(self) -> None:
        self.pruned.append(self.now)

    def clear_after(self, connection: object) -> None:
        self.cleared.append(connection)

    def add(self, group: str, ends_on: str = "end_input", *, parked: bool = False) -> tuple[Connection, Process]:
        """A child in one of the fleet's lists."""
        child = Process(lambda: self.now, ends_on)
        connection = cast(Connection, Talk(child, parked))
        getattr(self.fleet.members, group).append(connection)
        return connection, child

    def sweep_for(self, seconds: float) -> None:
        """As many sweeps as the keeper makes in this time, with the sleeps between them."""
        end = self.now + seconds
        while self.now < end:
            self.keeper.sweep()
            self.now += 0.25


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_keeper_ends_as_soon_as_the_last_child_has(bench: Bench) -> None:
    """It looks before it sleeps: a sleep with every child gone would only make the stop longer."""
    connection, child = bench.add("live")
    bench.keeper.stop(0.0)
    bench.keeper.run()
    assert child.done == [(0.0, "end_input"), (0.0, "reap")] and bench.cleared == [connection]
    assert bench.slept == []


@pytest.mark.parametrize(
    ("ends_on", "steps"),
    [
        ("end_input", [(0.0, "end_input"), (0.0, "reap")]),
        ("terminate", [(0.0, "end_input"), (GRACE, "terminate"), (GRACE + 0.25, "reap")]),
        ("kill", [(0.0, "end_input"), (GRACE, "terminate"), (2 * GRACE, "kill"), (2 * GRACE + 0.25, "reap")]),
    ],
)
def test_an_idle_child_is_asked_to_end_then_ordered_then_killed(
    bench: Bench, ends_on: str, steps: list[tuple[float, str]]
) -> None:
    """EOF, SIGTERM, SIGKILL, a grace apart; no step after its end, and nothing is cleared up before it."""
    connection, child = bench.add("live", ends_on)
    bench.fleet.retire_idle()
    bench.sweep_for(3 * GRACE)
    assert child.done == steps and bench.cleared == [connection]


@pytest.mark.parametrize(
    ("group", "ends_on", "steps"),
    [
        ("parked", "terminate", [(0.0, "terminate"), (0.25, "reap")]),
        ("parked", "kill", [(0.0, "terminate"), (GRACE, "kill"), (GRACE + 0.25, "reap")]),
        ("leased", "terminate", [(0.0, "terminate"), (0.0, "reap")]),
        ("leased", "kill", [(0.0, "terminate"), (0.0, "terminate"), (GRACE, "kill"), (GRACE + 0.25, "reap")]),
    ],
)
def test_a_child_that_has_a_turn_is_not_asked_but_ordered(
    bench: Bench, group: str, ends_on: str, steps: list[tuple[float, str]]
) -> None:
    """It would take the end of its input for an answer, or not notice it before the turn ends.

    A leased one is sent SIGTERM by its worker at once, whatever the keeper does.
    """
    connection, child = bench.add(group, ends_on, parked=group == "parked")
    if group == "parked":
        bench.fleet.retire_idle()
    else:
        bench.fleet.retire(connection, urgent=True)
    bench.sweep_for(3 * GRACE)
    assert child.done == steps and bench.cleared == [connection]


def test_a_child_that_cannot_be_killed_is_not_cleared_up(bench: Bench) -> None:
    """Its pid is still its own; the keeper does not try again, and goes on with the others."""
    _, child = bench.add("live", "never")
    bench.fleet.retire_idle()
    bench.sweep_for(5 * GRACE)
    assert [step for _, step in child.done] == ["end_input", "terminate", "kill"] and bench.cleared == []
    _, other = bench.add("live")
    bench.fleet.retire_idle()
    bench.sweep_for(GRACE)
    assert [step for _, step in other.done] == ["end_input", "reap"]


def test_a_leased_child_that_does_not_stop_its_turn_is_killed(bench: Bench) -> None:
    """As one that does not obey SIGTERM: an interrupt takes milliseconds."""
    connection, child = bench.add("leased", "kill")
    cast(Talk, connection).was_interrupted = True
    bench.sweep_for(GRACE + 1.0)
    assert {step for _, step in child.done} == {"kill"} and child.done[0][0] >= GRACE


def test_a_leased_child_that_does_not_obey_is_killed(bench: Bench) -> None:
    """Its worker waits for it, and cannot; the worker gives it back, so that it is not cleared up here."""
    _, child = bench.add("leased", "kill")
    bench.sweep_for(GRACE)
    assert child.done == []
    began = bench.now
    child.terminate()
    bench.sweep_for(GRACE)
    assert [step for _, step in child.done] == ["terminate"]
    bench.sweep_for(1.0)
    assert child.done[1] == (began + GRACE, "kill") and ("reap" not in [step for _, step in child.done])


def test_the_end_of_a_child_is_counted(bench: Bench) -> None:
    """By the way it ended."""
    for ends_on in ("end_input", "end_input", "terminate"):
        bench.add("live", ends_on)
    bench.fleet.retire_idle()
    bench.sweep_for(2 * GRACE)
    assert bench.fleet.tally.ended == {"closed": 2, "terminated": 1}


def test_what_is_left_when_the_stop_runs_out_of_time_is_killed(bench: Bench) -> None:
    """The keeper's thread has not come to it."""
    _, child = bench.add("live", "kill")
    bench.fleet.retire_idle()
    bench.keeper.sweep()
    bench.keeper.stop(0.0)
    assert [step for _, step in child.done] == ["end_input", "kill"]
    bench.keeper.run()
    assert child.done[-1][1] == "reap"


def test_the_house_is_kept_at_the_start_and_every_hour(bench: Bench) -> None:
    """However often the keeper looks around."""
    bench.sweep_for(2 * HOUR + 1.0)
    assert bench.pruned == [0.0, HOUR, 2 * HOUR]
