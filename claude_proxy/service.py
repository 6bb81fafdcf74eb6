"""The running proxy without its HTTP: fleet, keeper, watchdog, workers, catalogue, login, put together from settings.

In: a `Config`. Out: a `Service` that is started, asked for turns, drained and stopped, in that order.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .claude import launcher, locate
from .claude.dialogue import Profile
from .claude.fleet import Counts, Fleet, Limits
from .claude.keeper import GRACE, Keeper
from .claude.launcher import Launcher, build_environment
from .claude.watchdog import Watchdog
from .config import Config
from .demo import DemoApi
from .engine import Engine, TurnLimits
from .errors import ClientGone, CliUnavailable, ModelNotFound, ShuttingDown
from .models import Catalogue, resolve
from .responses_store import ResponseBook
from .sessions import Sessions, Turnstile
from .store import Store
from .turns import Turn
from .workers import WorkerPool

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.5
POOL_STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """What `/health` and the start say. `logged_in` is None while it is not known."""

    cli_path: str | None
    cli_version: str | None
    cli_problem: str | None
    logged_in: bool | None
    sessions: int
    active: int
    queued: int
    fleet: Counts
    draining: bool


class Service:
    """Everything that lives as long as the proxy."""

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.catalogue = Catalogue()
        self._demo = DemoApi() if config.demo else None
        self._clock = clock
        self._lock = threading.Lock()  # guards: _logged_in, _problem, _turns, _draining, _substituted
        self._logged_in: bool | None = None
        self._problem: str | None = None
        self._turns: set[Turn] = set()
        self._draining = False
        self._substituted: set[str] = set()
        self._launcher: Launcher | None = None
        self._login_thread: threading.Thread | None = None
        self.store = Store(_store_folder(config))
        self.sessions = Sessions(self.store, config.session_ttl, time.time)
        self.responses = ResponseBook(self.store, time.time, keeps=not config.no_store)
        self.turnstile = Turnstile()
        self.fleet = Fleet(limits_of(config), clock)
        self.watchdog = Watchdog(clock, min(SWEEP_INTERVAL, config.inactivity_timeout / 4))
        self.workers = WorkerPool(config.max_concurrent, config.max_queue)
        limits = TurnLimits(config.inactivity_timeout, config.request_timeout, config.client_timeout)
        self.engine = Engine(
            *(self.fleet, self.watchdog, self.workers, self.sessions, limits, clock),
            on_login=self._note_login,
            check_login=lambda: self.check_login().logged_in,
            login_advice=self._advice,
            persist=config.persist,
        )
        self._keeper: Keeper | None = None

    def start(self) -> None:
        """Start every thread, and the first spare. A missing CLI is not an error here: requests are told."""
        launcher.clear_leftovers()
        self._launcher = self._make_launcher()
        self.sessions.on_forget = self._launcher.forget_sessions
        default = Profile(resolve(self.config.model, self.config.model).cli_model)
        self._keeper = Keeper(
            self.fleet, self._launcher, default, self._clock, self.catalogue.update, chore=self._prune
        )
        self._keeper.start()
        self.watchdog.start()
        self.workers.start()
        self._login_thread = threading.Thread(target=self.check_login, name="login", daemon=True)
        self._login_thread.start()

    def submit(self, turn: Turn) -> None:
        """Queue a turn; see `Engine.submit`."""
        self.engine.submit(turn)
        with self._lock:
            self._turns.add(turn)

    def delete_session(self, owner: str, session_id: str) -> bool:
        """Close its child, forget what is remembered of it; False where it is unknown."""
        known = self.sessions.delete(owner, session_id)
        return bool(self.fleet.retire_session(f"{owner}/{session_id}")) or known

    def forget(self, turn: Turn) -> None:
        """The view is done with a turn; one that still runs has lost its client."""
        turn.abort(ClientGone("The client has gone"))
        with self._lock:
            self._turns.discard(turn)

    def resolve_model(self, name: str) -> str:
        """The CLI's name for a client's model name; a substitution is logged once. Raises ModelNotFound."""
        resolution = resolve(name, self.config.model) if name else resolve(self.config.model, self.config.model)
        if not name or not resolution.substituted:
            return resolution.cli_model
        if self.config.unknown_model == "error":
            raise ModelNotFound(f"The model {name[:80]!r} does not exist", param="model")
        with self._lock:
            first = name not in self._substituted and len(self._substituted) < 1000
            self._substituted.add(name)
        if first:
            log.warning("Model %.80r is not known here; %s answers for it", name, resolution.cli_model)
        return resolution.cli_model

    def status(self) -> Status:
        """Never blocks on the CLI."""
        installation = self._launcher.known() if self._launcher is not None else None
        with self._lock:
            logged_in, problem, draining = self._logged_in, self._problem, self._draining
        return Status(
            str(installation.path) if installation else None,
            installation.version if installation else None,
            problem,
            logged_in,
            self.sessions.count(),
            self.workers.active,
            self.workers.queued,
            self.fleet.counts(),
            draining,
        )

    def check_login(self) -> Status:
        """Ask the CLI whether it is there and logged in; takes up to a second."""
        assert self._launcher is not None
        try:
            logged_in = self._launcher.login().logged_in
            problem = None if logged_in is not False else self._advice()
        except CliUnavailable as error:
            logged_in, problem = None, error.message
        with self._lock:
            self._logged_in, self._problem = logged_in, problem
        return self.status()

    def wait_for_login(self, timeout: float) -> Status:
        """The status once `check_login` of the start has ended, or what is known after `timeout` seconds."""
        if self._login_thread is not None:
            self._login_thread.join(timeout)
        return self.status()

    def drain(self, timeout: float) -> bool:
        """Refuse new turns and let the accepted ones end; True when they all did within `timeout` seconds."""
        with self._lock:
            self._draining = True
        self.workers.refuse()
        if self.workers.drain(timeout):
            return True
        with self._lock:
            left = list(self._turns)
        for turn in left:
            turn.abort(ShuttingDown("The proxy is shutting down"))
        self.workers.drain(GRACE)
        return False

    def stop(self) -> None:
        """End every thread and every child; what will not end is killed."""
        self.workers.stop(POOL_STOP_TIMEOUT)
        self.watchdog.stop()
        if self._keeper is not None:
            self._keeper.stop(3 * GRACE)
        if self._login_thread is not None:
            self._login_thread.join(locate.ASK_TIMEOUT)
        if self._demo is not None:
            self._demo.stop()
        self.store.close()
        if self._launcher is not None:
            self._launcher.close()

    def kill_children(self) -> None:
        """For a second signal: everything at once, and nothing waited for."""
        with self.fleet.changed:
            members = self.fleet.members
            children = members.idle() + members.leased
        for dialogue in children:
            dialogue.child.kill()

    def _prune(self) -> None:
        forgotten = self.sessions.prune()
        if forgotten:
            log.info("Forgot %d sessions that nobody used for %g h", forgotten, self.config.session_ttl / 3600)
        gone = self.responses.prune(self.config.session_ttl)
        if gone:
            log.info("Forgot %d responses and conversations that nobody used", gone)

    def _advice(self) -> str:
        advice = self._launcher.login_advice() if self._launcher is not None else locate.build_advice("claude")
        return f"The Claude Code CLI is not logged in. Run: {advice}"

    def _note_login(self, logged_in: bool) -> None:
        problem = None if logged_in else self._advice()
        with self._lock:
            self._logged_in, self._problem = logged_in, problem

    def _make_launcher(self) -> Launcher:
        environ = build_environment(self.config.environ, use_api_key=self.config.use_api_key)
        keeps = self._demo is None or bool(self.config.state_dir)
        folder = self.config.state_folder if keeps else None
        if self._demo is not None:
            self._demo.start()
        demo_url = self._demo.base_url if self._demo is not None else ""
        return Launcher(self.config.claude, environ, folder, demo_url=demo_url, persist=self.config.persist)


def _store_folder(config: Config) -> Path | None:
    """A demo leaves nothing behind, unless it is told where."""
    forgets = config.no_store or (config.demo and not config.state_dir)
    return None if forgets else config.state_folder


def limits_of(config: Config) -> Limits:
    """The fleet's share of the settings."""
    return Limits(config.warm, config.live, config.max_children, config.idle_ttl, config.park_ttl)
