"""The fake CLI does what its table says, and writes what the recordings of the real one hold."""

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fake_cli import Script, claude, install, kill_everything, read_log, wait_for_log
from tests.fake_cli.claude import ACTIONS, API_ERRORS, GARBAGE, SHAPES

Json = dict[str, Any]
Start = Callable[..., "Driven"]

TRANSCRIPTS = Path(__file__).parent.parent / "data" / "transcripts"
STREAM_FLAGS = ("-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose")
DEADLINE = 10.0
WEATHER = {"name": "get_weather", "inputSchema": {"type": "object"}}
CALL = 'call=get_weather:{"city":"Paris"}'


class Driven:
    """A running fake, driven line by line."""

    def __init__(self, claude: Path, flags: tuple[str, ...], environment: dict[str, str], stdout: int) -> None:
        pipe = subprocess.PIPE
        self.claude = claude
        self.process = subprocess.Popen(
            [claude, *STREAM_FLAGS, *flags], stdin=pipe, stdout=stdout, stderr=pipe, env=environment
        )
        self._rest = b""

    def send(self, *messages: Json | bytes) -> None:
        """Lines to its stdin."""
        assert self.process.stdin
        for message in messages:
            self.process.stdin.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def end_input(self) -> None:
        """EOF on its stdin."""
        assert self.process.stdin
        self.process.stdin.close()

    def read_raw(self) -> bytes:
        """The next line with its end; at EOF what is left."""
        assert self.process.stdout
        deadline = time.monotonic() + DEADLINE
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no line within {DEADLINE} s; so far {self._rest!r}"
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                line, self._rest = self._rest, b""
                return line
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line + b"\n"

    def read(self) -> Json:
        """The next line, parsed."""
        message = json.loads(self.read_raw())
        assert isinstance(message, dict)
        return message

    def read_until(self, kind: str) -> list[Json]:
        """All messages up to the first of this kind, see `kind_of`."""
        messages = [self.read()]
        while kind_of(messages[-1]) != kind:
            messages.append(self.read())
        return messages

    def read_to_end(self) -> list[Json]:
        """All messages until stdout ends."""
        return [json.loads(line) for line in iter(self.read_raw, b"")]

    def control(self, subtype: str, **fields: Any) -> Json:
        """Send a control request and read its answer, which must be the next line."""
        self.send(request(subtype, **fields))
        answer = self.read()
        assert answer["type"] == "control_response"
        response = answer["response"]
        assert isinstance(response, dict)
        return response

    def turn(self, text: str = "hello") -> list[Json]:
        """A whole turn."""
        self.send(user(text))
        return self.read_until("result")

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(DEADLINE)

    def stderr(self) -> str:
        """All of stderr."""
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def close(self) -> None:
        """Kill and reap it, close the pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                if pipe:
                    pipe.close()
            except BrokenPipeError:
                pass


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a fake with these directives; all are killed by their pids in the end."""
    started: list[Driven] = []

    def start_one(
        *directives: str,
        script: Script | None = None,
        flags: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        stdout: int = subprocess.PIPE,
    ) -> Driven:
        claude = install(tmp_path, script or Script(directives=directives))
        started.append(Driven(claude, flags, environment or {}, stdout))
        return started[-1]

    yield start_one
    for one in started:
        one.close()
    kill_everything(tmp_path / "claude")


def request(subtype: str, request_id: str = "req_1", **fields: Any) -> Json:
    """A control request."""
    return {"type": "control_request", "request_id": request_id, "request": {"subtype": subtype, **fields}}


def user(content: Any, **fields: Any) -> Json:
    """A `user` line."""
    return {"type": "user", "message": {"role": "user", "content": content}, **fields}


def answer_to(asked: Json, **fields: Any) -> Json:
    """A `control_response` to a control request of the CLI."""
    response = {"subtype": "success", "request_id": asked["request_id"], **fields}
    return {"type": "control_response", "response": response}


def tool_answer(asked: Json, text: str) -> Json:
    """The client's result of a `tools/call`."""
    result = {"content": [{"type": "text", "text": text}]}
    call = asked["request"]["message"]["id"]
    return answer_to(asked, response={"mcp_response": {"jsonrpc": "2.0", "id": call, "result": result}})


def initialize_with_tools() -> Json:
    """`initialize` with the tool `get_weather`."""
    manifest = {"initializeResult": {}, "toolsListResult": {"tools": [WEATHER]}}
    return request("initialize", sdkMcpServers=["client"], sdkMcpServerManifests={"client": manifest})


def kind_of(message: Json) -> str:
    """`system/init`, `message_start`, `result`, …"""
    if message["type"] == "stream_event":
        return str(message["event"]["type"])
    return f"system/{message['subtype']}" if message["type"] == "system" else str(message["type"])


def kinds(messages: list[Json]) -> list[str]:
    """The kind of each message."""
    return [kind_of(message) for message in messages]


def text_of(messages: list[Json]) -> str:
    """All text deltas, joined."""
    deltas = (m["event"].get("delta", {}) for m in messages if m["type"] == "stream_event")
    return "".join(delta.get("text", "") for delta in deltas)


# Below these keys the recordings hold contents (arguments, results, counts by model), no shapes.
OPAQUE = frozenset(
    "agents models plugins feedback_mode input arguments modelUsage model_usage_since_last_result structured_output"
    " tool_use_result permission_decision capabilities subtypes".split()
)


def shape_of(value: Any, path: str = "") -> Iterator[str]:
    """Every key below a message as a dotted path, with the values that tell messages apart."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}"
            if key in (
                "type",
                "subtype",
                "is_error",
                "stop_reason",
                "terminal_reason",
                "api_error_status",
                "num_turns",
            ):
                yield f"{path}.{key}={inner}"
            if key not in OPAQUE:
                yield from shape_of(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from shape_of(inner, f"{path}[]")


def load_transcript(name: str) -> list[tuple[str, Json]]:
    """(`in` or `out`, message), in order."""
    lines = (json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines())
    return [(line["dir"], line["msg"]) for line in lines]


BASH = 'call=Bash:{"command":"echo hi from bash","description":"say hi"}'
PLAYS: dict[str, Script] = {
    "agent_bash": Script((BASH, 'reply=["Tool ","said: ","hi ","from ","bash"]')),
    "agent_max_turns": Script(('call=Bash:{"command":"echo one"}',)),
    "agent_permissions": Script(
        (
            *('call#1=Bash:{"command":"touch a; echo hello"}', 'reply#1=["Tool ","said: ","hello"]'),
            *('call#2=Bash:{"command":"touch b; echo hello"}', 'call#3=Bash:{"command":"touch c"}'),
        )
    ),
    "agent_tool_progress": Script(
        ('call=Bash:{"command":"sleep 31"}', "progress@tool:1", f"reply={json.dumps(list('abcdefg'))}")
    ),
    "api_retry_429": Script(("retry=429", "error=429")),
    "chat_two_turns": Script(),
    "client_tool_calls_parallel": Script((CALL, 'call=Read:{"path":"/x"}', 'reply=["a","b","c","d","e","f","g","h"]')),
    "interrupt": Script(("words#1=300", "stall@delta:10#1")),
    "not_logged_in": Script(logged_in=False),
    "replayed_history": Script(),
    "replayed_tool_history": Script(),
    "request_parameters": Script(),
    "structured_output": Script(('call=StructuredOutput:{"a":3}',)),
    "thinking": Script(("thinking=let me think about it", 'deltas=["I ","thought."]')),
    **{f"api_error_{status}": Script((f"error={status}",)) for status in (400, 401, 413, 429, 500, 529)},
}
FLAGS = {
    "agent_bash": ("--tools", "Bash,Read", "--permission-mode", "bypassPermissions"),
    "agent_max_turns": ("--tools", "Bash", "--max-turns", "1"),
    "agent_permissions": ("--tools", "Bash", "--permission-prompt-tool", "stdio"),
    "agent_tool_progress": ("--tools", "Bash"),
}
# No contract test needs a sub-agent.
NOT_PLAYED = frozenset(("agent_subagent",))


def test_every_directive_is_in_the_table_and_is_acted_out() -> None:
    """A directive that is only written down would pass every test by doing nothing."""
    assert claude.__doc__
    assert {name for name in SHAPES | ACTIONS if f"`{name}" not in claude.__doc__} == set()
    assert {name for name in ACTIONS if not hasattr(claude.Turn, f"_do_{name}")} == set()


def test_every_recording_is_played() -> None:
    """A new recording needs a script."""
    assert set(PLAYS) | NOT_PLAYED == {file.stem for file in TRANSCRIPTS.glob("*.jsonl")}


@pytest.mark.parametrize("name", PLAYS)
def test_the_fake_writes_what_the_real_cli_wrote(name: str, start: Start) -> None:
    """Driven with the recorded input it writes the recorded output: the same messages with the same keys."""
    fake = start(script=PLAYS[name], flags=FLAGS.get(name, ()))
    request_ids: dict[str, str] = {}
    for direction, message in load_transcript(name):
        if direction == "in":
            if message["type"] == "control_response":
                message["response"]["request_id"] = request_ids[message["response"]["request_id"]]
            fake.send(message)
            continue
        written = fake.read()
        assert set(shape_of(written)) == set(shape_of(message))
        if message["type"] == "control_request":
            request_ids[message["request_id"]] = written["request_id"]
    fake.end_input()
    assert fake.read_to_end() == []
    assert fake.wait() == (1 if written["is_error"] else 0)


def run(claude: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A short command, with nothing in its environment."""
    return subprocess.run([claude, *argv], env={}, capture_output=True, text=True, timeout=DEADLINE)


def test_the_version_is_the_scripts(tmp_path: Path) -> None:
    """`--version` prints what the script says."""
    assert run(install(tmp_path), "--version").stdout == "2.1.329 (Claude Code)\n"
    assert run(install(tmp_path, {"version": "1.0.0"}), "--version").stdout == "1.0.0 (Claude Code)\n"


@pytest.mark.parametrize("logged_in", [True, False])
def test_the_login_is_the_scripts(logged_in: bool, tmp_path: Path) -> None:
    """`auth status --json` tells the login, and exits 1 without one."""
    done = run(install(tmp_path, {"logged_in": logged_in}), "auth", "status", "--json")
    assert json.loads(done.stdout)["loggedIn"] is logged_in
    assert done.returncode == (0 if logged_in else 1)


def test_what_is_not_played_is_refused(tmp_path: Path) -> None:
    """A plain `claude -p prompt` is no use to anyone."""
    assert run(install(tmp_path), "-p", "hello").returncode == 64


def test_the_log_tells_what_the_process_saw(start: Start) -> None:
    """argv, the names of the environment, chosen values, every line of stdin, the end; of commands too."""
    script = Script(recorded_variables=("HOME",))
    fake = start(script=script, flags=("--model", "haiku"), environment={"HOME": "/nowhere", "SECRET": "x"})
    fake.turn("first")
    fake.end_input()
    assert fake.wait() == 0
    run(fake.claude, "--version")
    (seen,) = read_log(fake.claude)
    assert (seen.pid, seen.argv[-2:]) == (fake.process.pid, ("--model", "haiku"))
    assert seen.environment == {"HOME", "SECRET"}
    assert seen.variables == {"HOME": "/nowhere"}
    assert seen.messages == (user("first"),) == seen.user_messages
    assert (seen.end, seen.status) == ("eof", 0)
    assert [command.argv for command in read_log(fake.claude, "command")] == [("--version",)]


def test_an_unknown_directive_is_refused(start: Start, tmp_path: Path) -> None:
    """At once by `install`; with status 64 where the user's text holds it."""
    for directive in (
        "crush@result",
        "crash@nowhere",
        "words@result=3",
        "crash@delta:0",
        "crash#x",
        "words=3#1",
    ):
        with pytest.raises(ValueError):
            install(tmp_path, Script(directives=(directive,)))
    fake = start()
    fake.send(user("fake:crush"))
    assert fake.wait() == 64
    assert "crush" in fake.stderr()


def test_directives_apply_by_word_by_process_and_by_turn(start: Start) -> None:
    """Texts name words of the user, processes count from one, `#n` counts the turns."""
    script = Script(("error#2=500",), processes={2: ("error#1=400",)}, texts={"weather": ("error=429",)})
    first = start(script=script)
    assert first.turn()[-1]["api_error_status"] is None
    second = start(script=script)
    assert second.turn()[-1]["api_error_status"] == 400
    assert first.turn()[-1]["api_error_status"] == 500
    assert first.turn("weather")[-1]["api_error_status"] == 429
    assert first.turn("fake:error=529")[-1]["api_error_status"] == 529
    assert second.turn()[-1]["api_error_status"] == 500


LAST_BEFORE = {
    "boot": "",
    "initialize": "",
    "replay": "control_response",
    "turn": "result",
    "request": "system/status",
    "message_start": "message_start",
    "delta:2": "content_block_delta",
    "last_delta": "content_block_delta",
    "end": "message_stop",
    "result": "result",
}


def history_and_turn() -> list[Json]:
    """All that a replayed conversation sends."""
    return [request("initialize"), user("old", shouldQuery=False), user("one two three four")]


@pytest.mark.parametrize("how", ["crash", "crash=7", "kill"])
@pytest.mark.parametrize("point", LAST_BEFORE)
def test_it_dies_at_every_point(point: str, how: str, start: Start) -> None:
    """With the status asked for, having written what comes before the point, and nothing after it."""
    name, _, status = how.partition("=")
    fake = start(f"{name}@{point}" + (f"={status}" if status else ""))
    try:
        fake.send(*history_and_turn())
    except BrokenPipeError:
        assert point == "boot"
    written = fake.read_to_end()
    assert (kind_of(written[-1]) if written else "") == LAST_BEFORE[point]
    assert fake.wait() == (-signal.SIGKILL if name == "kill" else int(status or 1))
    if point == "delta:2":
        assert text_of(written) == "Hello from "
    (seen,) = read_log(fake.claude)
    assert seen.end == name


def test_the_nth_replayed_line_can_be_the_last(start: Start) -> None:
    """`#2` at `replay` lets the first one pass."""
    fake = start("crash@replay#2=9")
    fake.send(user("one", shouldQuery=False), user("two", shouldQuery=False))
    assert kinds(fake.read_to_end()) == ["system/init", "result"]
    assert fake.wait() == 9


@pytest.mark.parametrize("point, before", [("turn", []), ("delta:2", ["content_block_delta"])])
def test_a_stalled_turn_says_nothing_but_can_be_interrupted(point: str, before: list[str], start: Start) -> None:
    """It answers control requests meanwhile; an interrupt ends the turn."""
    fake = start(f"stall@{point}#1")
    fake.send(user("hello"))
    if before:
        fake.read_until(before[0])
        fake.read_until(before[0])
    assert fake.control("set_model", model="sonnet")["response"] == {"model": "claude-sonnet-5-5"}
    assert fake.control("interrupt")["response"] == {"still_queued": []}
    result = fake.read_until("result")[-1]
    assert (result["subtype"], result["terminal_reason"]) == ("error_during_execution", "aborted_streaming")
    assert fake.turn()[-1]["is_error"] is False


def test_a_stalled_turn_ignores_the_end_of_stdin(start: Start) -> None:
    """EOF does nothing to a running turn; SIGTERM ends it with status 143."""
    fake = start("stall")
    fake.send(user("hello"))
    fake.read_until("system/status")
    fake.end_input()
    assert fake.process.poll() is None
    fake.process.terminate()
    assert fake.wait() == 143
    assert read_log(fake.claude)[0].signals == ("SIGTERM",)


def test_a_running_turn_goes_on_to_its_end_after_eof(start: Start) -> None:
    """The answer is complete although stdin has ended."""
    fake = start("delay=0.01")
    fake.send(user("a b c"))
    fake.end_input()
    assert text_of(fake.read_to_end()) == "Hello from upstream: a b c"
    assert fake.wait() == 0


def test_initialize_can_stay_unanswered(start: Start) -> None:
    """The next request is answered; EOF still ends the process."""
    fake = start("stall@initialize")
    fake.send(request("initialize"))
    assert fake.control("set_model", model="opus")["subtype"] == "success"
    fake.end_input()
    assert fake.wait() == 0


def test_an_idle_process_ends_quietly_on_sigint(start: Start) -> None:
    """Status 0, as the real one."""
    fake = start()
    fake.control("initialize")
    fake.process.send_signal(signal.SIGINT)
    assert fake.wait() == 0


def test_an_interrupt_of_an_idle_process_changes_nothing(start: Start) -> None:
    """It succeeds, and the next turn is answered."""
    fake = start()
    assert fake.control("interrupt")["subtype"] == "success"
    assert fake.turn()[-1]["is_error"] is False


def test_an_interrupt_is_noticed_between_slow_deltas(start: Start) -> None:
    """A reader thread takes it while the turn waits."""
    fake = start("words=1000", "delay=0.01")
    fake.send(user("go"))
    fake.read_until("content_block_delta")
    fake.send(request("interrupt"))
    result = fake.read_until("result")
    assert result[-1]["is_error"] and len(result) < 1000


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_written_as_it_is(kind: str, start: Start) -> None:
    """The bytes of the table, in the middle of an answer."""
    fake = start(f"garbage@delta:1={kind}")
    fake.send(user("hello"))
    for _ in range(5):
        fake.read()
    line = fake.read_raw()
    assert line.startswith(GARBAGE[kind]) if kind == "cut" else line == GARBAGE[kind]
    assert fake.read_until("result")[-1]["result"] == "Hello from upstream: hello"


ODD_LINES = [
    ("unknown", "a_type_of_tomorrow", {}),
    (
        'emit={"type":"tool_progress","elapsed_time_seconds":30}',
        "tool_progress",
        {"elapsed_time_seconds": 30},
    ),
    ("retry=401", "system/api_retry", {"error_status": 401, "error": "authentication_failed"}),
    ("retry=429", "system/api_retry", {"error_status": 429, "error": "rate_limit"}),
    ("retry=529", "system/api_retry", {"error_status": 529, "error": "overloaded"}),
]


@pytest.mark.parametrize("directive, kind, fields", ODD_LINES)
def test_odd_messages_come_between_the_others(directive: str, kind: str, fields: Json, start: Start) -> None:
    """Before the first event, and the turn goes on."""
    turn = start(directive).turn()
    assert kinds(turn)[2:4] == [kind, "message_start"]
    assert turn[2] | fields == turn[2]
    assert turn[-1]["result"] == "Hello from upstream: hello"


@pytest.mark.parametrize("status", ["allowed", "allowed_warning", "rejected"])
def test_rate_limit_events_carry_status_and_reset(status: str, start: Start) -> None:
    """`SDKRateLimitInfo` of the vendor's types."""
    turn = start(f"rate_limit@end={status}:1790000000").turn()
    assert kinds(turn)[-2] == "rate_limit_event"
    info = turn[-2]["rate_limit_info"]
    assert (info["status"], info["resetsAt"], info["rateLimitType"]) == (status, 1790000000, "five_hour")


def test_sub_agents_and_notices_speak_between_the_deltas(start: Start) -> None:
    """A sub-agent's message has `parent_tool_use_id`, a notice the model `<synthetic>`; neither is the answer."""
    turn = start("subagent@delta:1=secret", "synthetic@delta:1=notice").turn()
    inner = [m for m in turn if m.get("parent_tool_use_id")]
    assert text_of(inner) == "secret" and kinds(inner)[0] == "message_start"
    notices = [m for m in turn if m["type"] == "assistant" and m["message"]["model"] == "<synthetic>"]
    assert [m["message"]["content"][0]["text"] for m in notices] == ["notice"]
    assert turn[-1]["result"] == "Hello from upstream: hello"


def test_one_line_can_be_huge(start: Start) -> None:
    """10 MiB in one delta."""
    fake = start()
    assert len(text_of(fake.turn("fake:huge"))) == 10 * 1024 * 1024
    assert len(text_of(fake.turn("fake:huge=5000"))) == 5000


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="needs pipes that keep writes apart")
def test_bytewise_splits_characters(start: Start) -> None:
    """Every write is one byte: on a pipe in packet mode every read brings one."""
    read_end, write_end = os.pipe2(os.O_DIRECT)
    fake = start("bytewise", stdout=write_end)
    os.close(write_end)
    fake.send(user("häß 🙂"))
    fake.end_input()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        reads = list(iter(lambda: pipe.read(4096), b""))
    assert "🙂".encode() in b"".join(reads)
    assert {len(read) for read in reads} == {1}


def test_sigterm_can_be_ignored(start: Start) -> None:
    """It is logged, and the process goes on."""
    fake = start("ignore_term@boot")
    fake.control("initialize")
    fake.process.terminate()
    wait_for_log(fake.claude, lambda log: log[0].signals == ("SIGTERM",))
    assert fake.turn()[-1]["is_error"] is False


def test_a_grandchild_holds_stdout_after_the_exit(start: Start) -> None:
    """It has a session of its own, its pid is logged, and stdout ends only with it."""
    fake = start("grandchild@delta:1", "crash@delta:1=3")
    fake.send(user("hello"))
    fake.read_until("content_block_delta")
    assert fake.wait() == 3
    (grandchild,) = read_log(fake.claude)[0].grandchildren
    assert os.getsid(grandchild) == grandchild
    assert fake.process.stdout
    assert select.select([fake.process.stdout], [], [], 0)[0] == []
    os.kill(grandchild, signal.SIGKILL)
    assert fake.read_to_end() == []


def test_a_command_of_a_tool_is_left_without_parents_in_a_session_of_its_own(start: Start) -> None:
    """It has the environment of the CLI, and does not hold stdout open."""
    fake = start("call=Bash:{}", "command@tool:1", "crash@tool:1=3", environment={"TMPDIR": "/nowhere"})
    fake.send(user("hello"))
    assert kind_of(fake.read_to_end()[-1]) == "message_stop" and fake.wait() == 3
    (command,) = read_log(fake.claude)[0].grandchildren
    assert os.getsid(command) != command and os.getsid(command) != os.getsid(0)
    assert psutil.Process(command).environ()["TMPDIR"] == "/nowhere"
    assert psutil.Process(command).ppid() != fake.process.pid


ASKS = ("--permission-prompt-tool", "stdio", "--allowedTools", "Read,Write(*.txt)")


def test_tools_that_are_not_allowed_ask_one_after_the_other(start: Start) -> None:
    """Each before it runs; one that is allowed does not ask, and things can happen while it runs."""
    fake = start("call=Bash:{}", "call=Read:{}", "call=Grep:{}", "progress@tool:2", flags=ASKS)
    fake.send(user("hello"))
    before = fake.read_until("control_request")
    asked = before[-1]["request"]
    assert (asked["subtype"], asked["tool_name"], kind_of(before[-2])) == ("can_use_tool", "Bash", "message_delta")
    fake.send(answer_to(before[-1], response={"behavior": "allow"}))
    between = fake.read_until("control_request")
    assert kinds(between) == ["message_stop", "user", "tool_progress", "user", "control_request"]
    fake.send(answer_to(between[-1], response={"behavior": "deny", "message": "no"}))
    after = fake.read_until("result")
    assert after[0]["message"]["content"][0]["is_error"] is True
    assert text_of(after) == "Tool said: Bash done Read done no"
    assert [denial["tool_name"] for denial in after[-1]["permission_denials"]] == ["Grep"]


def test_stdin_can_be_closed_early(start: Start) -> None:
    """The writer gets EPIPE while the turn goes on to its end, and the process stays."""
    fake = start("close_stdin@delta:1")
    fake.send(user("hello"))
    fake.read_until("result")
    with pytest.raises(BrokenPipeError):
        fake.send(user("again"))
    assert fake.process.poll() is None


@pytest.mark.parametrize("point", ["boot", "delta:1"])
def test_stdin_can_stay_unread(point: str, start: Start) -> None:
    """The writer's pipe fills up."""
    fake = start(f"deaf@{point}")
    assert fake.process.stdin
    if point == "delta:1":
        fake.send(user("hello"))
        fake.read_until("result")
    wait_for_log(fake.claude, lambda log: len(log) == 1)
    os.set_blocking(fake.process.stdin.fileno(), False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(fake.process.stdin.fileno(), b" " * 4096)
    assert fake.process.poll() is None
    assert len(read_log(fake.claude)[0].lines) == (1 if point == "delta:1" else 0)


def test_a_slow_boot_delays_the_first_answer(start: Start) -> None:
    """Nothing is read before the time is over."""
    began = time.monotonic()
    start("sleep@boot=0.3").control("initialize")
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("status", API_ERRORS)
def test_api_errors_end_the_turn_with_their_status(status: int, start: Start) -> None:
    """`<synthetic>` text, `is_error` and the status, while `subtype` says success; exit status 1."""
    fake = start(f"error={status}")
    turn = fake.turn()
    assert kinds(turn) == ["system/init", "system/status", "assistant", "result"]
    assert (turn[2]["message"]["model"], turn[2]["api_error_status"]) == ("<synthetic>", status)
    assert (turn[3]["subtype"], turn[3]["is_error"], turn[3]["api_error_status"]) == ("success", True, status)
    fake.end_input()
    assert fake.wait() == 1


def test_a_full_context_is_a_blocking_limit(start: Start) -> None:
    """Without a status."""
    result = start("too_long").turn()[-1]
    assert (result["result"], result["terminal_reason"]) == ("Prompt is too long", "blocking_limit")
    assert (result["is_error"], result["api_error_status"]) == (True, None)


def test_the_plans_limit_tells_when_it_resets(start: Start) -> None:
    """A rejected `rate_limit_event`, then a 429 with `usage_limit_reached`."""
    turn = start("plan_limit=1790000000").turn()
    assert turn[2]["rate_limit_info"]["status"] == "rejected"
    assert turn[2]["rate_limit_info"]["resetsAt"] == 1790000000
    assert (turn[-1]["api_error_status"], turn[-1]["api_error"]) == (429, "usage_limit_reached")


def stop_reasons(turn: list[Json]) -> list[str | None]:
    """Of every `message_delta`."""
    return [m["event"]["delta"]["stop_reason"] for m in turn if kind_of(m) == "message_delta"]


@pytest.mark.parametrize(
    "stop, reasons, text, is_error",
    [
        ("stop_sequence:END", ["stop_sequence"], "one", False),
        ("max_tokens", ["max_tokens", "end_turn"], "onetwo", False),
        ("refusal:once", ["refusal", "end_turn"], "onetwo", False),
        ("refusal", ["refusal", "refusal"], "onetwo", True),
        ("pause_turn", ["pause_turn"], "one", False),
    ],
)
def test_stop_reasons(stop: str, reasons: list[str], text: str, is_error: bool, start: Start) -> None:
    """After `max_tokens` and a refusal the CLI asks again by itself: a second message in the same turn."""
    turn = start(f"stop={stop}", 'deltas=["one"]', 'reply=["two"]').turn()
    assert (stop_reasons(turn), text_of(turn), turn[-1]["is_error"]) == (reasons, text, is_error)
    assert turn[-1]["stop_reason"] == reasons[-1]
    assert kinds(turn).count("message_start") == len(reasons) == turn[-1]["num_turns"]
    sequences = [m["event"]["delta"]["stop_sequence"] for m in turn if kind_of(m) == "message_delta"]
    assert sequences[0] == ("END" if "END" in stop else None)


def test_usage_and_model_are_the_scripts(start: Start) -> None:
    """Counts of one turn; `modelUsage` is the total over the process's life."""
    fake = start('usage={"input_tokens":100,"cache_read_input_tokens":5,"output_tokens":40}', "model=claude-x")
    first, second = fake.turn(), fake.turn()
    message = first[2]["event"]["message"]
    assert (message["model"], message["usage"]["input_tokens"]) == ("claude-x", 100)
    assert [turn[-1]["usage"]["output_tokens"] for turn in (first, second)] == [40, 40]
    assert second[-1]["modelUsage"]["claude-x"]["outputTokens"] == 80
    assert second[-1]["model_usage_since_last_result"]["claude-x"]["cacheReadInputTokens"] == 5


def test_tool_calls_wait_for_the_clients_results(start: Start) -> None:
    """Both calls come at once; the turn goes on when both are answered, and echoes the results."""
    fake = start(CALL, CALL)
    fake.send(initialize_with_tools(), user("weather?"))
    opening = fake.read_until("message_stop")
    asked = [m for m in opening if m["type"] == "control_request"]
    blocks = [m["message"]["content"][0] for m in opening if m["type"] == "assistant"][1:]
    marks = [one["request"]["message"]["params"]["_meta"]["claudecode/toolUseId"] for one in asked]
    assert marks == [block["id"] for block in blocks] and len(set(marks)) == 2
    fake.send(tool_answer(asked[1], "rain"))
    assert fake.control("apply_flag_settings", settings={})["subtype"] == "success"
    fake.send(tool_answer(asked[0], "sun"))
    assert fake.read_until("result")[-1]["result"] == "Tool said: sun rain"


def test_a_refused_tool_call_goes_on_with_an_error(start: Start) -> None:
    """An error response becomes an error result."""
    fake = start(CALL)
    fake.send(initialize_with_tools(), user("weather?"))
    asked = fake.read_until("control_request")[-1]
    fake.send(answer_to(asked, subtype="error", error="no such tool"))
    rest = fake.read_until("result")
    assert [m["message"]["content"][0]["is_error"] for m in rest if m["type"] == "user"] == [True]


def test_a_parked_call_is_lost_when_stdin_ends(start: Start) -> None:
    """The CLI does not end: it tells the model so, and asks it again."""
    fake = start(CALL)
    fake.send(initialize_with_tools(), user("weather?"))
    fake.read_until("message_stop")
    fake.end_input()
    rest = fake.read_to_end()
    assert kinds(rest)[:2] == ["user", "system/status"] and kinds(rest)[-1] == "result"
    assert fake.wait() == 0


def test_a_parked_call_can_be_interrupted(start: Start) -> None:
    """The client is told that the call is cancelled; the result says `aborted_tools`."""
    fake = start(CALL)
    fake.send(initialize_with_tools(), user("weather?"))
    fake.read_until("message_stop")
    fake.control("interrupt")
    rest = fake.read_until("result")
    assert rest[0]["request"]["message"]["method"] == "notifications/cancelled"
    assert rest[-1]["terminal_reason"] == "aborted_tools"


@pytest.mark.parametrize("directive, subtype", [("ask", "can_use_tool"), ("ask=of_tomorrow", "of_tomorrow")])
def test_an_unexpected_request_holds_the_turn_until_it_is_answered(directive: str, subtype: str, start: Start) -> None:
    """An error will do; meanwhile nothing comes."""
    fake = start(directive)
    fake.send(user("hello"))
    asked = fake.read_until("control_request")[-1]
    assert asked["request"]["subtype"] == subtype
    assert fake.control("get_usage", skip_behaviors=True)["response"]["rate_limits"] is None
    fake.send(answer_to(asked, subtype="error", error="not supported"))
    assert fake.read_until("result")[-1]["is_error"] is False


def test_a_message_can_begin_again(start: Start) -> None:
    """A second `message_start` without the end of the first, then the whole answer."""
    turn = start("restart@delta:2").turn()
    events = [kind for kind in kinds(turn) if kind.startswith("message_")]
    assert events == ["message_start", "message_start", "message_delta", "message_stop"]
    assert text_of(turn) == "Hello from Hello from upstream: hello"
    assert turn[-1]["result"] == "Hello from upstream: hello"


def test_a_turn_that_nobody_asked_for(start: Start) -> None:
    """Right after a result, or when a signal asks for it."""
    fake = start("unasked@result#1=ghost", "unasked@signal=spirit")
    assert fake.turn()[-1]["result"] == "Hello from upstream: hello"
    assert fake.read_until("result")[-1]["result"] == "ghost"
    fake.process.send_signal(signal.SIGUSR1)
    assert fake.read_until("result")[-1]["result"] == "spirit"


def test_stderr_is_written_too(start: Start) -> None:
    """As in "No conversation found"."""
    fake = start("stderr@boot=No conversation found with session ID", "crash@boot")
    assert fake.wait() == 1
    assert fake.stderr() == "No conversation found with session ID\n"


FATAL = [
    (b"{nope\n", "SyntaxError"),
    (b"null\n", "TypeError"),
    (b'{"type":"user"}\n', "got 'undefined'"),
    (b'{"type":"user","message":{"role":"assistant","content":"x"}}\n', "got 'assistant'"),
]


@pytest.mark.parametrize("line, words", FATAL)
def test_a_bad_line_ends_the_process(line: bytes, words: str, start: Start) -> None:
    """Status 1, and a line on stderr."""
    fake = start()
    fake.send(line)
    assert fake.wait() == 1
    assert words in fake.stderr()


def test_harmless_lines_are_skipped(start: Start) -> None:
    """JSON that is no object, unknown types, `assistant` lines, blank lines."""
    fake = start()
    assistant = {"type": "assistant", "message": {"role": "assistant", "content": []}}
    fake.send(b"7\n", b"[]\n", b"\n", {"type": "of_tomorrow"}, assistant)
    assert fake.turn()[-1]["is_error"] is False


@pytest.mark.parametrize("content", [7, ["text"], [None], [{"type": "text"}]])
def test_bad_content_hangs_the_turn(content: Any, start: Start) -> None:
    """Nothing comes until it is interrupted."""
    fake = start()
    fake.send(user(content))
    fake.read_until("system/status")
    fake.control("interrupt")
    assert fake.read_until("result")[-1]["subtype"] == "error_during_execution"


def test_messages_sent_during_a_turn_are_one_next_turn(start: Start) -> None:
    """As the real one does."""
    fake = start("ask@delta:1#1")
    fake.send(user("one"))
    asked = fake.read_until("control_request")[-1]
    fake.send(user("two"), user("three"), answer_to(asked))
    fake.read_until("result")
    assert fake.read_until("result")[-1]["result"] == "Hello from upstream: two three"
    fake.end_input()
    assert fake.read_to_end() == []


def test_control_requests_are_answered_as_by_the_real_one(start: Start) -> None:
    """Models by alias or id, errors for the unknown, a second initialize."""
    fake = start()
    first = fake.control("initialize")["response"]
    assert {"value", "resolvedModel", "displayName", "supportedEffortLevels"} <= set(first["models"][0])
    assert first["pid"] == fake.process.pid
    assert fake.control("set_model", model="claude-opus-4-5-20251101")["response"]["model"].endswith("20251101")
    assert fake.control("set_model", model="bogus")["error_code"] == "check_failed"
    assert fake.control("of_tomorrow")["error_code"] == "unsupported_request"
    assert fake.control("initialize")["subtype"] == "success"
    assert kind_of(fake.read()) == "system/background_tasks_changed"


def test_a_closed_stdout_ends_the_process(start: Start) -> None:
    """Nobody reads: no use to go on."""
    fake = start()
    assert fake.process.stdout
    fake.process.stdout.close()
    fake.send(user("hello"))
    assert fake.wait() == 1
