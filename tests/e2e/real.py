"""The proxy with the real CLI behind it and a Messages API on loopback behind that: no login, no network.

In: settings for the proxy. Out: a `RealProxy` in this process, or a `Program` of its own, and what reached the API.
Rules: nothing waits for a time, everything waits for a condition with a deadline; every process that a test started is
known by the folder of its HOME or TMPDIR, whoever its parent is by now.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import claude_proxy
from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Abilities, Recycling
from claude_proxy.config import Config
from claude_proxy.service import Service, may_recycle
from claude_proxy.web.app import create_app
from claude_proxy.web.server import Server
from tests.fake_cli import Process
from tests.harness import CHAT, JSON_TYPE, Answer, Exchange, Json, Proxy, Stream, chat, wait_until
from tests.upstream import RecordedRequest, Upstream

PATIENCE = 30.0
RECORDED = 4000

# What a turn may take is not what is tested: the machine may be busy with other things.
SETTINGS: Json = {"port": 0, "inactivity_timeout": 60.0, "request_timeout": 120.0, "shutdown_timeout": 10.0}

_REMINDERS = tuple(
    f"<system-reminder>\n{begin}" for begin in ("# Environment\n", "You are powered by the model ", "Today's date is ")
)
_LISTENING = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")


def abilities_of(config: Config) -> Abilities:
    """What children are used again for: everything, as the check of the start finds with this CLI (it has a test of its
    own), unless the settings, or NO_RECYCLE of the test run, say otherwise."""
    return EVERYTHING if may_recycle(config) and not os.environ.get("NO_RECYCLE") else NOTHING


class RealProxy(Proxy):
    """A running proxy, the real CLI as its children, and the API that they talk to."""

    def __init__(self, folder: Path, cli: Path, settings: Mapping[str, Any], api: Upstream | None = None) -> None:
        """Start it; `settings` are fields of `Config`. `api`: somebody else's, which then outlives this proxy."""
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._own_api = api is None
        self._closed = False
        self.api = api or Upstream(record=RECORDED)
        if self._own_api:
            self.api.start()
        given = dict(settings)
        environ = {**make_environ(folder, self.api.base_url), **given.pop("environ", {})}
        fixed = {"claude": str(cli), "state_dir": str(folder / "state")}
        self.config = Config(**{**SETTINGS, **fixed, **given, "environ": environ})
        self.service = Service(self.config, recycling=Recycling(abilities_of(self.config)))
        self.server = Server(create_app(self.service), self.config)
        self.port = self.server.port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.run, name="server", daemon=True)
        self.service.start()
        self._thread.start()

    def log(self) -> tuple[Process, ...]:
        """The real CLI keeps no log."""
        return ()

    def living_processes(self) -> list[int]:
        """pids of everything whose home is this proxy's."""
        return [process.pid for process in processes_in(self.folder)]

    def say(self, *messages: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
        """A whole answer; a text stands for a user message."""
        return self.send(chat(*messages, **fields), headers=headers).answer()

    def begin(self, *messages: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> Exchange:
        """A stream that has been asked for."""
        return self.send(chat(*messages, stream=True, **fields), headers=headers)

    @property
    def bodies(self) -> list[Json]:
        """What reached the Messages API, oldest first."""
        return [dict(request.body) for request in calls(self.api)]

    def forget(self) -> None:
        """Empty the record of the API."""
        self.api.forget_requests()

    def last(self) -> Json:
        """The newest request upstream."""
        return self.bodies[-1]

    def only(self) -> Json:
        """The one request upstream since `forget`; AssertionError when the CLI sent more than was asked for."""
        bodies = self.bodies
        assert len(bodies) == 1, [client_turns(body) for body in bodies]
        return bodies[0]

    def close(self) -> None:
        """As a `Proxy` closes; afterwards its API ends, too. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            super().close()
        finally:
            if self._own_api:
                self.api.stop()


class Program:
    """`python -m claude_proxy` as a process of its own, with a HOME and a TMPDIR of its own in `folder`."""

    def __init__(self, folder: Path, cli: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        """Start it and wait for its address."""
        for name in ("home", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lines: list[str] = []
        self._exchanges: list[Exchange] = []
        self._changed = threading.Condition()  # guards: lines, _ended
        self._ended = False
        environment = {**make_environ(folder), "PYTHONPATH": source_root(), "PYTHONUNBUFFERED": "1", **(environ or {})}
        command = [sys.executable, "-m", "claude_proxy", "--port", "0", "--claude", str(cli), *arguments]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.pid = self.process.pid
        self._reader = threading.Thread(target=self._read, name="program-reader", daemon=True)
        self._reader.start()
        try:
            self.port = int(self.wait_for_line(_LISTENING)[1])
        except BaseException:
            self.close()
            raise

    def wait_for_line(self, pattern: "re.Pattern[str]") -> "re.Match[str]":
        """The first line, already printed or to come, in which this is found."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = [match for line in self.lines if (match := pattern.search(line))]
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(look, PATIENCE)
            assert found, f"{pattern.pattern!r} is not in the output: {self.lines}"
            return found[0]

    def send(self, body: Any, *, path: str = CHAT, method: str = "POST", headers: Mapping[str, str] = {}) -> Exchange:
        """A request, sent."""
        data = None if body is None else json.dumps(body).encode()
        self._exchanges.append(Exchange(self.port, method, path, data, {**JSON_TYPE, **headers}))
        return self._exchanges[-1]

    def say(self, *messages: Any, headers: Mapping[str, str] = {}, **fields: Any) -> Answer:
        """A whole answer."""
        return self.send(chat(*messages, **fields), headers=headers).answer()

    def begin(self, *messages: Any, headers: Mapping[str, str] = {}, **fields: Any) -> Exchange:
        """A stream that has been asked for."""
        return self.send(chat(*messages, stream=True, **fields), headers=headers)

    def health(self) -> Json:
        """What `/health` says."""
        return self.send(None, path="/health", method="GET").answer().json

    def children(self) -> list[psutil.Process]:
        """Its own processes and theirs, whoever their parent is by now."""
        return [one for one in processes_in(self.folder) if one.pid != self.pid]

    def run_folders(self) -> list[str]:
        """What it keeps under TMPDIR."""
        return sorted(path.name for path in (self.folder / "tmp").glob("claude-proxy-*"))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status; AssertionError when it goes on for longer."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on: {self.lines}") from None

    def kill(self) -> None:
        """SIGKILL, reaped."""
        self.process.kill()
        self.wait()

    def wait_until_alone(self) -> None:
        """No process of it is left."""
        wait_until(lambda: not self.children(), "no process left", PATIENCE)

    def close(self) -> None:
        """End whatever still runs, by pid, and what was asked of it."""
        for exchange in self._exchanges:
            exchange.close()
        end_by_pid(self.children())
        self.process.kill()
        self.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def make_environ(folder: Path, api_url: str | None = None) -> dict[str, str]:
    """The environment of a user whose home is in `folder`; with an API that takes any token."""
    environ = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PATH": os.environ["PATH"]}
    if api_url is not None:
        environ |= {
            "ANTHROPIC_BASE_URL": api_url,
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-dummy",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "NO_PROXY": "127.0.0.1",
        }
    return environ


def processes_in(folder: Path) -> list[psutil.Process]:
    """Every running process whose HOME or TMPDIR lies in this folder; zombies do not run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environ = process.environ()
            there = any(Path(environ.get(name, "")).is_relative_to(folder) for name in ("HOME", "TMPDIR"))
            if there and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def calls(api: Upstream) -> list[RecordedRequest]:
    """The requests for an answer; the CLI also looks whether the API is there.

    One is left out: after an answer that was cut at its length the CLI asks for the rest by itself, and sometimes its
    request is on the way before it can be ended. Nothing of that answer is used.
    """
    requests = [request for request in api.requests if request.path.partition("?")[0] == "/v1/messages"]
    return [request for request in requests if b"Output token limit hit. Resume directly" not in request.raw]


def client_turns(body: Json) -> list[tuple[str, list[Json]]]:
    """(role, blocks) of each message that is not the CLI's own; breakpoints of the cache are taken off.

    The CLI adds system messages: `# Environment`, and an empty one that marks a change of effort. AssertionError for
    any other. An older model gets the first one as reminders inside the first user message.
    """
    turns = []
    for message in body["messages"]:
        blocks = [plain_block(block) for block in as_blocks(message["content"])]
        blocks = [block for block in blocks if not block.get("text", "").startswith(_REMINDERS)]
        if message["role"] == "system":
            texts = [block["text"] for block in blocks]
            assert all(text.startswith("# Environment\n") for text in texts) and len(texts) < 2, texts
        else:
            turns.append((message["role"], blocks))
    return turns


def as_blocks(content: Any) -> list[Json]:
    """A string is short for one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)


def plain_block(block: Json) -> Json:
    """A block, and the parts of a tool's result, without `cache_control`."""
    plain = {name: value for name, value in block.items() if name != "cache_control"}
    if isinstance(plain.get("content"), list):
        plain["content"] = [plain_block(part) for part in plain["content"]]
    return plain


def system_texts(body: Json) -> list[str]:
    """The system prompt, block by block, without the billing line and the identity line, which must be there."""
    billing, identity, *rest = [block["text"] for block in as_blocks(body.get("system", ""))]
    assert billing.startswith("x-anthropic-billing-header:") and identity.startswith("You are a Claude agent, built on")
    return rest


def assert_upstream(body: Json, *messages: Any, system: str | None = None) -> None:
    """The request holds exactly these messages of a client, in order, with their roles, and this system prompt.

    User messages in a row may have been made one, with an end of line between them.
    """
    assert system_texts(body) == ([system] if system is not None else [])
    wanted = _merge([_expect(one) for one in messages])
    found = _merge(client_turns(body))
    assert [role for role, _ in found] == [role for role, _ in wanted], found
    for (_, blocks), (_, expected) in zip(found, wanted, strict=True):
        assert len(blocks) == len(expected), (blocks, expected)
        for number, (block, one) in enumerate(zip(blocks, expected, strict=True)):
            ended = {**one, "text": one["text"] + "\n"} if number + 1 < len(expected) and "text" in one else one
            assert block in (one, ended)


def _expect(message: Any) -> tuple[str, list[Json]]:
    """A chat message as the Messages API says it."""
    if isinstance(message, str):
        return "user", as_blocks(message)
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        return "user", [{**result, "content": as_blocks(message["content"])}]
    blocks = as_blocks(message.get("content") or "")
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = json.loads(function["arguments"])
        blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments})
    return message["role"], blocks


def _merge(turns: Sequence[tuple[str, list[Json]]]) -> list[tuple[str, list[Json]]]:
    """Neighbouring user messages as one, tool results in the shape with parts."""
    merged: list[tuple[str, list[Json]]] = []
    for role, blocks in turns:
        blocks = [_spell_out(block) for block in blocks]
        if merged and role == "user" and merged[-1][0] == "user":
            merged[-1] = (role, merged[-1][1] + blocks)
        else:
            merged.append((role, blocks))
    return merged


def _spell_out(block: Json) -> Json:
    if block["type"] == "tool_result":
        kept = {name: value for name, value in block.items() if name != "is_error" or value}
        return {**kept, "content": as_blocks(block.get("content") or "")}
    return {name: value for name, value in block.items() if name != "caller"}


def how(answer: Answer | Stream) -> str:
    """`live`, `replayed` or `new`, as the response's header says."""
    return answer.headers["x-claude-proxy-session"].rpartition("; ")[2]


def session_id(answer: Answer | Stream) -> str:
    """The conversation's id, as the response's header says."""
    return answer.headers["x-claude-proxy-session"].rpartition("; ")[0]


def files_with(folder: Path, *words: bytes) -> list[str]:
    """Files, and names of files, below this folder that hold one of these words."""
    found = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            data = os.fsencode(path.relative_to(folder))
            data += path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found += [str(path.relative_to(folder)) for word in words if word in data]
    return found


@contextlib.contextmanager
def temporary_folder_at(folder: Path) -> Iterator[None]:
    """`tempfile` puts everything there for this long."""
    before = tempfile.tempdir
    folder.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def end_by_pid(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL to each."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def source_root() -> str:
    """Where the package is, for a Python in which it is not installed."""
    return str(Path(claude_proxy.__file__).parents[1])
