"""Find the CLI on this machine, read its version, ask whether it is logged in.

In: the path given, if any, and the environment. Out: an `Installation`, or `CliUnavailable` with the command to run.
The binary is looked for as: the path given, `claude` on PATH, where the installers put it, inside the
`claude-agent-sdk` wheel (extra `[cli]`).
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...core.errors import CliUnavailable
from ...core.timing import Timing

# The oldest release that was seen to take everything that is sent to it (client_composed, shouldQuery, manifests).
MINIMUM = (2, 1, 329)
INSTALL = "curl -fsSL https://claude.ai/install.sh | bash   (or: pip install 'claude_proxy[cli]')"

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Installation:
    """The binary in use and the version it reports, such as `2.1.329`."""

    path: Path
    version: str


class Login(msgspec.Struct, frozen=True):
    """What `claude auth status --json` says; `None` in `logged_in` where it could not be asked."""

    logged_in: bool | None = msgspec.field(name="loggedIn", default=None)
    auth_method: str | None = msgspec.field(name="authMethod", default=None)
    api_key_source: str | None = msgspec.field(name="apiKeySource", default=None)


def find(given: str, environ: Mapping[str, str], timing: Timing = Timing()) -> Installation:
    """The CLI to use. Raises CliUnavailable when there is none, or when it is too old."""
    path = _first_executable(given, environ)
    version = read_version(path, environ, timing)
    if version < MINIMUM:
        wanted = ".".join(map(str, MINIMUM))
        found = ".".join(map(str, version))
        raise CliUnavailable(
            f"The Claude Code CLI at {path} is {found}; {wanted} or later is needed. Run: {_update(path)}"
        )
    return Installation(path, ".".join(map(str, version)))


def read_version(path: Path, environ: Mapping[str, str], timing: Timing = Timing()) -> tuple[int, ...]:
    """The three numbers that `claude --version` prints. Raises CliUnavailable."""
    answer = _ask(path, ["--version"], environ, timing.ask_timeout)
    match = _VERSION.search(answer)
    if match is None:
        raise CliUnavailable(f"{path} does not answer --version like the Claude Code CLI. Run: {INSTALL}")
    return tuple(int(number) for number in match.groups())


def read_login(path: Path, environ: Mapping[str, str], timing: Timing = Timing()) -> Login:
    """Whether the CLI is logged in, by its own account; unknown when it does not say so in time."""
    try:
        return msgspec.json.decode(_ask(path, ["auth", "status", "--json"], environ, timing.ask_timeout), type=Login)
    except (msgspec.MsgspecError, CliUnavailable):
        return Login()


def build_advice(command: str) -> str:
    """What to run where the CLI has no login, or one that the API refuses."""
    return f"{command} auth login   (without a browser: {command} setup-token, then export CLAUDE_CODE_OAUTH_TOKEN)"


def command_of(path: Path, environ: Mapping[str, str]) -> str:
    """What to type to run this CLI: `claude` where the shell finds just this one, else its path."""
    on_path = shutil.which("claude", path=environ.get("PATH", os.defpath))
    return "claude" if on_path is not None and Path(on_path).absolute() == path else shlex.quote(str(path))


def _first_executable(given: str, environ: Mapping[str, str]) -> Path:
    if given:
        path = Path(given).expanduser()
        if not _is_executable(path):
            raise CliUnavailable(f"--claude {given}: no executable file is there. Run: {INSTALL}")
        return path.absolute()
    for path in _candidates(environ):
        if _is_executable(path):
            return path.absolute()
    raise CliUnavailable(f"The Claude Code CLI was not found on this machine. Run: {INSTALL}")


def _candidates(environ: Mapping[str, str]) -> Iterator[Path]:
    on_path = shutil.which("claude", path=environ.get("PATH", os.defpath))
    if on_path:
        yield Path(on_path)
    if environ.get("HOME"):
        for place in (".local/bin/claude", ".claude/local/claude", ".npm-global/bin/claude"):
            yield Path(environ["HOME"], place)
    yield Path("/usr/local/bin/claude")
    yield Path("/opt/homebrew/bin/claude")
    bundled = bundled_cli()
    if bundled is not None:
        yield bundled


def bundled_cli() -> Path | None:
    """The binary inside the `claude-agent-sdk` wheel, without importing the package; None when it is not installed."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or not spec.submodule_search_locations:
        return None
    name = "claude.exe" if os.name == "nt" else "claude"
    return Path(next(iter(spec.submodule_search_locations)), "_bundled", name)


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _update(path: Path) -> str:
    if "claude_agent_sdk" in path.parts:
        return "pip install --upgrade claude-agent-sdk"
    return f"{path} update"


def _ask(path: Path, arguments: list[str], environ: Mapping[str, str], timeout: float) -> str:
    try:
        done = subprocess.run(
            [str(path), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(environ),
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CliUnavailable(f"{path} could not be run ({type(error).__name__}). Run: {INSTALL}") from error
    return done.stdout.decode("utf-8", "replace")
