"""What a scrape shows: exact counts, bounded labels, the numbers of the moment."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from claude_proxy.core.errors import ProxyError, RateLimited, RequestTimedOut
from claude_proxy.core.events import Usage
from claude_proxy.monitoring.activity import Activity
from claude_proxy.monitoring.counts import Gauges
from claude_proxy.monitoring.metrics import DURATION_BOUNDS, FIRST_TOKEN_BOUNDS, MOST_MODELS, Metrics
from claude_proxy.monitoring.plan import Snapshot, Window

Samples = dict[tuple[str, ...], float]
QUIET = Gauges(0, 0, {}, 0, {})
NO_PLAN = Snapshot((), None, False, None, None, None)


class Rig:
    """Activity with a clock of its own, metrics that listen to it, and all that they read."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.moment = QUIET
        self.plan = NO_PLAN
        self.known: set[str] = set()
        self.metrics = Metrics(self, self, self)
        self.activity = Activity(lambda: self.now, (self.metrics,))
        self.count = 0

    def gauges(self) -> Gauges:
        return self.moment

    def snapshot(self) -> Snapshot:
        return self.plan

    def is_listed(self, name: str) -> bool:
        return name in self.known

    def begin(self, dialect: str = "chat", model: str = "sonnet") -> str:
        self.count += 1
        name = f"req_{self.count}"
        self.activity.begin(name, owner="", dialect=dialect, mode="chat", model=model)
        return name

    def run(
        self,
        dialect: str = "chat",
        model: str = "claude-sonnet-5-5",
        first: float = 0.0,
        total: float = 0.0,
        usage: Usage = Usage(),
    ) -> None:
        """A request that succeeds, with these seconds to its first token and to its end."""
        begun, name = self.now, self.begin(dialect)
        self.now = begun + first
        self.activity.note(name, "first_token", model=model)
        self.now = begun + total
        self.activity.done(name, None, total=usage)

    def fail(self, error: ProxyError, model: str = "sonnet") -> None:
        """A request that ends before its first token."""
        self.activity.done(self.begin(model=model), error)

    def scrape(self) -> Samples:
        """Value by name without the prefix, and the values of its labels in the order of their names."""
        return dict(self._samples(self.metrics.render().decode()))

    def _samples(self, text: str) -> Iterator[tuple[tuple[str, ...], float]]:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = (value for _, value in sorted(sample.labels.items()))
                yield (sample.name.removeprefix("claude_proxy_"), *labels), sample.value


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_requests_are_counted_by_dialect_model_and_outcome(rig: Rig) -> None:
    """The outcome of a failure is its kind."""
    rig.known = {"sonnet"}
    rig.run()
    rig.run()
    rig.run("messages", "claude-opus-5-5")
    rig.fail(RateLimited("no"))
    samples = rig.scrape()
    assert {key[1:]: value for key, value in samples.items() if key[0] == "requests_total"} == {
        ("chat", "claude-sonnet-5-5", "succeeded"): 2,
        ("messages", "claude-opus-5-5", "succeeded"): 1,
        ("chat", "sonnet", "rate_limited"): 1,
    }


def test_a_request_that_runs_is_not_counted_yet(rig: Rig) -> None:
    """Only its end tells how it went."""
    rig.activity.note(rig.begin(), "first_token", model="claude-sonnet-5-5")
    samples = rig.scrape()
    assert not [key for key in samples if key[0] == "requests_total"]
    assert samples["time_to_first_token_seconds_count", "chat"] == 1


def test_tokens_are_counted_by_kind_and_model(rig: Rig) -> None:
    """Those of all model calls of the turn."""
    rig.run(usage=Usage(1, 20, 300, 4000, 5))
    rig.run(usage=Usage(1, 20, 300, 4000, 5))
    rig.run(model="claude-opus-5-5", usage=Usage(7))
    samples = rig.scrape()
    assert {key[1:]: value for key, value in samples.items() if key[0] == "tokens_total" and value} == {
        ("input", "claude-sonnet-5-5"): 2,
        ("output", "claude-sonnet-5-5"): 40,
        ("cache_read", "claude-sonnet-5-5"): 600,
        ("cache_creation", "claude-sonnet-5-5"): 8000,
        ("thinking", "claude-sonnet-5-5"): 10,
        ("input", "claude-opus-5-5"): 7,
    }


def test_times_go_into_the_first_bucket_that_holds_them(rig: Rig) -> None:
    """A bound belongs to its own bucket; what is beyond all of them counts in `+Inf`."""
    rig.run(first=0.25, total=0.5)
    rig.run(first=0.26, total=4000)
    samples = rig.scrape()
    first = [samples["time_to_first_token_seconds_bucket", "chat", str(bound)] for bound in FIRST_TOKEN_BOUNDS]
    assert first == [1] + [2] * (len(FIRST_TOKEN_BOUNDS) - 1)
    durations = [samples["request_duration_seconds_bucket", "chat", str(bound)] for bound in DURATION_BOUNDS]
    assert durations == [1] * len(DURATION_BOUNDS)
    assert samples["request_duration_seconds_bucket", "chat", "+Inf"] == 2
    assert samples["request_duration_seconds_count", "chat"] == 2
    assert samples["request_duration_seconds_sum", "chat"] == 4000.5
    assert samples["time_to_first_token_seconds_sum", "chat"] == pytest.approx(0.51)


def test_a_clock_that_was_set_back_makes_no_negative_time(rig: Rig) -> None:
    """A sum that falls is a restart to Prometheus."""
    rig.run(total=-50)
    assert rig.scrape()["request_duration_seconds_sum", "chat"] == 0


def test_a_model_that_only_a_client_named_is_no_label(rig: Rig) -> None:
    """Anybody could make up as many as they like."""
    rig.fail(RequestTimedOut("slow"), model="claude-made-up")
    assert rig.scrape()["requests_total", "chat", "other", "timeout"] == 1


def test_after_so_many_models_every_further_one_is_other(rig: Rig) -> None:
    """Those that have a label keep it."""
    for number in range(MOST_MODELS + 5):
        rig.run(model=f"claude-{number}")
    rig.run(model="claude-0")
    samples = rig.scrape()
    models = {key[2] for key in samples if key[0] == "requests_total"}
    assert models == {f"claude-{number}" for number in range(MOST_MODELS)} | {"other"}
    assert samples["requests_total", "chat", "other", "succeeded"] == 5
    assert samples["requests_total", "chat", "claude-0", "succeeded"] == 2


def test_a_hostile_name_stays_inside_its_label(rig: Rig) -> None:
    """Quotes, backslashes and line ends are written so that they can be read back."""
    name = 'a"b\\c\nclaude_proxy_requests_total 99'
    rig.run(model=name)
    assert rig.scrape()["requests_total", "chat", name, "succeeded"] == 1


def test_the_gauges_are_those_of_the_moment(rig: Rig) -> None:
    """Asked at each scrape."""
    assert rig.scrape()["queue_length",] == 0
    rig.moment = Gauges(3, 2, {"spare": 1, "live": 4}, 9, {"closed": 5, "crashed": 1})
    samples = rig.scrape()
    assert (samples["queue_length",], samples["workers_active",]) == (3, 2)
    assert (samples["children", "spare"], samples["children", "live"]) == (1, 4)
    assert samples["children_started_total",] == 9
    assert (samples["children_ended_total", "closed"], samples["children_ended_total", "crashed"]) == (5, 1)


def test_the_plan_s_windows_have_a_gauge_each(rig: Rig) -> None:
    """What is not known has no value."""
    windows = (
        Window("five_hour", "rejected", 1.0, 5000.0, refuses=True),
        Window("seven_day", "allowed", None, None),
    )
    rig.plan = Snapshot(windows, None, False, None, None, None)
    samples = rig.scrape()
    assert {key: value for key, value in samples.items() if key[0].startswith("plan_")} == {
        ("plan_utilization_ratio", "five_hour"): 1.0,
        ("plan_reset_timestamp_seconds", "five_hour"): 5000.0,
        ("plan_rejected", "five_hour"): 1,
        ("plan_rejected", "seven_day"): 0,
    }


def test_nothing_is_lost_between_threads(rig: Rig) -> None:
    """Many requests at once, and scrapes in between."""
    threads, each = 8, 250
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        barrier.wait(10)
        for turn in range(each):
            name = f"{number}/{turn}"
            rig.activity.begin(name, owner="", dialect="chat", mode="chat", model="sonnet")
            rig.activity.note(name, "first_token", model="claude-sonnet-5-5")
            rig.activity.done(name, None, total=Usage(1, 2))
            if turn % 100 == 0:
                rig.metrics.render()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    samples = rig.scrape()
    total = threads * each
    assert samples["requests_total", "chat", "claude-sonnet-5-5", "succeeded"] == total
    assert samples["tokens_total", "output", "claude-sonnet-5-5"] == 2 * total
    for name in ("time_to_first_token_seconds", "request_duration_seconds"):
        assert samples[f"{name}_count", "chat"] == samples[f"{name}_bucket", "chat", "+Inf"] == total


def test_the_library_is_loaded_by_the_first_scrape_alone() -> None:
    """A proxy that nobody watches does not pay for it."""
    check = "import sys, claude_proxy.web.routes; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0
