"""What Prometheus may know: how many requests, how they ended, how long they took, what they used, what waits now.

In: notices of `activity`, and at a scrape the gauges of the moment. Out: Prometheus' text format.
Rules: counted here in plain numbers, exactly; `prometheus_client` only writes them down, and is loaded by the first
scrape: who never asks pays nothing for it. No label takes a client's own words: a model is named where the API answered
under that name, or this proxy knows it, and after `MOST_MODELS` names every further one is `other`.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import __version__
from ..core.events import Usage
from .activity import Entry, Notice
from .plan import Snapshot

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX = "claude_proxy"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_MODELS = 50
OTHER = "other"
FIRST_TOKEN_BOUNDS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0, 120.0)
DURATION_BOUNDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


@dataclass(frozen=True, slots=True)
class Gauges:
    """The proxy at this moment. children: how many are in each state. started, ended: children since the start, the
    latter by how they ended."""

    queued: int
    active: int
    children: Mapping[str, int]
    started: int
    ended: Mapping[str, int]


@dataclass(slots=True)
class Histogram:
    """Seconds, counted by the first bound that they do not exceed; the last count is of those beyond all bounds."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many up to it), the last bound being `+Inf`."""
        names = [*map(str, self.bounds), "+Inf"]
        return [(name, float(sum(self.counts[: index + 1]))) for index, name in enumerate(names)]


class Metrics:
    """The numbers of this run. gauges, plan: asked at every scrape. knows: True for a model that may be named."""

    def __init__(
        self, gauges: Callable[[], Gauges], plan: Callable[[], Snapshot], knows: Callable[[str], bool]
    ) -> None:
        self._gauges = gauges
        self._plan = plan
        self._knows = knows
        self._lock = threading.Lock()  # guards: all that follows
        self._models: set[str] = set()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._first: dict[str, Histogram] = {}
        self._durations: dict[str, Histogram] = {}

    def take(self, entry: Entry, notice: Notice) -> None:
        """A listener of `Activity`."""
        waited = max(0.0, notice.at - entry.created_at)
        known = entry.first_token_at is not None or self._knows(entry.model)
        with self._lock:
            if notice.kind == "first_token":
                self._first.setdefault(entry.dialect, Histogram(FIRST_TOKEN_BOUNDS)).add(waited)
            elif notice.kind == "done":
                self._durations.setdefault(entry.dialect, Histogram(DURATION_BOUNDS)).add(waited)
                model = self._name(entry.model, known)
                self._requests[entry.dialect, model, entry.error or "succeeded"] += 1
                for kind, count in _tokens_of(entry.total):
                    self._tokens[kind, model] += count

    def render(self) -> bytes:
        """The text of a scrape, of the type `CONTENT_TYPE`."""
        # Loaded here: at the start it would cost every proxy 1.2 MB and 15 ms.
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> "Iterator[Metric]":
        """For a registry of `prometheus_client`'s."""
        with self._lock:
            found = [*self._counted(), *self._timed()]
        yield from found
        yield from self._momentary()
        yield from self._planned()

    def _name(self, model: str, known: bool) -> str:
        """The lock must be held."""
        if model not in self._models and known and len(self._models) < MOST_MODELS:
            self._models.add(model)
        return model if model in self._models else OTHER

    def _counted(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily

        requests = CounterMetricFamily(
            f"{PREFIX}_requests",
            "Requests that have ended; outcome: succeeded, or the kind of the error",
            labels=("dialect", "model", "outcome"),
        )
        for labels, count in sorted(self._requests.items()):
            requests.add_metric(labels, count)
        tokens = CounterMetricFamily(
            f"{PREFIX}_tokens", "Tokens used; thinking is a part of output", labels=("kind", "model")
        )
        for kind_and_model, count in sorted(self._tokens.items()):
            tokens.add_metric(kind_and_model, count)
        yield from (requests, tokens)

    def _timed(self) -> "Iterator[Metric]":
        from prometheus_client.core import HistogramMetricFamily

        for name, text, histograms in (
            ("time_to_first_token_seconds", "From a request's arrival to its first token", self._first),
            ("request_duration_seconds", "From a request's arrival to its end", self._durations),
        ):
            family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=("dialect",))
            for dialect, histogram in sorted(histograms.items()):
                family.add_metric((dialect,), histogram.cumulative(), histogram.total)
            yield family

    def _momentary(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        now = self._gauges()
        yield InfoMetricFamily(f"{PREFIX}_build", "The program", value={"version": __version__})
        yield GaugeMetricFamily(f"{PREFIX}_queue_length", "Requests that wait for a worker", value=now.queued)
        yield GaugeMetricFamily(f"{PREFIX}_workers_active", "Requests that run", value=now.active)
        children = GaugeMetricFamily(f"{PREFIX}_children", "Processes of the CLI", labels=("state",))
        for state, count in now.children.items():
            children.add_metric((state,), count)
        yield children
        yield CounterMetricFamily(f"{PREFIX}_children_started", "Processes of the CLI started", value=now.started)
        ended = CounterMetricFamily(f"{PREFIX}_children_ended", "Processes of the CLI that ended", labels=("how",))
        for how, count in sorted(now.ended.items()):
            ended.add_metric((how,), count)
        yield ended

    def _planned(self) -> "Iterator[Metric]":
        from prometheus_client.core import GaugeMetricFamily

        used = GaugeMetricFamily(f"{PREFIX}_plan_utilization_ratio", "Part of the plan used", labels=("window",))
        refuses = GaugeMetricFamily(
            f"{PREFIX}_plan_rejected", "1 while requests are refused for this window", labels=("window",)
        )
        reset = GaugeMetricFamily(
            f"{PREFIX}_plan_reset_timestamp_seconds", "Unix time at which the window is reset", labels=("window",)
        )
        for window in self._plan().windows:
            refuses.add_metric((window.type,), int(window.refuses))
            if window.utilization is not None:
                used.add_metric((window.type,), window.utilization)
            if window.resets_at is not None:
                reset.add_metric((window.type,), window.resets_at)
        yield from (used, refuses, reset)


def _tokens_of(usage: Usage) -> tuple[tuple[str, int], ...]:
    return (
        ("input", usage.input_tokens),
        ("cache_read", usage.cache_read_input_tokens),
        ("cache_creation", usage.cache_creation_input_tokens),
        ("output", usage.output_tokens),
        ("thinking", usage.thinking_tokens),
    )
