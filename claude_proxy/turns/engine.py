"""The queue of turns: accepts them, gives each to a worker, ends each with its result or its error.

The service submits, a worker's thread runs `_work`. Invariant: a turn that was accepted ends exactly once, whatever
happens to it, and its place in the queue is free from the moment that its client is gone.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from ..claude.turn.connection import Connection
from ..core.errors import BadRequest, ChildSilent, InternalError, ProxyError, RequestTimedOut
from .books import Books
from .runner import TurnRunner
from .turn import Turn
from .watchdog import Watch, Watchdog
from .workers import Job, WorkerPool

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Engine:
    """Queues turns for the workers. silence_timeout: seconds that a child may be silent; clock: monotonic seconds."""

    runner: TurnRunner
    books: Books
    watchdog: Watchdog
    workers: WorkerPool
    silence_timeout: float
    clock: Callable[[], float]

    def submit(self, turn: Turn) -> None:
        """Queue a turn. Raises QueueFull, ShuttingDown; for a strict turn BadRequest for what is not honoured."""
        ignored = self.runner.ignored(turn)
        turn.report.note_ignored(ignored)
        if turn.request.strict and ignored:
            raise BadRequest(f"Not honoured: {', '.join(ignored)}", param=ignored[0])
        now = self.clock()
        turn.report.note_arrived(now)
        limit = turn.mode.request_timeout
        watch = Watch(
            self.clock,
            silence_timeout=self.silence_timeout,
            deadline=now + limit if limit else inf,
            on_silence=partial(self._on_silence, turn),
            on_deadline=partial(self._on_deadline, turn, limit),
        )
        turn.watch_with(watch)
        self.books.begin(turn)
        try:
            _QueuedTurn(self, turn, watch).enqueue()
        except ProxyError as error:
            self.books.refused(turn, error)
            raise

    def _on_silence(self, turn: Turn) -> None:
        error = f"The Claude Code CLI was silent for {self.silence_timeout:g} s"
        if turn.busy_with:
            error = f"A tool ran for longer than {turn.mode.tool_timeout:g} s ({turn.busy_with})"
        turn.abort(ChildSilent(error))

    def _on_deadline(self, turn: Turn, limit: float) -> None:
        turn.abort(RequestTimedOut(f"The request took longer than {limit:g} s"))

    def work(self, turn: Turn) -> None:
        """One job of a worker: the turn to its end, whatever happens."""
        error: ProxyError | None = None
        spent: list[Connection] = []
        turn.report.note_taken(self.clock())
        try:
            self.runner.run(turn, spent)
        except ProxyError as raised:
            error = raised
        except Exception:  # our own bug: the client is told so, the log holds the traceback
            log.exception("%s failed for a reason of our own", turn.id)
            error = InternalError("The proxy failed; its log says where")
        finally:
            turn.report.note_ended(self.clock())
            self.books.withdraw_questions(turn)
            if error is not None:
                self._fail(turn, error)
            if turn.watch is not None:
                self.watchdog.remove(turn.watch)
            turn.finish(error)
            self.runner.take_back(spent)  # the client does not wait for it

    def _fail(self, turn: Turn, error: ProxyError) -> None:
        if turn.report.has_begun:
            error.no_retry()
        self.books.failed(turn, error)


class _QueuedTurn:
    """A turn's place in the queue. One that is aborted while it waits gives its place back at once."""

    def __init__(self, engine: Engine, turn: Turn, watch: Watch) -> None:
        self._engine = engine
        self._turn = turn
        self._watch = watch
        self._job: Job = self._run

    def enqueue(self) -> None:
        """Raises QueueFull, ShuttingDown."""
        engine, turn = self._engine, self._turn
        turn.wait_in(self)
        engine.watchdog.add(self._watch)
        try:
            engine.workers.submit(self._job)
        except ProxyError:
            turn.wait_in(None)
            engine.watchdog.remove(self._watch)
            raise
        if turn.abort_reason is not None:  # aborted before it had a place to give back
            self.cancel_queued(turn)

    def cancel_queued(self, turn: Turn) -> None:
        """Take the turn out of the queue; does nothing where a worker has it already."""
        engine = self._engine
        if engine.workers.cancel_queued(self._job):
            engine.watchdog.remove(self._watch)
            engine.books.cancelled(turn)
            turn.finish(turn.abort_reason)

    def _run(self) -> None:
        self._engine.work(self._turn)
