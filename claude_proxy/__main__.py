"""`python -m claude_proxy`: read the settings, serve, drain.

In: argv and the environment. Out: an exit status: 0 after a clean end, 2 for settings that cannot be used, 1 when
turns or children had to be ended by force.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from . import __version__, config, logs
from .config import Config, ConfigError
from .service import Service, Status
from .web.app import create_app
from .web.server import AddressInUse, Server

log = logging.getLogger(__name__)

LOGIN_TIMEOUT = 10.0
SWITCH_INTERVAL = 0.0005
SIGNAL_INTERVAL = 0.2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proxy until a signal ends it."""
    try:
        settings = config.from_environment(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        return _fail(str(error))
    logs.configure("debug" if settings.debug else settings.log_level, as_json=settings.log_json)
    try:
        service = Service(settings)
    except ConfigError as error:
        return _fail(str(error))
    try:
        server = Server(create_app(service), settings)
    except AddressInUse as error:
        return _fail(f"{error}; choose another with --port")
    except OSError as error:
        return _fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
    return _serve(settings, service, server)


def _serve(settings: Config, service: Service, server: Server) -> int:
    """Serve in a thread of its own, so that this one can take signals and drain."""
    # Threads hand each word on to one another: the default of 5 ms would be felt beside a turn that takes 35.
    sys.setswitchinterval(SWITCH_INTERVAL)
    # What was imported stays: the collector need not look through it in the middle of an answer.
    gc.collect()
    gc.freeze()
    ending = _Ending(service)
    service.start()
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    _announce(settings, service, server.port)
    ending.wait()
    print("Finishing running answers, then exiting; a second signal exits now", file=sys.stderr)
    clean = service.drain(settings.shutdown_timeout)
    server.stop()
    thread.join(settings.shutdown_timeout)
    service.stop()
    return 0 if clean else 1


class _Ending:
    """Waits for SIGINT or SIGTERM; a second one kills the children and ends the process at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def wait(self) -> None:
        # With a timeout: the kernel may give the signal to another thread, and nothing would wake this one.
        while not self._asked.wait(SIGNAL_INTERVAL):
            pass

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            # In a thread: this handler may have interrupted the very code that holds the fleet's lock.
            killer = threading.Thread(target=self._service.kill_children, name="killer", daemon=True)
            killer.start()
            killer.join(1.0)
            os._exit(1)
        self._asked.set()


def _announce(settings: Config, service: Service, port: int) -> None:
    """The few lines that a person needs after the start."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(
        f"claude_proxy {__version__} listens on http://{host}:{port}  (OpenAI base URL: http://{host}:{port}/v1)",
        flush=True,
    )
    if "CLAUDECODE" in settings.environ:
        print("Started from inside a Claude Code session: its variables are kept from the CLI.", flush=True)
    if settings.demo:
        print("Demo: the answers come from an echo inside the proxy; nothing leaves this machine.", flush=True)
    for line in settings.notes:
        print(line, flush=True)
    for line in describe(service.wait_for_login(LOGIN_TIMEOUT)):
        print(line, flush=True)


def describe(status: Status) -> list[str]:
    """The CLI in use and its login, and the command for what is missing."""
    lines = []
    if status.cli_path is not None:
        lines.append(f"Claude Code CLI {status.cli_version} at {status.cli_path}")
    if status.cli_problem is not None:
        lines.append(f"Not ready: {status.cli_problem}")
    elif status.logged_in:
        lines.append("The CLI is logged in.")
    else:
        lines.append("Whether the CLI is logged in could not be asked; the first request will tell.")
    return lines


def _fail(message: str) -> int:
    print(f"claude-proxy: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
