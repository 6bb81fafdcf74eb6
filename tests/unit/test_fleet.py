"""Which child is whose: leases and returns, with stand-ins for connections and a keeper that is called by hand."""

from collections.abc import Callable, Sequence
from typing import cast

import pytest

from claude_proxy.claude.fleet.fleet import Fleet
from claude_proxy.claude.fleet.keeper import how_ended
from claude_proxy.claude.fleet.members import Counts, Limits, Order, Wanted
from claude_proxy.claude.fleet.selection import fits
from claude_proxy.claude.turn.connection import Connection
from claude_proxy.claude.wire.history import HeldMessage, History
from claude_proxy.claude.wire.profile import Point, Profile
from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Abilities, Recycling
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


class FakeConnection:
    """What the fleet sees of a connection."""

    def __init__(self, name: str) -> None:
        self.name, self.model, self.profile = name, "sonnet", None
        self.history = History()
        self.owner: str | None = None
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

    def request_usage(self, take: Callable[[dict[str, str]], None]) -> None:
        if not self.alive:
            raise ChildDied("gone")
        take({"asked": self.name})

    def hold(self, chain: Sequence[bytes]) -> None:
        self.history = holding(*chain[1:])

    def __repr__(self) -> str:
        return self.name


def holding(*digests: bytes, start: bytes = b"0", first: str = "user") -> History:
    """A history in which a user's and an assistant's messages take turns."""
    history = History()
    if digests:
        history.begin(start)
    for number, digest in enumerate(digests):
        is_user = (number % 2 == 0) is (first == "user")
        name = f"u{number}"
        history.append(HeldMessage(digest, name if is_user else None, None if is_user else name))
    return history


def wanted(profile: Profile = PROFILE, messages: Sequence[Message] = MESSAGES, owner: str = "") -> Wanted:
    return Wanted(profile, owner, CHAIN[: len(messages) + 1], messages)


class Bench:
    """A fleet, its clock, and how often it called for the keeper."""

    def __init__(self, *, live: int = 2, maximum: int = 10, abilities: Abilities = NOTHING) -> None:
        self.now = 1000.0
        self.wakes = 0
        self.has_keeper = True
        self.close_on_wake = False
        limits = Limits(1, live, maximum, 900.0, 600.0)
        self.fleet = Fleet(limits, lambda: self.now, self, Timing(start_timeout=0.0), Recycling(abilities))
        self.serve: Callable[[Order], None] = lambda order: None

    def wake(self) -> None:
        """The keeper, at once; nothing where there is none."""
        self.wakes += 1
        if self.close_on_wake:
            self.close_on_wake = False
            self.fleet.close()
        while self.has_keeper and (order := self.fleet.next_order()) is not None:
            self.serve(order)

    def make(self, group: str, name: str, **fields: object) -> Connection:
        """A child in one of the lists."""
        fake = FakeConnection(name)
        if group in ("free", "live", "parked"):
            fields = {"profile": PROFILE, "owner": "", **fields}
        for field, value in fields.items():
            setattr(fake, field, value)
        connection = cast(Connection, fake)
        getattr(self.fleet.members, group).append(connection)
        return connection

    def retired(self) -> list[tuple[str, bool]]:
        """Names of those that go, and whether at once."""
        return [(repr(child), urgent) for child, urgent in self.fleet.members.retired]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_blank_spare_is_taken_where_its_model_fits(bench: Bench) -> None:
    """An alias can be set; a full id needs a child of its own."""
    blank = bench.make("spares", "blank")
    assert fits(blank, Profile("sonnet")) and fits(blank, Profile("opus")) and not fits(blank, Profile("claude-x"))
    assert bench.fleet.lease(wanted(Profile("opus"))) == (blank, 0)


def test_a_child_serves_its_own_mode_only(bench: Bench) -> None:
    """A chat child has no tools, an agent's has them all."""
    agent = Profile("sonnet", agent=True)
    chat_child = bench.make("spares", "chat")
    agent_child = bench.make("spares", "agent", agent=True)
    assert fits(chat_child, PROFILE) and not fits(chat_child, agent)
    assert fits(agent_child, agent) and not fits(agent_child, PROFILE)
    assert bench.fleet.lease(wanted(agent)) == (agent_child, 0)


def test_a_process_may_be_started_in_spite_of_spares(bench: Bench) -> None:
    """What killed one child may have killed the spares that still look alive."""
    bench.make("spares", "spare")
    made = cast(Connection, FakeConnection("made"))
    orders: list[Order] = []

    def serve(order: Order) -> None:
        orders.append(order)
        bench.fleet.deliver(order, made)

    bench.serve = serve
    assert bench.fleet.lease(wanted(Profile("sonnet", agent=True)), skip_spares=True) == (made, 0)
    assert orders[0].agent and bench.fleet.counts().spare == 1


def test_a_dead_spare_is_retired_and_the_next_one_taken(bench: Bench) -> None:
    """The lease does not see it."""
    bench.make("spares", "dead", alive=False)
    fresh = bench.make("spares", "fresh")
    assert bench.fleet.lease(wanted()) == (fresh, 0)
    assert bench.retired() == [("dead", True)]


def test_without_a_spare_the_keeper_starts_one(bench: Bench) -> None:
    """For the model that is needed."""
    made = cast(Connection, FakeConnection("made"))

    def serve(order: Order) -> None:
        assert order.model == "claude-x"
        bench.fleet.deliver(order, made)

    bench.serve = serve
    assert bench.fleet.lease(wanted(Profile("claude-x"))) == (made, 0)


def test_a_child_that_cannot_be_started_is_an_error(bench: Bench) -> None:
    """The keeper's own, or that it took too long; then a late one is nobody's."""
    orders: list[Order] = []

    def refuse(order: Order) -> None:
        orders.append(order)
        bench.fleet.refuse(order, CliUnavailable("not there"))

    bench.serve = refuse
    with pytest.raises(CliUnavailable, match="not there"):
        bench.fleet.lease(wanted())
    bench.serve = orders.append
    with pytest.raises(CliUnavailable, match="did not start within"):
        bench.fleet.lease(wanted())
    assert orders[-1].abandoned
    bench.has_keeper = False
    with pytest.raises(CliUnavailable):
        bench.fleet.lease(wanted())
    assert bench.fleet.next_order() is None


@pytest.mark.parametrize("count", [1, 2])
def test_a_live_child_that_holds_a_beginning_goes_on(bench: Bench, count: int) -> None:
    """With what it does not hold."""
    child = bench.make("live", "live", history=holding(*CHAIN[1 : count + 1]))
    bench.make("live", "stranger", history=holding(b"x"))
    assert bench.fleet.lease(wanted()) == (child, count)
    assert bench.fleet.counts() == Counts(live=1, leased=1)


@pytest.mark.parametrize(
    "history", [holding(), holding(*CHAIN[1:]), holding(b"x"), holding(b"1", start=b"another profile")]
)
def test_a_child_that_holds_something_else_does_not(bench: Bench, history: History) -> None:
    """The last message is always new, so that a child that holds it holds too much."""
    bench.make("live", "live", history=history)
    assert bench.fleet.lease_held(wanted()) is None
    assert bench.fleet.counts() == Counts(live=1)


def test_of_several_the_one_that_holds_most_goes_on(bench: Bench) -> None:
    """The other stays."""
    bench.make("live", "less", history=holding(b"1"))
    most = bench.make("live", "most", history=holding(b"1", b"2"))
    assert bench.fleet.lease(wanted()) == (most, 2)


@pytest.mark.parametrize("flaw", [{"alive": False}, {"quiet": False}])
def test_a_child_that_died_or_spoke_unasked_is_retired(bench: Bench, flaw: dict[str, bool]) -> None:
    """The next best goes on."""
    bench.make("live", "flawed", history=holding(b"1", b"2"), **flaw)
    good = bench.make("live", "good", history=holding(b"1"))
    assert bench.fleet.lease(wanted()) == (good, 1)
    assert bench.retired() == [("flawed", True)]


def test_a_parked_child_takes_its_results_and_nothing_else(bench: Bench) -> None:
    """Whatever else came, the conversation went on without it."""
    parked = bench.make("parked", "parked", history=holding(b"1", b"2"), is_parked=True)
    assert bench.fleet.lease(wanted(messages=RESULTS)) == (parked, 2)
    other = Bench()
    other.make("parked", "parked", history=holding(b"1", b"2"), is_parked=True)
    assert other.fleet.lease_held(wanted()) is None
    assert other.retired() == [("parked", True)]
    early = Bench()
    early.make("parked", "parked", history=holding(b"1"), is_parked=True)
    assert early.fleet.lease_held(wanted(messages=RESULTS)) is None


def test_a_stored_session_is_loaded_by_a_process_of_its_own(bench: Bench) -> None:
    """Which then holds it."""
    bench.make("spares", "spare")
    made = cast(Connection, FakeConnection("made"))

    def serve(order: Order) -> None:
        assert order.resume == Point("s", "m")
        bench.fleet.deliver(order, made)

    bench.serve = serve
    assert bench.fleet.lease_resumed(wanted(), Point("s", "m"), 2) is made
    assert made.history.common(CHAIN) == 2


# Children that are used again


@pytest.fixture
def again() -> Bench:
    return Bench(abilities=EVERYTHING)


def test_an_edited_message_is_asked_in_the_child_that_holds_the_rest(again: Bench) -> None:
    """It keeps what both have in common, up to a place that a rewind can reach."""
    child = again.make("live", "live", history=holding(b"1", b"2", b"x", b"y"))
    assert again.fleet.lease(wanted()) == (child, 2)
    within = Bench(abilities=EVERYTHING)
    within.make("live", "live", history=holding(b"1", b"x", b"y", b"z"))
    assert within.fleet.lease_held(wanted()) is None  # only the question is common, and it goes with its answer


def test_without_a_rewind_an_edited_message_needs_another_child(bench: Bench) -> None:
    """Its own would go on from the original."""
    bench.make("live", "live", history=holding(b"1", b"2", b"x", b"y"))
    assert bench.fleet.lease_held(wanted()) is None


def test_a_parked_child_whose_conversation_goes_on_otherwise_is_taken_out_of_its_turn(again: Bench) -> None:
    """In milliseconds, instead of ten minutes later."""
    parked = again.make("parked", "parked", history=holding(b"1", b"2"), is_parked=True)
    assert again.fleet.lease(wanted()) == (parked, 0)


ORDER = ("free", "spare", "one-shot", "stale call")


@pytest.mark.parametrize("there", [ORDER[number:] for number in range(len(ORDER))])
def test_what_serves_a_new_conversation(again: Bench, there: tuple[str, ...]) -> None:
    """A free child, then a spare, then one whose conversation may be given up; only then a process."""
    made: dict[str, tuple[str, dict[str, object]]] = {
        "free": ("free", {"history": holding(b"x", b"y")}),
        "spare": ("spares", {}),
        "one-shot": ("live", {"history": holding(b"x", b"y")}),
        "stale call": ("parked", {"history": holding(b"x", b"y"), "is_parked": True, "last_used": 1.0}),
    }
    again.make("live", "continued", history=holding(b"x", b"y", b"z", b"w"))
    again.make("parked", "new call", history=holding(b"x", b"y"), is_parked=True, last_used=again.now)
    children = {name: again.make(made[name][0], name, **made[name][1]) for name in there}
    assert again.fleet.lease(wanted()) == (children[there[0]], 0)


@pytest.mark.parametrize(("maximum", "given_up"), [(10, ["shorter"]), (3, ["shorter", "longer", "call"])])
def test_a_conversation_that_was_continued_is_given_up_only_without_room(maximum: int, given_up: list[str]) -> None:
    """For another one of those that are kept, or for all children; the shortest first; a call that waits goes last."""
    bench = Bench(live=2, maximum=maximum, abilities=EVERYTHING)
    bench.make("live", "longer", history=holding(b"x", b"y", b"z", b"w", b"v", b"u"))
    bench.make("live", "shorter", history=holding(b"x", b"y", b"z", b"w"))
    bench.make("parked", "call", history=holding(b"x", b"y"), is_parked=True, last_used=bench.now)
    bench.has_keeper = False
    assert [repr(bench.fleet.lease(wanted())[0]) for _ in given_up] == given_up
    with pytest.raises(CliUnavailable):
        bench.fleet.lease(wanted())


@pytest.mark.parametrize(
    "differing",
    [
        {"owner": "another key"},
        {"profile": Profile("sonnet", json_schema=b"{}")},
        {"profile": Profile("claude-full-id")},
        {"history": holding(b"x", b"y", first="assistant")},
    ],
)
def test_some_children_serve_their_own_only(again: Bench, differing: dict[str, object]) -> None:
    """Those of another key or schema, and those that cannot forget all that they hold."""
    wants = wanted(Profile("claude-other-id")) if differing.get("profile") == Profile("claude-full-id") else wanted()
    again.make("free", "free", **{"history": holding(b"x", b"y"), **differing})
    spare = again.make("spares", "spare", model=wants.profile.model)
    assert again.fleet.lease(wants) == (spare, 0)


def test_a_turn_that_wants_no_used_child_gets_none(again: Bench) -> None:
    """Because one was at fault just now."""
    again.make("free", "free", history=holding(b"x"))
    again.make("live", "live", history=holding(b"1", b"2"))
    spare = again.make("spares", "spare")
    assert again.fleet.lease(wanted(), fresh=True) == (spare, 0)


def test_a_child_without_a_conversation_is_free(again: Bench) -> None:
    """So is the one whose conversation is one too many; where it could not be rewound it ends."""
    again.fleet.give_back(again.make("leased", "empty"))
    for name in ("a", "b", "c"):
        again.fleet.give_back(again.make("leased", name, history=holding(b"x", b"y")))
    assert [repr(child) for child in again.fleet.members.free] == ["empty", "a"]
    again.fleet.give_back(again.make("leased", "agent", history=holding(b"x", b"y"), agent=True))
    again.fleet.give_back(again.make("leased", "d", history=holding(b"x", b"y")))
    again.fleet.give_back(again.make("leased", "e", history=holding(b"x", b"y")))
    assert again.retired() == [("agent", False)]


def test_a_free_child_may_still_go_on_with_what_it_holds(again: Bench) -> None:
    """As long as no other conversation has taken it."""
    free = again.make("free", "free", history=holding(b"1", b"2"))
    assert again.fleet.lease(wanted()) == (free, 2)


def test_what_is_given_back_is_live_or_parked(bench: Bench) -> None:
    """With the time of its last use."""
    for parked in (False, True):
        child = bench.make("leased", f"parked={parked}", is_parked=parked, history=holding(b"1"))
        bench.now += 5.0
        bench.fleet.give_back(child)
        assert child.last_used == bench.now
    assert bench.fleet.counts() == Counts(live=1, parked=1)


def test_the_least_recently_used_live_child_goes_first(bench: Bench) -> None:
    """Without haste: it is idle."""
    for name in ("a", "b", "c"):
        bench.fleet.give_back(bench.make("leased", name, history=holding(b"1")))
    assert bench.fleet.counts().live == 2 and bench.retired() == [("a", False)]


@pytest.mark.parametrize("urgent", [True, False])
def test_a_retired_child_is_nobodys(bench: Bench, urgent: bool) -> None:
    """One in a turn is stopped at once; one that was not leased can be retired too."""
    child = bench.make("leased", "child")
    bench.fleet.retire(child, urgent=urgent)
    bench.fleet.retire(cast(Connection, FakeConnection("stranger")), urgent=False)
    assert bench.fleet.counts() == Counts() and bench.retired() == [("child", urgent), ("stranger", False)]
    assert cast(FakeConnection, child).terminated is urgent


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
        (("free", "live", "spares", "parked"), "free"),
        (("live", "spares", "parked"), "live"),
        (("spares", "parked"), "spares"),
        (("parked",), "parked"),
        (("leased",), None),
    ],
)
def test_room_is_made_by_those_that_cost_least(bench: Bench, groups: tuple[str, ...], gone: str | None) -> None:
    """Live ones, then spares, then parked ones; none is taken out of a turn."""
    for group in groups:
        bench.make(group, group, is_parked=group == "parked")
    bench.fleet.members.make_room(len(groups))
    assert [name for name, _ in bench.retired()] == ([gone] if gone else [])


def test_a_fleet_that_closes_leases_nothing_and_lets_everything_go(bench: Bench) -> None:
    """What comes back late goes at once."""
    bench.make("live", "live", history=holding(b"1"))
    leased = bench.make("leased", "leased")
    bench.fleet.close()
    assert bench.retired() == [("live", False)]
    with pytest.raises(ShuttingDown):
        bench.fleet.lease(wanted())
    with pytest.raises(ShuttingDown):
        bench.fleet.lease_held(wanted())
    bench.fleet.give_back(leased)
    assert bench.retired()[-1] == ("leased", False) and bench.fleet.counts() == Counts()


def test_an_order_that_waits_when_the_fleet_closes_is_refused(bench: Bench) -> None:
    """Its lease does not wait for a start that will not come."""
    bench.has_keeper = False
    bench.close_on_wake = True
    with pytest.raises(ShuttingDown):
        bench.fleet.lease(wanted())
    assert bench.fleet.next_order() is None


def test_a_child_that_comes_too_late_goes(bench: Bench) -> None:
    """Its lease has given up."""
    orders: list[Order] = []
    bench.serve = orders.append
    with pytest.raises(CliUnavailable):
        bench.fleet.lease(wanted())
    bench.fleet.deliver(orders[0], cast(Connection, FakeConnection("late")))
    assert bench.retired() == [("late", False)] and bench.fleet.counts() == Counts()


def test_an_idle_child_is_asked_for_the_use_of_the_plan(bench: Bench) -> None:
    """A spare before a live one; neither one whose initialisation is under way, nor a dead one."""
    taken: list[object] = []
    bench.make("spares", "dead", alive=False, ready=True, profile=PROFILE)
    bench.make("spares", "blank and dead", alive=False)
    bench.make("spares", "booting", profile=PROFILE, ready=False)
    bench.make("live", "live", profile=PROFILE, ready=True)
    assert bench.fleet.request_usage(taken.append) and taken == [{"asked": "live"}]
    blank = bench.make("spares", "blank")
    assert bench.fleet.request_usage(taken.append) and taken[1:] == [{"asked": "blank"}]
    assert blank in bench.fleet.members.spares


def test_a_child_that_is_busy_is_not_asked(bench: Bench) -> None:
    """Neither in a turn, nor while a tool's results are awaited."""
    taken: list[object] = []
    bench.make("leased", "leased", profile=PROFILE, ready=True)
    bench.make("parked", "parked", profile=PROFILE, ready=True)
    assert not bench.fleet.request_usage(taken.append) and taken == []


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
