"""The whole proxy is killed again and again in the middle of conversations: nothing is lost but the turn at hand."""

import json
import os
import random
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.real import PATIENCE, RECORDED, Program, assert_upstream, calls, client_turns, make_environ
from tests.harness import CHAT, JSON_TYPE, Json, assistant, chat
from tests.upstream import Upstream

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's parent-death signal"),
]

KILLS = int(os.environ.get("E2E_KILLS", "10"))
SEED = int(os.environ.get("E2E_SEED", "1"))

# Seconds from the first request of a run: long enough for several turns.
LONGEST_RUN = 2.0

TOOL: Json = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


class Broken(Exception):
    """The connection ended before the answer did."""


@dataclass(slots=True)
class Client:
    """Talks as long as the proxy lives, and checks every answer, and what reached the API for it.

    own: the history that the client keeps itself. kept: what the server must have kept for the bot. doubtful: the bot's
    last question where its answer never came: the server may have both or neither.
    """

    api: Upstream
    own: list[Any] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    doubtful: list[Any] = field(default_factory=list)
    turns: int = 0

    def talk(self, program: Program) -> None:
        """One turn after the other; raises Broken."""
        while True:
            self.turn_each(program)

    def turn_each(self, program: Program) -> None:
        """One turn of every kind."""
        for turn in (self._stream, self._call, self._tell_bot):
            turn(program)

    def _next(self, words: str) -> str:
        self.turns += 1
        return f"{words} number {self.turns}"

    def _stream(self, program: Program) -> None:
        text = self._next("demo:delay=20 stream")
        told = [*self.own, text]
        body = post(program, told, {"X-Session-Id": "own"}, stream=True, tools=[TOOL])
        if not body.endswith(b"data: [DONE]\n\n"):
            raise Broken
        self._check(told, text)
        self.own = [*told, assistant(f"You said: {text.removeprefix('demo:delay=20 ')}")]

    def _call(self, program: Program) -> None:
        """A call and its result: the child is parked in between."""
        text = self._next("demo:call=look{} call")
        told = [*self.own, text]
        headers = {"X-Session-Id": "own"}
        first = decode(post(program, told, headers, tools=[TOOL]))
        self._check(told, text)
        (call,) = first["tool_calls"]
        told += [first, {"role": "tool", "tool_call_id": call["id"], "content": f"result of {text}"}]
        second = decode(post(program, told, headers, tools=[TOOL]))
        assert_upstream(dict(calls(self.api)[-1].body), *told)
        self.own = [*told, second]

    def _tell_bot(self, program: Program) -> None:
        """A turn of a client that sends only what is new."""
        text = self._next("demo:delay=20 bot")
        headers = {"X-Session-Id": "bot", "X-Session-History": "server"}
        before, self.doubtful = self.doubtful, [*self.doubtful, text]
        message = decode(post(program, [text], headers))
        body = self._find(text)
        # Of each question whose answer never came the server has both or neither.
        heard = [turn[1][0]["text"] for turn in client_turns(body) if turn[0] == "user"]
        for one in before:
            if one in heard:
                self.kept += [one, assistant(f"You said: {one.removeprefix('demo:delay=20 ')}")]
        assert_upstream(body, *self.kept, text)
        self.kept += [text, message]
        self.doubtful = []

    def _check(self, told: list[Any], text: str) -> None:
        assert_upstream(self._find(text), *told)

    def _find(self, text: str) -> Json:
        """The request upstream whose newest message says this."""
        fitting = [
            call.body for call in calls(self.api) if client_turns(dict(call.body))[-1][1][-1].get("text") == text
        ]
        assert len(fitting) == 1, (text, len(fitting))
        return dict(fitting[0])


def post(program: Program, messages: list[Any], headers: Mapping[str, str], **fields: Any) -> bytes:
    """The body of an answer with status 200; raises Broken where the proxy died before its end."""
    connection = HTTPConnection("127.0.0.1", program.port, timeout=PATIENCE)
    with closing(connection):
        try:
            connection.request("POST", CHAT, json.dumps(chat(*messages, **fields)), {**JSON_TYPE, **headers})
            with closing(connection.getresponse()) as response:
                status, body = response.status, response.read()
        except (OSError, HTTPException) as error:
            raise Broken from error
    assert status == 200, body
    return body


def decode(body: bytes) -> Json:
    """The message of a `chat.completion`."""
    message = json.loads(body)["choices"][0]["message"]
    assert isinstance(message, dict)
    return message


@contextmanager
def killed_within(program: Program, seconds: float) -> Iterator[None]:
    """SIGKILL to the proxy after so many seconds; the moment is what is tested."""
    over = threading.Event()

    def kill() -> None:
        over.wait(seconds)
        program.process.kill()

    killer = threading.Thread(target=kill, name="killer")
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


def check_store(folder: Path) -> None:
    """The file that the killed proxy left is a whole database."""
    with closing(sqlite3.connect(folder / "state" / "state.db")) as connection:
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)


def test_a_proxy_that_is_killed_at_random_moments_goes_on_rightly(cli: Path, tmp_path: Path) -> None:
    """After each restart the store opens, no process is left over, and all conversations go on as they should.

    E2E_KILLS says how often, E2E_SEED at which moments.
    """
    chance = random.Random(SEED)
    folder = tmp_path / "program"
    with ExitStack() as stack:
        api = stack.enter_context(Upstream(record=RECORDED))
        client = Client(api)

        def start() -> Program:
            environ = make_environ(folder, api.base_url)
            program = Program(folder, cli, "--state-dir", str(folder / "state"), environ=environ)
            assert not [line for line in program.lines if "corrupt" in line or "cannot be used" in line]
            return program

        for _ in range(KILLS):
            with closing(start()) as program:
                with killed_within(program, chance.uniform(0, LONGEST_RUN)), suppress(Broken):
                    client.talk(program)
                program.wait()
                program.wait_until_alone()
                check_store(folder)
        with closing(start()) as last:
            client.turn_each(last)
            client.turn_each(last)
            listed = last.send(None, path="/v1/sessions", method="GET").answer().json
            assert {one["externalId"] for one in listed["sessions"]} == {"hdr_own", "hdr_bot"}
            assert last.run_folders() == [one for one in last.run_folders() if f"-{last.pid}-" in one]
            assert not [line for line in last.lines if "corrupt" in line or "Traceback" in line]
