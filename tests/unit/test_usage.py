"""The ledger: what requests used, added up by day, model and session, for each owner alone."""

from datetime import date
from pathlib import Path

import pytest

from claude_proxy.core.errors import BadRequest
from claude_proxy.core.events import Usage
from claude_proxy.core.session_key import SessionKey
from claude_proxy.monitoring.plan import Snapshot, Window
from claude_proxy.storage.ledger import DAYS_KEPT, Ledger, Report, Spent, Sums
from claude_proxy.storage.store import MIGRATIONS, Store
from claude_proxy.web.usage import build_usage, parse_range
from tests.clocks import Clock

DAY = 86400.0
NOW = 20_000 * DAY  # 2024-10-04T00:00Z
TODAY, YESTERDAY = "2024-10-04", "2024-10-03"
ONE = Usage(input_tokens=1, output_tokens=20, cache_read_input_tokens=300, cache_creation_input_tokens=4000)


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store() -> Store:
    return Store(None)


@pytest.fixture
def ledger(store: Store, clock: Clock) -> Ledger:
    return Ledger(store, clock)


def spend(
    store: Store,
    ledger: Ledger,
    *,
    owner: str = "a",
    model: str = "sonnet",
    session: str = "auto_1",
    mode: str = "chat",
    usage: Usage = ONE,
    cost_usd: float | None = None,
    failed: bool = False,
) -> None:
    statements = ledger.statements(Spent(owner, "chat", mode, model, session, usage, cost_usd, failed))
    assert store.write(statements)


def test_the_requests_of_a_day_are_one_row(store: Store, ledger: Ledger) -> None:
    """Each count is added up."""
    spend(store, ledger, usage=Usage(1, 2, 3, 4, 5))
    spend(store, ledger, usage=Usage(10, 20, 30, 40, 50), failed=True)
    assert ledger.report("a").total == Sums(2, 1, Usage(11, 22, 33, 44, 55), None)
    assert store.read("SELECT count(*) FROM usage") == [(1,)]


def test_statements_write_nothing_themselves(store: Store, ledger: Ledger) -> None:
    """They belong to the transaction of the turn."""
    ledger.statements(Spent("a", "chat", "chat", "sonnet", "auto_1", ONE, 0.1, False))
    assert ledger.report("a") == Report(Sums(), {}, {}, {})


def test_a_cost_that_is_unknown_leaves_the_sum_as_it_is(store: Store, ledger: Ledger) -> None:
    """It is no zero, and it does not make the rest unknown."""
    spend(store, ledger)
    assert ledger.report("a").total.cost_usd is None
    spend(store, ledger, cost_usd=0.25)
    spend(store, ledger)
    spend(store, ledger, cost_usd=0.5)
    assert ledger.report("a").total.cost_usd == 0.75
    spend(store, ledger, model="opus")
    report = ledger.report("a")
    assert (report.models["sonnet"].cost_usd, report.models["opus"].cost_usd) == (0.75, None)
    assert report.total.cost_usd == 0.75


def test_days_models_and_sessions_each_add_up_to_the_total(store: Store, ledger: Ledger, clock: Clock) -> None:
    """Days oldest first, models by name, sessions with the last used first."""
    clock.now = NOW - 1
    spend(store, ledger, session="auto_1")
    spend(store, ledger, session="auto_1", model="opus", mode="agent")
    clock.now = NOW
    spend(store, ledger, session="auto_2", failed=True)
    report = ledger.report("a")
    assert {day: sums.requests for day, sums in report.days.items()} == {YESTERDAY: 2, TODAY: 1}
    assert {model: sums.requests for model, sums in report.models.items()} == {"opus": 1, "sonnet": 2}
    assert [(session, sums.requests) for session, sums in report.sessions.items()] == [("auto_2", 1), ("auto_1", 2)]
    for group in (report.days, report.models, report.sessions):
        assert sum(group.values(), Sums()) == report.total


def test_a_request_that_failed_before_it_had_a_session_counts_in_no_session(store: Store, ledger: Ledger) -> None:
    """But in everything else."""
    spend(store, ledger, session="", failed=True)
    report = ledger.report("a")
    assert (report.total.failed, report.sessions) == (1, {})


def test_an_owner_sees_only_its_own_use(store: Store, ledger: Ledger) -> None:
    """Whoever has no key is an owner, too."""
    spend(store, ledger, owner="a")
    spend(store, ledger, owner="")
    spend(store, ledger, owner="")
    assert [ledger.report(owner).total.requests for owner in ("a", "", "b")] == [1, 2, 0]


def test_a_day_begins_at_midnight_in_utc(store: Store, ledger: Ledger, clock: Clock) -> None:
    """Wherever the machine stands."""
    for clock.now in (NOW - 0.001, NOW, NOW + DAY - 0.001, NOW + DAY):
        spend(store, ledger)
    assert {day: sums.requests for day, sums in ledger.report("a").days.items()} == {
        YESTERDAY: 1,
        TODAY: 2,
        "2024-10-05": 1,
    }


def test_a_report_takes_in_both_days_of_its_range(store: Store, ledger: Ledger, clock: Clock) -> None:
    """Each bound may be left out."""
    for days in range(4):
        clock.now = NOW + days * DAY
        spend(store, ledger)
    first, last = date(2024, 10, 5), date(2024, 10, 6)
    found = [ledger.report("a", *bounds).total.requests for bounds in ((first, last), (first, None), (None, first))]
    assert found == [2, 3, 2]


def test_days_that_are_too_old_are_forgotten(store: Store, ledger: Ledger, clock: Clock) -> None:
    """The last day that is kept is `DAYS_KEPT` days old."""
    for clock.now in (NOW - (DAYS_KEPT + 1) * DAY, NOW - DAYS_KEPT * DAY, NOW):
        spend(store, ledger)
    ledger.prune()
    assert list(ledger.report("a").days) == ["2023-08-31", TODAY]


def test_a_session_that_is_deleted_leaves_its_counts_without_its_name(store: Store, ledger: Ledger) -> None:
    """Those of several are added to one another; nobody else's session of that name is touched."""
    spend(store, ledger, session="hdr_private", cost_usd=0.5)
    spend(store, ledger, session="hdr_other", cost_usd=0.25)
    spend(store, ledger, owner="b", session="hdr_private")
    before = ledger.report("a").total
    for session in ("hdr_private", "hdr_other", "hdr_unknown", ""):
        assert store.write(ledger.forget_session(SessionKey("a", session)))
    report = ledger.report("a")
    assert (report.total, report.sessions) == (before, {})
    assert list(ledger.report("b").sessions) == ["hdr_private"]


def test_the_ledger_outlives_a_restart(tmp_path: Path, clock: Clock) -> None:
    """In the file of the state."""
    store = Store(tmp_path)
    spend(store, Ledger(store, clock))
    store.close()
    again = Store(tmp_path)
    assert Ledger(again, clock).report("a").total.requests == 1
    again.close()


def test_a_file_of_an_earlier_version_is_given_the_table(tmp_path: Path, clock: Clock) -> None:
    """What it held stays."""
    store = Store(tmp_path)
    store.write(
        [
            ("INSERT INTO conversations VALUES ('c', 'a', x'7b7d', 1, 1)", ()),
            ("DROP TABLE usage", ()),
            ("PRAGMA user_version = 2", ()),
        ]
    )
    store.close()
    again = Store(tmp_path)
    spend(again, Ledger(again, clock))
    assert again.read("SELECT id FROM conversations") == [("c",)]
    assert again.read("PRAGMA user_version") == [(len(MIGRATIONS),)]
    again.close()


def test_the_query_names_days() -> None:
    """Both, one or none; one day may be both."""
    day = date(2026, 1, 31)
    assert parse_range({}) == (None, None)
    assert parse_range({"since": "2026-01-31", "until": "2026-01-31"}) == (day, day)
    assert parse_range({"until": "2026-01-31"}) == (None, day)


@pytest.mark.parametrize("text", ["", "today", "20260131", "2026-W05-6", "2026-02-30", "2026-1-31", "2026-01-31T00:00"])
@pytest.mark.parametrize("name", ["since", "until"])
def test_what_is_no_day_is_refused(name: str, text: str) -> None:
    """The error names the parameter."""
    with pytest.raises(BadRequest) as caught:
        parse_range({name: text})
    assert caught.value.param == name


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    """It would look like no use at all."""
    with pytest.raises(BadRequest) as caught:
        parse_range({"since": "2026-02-01", "until": "2026-01-31"})
    assert caught.value.param == "since"


def test_the_object_has_all_that_is_known() -> None:
    """Times as ISO 8601 in UTC, null for what is not known."""
    windows = (Window("five_hour", "allowed_warning", 0.9, NOW + 0.5), Window("seven_day_fable", None, 0.1))
    sums = Sums(2, 1, Usage(1, 2, 3, 4, 5), 0.1234567)
    built = build_usage(
        Snapshot(windows, "allowed", True, "max", "get_usage", NOW),
        Report(sums, {TODAY: sums}, {"opus": sums}, {"auto_1": sums}),
    )
    shown = {
        "requests": 2,
        "failed": 1,
        "inputTokens": 1,
        "cacheReadTokens": 3,
        "cacheCreationTokens": 4,
        "outputTokens": 2,
        "thinkingTokens": 5,
        "costUsd": 0.123457,
    }
    assert built == {
        "plan": {
            "subscription": "max",
            "windows": [
                {
                    "type": "five_hour",
                    "utilization": 0.9,
                    "resetsAt": "2024-10-04T00:00:00Z",
                    "status": "allowed_warning",
                    "refuses": False,
                },
                {"type": "seven_day_fable", "utilization": 0.1, "resetsAt": None, "status": None, "refuses": False},
            ],
            "overage": {"status": "allowed", "inUse": True},
            "source": "get_usage",
            "asOf": "2024-10-04T00:00:00Z",
        },
        "use": {
            "total": shown,
            "days": [{"day": TODAY, **shown}],
            "models": [{"model": "opus", **shown}],
            "sessions": [{"session": "auto_1", **shown}],
        },
    }


def test_an_object_of_nothing_has_the_same_keys() -> None:
    """So does one without a plan, before the first request."""
    built = build_usage(Snapshot((), None, False, None, None, None), Report(Sums(), {}, {}, {}))
    assert built["plan"] == {
        "subscription": None,
        "windows": [],
        "overage": {"status": None, "inUse": False},
        "source": None,
        "asOf": None,
    }
    assert built["use"]["total"]["costUsd"] is None
