"""When the keeper starts, ends and clears up after children: sweeps by hand, with a clock that stands still."""

from collections.abc import Sequence
from typing import cast

import pytest

from claude_proxy.claude.fleet.fleet import Fleet, Limits
from claude_proxy.claude.fleet.keeper import Keeper
from claude_proxy.claude.fleet.launcher import Launcher
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.profile import Profile


class Process:
    """What the keeper sees of a child. ends_on: the step at which it ends."""

    pid = 7

    def __init__(self, ends_on: str = "end_input") -> None:
        self.ends_on = ends_on
        self.done: list[str] = []
        self.was_terminated = False
        self.returncode: int | None = None

    def _do(self, step: str) -> None:
        self.done.append(step)
        if step == self.ends_on:
            self.returncode = 0

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

    is_parked = False
    last_used = 0.0

    def __init__(self, child: Process) -> None:
        self.child = child

    def look(self) -> bool:
        return True

    def terminate(self) -> None:
        self.child.terminate()


class Bench:
    """A keeper whose thread is this one. It is also the fleet's clock, the launcher and what the keeper sleeps with."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cleared: list[object] = []
        self.slept: list[float] = []
        self.fleet = Fleet(Limits(0, 2, 10, 900.0, 600.0), lambda: self.now, self)
        self.keeper = Keeper(
            self.fleet, self, cast(Launcher, self), Profile("sonnet"), lambda: self.now, lambda models: None
        )

    def wake(self) -> None:
        """It does not sleep."""

    def wait(self, descriptors: Sequence[int], timeout: float) -> None:
        self.slept.append(timeout)
        self.now += timeout

    def clear_after(self, connection: object) -> None:
        self.cleared.append(connection)

    def live(self, child: Process) -> Connection:
        """Its connection, of which no turn has any part."""
        connection = cast(Connection, Talk(child))
        self.fleet.members.live.append(connection)
        return connection


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_keeper_ends_as_soon_as_the_last_child_has(bench: Bench) -> None:
    """It looks before it sleeps: a sleep with every child gone would only make the stop longer."""
    child = Process()
    connection = bench.live(child)
    bench.keeper.stop(0.0)
    bench.keeper.run()
    assert child.done == ["end_input", "reap"] and bench.cleared == [connection]
    assert bench.slept == []
