"""The two things that are compared: the CLI alone, and the proxy in front of it, both against an echoing API.

In: prompts. Out: seconds. Everything runs on loopback in temporary folders and is ended by its pid.
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claude_proxy.claude.fleet.launcher import ADDED_VARIABLES, CHAT_FLAGS
from claude_proxy.claude.process.locate import find

STREAM_FLAGS = ("--output-format", "stream-json", "--verbose", "--include-partial-messages")
START_TIMEOUT = 60.0
# A process that has just booted answers later than one that waited; both sides of a ratio wait as long.
SPARE_AGE = 2.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds from the request to the first word, and to the end. `headers` as the proxy sent them."""

    first: float
    total: float
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: tuple[dict[str, Any], ...] = ()


class CliAlone:
    """The real CLI with the flags of a chat child, against the API at `base_url`."""

    def __init__(self, base_url: str, home: Path) -> None:
        self.path = find("", os.environ).path
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": base_url,
            "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-demo",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            **ADDED_VARIABLES,
        }
        self._home = home

    def ask_once(self, prompt: str) -> Times:
        """`claude -p` started for this one prompt, which other proxies do for every request."""
        flags = [flag for flag in (*CHAT_FLAGS, "--no-session-persistence") if flag != "-p"]
        skip = flags.index("--input-format")
        del flags[skip : skip + 2]
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(self.path), "-p", prompt, *flags, "--model", "sonnet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.environ,
            cwd=self._home,
        )
        assert process.stdout is not None
        first = _first_word(process.stdout, started)
        process.stdout.read()
        process.wait()
        return Times(first, time.perf_counter() - started)

    @contextlib.contextmanager
    def running(self, tools: dict[str, Any] | None = None) -> Iterator["Conversation"]:
        """A process that was started and initialised before it is asked."""
        process = subprocess.Popen(
            [str(self.path), *CHAT_FLAGS, "--no-session-persistence", "--model", "sonnet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environ,
            cwd=self._home,
        )
        try:
            yield Conversation(process, tools)
        finally:
            process.terminate()
            process.wait()


class Conversation:
    """One CLI process, driven directly; the cheapest that any program in front of it could be."""

    def __init__(self, process: "subprocess.Popen[bytes]", tools: dict[str, Any] | None) -> None:
        self._process = process
        request = {"subtype": "initialize", "systemPrompt": ["You are a benchmark."], **(tools or {})}
        self._send({"type": "control_request", "request_id": "1", "request": request})
        self._read_until("control_response")

    def ask(self, prompt: str) -> Times:
        started = time.perf_counter()
        content = [{"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        self._send({"type": "user", "message": message, "parent_tool_use_id": None, "client_composed": True})
        assert self._process.stdout is not None
        first = _first_word(self._process.stdout, started)
        self._read_until("result")
        return Times(first, time.perf_counter() - started)

    def call_rounds(self, prompt: str, rounds: int) -> list[float]:
        """Seconds from giving a tool's result to the first word after it, for each round."""
        message = {"role": "user", "content": [{"type": "text", "text": prompt}]}
        self._send({"type": "user", "message": message, "parent_tool_use_id": None, "client_composed": True})
        took = []
        for _ in range(rounds):
            call = self._read_until("control_request")
            rpc = {"jsonrpc": "2.0", "id": call["request"]["message"]["id"]}
            rpc["result"] = {"content": [{"type": "text", "text": "sunny"}]}
            answer = {"subtype": "success", "request_id": call["request_id"], "response": {"mcp_response": rpc}}
            started = time.perf_counter()
            self._send({"type": "control_response", "response": answer})
            assert self._process.stdout is not None
            took.append(_first_word(self._process.stdout, started))
        self._read_until("result")
        return took

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def _read_until(self, kind: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            value: dict[str, Any] = json.loads(line)
            if value["type"] == kind:
                return value
        raise RuntimeError("the CLI ended")


class Proxy:
    """`python -m claude_proxy --demo` on a free port."""

    def __init__(self, *flags: str) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="benchmark-")
        environ = {"PATH": os.environ["PATH"], "HOME": self._home.name}
        if "PYTHONPATH" in os.environ:
            environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "claude_proxy", "--demo", "--port", "0", "--log-level", "warning", *flags],
            stdout=subprocess.PIPE,
            env=environ,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        self.port = int(line.split("http://127.0.0.1:", 1)[1].split()[0])
        self.pid = self._process.pid

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(START_TIMEOUT)
        self._home.cleanup()

    def ask(self, messages: list[dict[str, Any]], **fields: Any) -> Times:
        """One streamed chat completion."""
        body = json.dumps({"model": "sonnet", "stream": True, "messages": messages, **fields}).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
        first, pieces, chunks = 0.0, [], []
        while line := response.readline():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            chunks.append(chunk)
            text = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
            if text:
                first = first or time.perf_counter() - started
                pieces.append(text)
        total = time.perf_counter() - started
        connection.close()
        return Times(first or total, total, "".join(pieces), tuple(response.getheaders()), tuple(chunks))

    def health(self) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", "/health")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def wait_for_spares(self, count: int) -> None:
        """Until as many spares wait, and have had time to boot: what is measured is not their start."""
        deadline = time.monotonic() + START_TIMEOUT
        while self.health()["warm"] < count:
            if time.monotonic() > deadline:
                raise RuntimeError("the spares did not come")
            time.sleep(0.05)
        time.sleep(SPARE_AGE)


def _first_word(stream: Any, started: float) -> float:
    for line in stream:
        if b'"text_delta"' in line:
            return time.perf_counter() - started
    raise RuntimeError("the CLI ended without an answer")
