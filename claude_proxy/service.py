"""The composition root: builds every part of the running proxy from its settings, starts and stops them in order.

`__main__` and the tests build it; `web/` reads its parts. The only module that knows every room but `web/`.
Invariant: collaborators are handed in when a part is built; nothing is attached to a part afterwards.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import notify
from .claude.fleet.agent_flags import AGENT_VARIABLES, AgentOptions, build_options
from .claude.fleet.fleet import Fleet
from .claude.fleet.keeper import Keeper
from .claude.fleet.launcher import Launcher, build_environment
from .claude.fleet.members import Counts, Limits
from .claude.fleet.run_folder import clear_leftovers
from .claude.fleet.self_check import SelfCheck
from .claude.fleet.waker import PipePoller
from .claude.process.processes import ProcessNames
from .claude.wire.profile import Profile
from .claude.wire.recycling import Abilities, Recycling
from .config import Config, ConfigError, expand, read_mcp_servers
from .core.errors import Interrupted, ShuttingDown
from .core.models import Catalogue, resolve
from .core.session_key import SessionKey
from .core.timing import Timing
from .demo import DemoApi
from .monitoring.activity import Activity
from .monitoring.metrics import Metrics
from .monitoring.permissions import Permissions
from .monitoring.plan import PlanLimits, PlanQuestion
from .storage.ledger import Ledger
from .storage.pruning import Pruner
from .storage.responses import ResponseBook
from .storage.sessions import Sessions
from .storage.store import Store
from .turns.books import Books
from .turns.engine import Engine
from .turns.load import Load
from .turns.login import LoginState
from .turns.model_names import ModelNames
from .turns.modes import build_modes
from .turns.observer import Observers
from .turns.runner import TurnRunner
from .turns.session_queue import SessionQueue
from .turns.turn import Turn
from .turns.watchdog import Watchdog
from .turns.workers import WorkerPool

SWEEP_INTERVAL = 0.5


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
    recycling: Abilities
    recycling_reason: str


class Service:
    """Everything that lives as long as the proxy."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.monotonic,
        timing: Timing = Timing(),
        *,
        recycling: Recycling | None = None,
    ) -> None:
        """Raises ConfigError for what only the catalogue of models can tell. `stop` must follow, started or not.

        recycling: what the CLI is known to take; found out after the start by default.
        """
        fallback_model = fallback_model_of(config)
        self.config = config
        self._timing = timing
        self._lock = threading.Lock()  # guards: _turns, _draining
        self._turns: set[Turn] = set()
        self._draining = False
        self._demo = DemoApi() if config.demo else None
        if self._demo is not None:
            self._demo.start()  # its port goes into the children's environment
        self._launcher = build_launcher(config, self._demo.base_url if self._demo is not None else "", timing)
        self.login = LoginState(self._launcher)
        self._login_thread = threading.Thread(target=self.login.check, name="login", daemon=True)
        self.catalogue = Catalogue()
        self.models = ModelNames(self.catalogue, config.model, refuses_unknown=config.unknown_model == "error")
        self.modes = build_modes(
            request_timeout=config.request_timeout,
            tool_timeout=config.tool_timeout,
            persist=config.persist,
            agent_persist=not config.no_store,
            progress=config.progress,
        )

        self.store = Store(_store_folder(config))
        self.sessions = Sessions(self.store, config.session_ttl, time.time, self._launcher)
        self.responses = ResponseBook(self.store, time.time, ProcessNames(), stores_text=not config.no_store)
        self.ledger = Ledger(self.store, time.time)

        self.workers = WorkerPool(config.max_concurrent, config.max_queue)
        self.session_queue = SessionQueue(config.max_queue)
        self._poller = PipePoller()
        self.recycling = recycling or Recycling(reason="not checked yet" if may_recycle(config) else "switched off")
        self._check = None if recycling is not None or not may_recycle(config) else self._make_check()
        self._check_thread = threading.Thread(target=self._run_check, name="cli-check", daemon=True)
        self.fleet = Fleet(limits_of(config), clock, self._poller, timing, self.recycling)

        self.plan_limits = PlanLimits(time.time)
        self.plan_question = PlanQuestion(self.plan_limits, self.fleet, clock)
        self.metrics = Metrics(Load(self.workers, self.fleet), self.plan_limits, self.models)
        self.sinks = notify.build(config)
        self.activity = Activity(time.time, (self.metrics, *self.sinks.listeners))
        self.permissions = Permissions(config.permission_timeout, clock, time.time, self.activity)

        interval = min(SWEEP_INTERVAL, config.inactivity_timeout / 4, config.permission_timeout / 4)
        self.watchdog = Watchdog(clock, interval, housekeeping=self.permissions.sweep)
        books = Books(Observers(self.activity, self.permissions, self.plan_limits), self.sessions, self.ledger)
        self.runner = TurnRunner(
            *(self.fleet, books, self.login, clock),
            timing=timing,
            silence_timeout=config.inactivity_timeout,
            client_timeout=config.client_timeout,
            fallback_model=fallback_model,
        )
        self.engine = Engine(self.runner, books, self.watchdog, self.workers, config.inactivity_timeout, clock)
        default = Profile(resolve(config.model, config.model).cli_model, agent=config.mode == "agent")
        pruner = Pruner(self.sessions, self.responses, self.ledger, config.session_ttl)
        self._keeper = Keeper(self.fleet, self._poller, self._launcher, self.catalogue, pruner, default, clock, timing)

    def start(self) -> None:
        """Start every thread, and the first spare. A missing CLI is not an error here: requests are told."""
        clear_leftovers()
        self._keeper.start()
        self.watchdog.start()
        self.workers.start()
        self.sinks.start()
        self._login_thread.start()
        self._check_thread.start()

    def _make_check(self) -> SelfCheck:
        """What finds out after the start whether this CLI lets its children be used again."""
        config = self.config
        environ = build_environment(config.environ, use_api_key=False)
        return SelfCheck(
            self.recycling,
            self._launcher.installation,
            lambda url: Launcher(config.claude, environ, None, self._timing, demo_url=url),
            _store_folder(config),
            self._timing,
        )

    def _run_check(self) -> None:
        if self._check is not None:
            self._check.run()

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
        return turn.abort_reason is error

    def delete_session(self, key: SessionKey) -> bool:
        """Close its child, forget what is remembered of it; False where it is unknown."""
        known = self.sessions.delete(key)
        self.permissions.forget_session(key)
        self.store.write(self.ledger.forget_session(key))
        return bool(self.fleet.retire_session(key)) or known

    def release(self, turn: Turn) -> None:
        """The view is done with a turn; one that still runs has lost its client."""
        turn.release()
        self.permissions.withdraw(turn.id)
        with self._lock:
            self._turns.discard(turn)

    def status(self) -> Status:
        """Never waits for the CLI."""
        installation, login = self._launcher.known(), self.login.known
        with self._lock:
            draining = self._draining
        return Status(
            str(installation.path) if installation else None,
            installation.version if installation else None,
            login.problem,
            login.logged_in,
            self.sessions.count(),
            self.workers.active,
            self.workers.queued,
            self.fleet.counts(),
            draining,
            self.recycling.abilities,
            self.recycling.reason,
        )

    def wait_for_login(self, timeout: float) -> Status:
        """The status once the login check of the start has ended, or what is known after `timeout` seconds."""
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
            self.workers.drain(self._timing.abort_timeout)
        self.permissions.close()
        return clean

    def stop(self) -> None:
        """End every thread and every child; what will not end is killed."""
        self.workers.stop(self._timing.pool_stop_timeout)
        self.watchdog.stop()
        self.sinks.stop()
        self._keeper.stop(self._timing.keeper_stop_timeout)
        self._poller.close()
        if self._login_thread.ident is not None:
            self._login_thread.join(self._timing.ask_timeout)
        if self._check is not None:
            self._check.cancel()
        if self._check_thread.ident is not None:
            self._check_thread.join(self._timing.check_timeout)
        if self._demo is not None:
            self._demo.stop()
        self.store.close()
        self._launcher.close()

    def kill_children(self) -> None:
        """For a second signal: everything at once, and nothing waited for."""
        self.fleet.kill_all()
        if self._check is not None:
            self._check.cancel()


def may_recycle(config: Config) -> bool:
    """False where a child's history is on disk as well: what a rewind takes out of it would be resumed later."""
    return not config.no_recycle and not config.persist


def build_launcher(config: Config, demo_url: str, timing: Timing) -> Launcher:
    """How children are started. demo_url: the Messages API of `--demo`; empty without it."""
    keeps = not demo_url or bool(config.state_dir)
    return Launcher(
        config.claude,
        build_environment(config.environ, use_api_key=config.use_api_key),
        config.state_folder if keeps else None,
        timing,
        demo_url=demo_url,
        persist=config.persist,
        agent=_agent_options_of(config),
    )


def _agent_options_of(config: Config) -> AgentOptions | None:
    """How agent children are started; None where agent mode is off."""
    if not config.has_agent:
        return None
    environ = build_environment(config.environ, use_api_key=config.use_api_key, added=AGENT_VARIABLES)
    return build_options(environ, **agent_settings_of(config))


def _store_folder(config: Config) -> Path | None:
    """A demo leaves nothing behind, unless it is told where."""
    forgets = config.no_store or (config.demo and not config.state_dir)
    return None if forgets else config.state_folder


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
