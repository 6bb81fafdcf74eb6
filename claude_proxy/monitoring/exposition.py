"""PURE: the counts of `metrics` -> Prometheus' text format, by `prometheus_client`.

Called by `Metrics.render` alone, which imports this module at the first scrape: on top of the running proxy the library
costs 0.7 MB and 8 ms, and most proxies are never scraped.
Invariant: names, labels and the order of series depend on the counts alone, so that two scrapes can be compared.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from .. import __version__
from .counts import Counts, Gauges, Histogram
from .plan import Window

PREFIX = "claude_proxy"

Rows = Iterable[tuple[tuple[str, ...], float]]


class _Scrape:
    """One scrape, as a registry's collector."""

    def __init__(self, counts: Counts, gauges: Gauges, windows: Iterable[Window]) -> None:
        self._families = (*_counted(counts), *_momentary(gauges), *_planned(windows))

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def render(counts: Counts, gauges: Gauges, windows: Iterable[Window]) -> bytes:
    """The text of a scrape, of the type `metrics.CONTENT_TYPE`.

    Args:
        counts: of the requests that have ended.
        gauges: the proxy at this moment.
        windows: the plan's, as far as they are known.
    """
    # A registry for each scrape: the library's global one would add the numbers of the Python process.
    registry = CollectorRegistry()
    registry.register(_Scrape(counts, gauges, windows))
    return generate_latest(registry)


def _counted(counts: Counts) -> Iterator[Metric]:
    outcomes = "Requests that have ended; outcome: succeeded, or the kind of the error"
    yield _counter("requests", outcomes, ("dialect", "model", "outcome"), sorted(counts.requests.items()))
    tokens = "Tokens used; thinking is a part of output"
    yield _counter("tokens", tokens, ("kind", "model"), sorted(counts.tokens.items()))
    first = "From a request's arrival to its first token"
    yield _histogram("time_to_first_token_seconds", first, counts.first_token)
    yield _histogram("request_duration_seconds", "From a request's arrival to its end", counts.duration)


def _momentary(now: Gauges) -> Iterator[Metric]:
    yield InfoMetricFamily(f"{PREFIX}_build", "The program", value={"version": __version__})
    yield _gauge("queue_length", "Requests that wait for a worker", (), [((), now.queued)])
    yield _gauge("workers_active", "Requests that run", (), [((), now.active)])
    states = (((state,), count) for state, count in now.children.items())
    yield _gauge("children", "Processes of the CLI", ("state",), states)
    yield _counter("children_started", "Processes of the CLI started", (), [((), now.started)])
    ends = (((how,), count) for how, count in sorted(now.ended.items()))
    yield _counter("children_ended", "Processes of the CLI that ended", ("how",), ends)


def _planned(windows: Iterable[Window]) -> Iterator[Metric]:
    """What is not known has no value."""
    known = [((window.type,), window) for window in windows]
    used = ((key, one.utilization) for key, one in known if one.utilization is not None)
    yield _gauge("plan_utilization_ratio", "Part of the plan used", ("window",), used)
    refused = ((key, int(one.refuses)) for key, one in known)
    yield _gauge("plan_rejected", "1 while requests are refused for this window", ("window",), refused)
    resets = ((key, one.resets_at) for key, one in known if one.resets_at is not None)
    yield _gauge("plan_reset_timestamp_seconds", "Unix time at which the window is reset", ("window",), resets)


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _histogram(name: str, text: str, by_dialect: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=("dialect",))
    for dialect, histogram in sorted(by_dialect.items()):
        family.add_metric((dialect,), histogram.cumulative(), histogram.total)
    return family
