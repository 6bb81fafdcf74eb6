"""The running proxy without its HTTP: fleet, keeper, watchdog, workers, catalogue, login, put together from settings.

In: a `Config`. Out: a `Service` that is started, asked for turns, drained and stopped, in that order.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import notify as sinks
from .claude.fleet import launcher
from .claude.fleet.agent_flags import AGENT_VARIABLES, build_options
from .claude.fleet.fleet import Counts, Fleet, Limits
from .claude.fleet.keeper import GRACE, Keeper
from .claude.fleet.launcher import Launcher, build_environment
from .claude.fleet.waker import PipePoller
from .claude.process import locate
from .claude.wire.profile import Profile
from .config import Config, ConfigError, expand, read_mcp_servers
from .core.errors import ClientGone, CliUnavailable, Interrupted, ModelNotFound, ShuttingDown
from .core.models import Catalogue, is_alias, resolve
from .core.session_key import SessionKey
from .demo import DemoApi
from .monitoring.activity import Activity
from .monitoring.counts import Gauges
from .monitoring.metrics import Metrics
from .monitoring.permissions import Kind as PermissionKind
from .monitoring.permissions import Pending, Permissions
from .monitoring.plan import PlanLimits, PlanQuestion
from .storage.ledger import Ledger
from .storage.responses import ResponseBook
from .storage.sessions import Sessions
from .storage.store import Store
from .turns.engine import Engine, TurnLimits
from .turns.observer import Circle
from .turns.session_queue import SessionQueue
from .turns.turn import Turn
from .turns.watchdog import Watchdog
from .turns.workers import WorkerPool

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
        """Raises ConfigError for what only the catalogue of models can tell."""
        fallback_model = fallback_model_of(config)
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
        self.activity = Activity(time.time)
        self.permissions = Permissions(config.permission_timeout, clock, time.time)
        self.plan_limits = PlanLimits(time.time)
        self.ledger = Ledger(self.store, time.time)
        self.session_queue = SessionQueue(config.max_queue)
        self._poller = PipePoller()
        self.fleet = Fleet(limits_of(config), clock, self._poller)
        self.plan_question = PlanQuestion(self.plan_limits, self._ask_for_usage, clock)
        self.metrics = Metrics(self._gauges, self.plan_limits.snapshot, self._knows_model)
        self.sinks = sinks.build(config)
        self.permissions.listeners.append(self._note_permission)
        self.activity.listeners += [self.metrics.take, *self.sinks.listeners]
        interval = min(SWEEP_INTERVAL, config.inactivity_timeout / 4, config.permission_timeout / 4)
        self.watchdog = Watchdog(clock, interval, chore=self.permissions.sweep)
        self.workers = WorkerPool(config.max_concurrent, config.max_queue)
        self.engine = Engine(
            *(self.fleet, self.watchdog, self.workers, self.sessions),
            *(Circle(self.activity, self.permissions, self.plan_limits), self.ledger, turn_limits_of(config), clock),
            on_login=self._note_login,
            check_login=lambda: self.check_login().logged_in,
            login_advice=self._advice,
            persist=config.persist,
            agent_persist=not config.no_store,
            progress=config.progress,
            fallback_model=fallback_model,
        )
        self._keeper: Keeper | None = None

    def start(self) -> None:
        """Start every thread, and the first spare. A missing CLI is not an error here: requests are told."""
        launcher.clear_leftovers()
        self._launcher = self._make_launcher()
        self.sessions.on_forget = self._launcher.forget_sessions
        model = resolve(self.config.model, self.config.model).cli_model
        default = Profile(model, agent=self.config.mode == "agent")
        self._keeper = Keeper(
            self.fleet,
            self._poller,
            self._launcher,
            default,
            self._clock,
            self.catalogue.update,
            chore=self._prune,
        )
        self._keeper.start()
        self.watchdog.start()
        self.workers.start()
        self.sinks.start()
        self._login_thread = threading.Thread(target=self.check_login, name="login", daemon=True)
        self._login_thread.start()

    def submit(self, turn: Turn) -> None:
        """Queue a turn; see `Engine.submit`."""
        with self._lock:
            self._turns.add(turn)
        try:
            self.engine.submit(turn)
        except BaseException:
            with self._lock:
                self._turns.discard(turn)
            raise

    def interrupt(self, owner: str, request_id: str) -> bool:
        """Stop a turn of this owner, wherever it is; False where it does not run any more, or is being ended."""
        with self._lock:
            turn = next((one for one in self._turns if one.id == request_id and one.name.owner == owner), None)
        entry = self.activity.get(owner, request_id)
        if turn is None or (entry is not None and entry.ended_at is not None):
            return False
        error = Interrupted("The request was interrupted")
        turn.abort(error)
        self.permissions.withdraw(turn.id)
        return turn.verdict is error

    def delete_session(self, key: SessionKey) -> bool:
        """Close its child, forget what is remembered of it; False where it is unknown."""
        known = self.sessions.delete(key)
        self.permissions.forget_session(key)
        self.store.write(self.ledger.forget_session(key))
        return bool(self.fleet.retire_session(key)) or known

    def forget(self, turn: Turn) -> None:
        """The view is done with a turn; one that still runs has lost its client."""
        turn.abort(ClientGone("The client has gone"))
        self.permissions.withdraw(turn.id)
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
        clean = self.workers.drain(timeout)
        if not clean:
            with self._lock:
                left = list(self._turns)
            for turn in left:
                turn.abort(ShuttingDown("The proxy is shutting down"))
            self.workers.drain(GRACE)
        self.permissions.close()
        return clean

    def stop(self) -> None:
        """End every thread and every child; what will not end is killed."""
        self.workers.stop(POOL_STOP_TIMEOUT)
        self.watchdog.stop()
        self.sinks.stop()
        if self._keeper is not None:
            self._keeper.stop(3 * GRACE)
        self._poller.close()
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
        for connection in children:
            connection.child.kill()

    def _note_permission(self, pending: Pending, kind: PermissionKind) -> None:
        name = pending.id
        if kind == "asked":
            about = {"tool": pending.tool, "label": pending.label}
            self.activity.note(pending.request_id, "permission_asked", permission_id=name, **about)
        else:
            self.activity.note(pending.request_id, "permission_decided", permission_id=name, decision=kind)

    def _prune(self) -> None:
        forgotten = self.sessions.prune()
        if forgotten:
            log.info("Forgot %d sessions that nobody used for %g h", forgotten, self.config.session_ttl / 3600)
        gone = self.responses.prune(self.config.session_ttl)
        if gone:
            log.info("Forgot %d responses and conversations that nobody used", gone)
        self.ledger.prune()

    def _ask_for_usage(self, take: Callable[[Mapping[str, Any] | None], None]) -> bool:
        return self.fleet.ask_idle(lambda child: child.request_usage(take))

    def _gauges(self) -> Gauges:
        tally, counts = self.fleet.tally, asdict(self.fleet.counts())
        return Gauges(self.workers.queued, self.workers.active, counts, tally.started, dict(tally.ended))

    def _knows_model(self, name: str) -> bool:
        return is_alias(name) or name in self.catalogue.listing()

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
        agent = None
        if self.config.has_agent:
            agent_environ = build_environment(
                self.config.environ, use_api_key=self.config.use_api_key, added=AGENT_VARIABLES
            )
            agent = build_options(agent_environ, **agent_settings_of(self.config))
        return Launcher(
            self.config.claude, environ, folder, demo_url=demo_url, persist=self.config.persist, agent=agent
        )


def _store_folder(config: Config) -> Path | None:
    """A demo leaves nothing behind, unless it is told where."""
    forgets = config.no_store or (config.demo and not config.state_dir)
    return None if forgets else config.state_folder


def turn_limits_of(config: Config) -> TurnLimits:
    """The engine's share of the settings."""
    return TurnLimits(config.inactivity_timeout, config.request_timeout, config.client_timeout, config.tool_timeout)


def fallback_model_of(config: Config) -> str:
    """The CLI's name of `--fallback-model`; empty without one. Raises ConfigError for one that nobody knows."""
    if not config.fallback_model:
        return ""
    resolution = resolve(config.fallback_model, config.model)
    if resolution.substituted:
        raise ConfigError(f"--fallback-model {config.fallback_model[:80]}: no model of that name is known")
    return resolution.cli_model


def agent_settings_of(config: Config) -> dict[str, Any]:
    """The settings of agent children, by the names of `build_options`."""
    return {
        "workdir": config.work_folder,
        "allowed_tools": config.allowed_tools,
        "permission_mode": config.permission_mode,
        "add_dir": [str(expand(folder)) for folder in config.add_dir],
        "mcp_config": [str(expand(file)) for file in config.mcp_config],
        "mcp_servers": [name for file in config.mcp_config for name in read_mcp_servers(file)],
        "max_turns": config.max_turns,
        "max_budget_usd": config.max_budget_usd,
        "user_settings": config.user_settings,
        "keeps": not config.no_store,
    }


def limits_of(config: Config) -> Limits:
    """The fleet's share of the settings."""
    return Limits(config.warm, config.live, config.max_children, config.idle_ttl, config.park_ttl)
