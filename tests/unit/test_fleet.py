"""Who has which child: leases and returns, with connections that only pretend and a keeper that is called by hand."""

from collections.abc import Callable
from typing import cast

import pytest

from claude_proxy.claude.fleet.fleet import Counts, Fleet, Limits, Order, fits
from claude_proxy.claude.fleet.keeper import how_ended
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.profile import Profile
from claude_proxy.core.conversation import Message, ToolResult, user
from claude_proxy.core.errors import ChildDied, CliUnavailable, ShuttingDown
from claude_proxy.core.session_key import SessionKey
from claude_proxy.core.timing import Timing

KEY = SessionKey("", "s")
PROFILE = Profile("sonnet")
OTHER = Profile("sonnet", "You are MUSE.")
CHAIN = (b"0", b"1", b"2", b"3")
MESSAGES = (user("a"), user("b"), user("c"))
RESULTS = (user("a"), user("b"), Message("user", (ToolResult("t"),)))


class Pretender:
    """What the fleet sees of a connection."""

    def __init__(
        self, name: str, model: str = "sonnet", profile: Profile | None = None, history_digest: bytes | None = None
    ):
        self.name, self.model, self.profile, self.history_digest = name, model, profile, history_digest
        self.agent = False
        self.last_used = 0.0
        self.session: SessionKey | None = None
        self.is_parked = False
        self.alive = True
        self.quiet = True
        self.terminated = False

    def is_running(self) -> bool:
        return self.alive

    def is_quiet(self) -> bool:
        return self.alive and self.quiet

    def can_answer(self, message: Message) -> bool:
        return all(isinstance(block, ToolResult) for block in message.content)

    def terminate(self) -> None:
        self.terminated = True

    def __repr__(self) -> str:
        return self.name


class Bench:
    """A fleet, its clock, and how often it called for the keeper."""

    def __init__(self, *, live: int = 2, maximum: int = 10) -> None:
        self.now = 0.0
        self.wakes = 0
        self.has_keeper = True
        self.fleet = Fleet(Limits(1, live, maximum, 900.0, 600.0), lambda: self.now, self, Timing(start_timeout=0.0))
        self.serve: Callable[[Order], None] = lambda order: None

    def wake(self) -> None:
        """The keeper, at once; nothing where there is none."""
        self.wakes += 1
        while self.has_keeper and self.fleet.orders:
            self.serve(self.fleet.orders.popleft())

    def make(self, group: str, name: str, **fields: object) -> Connection:
        """A child in one of the lists."""
        child = Pretender(name)
        for field, value in fields.items():
            setattr(child, field, value)
        connection = cast(Connection, child)
        getattr(self.fleet.members, group).append(connection)
        return connection

    def retired(self) -> list[tuple[str, bool]]:
        """Names of those that go, and whether at once."""
        return [(repr(child), urgent) for child, urgent in self.fleet.members.retired]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_prepared_spare_is_taken_before_a_blank_one(bench: Bench) -> None:
    """The one for this very profile."""
    bench.make("spares", "blank")
    bench.make("spares", "wrong", profile=OTHER)
    right = bench.make("spares", "right", profile=PROFILE)
    assert bench.fleet.lease(PROFILE) is right
    assert bench.fleet.counts() == Counts(spare=2, leased=1) and bench.fleet.last_profile == PROFILE


def test_a_blank_spare_is_taken_where_its_model_fits(bench: Bench) -> None:
    """An alias can be set; a full id needs a child of its own."""
    blank = bench.make("spares", "blank")
    assert fits(blank, Profile("sonnet")) and fits(blank, Profile("opus")) and not fits(blank, Profile("claude-x"))
    assert bench.fleet.lease(Profile("opus")) is blank


def test_a_child_serves_its_own_mode_only(bench: Bench) -> None:
    """A chat child has no tools, an agent's has them all."""
    agent = Profile("sonnet", agent=True)
    chat_child = bench.make("spares", "chat")
    agent_child = bench.make("spares", "agent", agent=True)
    assert fits(chat_child, PROFILE) and not fits(chat_child, agent)
    assert fits(agent_child, agent) and not fits(agent_child, PROFILE)
    assert bench.fleet.lease(agent) is agent_child


def test_a_lease_may_skip_the_spares(bench: Bench) -> None:
    """What killed one child may have killed the spares that still look alive."""
    bench.make("spares", "spare")
    made = cast(Connection, Pretender("made"))
    orders: list[Order] = []

    def serve(order: Order) -> None:
        orders.append(order)
        order.child = made

    bench.serve = serve
    assert bench.fleet.lease(Profile("sonnet", agent=True), skip_spares=True) is made
    assert orders[0].agent and bench.fleet.counts().spare == 1


def test_a_dead_spare_is_retired_and_the_next_one_taken(bench: Bench) -> None:
    """The lease does not see it."""
    bench.make("spares", "dead", alive=False)
    fresh = bench.make("spares", "fresh")
    assert bench.fleet.lease(PROFILE) is fresh
    assert bench.retired() == [("dead", True)]


def test_without_a_spare_the_keeper_starts_one(bench: Bench) -> None:
    """For the model that is needed."""
    made = cast(Connection, Pretender("made"))

    def serve(order: Order) -> None:
        assert order.model == "claude-x"
        order.child = made

    bench.serve = serve
    assert bench.fleet.lease(Profile("claude-x")) is made


def test_a_child_that_cannot_be_started_is_an_error(bench: Bench) -> None:
    """The keeper's own, or that it took too long; then a late one is nobody's."""
    orders: list[Order] = []

    def refuse(order: Order) -> None:
        orders.append(order)
        order.error = CliUnavailable("not there")

    bench.serve = refuse
    with pytest.raises(CliUnavailable, match="not there"):
        bench.fleet.lease(PROFILE)
    bench.serve = orders.append
    with pytest.raises(CliUnavailable, match="did not start within"):
        bench.fleet.lease(PROFILE)
    assert orders[-1].abandoned
    bench.has_keeper = False
    with pytest.raises(CliUnavailable):
        bench.fleet.lease(PROFILE)
    assert not bench.fleet.orders


@pytest.mark.parametrize(("history_digest", "count"), [(b"1", 1), (b"2", 2)])
def test_a_live_child_that_holds_a_beginning_goes_on(bench: Bench, history_digest: bytes, count: int) -> None:
    """With what it does not hold."""
    child = bench.make("live", "live", history_digest=history_digest)
    bench.make("live", "stranger", history_digest=b"x")
    assert bench.fleet.lease_holding(CHAIN, MESSAGES) == (child, count)
    assert bench.fleet.counts() == Counts(live=1, leased=1)


@pytest.mark.parametrize("history_digest", [None, b"0", b"3", b"x"])
def test_a_child_that_holds_nothing_or_everything_does_not(bench: Bench, history_digest: bytes | None) -> None:
    """The last message is always new; the digest of no message names no conversation."""
    bench.make("live", "live", history_digest=history_digest)
    assert bench.fleet.lease_holding(CHAIN, MESSAGES) is None
    assert bench.fleet.counts() == Counts(live=1)


def test_of_several_the_one_that_holds_most_goes_on(bench: Bench) -> None:
    """The other stays."""
    bench.make("live", "less", history_digest=b"1")
    most = bench.make("live", "most", history_digest=b"2")
    assert bench.fleet.lease_holding(CHAIN, MESSAGES) == (most, 2)


@pytest.mark.parametrize("flaw", [{"alive": False}, {"quiet": False}])
def test_a_child_that_died_or_spoke_unasked_is_retired(bench: Bench, flaw: dict[str, bool]) -> None:
    """The next best goes on."""
    bench.make("live", "flawed", history_digest=b"2", **flaw)
    good = bench.make("live", "good", history_digest=b"1")
    assert bench.fleet.lease_holding(CHAIN, MESSAGES) == (good, 1)
    assert bench.retired() == [("flawed", True)]


def test_a_parked_child_takes_its_results_and_nothing_else(bench: Bench) -> None:
    """Whatever else came, the conversation went on without it."""
    parked = bench.make("parked", "parked", history_digest=b"2", is_parked=True)
    assert bench.fleet.lease_holding(CHAIN, RESULTS) == (parked, 2)
    other = Bench()
    other.make("parked", "parked", history_digest=b"2", is_parked=True)
    assert other.fleet.lease_holding(CHAIN, MESSAGES) is None
    assert other.retired() == [("parked", True)]
    early = Bench()
    early.make("parked", "parked", history_digest=b"1", is_parked=True)
    assert early.fleet.lease_holding(CHAIN, RESULTS) is None


def test_what_is_given_back_is_live_or_parked(bench: Bench) -> None:
    """With the time of its last use."""
    for parked in (False, True):
        child = bench.make("leased", f"parked={parked}", is_parked=parked)
        bench.now += 5.0
        bench.fleet.give_back(child)
        assert child.last_used == bench.now
    assert bench.fleet.counts() == Counts(live=1, parked=1)


def test_the_least_recently_used_live_child_goes_first(bench: Bench) -> None:
    """Without haste: it is idle."""
    for name in ("a", "b", "c"):
        bench.fleet.give_back(bench.make("leased", name))
    assert bench.fleet.counts().live == 2 and bench.retired() == [("a", False)]


@pytest.mark.parametrize("urgent", [True, False])
def test_a_retired_child_is_nobodys(bench: Bench, urgent: bool) -> None:
    """One in a turn is stopped at once; one that was not leased can be retired too."""
    child = bench.make("leased", "child")
    bench.fleet.retire(child, urgent=urgent)
    bench.fleet.retire(cast(Connection, Pretender("stranger")), urgent=False)
    assert bench.fleet.counts() == Counts() and bench.retired() == [("child", urgent), ("stranger", False)]
    assert cast(Pretender, child).terminated is urgent


def test_every_idle_child_can_be_retired_at_once(bench: Bench) -> None:
    """A parked one with haste: it takes the end of its input for the end of its call."""
    bench.make("spares", "spare")
    bench.make("live", "live")
    bench.make("parked", "parked", is_parked=True)
    bench.make("leased", "leased")
    bench.fleet.retire_idle()
    assert bench.retired() == [("spare", False), ("live", False), ("parked", True)]
    assert bench.fleet.counts() == Counts(leased=1)


def test_the_children_of_a_session_can_be_retired(bench: Bench) -> None:
    """And only they."""
    bench.make("live", "live", session=KEY)
    bench.make("parked", "parked", session=KEY, is_parked=True)
    bench.make("live", "other", session=SessionKey("", "t"))
    assert bench.fleet.retire_session(KEY) == 2
    assert bench.retired() == [("live", False), ("parked", True)] and bench.fleet.counts() == Counts(live=1)


@pytest.mark.parametrize(
    ("groups", "gone"),
    [
        (("live", "spares", "parked"), "live"),
        (("spares", "parked"), "spares"),
        (("parked",), "parked"),
        (("leased",), None),
    ],
)
def test_room_is_made_by_those_who_are_missed_least(groups: tuple[str, ...], gone: str | None) -> None:
    """Live ones, then spares, then parked ones; nobody is taken out of a turn."""
    bench = Bench(maximum=len(groups))
    for group in groups:
        bench.make(group, group, is_parked=group == "parked")
    with bench.fleet.changed:
        bench.fleet.make_room()
    assert [name for name, _ in bench.retired()] == ([gone] if gone else [])


def test_a_fleet_that_closes_leases_nothing_and_lets_everything_go(bench: Bench) -> None:
    """Orders that wait are told; what comes back late goes at once."""
    bench.has_keeper = False
    waiting = Order("sonnet")
    bench.fleet.orders.append(waiting)
    bench.make("live", "live", history_digest=b"1")
    leased = bench.make("leased", "leased")
    bench.fleet.close()
    assert isinstance(waiting.error, ShuttingDown) and bench.retired() == [("live", False)]
    with pytest.raises(ShuttingDown):
        bench.fleet.lease(PROFILE)
    assert bench.fleet.lease_holding(CHAIN, MESSAGES) is None
    bench.fleet.give_back(leased)
    assert bench.retired()[-1] == ("leased", False) and bench.fleet.counts() == Counts()


def ask(asked: list[str]) -> Callable[[Connection], None]:
    """A question that notes whom it reached, and fails at a child that has died."""

    def question(child: Connection) -> None:
        if not child.is_running():
            raise ChildDied("gone")
        asked.append(repr(child))

    return question


def test_an_idle_child_can_be_asked_something(bench: Bench) -> None:
    """A spare before a live one; neither one whose initialisation is under way, nor a dead one."""
    asked: list[str] = []
    bench.make("spares", "dead", alive=False, ready=True, profile=PROFILE)
    bench.make("spares", "blank and dead", alive=False)
    bench.make("spares", "booting", profile=PROFILE, ready=False)
    bench.make("live", "live", profile=PROFILE, ready=True)
    assert bench.fleet.ask_idle(ask(asked)) and asked == ["live"]
    blank = bench.make("spares", "blank")
    assert bench.fleet.ask_idle(ask(asked)) and asked == ["live", "blank"]
    assert blank in bench.fleet.members.spares


def test_nobody_who_is_busy_is_asked(bench: Bench) -> None:
    """Neither in a turn, nor while a tool's results are awaited."""
    asked: list[str] = []
    bench.make("leased", "leased", profile=PROFILE, ready=True)
    bench.make("parked", "parked", profile=PROFILE, ready=True)
    assert not bench.fleet.ask_idle(ask(asked)) and asked == []


@pytest.mark.parametrize(
    "returncode, how",
    [
        (0, "closed"),
        (143, "terminated"),
        (-15, "terminated"),
        (-9, "killed"),
        (1, "crashed"),
        (-11, "crashed"),
        (None, "crashed"),
    ],
)
def test_the_way_a_child_ended_has_a_word(returncode: int | None, how: str) -> None:
    """For the metrics."""
    assert how_ended(returncode) == how
