"""PURE: the numbers that a scrape shows, as `metrics` counts them and `exposition` renders them. Plain integers."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


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


@dataclass(slots=True)
class Counts:
    """Since the start. requests: by dialect, model and outcome; tokens: by kind and model; the others: by dialect."""

    requests: Counter[tuple[str, ...]] = field(default_factory=Counter)
    tokens: Counter[tuple[str, ...]] = field(default_factory=Counter)
    first_token: dict[str, Histogram] = field(default_factory=dict)
    duration: dict[str, Histogram] = field(default_factory=dict)
