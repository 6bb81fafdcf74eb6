"""How a child is started: its flags, its environment built explicitly, its folders.

The service builds the launcher from the settings; the keeper starts children with it, and the login state asks it about
the CLI. Invariants: each child has a folder of its own in that of the run (TMPDIR, XDG_RUNTIME_DIR); the working folder
of chat children is one fixed, empty folder: the CLI names it to the model, and a name that changed with every child
would spoil the API's prompt cache.
"""

import contextlib
import re
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...core.errors import BadRequest, CliUnavailable
from ...core.timing import Timing
from ..process import locate
from ..process.child import Child
from ..process.locate import Installation, Login
from ..turn.connection import Connection
from ..wire.profile import Point
from .agent_flags import AgentOptions
from .run_folder import RunFolder

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Nothing of the user's settings, memory, skills or MCP servers, no built-in tools, nothing written down.
CHAT_FLAGS = (
    *("-p", "--input-format", "stream-json", "--output-format", "stream-json"),
    *("--verbose", "--include-partial-messages", "--thinking-display", "summarized"),
    *("--tools", "", "--setting-sources", "", "--strict-mcp-config", "--disable-slash-commands"),
    *("--settings", '{"crossSessionInbound":"refuse"}'),
    *("--allowedTools", "mcp__client"),
)

# A session of Claude Code that we were started from; our own settings; what would change every request.
REMOVED_VARIABLES = frozenset(
    (
        *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_SSE_PORT"),
        *("PROXY_API_KEY", "CLAUDE_MODEL", "HOST", "PORT", "DEBUG"),
        *("TELEGRAM_BOT_TOKEN", "TELEGRAM_NOTIFY_ID"),
        *("CLAUDE_CODE_EXTRA_BODY", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "MAX_THINKING_TOKENS"),
        *("MCP_TOOL_TIMEOUT", "CLAUDE_CODE_SDK_MCP_TOOL_IDLE_TIMEOUT"),
    )
)
KEY_VARIABLES = frozenset(("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"))

# DISABLE_AUTO_COMPACT: the history is the client's. BLOCKING_LIMIT: the API says what is too long, by its own count.
# MAX_RETRIES: the CLI would otherwise try for minutes. Without the two DISABLE_…: a broken stream is asked for again as
# one piece, a refusal is argued with, both unseen. TOTAL_TOKENS_REMINDER: some models are told after each result how
# many tokens are left of a budget of the CLI's own, which goes on over all that a child has done. The others: the
# client's functions keep their names, are all offered at once, and their results arrive uncut.
ADDED_VARIABLES = {
    "DISABLE_AUTO_COMPACT": "1",
    "DISABLE_AUTOUPDATER": "1",
    "CLAUDE_CODE_BLOCKING_LIMIT_OVERRIDE": "1000000000",
    "CLAUDE_CODE_MAX_RETRIES": "2",
    "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    "CLAUDE_CODE_DISABLE_REFUSAL_RETRY": "1",
    "CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1",
    "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
    "ENABLE_TOOL_SEARCH": "false",
    "MAX_MCP_OUTPUT_TOKENS": "100000000",
}


def build_environment(
    environ: Mapping[str, str], *, use_api_key: bool, added: Mapping[str, str] = ADDED_VARIABLES
) -> dict[str, str]:
    """The environment of every child, less its own folders. added: what its mode needs.

    A stray API key must not turn the use of a subscription into billed use, so keys are left out unless asked for.
    """
    removed = REMOVED_VARIABLES if use_api_key else REMOVED_VARIABLES | KEY_VARIABLES
    kept = {
        name: value for name, value in environ.items() if name not in removed and not name.startswith("CLAUDE_PROXY_")
    }
    return {**kept, **added}


class Launcher:
    """Starts children. It looks for the CLI again while it has none, so that installing it needs no restart."""

    def __init__(
        self,
        claude: str,
        environ: Mapping[str, str],
        state_folder: Path | None,
        timing: Timing,
        *,
        demo_url: str = "",
        persist: bool = False,
        agent: AgentOptions | None = None,
    ) -> None:
        """
        Args:
            claude: the path of the CLI; empty to look for it.
            environ: as `build_environment` made it.
            state_folder: where the children's working folder lies; None for a run that leaves nothing behind.
            timing: how long the CLI may take to answer a command, and what its children need.
            demo_url: a Messages API on loopback that takes any key; children then get a home folder of its own.
            persist: let the CLI keep its sessions on disk, where they can be resumed.
            agent: how agent children are started; None where there are none.
        """
        self._claude = claude
        self._timing = timing
        self._environ = dict(environ)
        self._state_folder = state_folder
        self._demo_url = demo_url
        self._persist = persist
        self._agent = agent
        self._lock = threading.Lock()  # guards: _installation
        self._installation: Installation | None = None
        self._run_folder = RunFolder()

    def installation(self) -> Installation:
        """The CLI in use. Raises CliUnavailable."""
        with self._lock:
            known = self._installation
        if known is not None and known.path.exists():
            return known
        found = locate.find(self._claude, self._environ, self._timing)
        with self._lock:
            self._installation = found
        return found

    def known(self) -> Installation | None:
        """The CLI in use, without looking for it."""
        with self._lock:
            return self._installation

    def login_advice(self) -> str:
        """What to run where the CLI is not logged in."""
        known = self.known()
        command = locate.command_of(known.path, self._environ) if known is not None else "claude"
        return locate.build_advice(command)

    def login(self) -> Login:
        """Whether the CLI is logged in; takes about half a second. Raises CliUnavailable."""
        return locate.read_login(self.installation().path, {**self._environ, **self._demo_variables()}, self._timing)

    def is_logged_in(self) -> bool | None:
        """As `login`, in one word; None where the CLI does not say. Raises CliUnavailable."""
        return self.login().logged_in

    def start(self, model: str, resume: Point | None = None, *, agent: bool = False) -> Child:
        """Start a child.

        Args:
            model: as the CLI names it.
            resume: a session to load, always as a copy: of two processes in one session the last writer's branch wins,
                and the other's turns vanish.
            agent: one whose own tools run on this machine.

        Raises:
            CliUnavailable: the CLI was not found, or cannot be started.
            BadRequest: the model's name cannot be an argument.
        """
        folder = self._run_folder.next_child()
        try:
            argv, environ, cwd = self._describe(model, resume, agent)
            own = {"TMPDIR": str(folder), "XDG_RUNTIME_DIR": str(folder), **self._demo_variables()}
            child = Child(argv, {**environ, **own}, cwd, folder, self._timing, has_commands=agent)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            what = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
            raise CliUnavailable(f"The Claude Code CLI could not be started: {what}") from error
        except ValueError as error:  # a zero byte in the argv
            shutil.rmtree(folder, ignore_errors=True)
            raise BadRequest("The model's name holds a character that cannot be passed on", param="model") from error
        self._run_folder.record(child.pid)
        return child

    def _describe(self, model: str, resume: Point | None, agent: bool) -> tuple[list[str], Mapping[str, str], Path]:
        """Command line, environment and working folder of a child."""
        if agent:
            if self._agent is None:
                raise CliUnavailable("Agent mode is off")
            flags, environ, cwd, keeps = self._agent.flags, self._agent.environ, self._agent.workdir, self._agent.keeps
        else:
            flags, environ, cwd, keeps = CHAT_FLAGS, self._environ, self._kept_folder("empty"), self._persist
        argv = [str(self.installation().path), *flags, "--model", model]
        if not keeps:
            argv.append("--no-session-persistence")
        elif resume is not None:
            argv += ["--resume", resume.session_id, "--fork-session", "--resume-session-at", resume.message_uuid]
        return argv, environ, cwd

    def forget_sessions(self, session_ids: Iterable[str]) -> int:
        """Remove the CLI's own files of these sessions, with what their sub-agents said and long results; returns how
        many sessions there were."""
        environ = {**self._environ, **self._demo_variables()}
        config = environ.get("CLAUDE_CONFIG_DIR") or str(Path(environ.get("HOME", "~"), ".claude"))
        removed = 0
        for session_id in session_ids:
            if not _UUID.fullmatch(session_id):
                continue
            projects = Path(config, "projects")
            for folder in projects.glob(f"*/{session_id}"):
                shutil.rmtree(folder, ignore_errors=True)
            for path in projects.glob(f"*/{session_id}.jsonl"):
                with contextlib.suppress(OSError):
                    path.unlink()
                    removed += 1
        return removed

    def clear_after(self, connection: Connection) -> None:
        """Remove what a child that has ended wrote of a session that cannot be resumed."""
        keeps = self._persist
        if connection.agent:
            keeps = self._agent is not None and self._agent.keeps
        writes = connection.agent or keeps  # an agent's sub-agents leave files although it keeps none
        if writes and connection.session_id is not None and not (keeps and connection.is_remembered):
            self.forget_sessions((connection.session_id,))

    def close(self) -> None:
        """Remove the folder of this run; every child must have been reaped."""
        self._run_folder.remove()

    def _demo_variables(self) -> dict[str, str]:
        if not self._demo_url:
            return {}
        home = self._kept_folder("demo-home")
        return {
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "ANTHROPIC_BASE_URL": self._demo_url,
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-demo",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def _kept_folder(self, name: str) -> Path:
        """A folder that is the same for every child, and for every run that keeps its state. Raises OSError."""
        folder = (self._state_folder or self._run_folder.path()) / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
