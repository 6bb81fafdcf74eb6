"""A bounded pool of worker threads: a job is taken at once, waits in a bounded queue, or is refused.

In: jobs, which are callables without arguments that do not raise. Out: their effects.
Rule: what is accepted is run, unless the pool is told to stop without draining.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from ..core.errors import QueueFull, ShuttingDown

log = logging.getLogger(__name__)

Job = Callable[[], None]
RETRY_AFTER = 2.0


class WorkerPool:
    """`workers` threads and room for `queue_size` jobs that wait."""

    def __init__(self, workers: int, queue_size: int) -> None:
        self._capacity = workers + queue_size
        lock = threading.Lock()  # guards: _waiting, _active, _accepting, _stopping
        self._has_job = threading.Condition(lock)  # one worker wakes for one job
        self._changed = threading.Condition(lock)  # a job ended or was cancelled
        self._waiting: deque[Job] = deque()
        self._active = 0
        self._accepting = True
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Run a job as soon as a worker is free. Raises QueueFull, or ShuttingDown once `refuse` was called."""
        with self._changed:
            if not self._accepting:
                raise ShuttingDown("The proxy is shutting down")
            if len(self._waiting) + self._active >= self._capacity:
                raise QueueFull(
                    f"{self._active} turns are running and {len(self._waiting)} are waiting; "
                    f"try again in {RETRY_AFTER:g}s",
                    retry_after=RETRY_AFTER,
                )
            self._waiting.append(job)
            self._has_job.notify()

    def cancel_queued(self, job: Job) -> bool:
        """Take a job out of the queue; False where a worker has it already."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            self._changed.notify_all()
            return True

    def refuse(self) -> None:
        """Take no more jobs; those accepted go on."""
        with self._changed:
            self._accepting = False

    def drain(self, timeout: float) -> bool:
        """True when every accepted job has ended within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._active, timeout)

    def stop(self, timeout: float) -> None:
        """Forget what waits, end the threads; each is given what is left of `timeout` seconds."""
        with self._changed:
            self._accepting = False
            self._stopping = True
            self._waiting.clear()
            self._has_job.notify_all()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout)

    @property
    def active(self) -> int:
        """Jobs that run now."""
        with self._changed:
            return self._active

    @property
    def queued(self) -> int:
        """Jobs that wait for a worker."""
        with self._changed:
            return len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._has_job.wait_for(lambda: bool(self._waiting) or self._stopping)
                if self._stopping:
                    return
                job = self._waiting.popleft()
                self._active += 1
            try:
                job()
            except Exception:  # a bug in one job must not cost the pool a thread
                log.exception("A job failed outside its own error handling")
            finally:
                with self._changed:
                    self._active -= 1
                    self._changed.notify_all()
