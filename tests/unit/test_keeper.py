"""When the keeper starts, ends and clears up after children: sweeps by hand, with a clock that stands still."""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from claude_proxy.claude.fleet.fleet import Fleet
from claude_proxy.claude.fleet.keeper import Keeper
from claude_proxy.claude.fleet.launcher import Launcher
from claude_proxy.claude.fleet.members import Counts, Limits, Wanted
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.profile import Point, Profile
from claude_proxy.claude.wire.recycling import Recycling
from claude_proxy.core.conversation import user
from claude_proxy.core.errors import ChildDied, CliUnavailable, ProxyError
from claude_proxy.core.models import Catalogue
from claude_proxy.core.timing import Timing

TIMING = Timing()
GRACE = TIMING.grace_interval
HOUR = TIMING.housekeeping_interval
NO_MEMORY = Timing(memory_floor_bytes=1 << 62)
PROFILE = Profile("sonnet")


class FakeChild:
    """What the keeper sees of a child. ends_on: the step at which it ends."""

    pid = 7

    def __init__(self, clock: Callable[[], float], ends_on: str = "end_input") -> None:
        self._clock = clock
        self.ends_on = ends_on
        self.done: list[tuple[float, str]] = []
        self.sent: list[dict[str, Any]] = []
        self.lines: list[bytes] = []
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

    def send(self, line: bytes) -> None:
        self.sent.append(json.loads(line))

    def has_output(self) -> bool:
        return bool(self.lines) or self.has_exited()

    def receive(self, timeout: float | None = None) -> bytes:
        if not self.lines:
            raise ChildDied("ended")
        return self.lines.pop(0)

    def stderr_tail(self) -> str:
        return "no space left"

    def answer_initialize(self) -> None:
        """As the CLI does once it is ready."""
        answer = {"subtype": "success", "request_id": self.sent[0]["request_id"], "response": {}}
        self.lines.append(json.dumps({"type": "control_response", "response": answer}).encode())


class FakeConnection:
    """What fleet and keeper see of a connection."""

    last_used = 0.0
    was_interrupted = False

    def __init__(self, child: FakeChild, is_parked: bool) -> None:
        self.child = child
        self.is_parked = is_parked
        self.is_quiet = True

    def poll_idle(self) -> bool:
        return self.is_quiet

    def terminate(self) -> None:
        self.child.terminate()


class Bench:
    """A keeper whose thread is this one. It is also the fleet's clock, the launcher and what the keeper sleeps with."""

    def __init__(self, *, warm: int = 0, timing: Timing = TIMING) -> None:
        self.now = 0.0
        self.sweeps_on_wake = False
        self.cleared: list[object] = []
        self.slept: list[float] = []
        self.pruned: list[float] = []
        self.started: list[tuple[str, Point | None, bool]] = []
        self.children: list[FakeChild] = []
        self.start_error: ProxyError | None = None
        self.prune_error: Exception | None = None
        self.fleet = Fleet(Limits(warm, 2, 10, 900.0, 600.0), lambda: self.now, self, timing, Recycling())
        launcher = cast(Launcher, self)
        self.keeper = Keeper(self.fleet, self, launcher, Catalogue(), self, PROFILE, lambda: self.now, timing)

    def wake(self) -> None:
        """It sleeps while the fleet's clock stands still; then a lease needs it at once."""
        if self.sweeps_on_wake:
            self.keeper.sweep()

    def start(self, model: str, resume: Point | None = None, *, agent: bool = False) -> FakeChild:
        """As the launcher does."""
        if self.start_error is not None:
            raise self.start_error
        self.started.append((model, resume, agent))
        self.children.append(FakeChild(lambda: self.now))
        return self.children[-1]

    def wait(self, descriptors: Sequence[int], timeout: float) -> None:
        self.slept.append(timeout)
        self.now += timeout

    def prune(self) -> None:
        self.pruned.append(self.now)
        if self.prune_error is not None:
            raise self.prune_error

    def clear_after(self, connection: object) -> None:
        self.cleared.append(connection)

    def add(self, group: str, ends_on: str = "end_input", *, parked: bool = False) -> tuple[Connection, FakeChild]:
        """A child in one of the fleet's lists."""
        child = FakeChild(lambda: self.now, ends_on)
        connection = cast(Connection, FakeConnection(child, parked))
        getattr(self.fleet.members, group).append(connection)
        return connection, child

    def sweep_for(self, seconds: float) -> None:
        """As many sweeps as the keeper makes in this time, with the sleeps between them."""
        end = self.now + seconds
        while self.now < end:
            self.keeper.sweep()
            self.now += 0.25
            self.keeper.look_after_idle()


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
    cast(FakeConnection, connection).was_interrupted = True
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


# What is started.


def wanted(profile: Profile = PROFILE) -> Wanted:
    """What the first turn of a conversation needs."""
    return Wanted(profile, "", (b"0", b"1"), (user("one"),))


def test_a_lease_without_a_spare_gets_a_child_of_its_own(bench: Bench) -> None:
    """Of the model, the session and the mode that it needs."""
    bench.sweeps_on_wake = True
    point = Point("session", "message")
    connection = bench.fleet.lease_resumed(wanted(Profile("opus", agent=True)), point, 1)
    assert bench.started == [("opus", point, True)] and connection.child.pid == FakeChild.pid
    assert bench.fleet.counts() == Counts(leased=1) and bench.fleet.tally.started == 1


def test_why_no_child_can_be_started_reaches_the_lease(bench: Bench) -> None:
    """It is the client's answer."""
    bench.sweeps_on_wake = True
    bench.start_error = CliUnavailable("not there")
    with pytest.raises(CliUnavailable, match="not there"):
        bench.fleet.lease(wanted())
    assert bench.fleet.counts() == Counts() and bench.fleet.tally.started == 0


def test_spares_are_started_one_at_a_time() -> None:
    """Blank ones; never more than were asked for."""
    bench = Bench(warm=2)
    for count in (1, 2, 2):
        bench.keeper.sweep()
        assert bench.fleet.counts() == Counts(spare=count)
    assert [child.sent for child in bench.children] == [[], []]


def test_a_spare_is_not_started_beside_a_turn_that_has_just_begun() -> None:
    """It would slow the turn's first word."""
    bench = Bench(warm=1)
    bench.keeper.sweep()
    bench.fleet.lease(wanted())
    bench.now += TIMING.top_up_interval - 0.1
    bench.keeper.sweep()
    assert bench.fleet.counts() == Counts(leased=1)
    bench.now += 0.2
    bench.keeper.sweep()
    assert bench.fleet.counts() == Counts(leased=1, spare=1)


def test_the_kind_that_was_leased_last_has_a_spare_of_its_own() -> None:
    """Where the server's own spare cannot become it; one for another kind gives way."""
    bench = Bench(warm=1)
    for profile in (Profile("claude-one", agent=True), Profile("claude-two", agent=True)):
        bench.sweeps_on_wake = True
        bench.fleet.lease(wanted(profile))
        bench.sweeps_on_wake = False
        bench.sweep_for(1.0)
        spares = [(spare.model, spare.agent) for spare in bench.fleet.members.spares]
        assert sorted(spares) == sorted([("sonnet", False), (profile.model, profile.agent)])


def test_starts_that_fail_are_tried_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    """Until one succeeds: whatever is wrong may last."""
    bench = Bench(warm=2)
    bench.start_error = CliUnavailable("not there")
    bench.sweep_for(7.5)
    assert [line.rpartition("in ")[2] for line in caplog.messages] == ["1 s", "2 s", "4 s", "8 s"]
    bench.start_error = None
    bench.sweep_for(10.0)
    assert bench.fleet.counts().spare == 2
    bench.fleet.members.spares[1].prepare(PROFILE)
    bench.children[1].answer_initialize()
    bench.keeper.look_after_idle()
    bench.children[0].returncode = 1
    bench.keeper.look_after_idle()
    assert caplog.messages[-1] == "No spare could be started (no space left); next try in 1 s"
    assert bench.fleet.counts().spare == 1


def test_without_memory_nothing_is_started_ahead_or_kept() -> None:
    """One live child goes at a time; a lease is served all the same."""
    bench = Bench(warm=1, timing=NO_MEMORY)
    bench.add("live")
    bench.add("live")
    bench.keeper.sweep()
    assert bench.started == [] and bench.fleet.counts() == Counts(live=1)
    bench.sweeps_on_wake = True
    bench.fleet.lease(wanted(), fresh=True)
    assert len(bench.started) == 1


def test_children_whose_conversation_does_not_go_on_are_given_up(bench: Bench) -> None:
    """A free one first; a parked one at once."""
    _, free = bench.add("free")
    _, live = bench.add("live")
    _, parked = bench.add("parked", "terminate", parked=True)
    for now, counts in (
        (0.0, Counts(spare=1, live=1, parked=1)),
        (TIMING.free_interval, Counts(live=1, parked=1)),
        (600.0, Counts(live=1)),
        (900.0, Counts()),
    ):
        bench.now = now
        bench.keeper.sweep()
        assert bench.fleet.counts() == counts
    assert [step for _, step in free.done] == [step for _, step in live.done] == ["end_input", "reap"]
    assert [step for _, step in parked.done] == ["terminate", "reap"]


def test_a_live_child_that_ended_is_retired(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing would be found of its conversation."""
    connection, _ = bench.add("live")
    cast(FakeConnection, connection).is_quiet = False
    bench.keeper.look_after_idle()
    assert bench.fleet.counts() == Counts() and "Child 7 ended or spoke unasked while idle" in caplog.text


def test_no_failure_ends_the_keeper(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Its children would end with it."""
    _, child = bench.add("live")
    bench.prune_error = ZeroDivisionError("a bug")
    bench.keeper.stop(0.0)
    bench.keeper.run()
    assert "The keeper failed; it goes on" in caplog.text and child.done[-1][1] == "reap"
