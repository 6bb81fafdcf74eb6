"""What Prometheus may know: how many requests, how they ended, how long they took, what they used, what waits now.

`Activity` calls `on_notice` with every notice; the route `/metrics` calls `render`.
Invariants: counted exactly, from the start on. No label takes a client's own words: a model is named where the API
answered under that name, or this proxy knows it, and after `MOST_MODELS` names every further one is `other`.

The counts are plain integers, not `prometheus_client`'s own counters: those must exist before the first request ends,
so that every proxy would load the library (0.7 MB), and would do so within the first answer, between its first token
and the client (8 ms). It is loaded by the first scrape instead, see `exposition`.
"""

import copy
import threading
from typing import Protocol

from ..core.events import Usage
from .activity import Entry, Notice
from .counts import Counts, Gauges, Histogram
from .plan import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_MODELS = 50
OTHER = "other"
FIRST_TOKEN_BOUNDS = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0, 120.0)
DURATION_BOUNDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class Load(Protocol):
    """How much the proxy has to do."""

    def gauges(self) -> Gauges:
        """As of now."""


class Plan(Protocol):
    """The plan of the account."""

    def snapshot(self) -> Snapshot:
        """What is known now."""


class Models(Protocol):
    """The models of the account."""

    def is_listed(self, name: str, /) -> bool:
        """True for a name that may be shown."""


class Metrics:
    """The numbers of this run."""

    def __init__(self, load: Load, plan: Plan, models: Models) -> None:
        """
        Args:
            load, plan: read at every scrape.
            models: says which names of models may be labels.
        """
        self._load = load
        self._plan = plan
        self._models = models
        self._lock = threading.Lock()  # guards: _labels, _counts
        self._labels: set[str] = set()
        self._counts = Counts()

    def on_notice(self, entry: Entry, notice: Notice, /) -> None:
        """For `Activity`."""
        # A wall clock can be set back; a sum that falls would be a restart to Prometheus.
        waited = max(0.0, notice.at - entry.created_at)
        known = entry.first_token_at is not None or self._models.is_listed(entry.model)
        with self._lock:
            counts = self._counts
            if notice.kind == "first_token":
                counts.first_token.setdefault(entry.dialect, Histogram(FIRST_TOKEN_BOUNDS)).add(waited)
            elif notice.kind == "done":
                counts.duration.setdefault(entry.dialect, Histogram(DURATION_BOUNDS)).add(waited)
                model = self._name(entry.model, known)
                counts.requests[entry.dialect, model, entry.error or "succeeded"] += 1
                for kind, count in _tokens_of(entry.total):
                    counts.tokens[kind, model] += count

    def render(self) -> bytes:
        """The text of a scrape, of the type `CONTENT_TYPE`."""
        from . import exposition  # here, not above: see the head of this module

        with self._lock:
            counts = copy.deepcopy(self._counts)
        return exposition.render(counts, self._load.gauges(), self._plan.snapshot().windows)

    def _name(self, model: str, known: bool) -> str:
        """The lock must be held."""
        if model not in self._labels and known and len(self._labels) < MOST_MODELS:
            self._labels.add(model)
        return model if model in self._labels else OTHER


def _tokens_of(usage: Usage) -> tuple[tuple[str, int], ...]:
    return (
        ("input", usage.input_tokens),
        ("cache_read", usage.cache_read_input_tokens),
        ("cache_creation", usage.cache_creation_input_tokens),
        ("output", usage.output_tokens),
        ("thinking", usage.thinking_tokens),
    )
