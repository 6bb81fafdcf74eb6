"""How much the proxy has to do, for a scrape of its metrics."""

from dataclasses import asdict, dataclass

from ..claude.fleet.fleet import Fleet
from ..monitoring.counts import Gauges
from .workers import WorkerPool


@dataclass(frozen=True, slots=True)
class Load:
    """The workers and the children of a proxy."""

    workers: WorkerPool
    fleet: Fleet

    def gauges(self) -> Gauges:
        """As of now; waits for no child."""
        tally = self.fleet.tally
        counts = asdict(self.fleet.counts())
        return Gauges(self.workers.queued, self.workers.active, counts, tally.started, dict(tally.ended))
