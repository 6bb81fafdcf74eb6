"""The proxy, run for real in a test: waitress in threads, a scripted fake CLI as its children, one folder for it all.

In: a `Script` for the fake, settings for the proxy. Out: a `Proxy` to send requests to, and what the children saw.
Rules: nothing waits for a time, everything waits for a condition with a deadline; whatever a test leaves behind (a
thread, a process, a folder, a busy worker) fails it.
"""

import contextlib
import http.client
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from claude_proxy.claude.fleet.members import Counts
from claude_proxy.claude.wire.recycling import NOTHING, Abilities, Recycling
from claude_proxy.config import Config
from claude_proxy.core.timing import Timing
from claude_proxy.service import Service
from claude_proxy.web.app import create_app
from claude_proxy.web.server import Server
from tests.fake_cli import Process, Script, install, read_log, wait_for_log

Json = dict[str, Any]

DEADLINE = 15.0
CHAT = "/v1/chat/completions"
JSON_TYPE = {"Content-Type": "application/json"}

# Small enough that a test which waits for one is short, large enough that a loaded machine does not trip over it.
SETTINGS: Json = {
    "port": 0,
    "warm": 0,
    "inactivity_timeout": 20.0,
    "request_timeout": 30.0,
    "heartbeat_interval": 10.0,
    "client_timeout": 10.0,
    "shutdown_timeout": 5.0,
}

# The fake needs no more, and a TERM-proof child should not take seconds.
TIMING = Timing(grace_interval=0.5, abort_timeout=2.0, keeper_stop_timeout=6.0)
# The spares of the start, and none after them: a lease is never followed by another.
SPARES_ONCE = replace(TIMING, top_up_interval=3600.0)


def wait_until(condition: Callable[[], Any], what: str, timeout: float = DEADLINE, *, interval: float = 0.005) -> None:
    """Return once the condition holds; AssertionError with `what` after that many seconds.

    interval: seconds between two looks; more where a look itself is dear.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(interval)


def is_alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body; AssertionError for anything that does not say it is JSON."""
        assert self.headers["content-type"] == "application/json", (self.headers, self.body[:200])
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    @property
    def error(self) -> Json:
        """`error` of the body, whose four keys must all be there."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error, dict)
        return error

    @property
    def text(self) -> str:
        """The assistant's text of a `chat.completion`."""
        assert self.status == 200, self.body
        content = self.json["choices"][0]["message"]["content"]
        assert isinstance(content, str)
        return content


class Exchange:
    """One request that has been sent; its response is read when asked for, and can be left unread."""

    def __init__(
        self,
        port: int,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        receive_buffer: int | None = None,
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE * 2)
        if receive_buffer is not None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(DEADLINE * 2)
            sock.connect(("127.0.0.1", port))
            self._connection.sock = sock
        self._connection.request(method, path, body, dict(headers))
        self._socket = self._connection.sock
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        """Status and headers, as soon as they have come."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case."""
        return {name.lower(): value for name, value in self.response.getheaders()}

    def answer(self) -> Answer:
        """The whole response; closes the connection."""
        with contextlib.closing(self):
            return Answer(self.response.status, self.headers, self.response.read())

    def records(self) -> Iterator[str]:
        """The server-sent events as they come, each without its blank line; a comment is one, too."""
        assert self.response.status == 200, self.response.read()
        assert self.headers["content-type"].startswith("text/event-stream")
        lines: list[str] = []
        while line := self.response.readline():
            if line == b"\n":
                yield "\n".join(lines)
                lines.clear()
            else:
                lines.append(line.decode().rstrip("\n"))
        assert not lines, f"the stream ended within an event: {lines}"

    def stream(self) -> "Stream":
        """The whole stream; closes the connection."""
        with contextlib.closing(self):
            return Stream(tuple(self.records()), self.headers)

    def close(self) -> None:
        """Go away, whatever is still to come."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._response is not None:
            self._response.close()
        self._connection.close()
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Stream:
    """A chat stream that has ended."""

    records: tuple[str, ...]
    headers: Mapping[str, str]

    @property
    def data(self) -> list[Json]:
        """What came as JSON: chunks, and the error."""
        bodies = (record.removeprefix("data: ") for record in self.records if record.startswith("data: "))
        return [json.loads(body) for body in bodies if body != "[DONE]"]

    @property
    def chunks(self) -> list[Json]:
        return [one for one in self.data if "error" not in one]

    @property
    def errors(self) -> list[Json]:
        return [one["error"] for one in self.data if "error" in one]

    @property
    def deltas(self) -> list[Json]:
        return [choice["delta"] for chunk in self.chunks for choice in chunk["choices"]]

    @property
    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in self.deltas)

    @property
    def finish_reason(self) -> str | None:
        """The one finish_reason; None where there was none."""
        reasons = [choice["finish_reason"] for chunk in self.chunks for choice in chunk["choices"]]
        given = [reason for reason in reasons if reason is not None]
        assert len(given) < 2
        return given[0] if given else None

    @property
    def is_done(self) -> bool:
        return bool(self.records) and self.records[-1] == "data: [DONE]"


class Proxy:
    """A running proxy and its fake CLI, in one folder."""

    def __init__(
        self,
        folder: Path,
        script: Script,
        settings: Mapping[str, Any],
        timing: Timing = TIMING,
        abilities: Abilities = NOTHING,
    ) -> None:
        """Start it; `settings` are fields of `Config`. abilities: what the fake is taken to let a child be used for."""
        self.claude = install(folder / "cli", script)
        (folder / "home").mkdir(exist_ok=True)
        environ = {"HOME": str(folder / "home"), "PATH": os.environ["PATH"], **settings.get("environ", {})}
        fixed = {"claude": str(self.claude), "state_dir": str(folder / "state")}
        self.config = Config(**{**SETTINGS, **fixed, **settings, "environ": environ})
        self.service = Service(self.config, timing=timing, recycling=Recycling(abilities))
        self.server = Server(create_app(self.service), self.config)
        self.port = self.server.port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.run, name="server", daemon=True)
        self.service.start()
        self._thread.start()
        # The question of the start would otherwise race with what a test does to the CLI.
        self.service.wait_for_login(DEADLINE)

    def script(self, *directives: str, **fields: Any) -> None:
        """Another script for the processes to come."""
        install(self.claude.parent, Script(directives, **fields))

    def send(
        self,
        body: Any = None,
        *,
        path: str = CHAT,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        receive_buffer: int | None = None,
    ) -> Exchange:
        """A request, sent; bytes go as they are, None as no body, everything else as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        return Exchange(self.port, method, path, data, {**JSON_TYPE, **(headers or {})}, receive_buffer)

    def get(self, path: str, **headers: str) -> Answer:
        """A GET, answered."""
        return self.send(None, path=path, method="GET", headers=headers).answer()

    def ask(self, *messages: Any, **fields: Any) -> Answer:
        """A whole answer; a text stands for a user message."""
        return self.send(chat(*messages, **fields)).answer()

    def stream(self, *messages: Any, **fields: Any) -> Stream:
        """A whole stream."""
        return self.send(chat(*messages, stream=True, **fields)).stream()

    def log(self) -> tuple[Process, ...]:
        """What the stream-json children saw."""
        return read_log(self.claude)

    def wait_for_log(self, seen: Callable[[tuple[Process, ...]], bool]) -> tuple[Process, ...]:
        """The log as soon as it shows this."""
        return wait_for_log(self.claude, seen, DEADLINE)

    @property
    def is_idle(self) -> bool:
        """True where no worker is busy, nothing waits and no child is leased."""
        workers = self.service.workers
        return not (workers.active or workers.queued or self.service.fleet.counts().leased)

    def wait_until_idle(self) -> None:
        wait_until(lambda: self.is_idle, "every worker free, every child given back")

    def living_processes(self) -> list[int]:
        """pids of children and grandchildren that still run."""
        pids = [pid for process in self.log() for pid in (process.pid, *process.grandchildren)]
        return [pid for pid in pids if is_alive(pid)]

    def wait_until_empty(self) -> None:
        """Idle, and without a single child, process or folder of one."""
        self.wait_until_idle()
        wait_until(lambda: self.service.fleet.counts() == Counts(), "no child in the fleet")
        wait_until(lambda: not self.living_processes(), "no process of the CLI left")
        wait_until(lambda: self.folders_of_children() == [], "no folder of a child left")

    def folders_of_children(self) -> list[str]:
        """TMPDIRs of children that are still there."""
        found = Path(tempfile.gettempdir()).glob(f"claude-proxy-{os.getpid()}-*/*")
        return [str(path) for path in found if path.name.isdigit()]

    def close(self) -> None:
        """End it as the program does. AssertionError for a busy worker, a leased child, a process that stays."""
        try:
            self.wait_until_idle()
        finally:
            self.service.drain(0.0)
            self.server.stop()
            self._thread.join(DEADLINE)
            self.service.stop()
        assert not self._thread.is_alive(), "the server goes on"
        wait_until(lambda: not self.living_processes(), f"no process left of {self.log()}")


def chat(*messages: Any, **fields: Any) -> Json:
    """The body of a chat request; a text stands for a user message."""
    given = [{"role": "user", "content": one} if isinstance(one, str) else one for one in messages]
    return {"model": "claude-sonnet-4", "messages": given, **fields}


def assistant(content: Any, **fields: Any) -> Json:
    """An assistant message as a client sends it back."""
    return {"role": "assistant", "content": content, **fields}


def control_requests(process: Process, subtype: str) -> list[Json]:
    """The control requests of this kind that a child was sent."""
    requests = [message["request"] for message in process.messages if message["type"] == "control_request"]
    return [request for request in requests if request["subtype"] == subtype]


def conversation_of(process: Process) -> list[tuple[str, Any]]:
    """(role, content) of every message a child was sent; content of one text is that text.

    Cache breakpoints are left out.
    """
    said = []
    for message in process.messages:
        if message["type"] in ("user", "assistant"):
            blocks = message["message"]["content"]
            content = [{name: block[name] for name in block if name != "cache_control"} for block in blocks]
            plain = len(content) == 1 and content[0].get("type") == "text" and set(content[0]) == {"type", "text"}
            said.append((message["type"], content[0]["text"] if plain else content))
    return said


def extra_bodies(process: Process) -> list[Json]:
    """What each `apply_flag_settings` asked to be put into the upstream request."""
    settings = [request["settings"]["env"] for request in control_requests(process, "apply_flag_settings")]
    return [json.loads(env["CLAUDE_CODE_EXTRA_BODY"] or "{}") for env in settings]


@contextlib.contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """AssertionError when the block leaves a thread, a child process or a folder `claude-proxy-*` in `folder`."""
    threads = set(threading.enumerate())
    processes = set(psutil.Process().children(recursive=True))
    yield

    def left() -> list[str]:
        new_threads = [thread.name for thread in threading.enumerate() if thread not in threads]
        new_processes = [str(one) for one in psutil.Process().children(recursive=True) if one not in processes]
        return [*new_threads, *new_processes, *map(str, folder.glob("claude-proxy-*"))]

    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left() == [], "left behind"
