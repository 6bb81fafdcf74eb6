"""Whatever fails, the client is told what and how, once, and nothing is left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.fake_cli import Script, install, kill_everything, read_log, wait_for_log
from tests.harness import (
    DEADLINE,
    TIMING,
    Exchange,
    Proxy,
    assistant,
    chat,
    conversation_of,
    is_alive,
    wait_until,
)

Start = Callable[..., Proxy]

FAR_AWAY = 4_000_000_000  # Unix time, in the year 2096
SERVER = "server_error"
INVALID = "invalid_request_error"
LIMIT = "rate_limit_error"


def fake(*directives: str) -> str:
    """A user text that makes the fake do this."""
    return " ".join(["please", *("fake:" + one.replace(" ", "\\u0020") for one in directives)])


def failed(status: int | None, **more: Any) -> str:
    """The directive at `delta:1` for a `result` that says the turn has failed."""
    words = "API Error: it failed"
    result = {"type": "result", "subtype": "success", "is_error": True, "api_error_status": status, "result": words}
    return "emit@delta:1=" + json.dumps({**result, "terminal_reason": "api_error", **more}, separators=(",", ":"))


def rejected(resets_at: int) -> str:
    """The directive at `delta:1` for the plan's window being used up."""
    return f"rate_limit@delta:1=rejected:{resets_at}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail. `before`, `after`: directives that make it happen before and after the first byte.

    should_retry, retry_after: headers of the answer before the first byte; True stands for any value.
    """

    name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    status: int
    type: str
    code: str | None
    retry_after: bool = False
    should_retry: str | None = None


def at_both(name: str, directive: str, status: int, kind: str, code: str, **more: Any) -> Fault:
    """A fault that one directive makes at either point."""
    head, equals, argument = directive.partition("=")
    before, after = (f"{head}@{point}{equals}{argument}" for point in ("request", "delta:1"))
    return Fault(name, (before,), (after,), status, kind, code, **more)


FAULTS = (
    at_both("the child crashes", "crash", 502, SERVER, "upstream_error"),
    at_both("the child ends with status 0", "crash=0", 502, SERVER, "upstream_error"),
    at_both("the child is killed", "kill", 502, SERVER, "upstream_error"),
    *(
        at_both(f"the child writes garbage: {kind}", f"garbage={kind}", 502, SERVER, "upstream_error")
        for kind in ("text", "null", "number", "list", "string", "untyped", "utf8", "cut")
    ),
    at_both("the child falls silent", "stall", 504, SERVER, "timeout"),
    at_both(
        "the API refuses the login, while trying", "retry=401", 503, SERVER, "not_authenticated", should_retry="false"
    ),
    at_both("the API forbids it, while trying", "retry=403", 503, SERVER, "not_authenticated", should_retry="false"),
    at_both("the API is busy, while trying", "retry=429", 429, LIMIT, "rate_limit_exceeded", retry_after=True),
    at_both("the API knows no such model, while trying", "retry=404", 404, INVALID, "model_not_found"),
    at_both("the API finds it too large, while trying", "retry=413", 413, INVALID, "request_too_large"),
    Fault("the API answers 400", ("error=400",), (failed(400),), 400, INVALID, None),
    Fault(
        "the API answers 401", ("error=401",), (failed(401),), 503, SERVER, "not_authenticated", should_retry="false"
    ),
    Fault(
        "the API answers 403", ("error=403",), (failed(403),), 503, SERVER, "not_authenticated", should_retry="false"
    ),
    Fault("the API answers 404", ("error=404",), (failed(404),), 404, INVALID, "model_not_found"),
    Fault("the API answers 413", ("error=413",), (failed(413),), 413, INVALID, "request_too_large"),
    Fault("the API answers 429", ("error=429",), (failed(429),), 429, LIMIT, "rate_limit_exceeded", retry_after=True),
    Fault("the API answers 500", ("error=500",), (failed(500),), 502, SERVER, "upstream_error"),
    Fault("the API answers 529", ("error=529",), (failed(529),), 503, SERVER, "overloaded"),
    Fault(
        "the turn fails without a status",
        (failed(None).replace("delta:1", "request"),),
        (failed(None),),
        502,
        SERVER,
        "upstream_error",
    ),
    Fault(
        "there is no login",
        ("not_logged_in",),
        (
            'emit@delta:1={"type":"assistant","error":"authentication_failed","message":{"model":"<synthetic>"}}',
            failed(None),
        ),
        503,
        SERVER,
        "not_authenticated",
        should_retry="false",
    ),
    Fault(
        "the plan's limit is reached",
        (f"plan_limit={FAR_AWAY}",),
        (rejected(FAR_AWAY), failed(429)),
        429,
        LIMIT,
        "plan_limit",
        retry_after=True,
        should_retry="false",
    ),
    Fault(
        "the prompt is too long",
        ("too_long",),
        (failed(None, terminal_reason="blocking_limit"),),
        400,
        INVALID,
        "context_length_exceeded",
    ),
)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_before_the_first_byte_a_failure_has_a_status_of_its_own(
    shared_proxy: Proxy, fault: Fault, stream: bool
) -> None:
    """Status, type and code of the table, whether a stream was asked for or not; and no child stays."""
    answer = shared_proxy.ask(fake(*fault.before), stream=stream)
    error = answer.error
    assert (answer.status, error["type"], error["code"]) == (fault.status, fault.type, fault.code)
    assert error["message"] and error["param"] in (None, "model")
    assert ("retry-after" in answer.headers) == fault.retry_after
    assert answer.headers.get("x-should-retry") == fault.should_retry
    shared_proxy.wait_until_empty()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_after_the_first_byte_a_stream_ends_with_one_error_event(shared_proxy: Proxy, fault: Fault) -> None:
    """What was said stays; then the error, and nothing after it."""
    stream = shared_proxy.stream(fake("words=5", *fault.after))
    assert stream.text == "word0 "
    assert stream.records[-1].startswith('data: {"error":') and len(stream.errors) == 1
    assert not stream.is_done and stream.finish_reason is None
    (error,) = stream.errors
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (fault.type, fault.code)
    shared_proxy.wait_until_empty()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_after_the_first_byte_a_whole_answer_must_not_be_asked_for_again(shared_proxy: Proxy, fault: Fault) -> None:
    """The status is still free; the SDKs are told that the CLI has worked already."""
    answer = shared_proxy.ask(fake("words=5", *fault.after))
    assert (answer.status, answer.error["type"], answer.error["code"]) == (fault.status, fault.type, fault.code)
    assert answer.headers["x-should-retry"] == "false"
    shared_proxy.wait_until_empty()


def test_an_answer_that_begins_anew_is_an_error(shared_proxy: Proxy) -> None:
    """What was said cannot be taken back, and must not be said twice."""
    stream = shared_proxy.stream(fake("words=5", "restart@delta:2"))
    assert (stream.text, [error["code"] for error in stream.errors]) == ("word0 word1 ", ["upstream_error"])
    shared_proxy.wait_until_empty()


@pytest.mark.parametrize(
    "directives",
    [
        ("garbage@request=blank", "garbage@delta:1=blank"),
        ("unknown@turn", "unknown@delta:1"),
        ("retry@request=529",),
        ("retry@request=500",),
        ("rate_limit@request=allowed_warning",),
        ("subagent@delta:1=psst",),
        ("synthetic@delta:1=psst",),
        ("ask@delta:1",),
        ("ask@request=mcp_message",),
        ("stderr@delta:1=oops",),
        ("bytewise",),
    ],
    ids=lambda directives: " ".join(directives),
)
def test_what_is_no_failure_does_not_disturb(shared_proxy: Proxy, directives: tuple[str, ...]) -> None:
    """Blank lines, unknown types, sub-agents, notices, questions of the CLI, single bytes: the answer is the same."""
    said = 'deltas=["héllo","\\u4e16\\u754c","🎉"]'
    stream = shared_proxy.stream(fake(said, *directives))
    assert stream.text == "héllo世界🎉" and stream.finish_reason == "stop" and stream.is_done
    shared_proxy.wait_until_empty()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_line_of_ten_megabytes_arrives_uncut(shared_proxy: Proxy, stream: bool) -> None:
    """Lines have no limit that a client could notice."""
    text = shared_proxy.stream(fake("huge")).text if stream else shared_proxy.ask(fake("huge")).text
    assert text == "x" * 10 * 1024 * 1024
    shared_proxy.wait_until_empty()


POINTS = ("boot", "initialize", "replay", "turn", "request", "message_start", "delta:1", "last_delta", "end")
HISTORY = ("first", assistant("earlier answer"), "then")
SPOKEN = {"message_start": "", "delta:1": "Hello ", "last_delta": "Hello from upstream: then"}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("directive", ["crash", "kill"])
def test_a_child_that_always_crashes_is_replaced_once_and_then_reported(
    start: Start, directive: str, point: str
) -> None:
    """Before the first byte two children are tried; after it the stream says so."""
    proxy = start(f"{directive}@{point}")
    spoke = point in (*SPOKEN, "end")
    if spoke:
        stream = proxy.stream(*HISTORY)
        assert stream.text == SPOKEN.get(point, "Hello from upstream: then")
        assert [error["code"] for error in stream.errors] == ["upstream_error"] and stream.finish_reason is None
    else:
        answer = proxy.ask(*HISTORY, stream=True)
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
    assert len(proxy.log()) == (1 if spoke else 2)
    proxy.wait_until_empty()


@pytest.mark.parametrize("point", POINTS[:5])
def test_a_child_that_crashes_before_it_spoke_is_replaced_unseen(start: Start, point: str) -> None:
    """The second child gets the whole conversation again."""
    proxy = start(Script(processes={1: (f"crash@{point}",)}))
    assert proxy.ask(*HISTORY).text == "Hello from upstream: then"
    first, second = proxy.log()
    assert first.end == "crash"
    assert conversation_of(second) == [("user", "first"), ("assistant", "earlier answer"), ("user", "then")]


def test_a_live_child_that_dies_while_idle_is_replaced_by_replay(start: Start) -> None:
    """The second turn knows nothing of it."""
    proxy = start(Script(processes={1: ("crash@result",)}))
    said = proxy.ask("one").text
    wait_until(lambda: not proxy.living_processes(), "the first child dead")
    assert proxy.ask("one", assistant(said), "two").text == "Hello from upstream: two"
    assert conversation_of(proxy.log()[1]) == [("user", "one"), ("assistant", said), ("user", "two")]


@pytest.mark.parametrize("directive", ["crash@request#2", "kill@turn#2", "close_stdin@end#1"])
def test_a_reused_child_that_dies_before_it_spoke_is_replaced_by_replay(start: Start, directive: str) -> None:
    """Silently, once."""
    proxy = start(Script(processes={1: (directive,)}))
    said = proxy.ask("one").text
    assert proxy.ask("one", assistant(said), "two").text == "Hello from upstream: two"
    assert len(proxy.log()) == 2


def test_an_idle_child_that_speaks_unasked_is_retired(start: Start) -> None:
    """Its history holds a turn that no client knows."""
    proxy = start("unasked@signal=surprise")
    said = proxy.ask("one").text
    (child,) = proxy.log()
    assert proxy.service.fleet.counts().live == 1
    os.kill(child.pid, signal.SIGUSR1)
    proxy.wait_until_empty()
    assert proxy.ask("one", assistant(said), "two").text == "Hello from upstream: two"
    assert [process.pid == child.pid for process in proxy.log()] == [True, False]


def test_a_child_that_speaks_unasked_right_after_its_turn_is_not_continued(start: Start) -> None:
    """Nothing of it gets into the next answer."""
    proxy = start(Script(processes={1: ("unasked@result#1=surprise",)}))
    said = proxy.ask("one").text
    # A loaded fake may say it late; what it says in the middle of the next turn could not be told from that turn's.
    wait_until(lambda: proxy.service.fleet.counts().live == 0, "the child that spoke is given up")
    second = proxy.ask("one", assistant(said), "two")
    assert second.text == "Hello from upstream: two"
    assert len(proxy.log()) == 2


@pytest.mark.parametrize("leaver", ["client", "silence"])
@pytest.mark.parametrize("proof", [("ignore_term@boot",), ("ignore_term@boot", "grandchild@request")])
def test_a_child_that_ignores_sigterm_is_killed_with_its_family(
    start_booted: Start, leaver: str, proof: tuple[str, ...]
) -> None:
    """The worker is free again, and nothing runs on."""
    proxy = start_booted(*proof, "stall@delta:1", inactivity_timeout=1.0 if leaver == "silence" else 20.0)
    exchange = proxy.send(chat("go", stream=True))
    proxy.wait_for_log(lambda log: bool(log) and len(log[0].grandchildren) == len(proof) - 1)
    if leaver == "client":
        next(exchange.records())
        exchange.close()
    else:
        assert [error["code"] for error in exchange.stream().errors] == ["timeout"]
    proxy.wait_until_empty()
    assert "SIGTERM" in proxy.log()[0].signals


def test_a_grandchild_that_holds_stdout_does_not_hide_the_childs_end(start: Start) -> None:
    """The pipe stays open; the end of the process is seen all the same."""
    proxy = start("grandchild@delta:1", "crash@delta:2")
    stream = proxy.stream("one two three four")
    assert [error["code"] for error in stream.errors] == ["upstream_error"]
    proxy.wait_until_idle()
    kill_everything(proxy.claude)


@pytest.mark.parametrize("point", ["boot", "initialize"])
@pytest.mark.parametrize("size", [1, 3_000_000], ids=["small", "large"])
def test_a_child_that_closes_its_stdin_is_reported(start: Start, point: str, size: int) -> None:
    """Two are tried; both are ended although they would live on."""
    proxy = start(f"close_stdin@{point}", "stall@turn", inactivity_timeout=2.0)
    answer = proxy.ask("x" * size)
    assert (answer.status, answer.error["type"]) in ((502, SERVER), (504, SERVER))
    proxy.wait_until_empty()


@pytest.mark.parametrize("more", [(), ("ignore_term@boot",)], ids=["plain", "TERM-proof"])
@pytest.mark.parametrize("point", ["boot", "initialize"])
def test_a_child_that_does_not_read_a_large_prompt_is_silent(start: Start, point: str, more: tuple[str, ...]) -> None:
    """Writing to it blocks; the limit on silence ends that."""
    proxy = start(*more, f"deaf@{point}", "stall@turn", inactivity_timeout=0.5)
    answer = proxy.ask("x" * 3_000_000)
    assert (answer.status, answer.error["code"]) == (504, "timeout")
    proxy.wait_until_empty()


@pytest.mark.parametrize("point", ["boot", "turn", "message_start", "delta:1"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_has_a_limit_of_its_own(start_booted: Start, point: str, stream: bool) -> None:
    """However busy the child is."""
    proxy = start_booted(f"stall@{point}", request_timeout=0.7)
    exchange = proxy.send(chat("go", stream=stream))
    if stream and point in ("message_start", "delta:1"):
        (error,) = exchange.stream().errors
    else:
        answer = exchange.answer()
        error = answer.error
        assert answer.status == 504
    assert error["code"] == "timeout" and "0.7 s" in error["message"]
    proxy.wait_until_empty()


def test_the_limit_of_a_request_counts_the_queue(start: Start) -> None:
    """It runs out although no worker has taken the request."""
    slow = replace(TIMING, grace_interval=2.0)
    proxy = start("ignore_term@boot", "stall", timing=slow, max_concurrent=1, request_timeout=0.6)
    running = proxy.send(chat("running"))
    proxy.wait_for_log(bool)
    queued = proxy.send(chat("queued"))
    assert queued.answer().status == 504
    assert running.answer().status == 504
    assert len(proxy.log()) == 1
    proxy.wait_until_empty()


def test_without_a_login_the_client_is_told_at_once_what_to_run(start: Start) -> None:
    """The CLI is asked before the turn is tried again; once somebody has logged in, the next request works."""
    proxy = start(Script(logged_in=False))
    began = time.monotonic()
    answer = proxy.ask("hello")
    assert (answer.status, answer.error["code"]) == (503, "not_authenticated")
    assert "claude auth login" in answer.error["message"] and answer.headers["x-should-retry"] == "false"
    assert time.monotonic() - began < DEADLINE
    assert len(proxy.log()) == 1
    assert proxy.get("/health").json["logged_in"] is False
    proxy.script()
    assert proxy.ask("hello").status == 200
    assert proxy.get("/health").json["logged_in"] is True


def test_a_login_that_has_run_out_is_looked_for_anew_in_a_fresh_child(start: Start) -> None:
    """The kept child knows the old login; every idle one goes with it."""
    proxy = start(Script(processes={1: ("retry@request#2=401",)}))
    said = proxy.ask("one").text
    assert proxy.ask("one", assistant(said), "two").text == "Hello from upstream: two"
    assert len(proxy.log()) == 2


def test_a_plan_limit_says_when_it_ends(start: Start) -> None:
    """Retry-After counts to `resetsAt`."""
    resets_at = int(time.time()) + 7200
    answer = start(f"plan_limit={resets_at}").ask("hello")
    assert 7100 < int(answer.headers["retry-after"]) <= 7200
    assert answer.headers["x-should-retry"] == "false"


def test_a_missing_cli_is_named_with_the_command_that_installs_it(start: Start, tmp_path: Path) -> None:
    """And once it is there it is used, without a restart."""
    proxy = start(claude=str(tmp_path / "later" / "claude"))
    answer = proxy.ask("hello")
    assert (answer.status, answer.error["code"]) == (503, "cli_unavailable")
    assert "Run: curl" in answer.error["message"] and answer.headers["x-should-retry"] == "false"
    health = proxy.get("/health").json
    assert (health["status"], health["cli"]["version"]) == ("degraded", None)
    claude = install(tmp_path / "later", Script())
    try:
        assert proxy.ask("hello").status == 200
    finally:
        proxy.service.fleet.retire_idle()
        wait_until(lambda: not any(is_alive(process.pid) for process in read_log(claude)), "the child gone")
        kill_everything(claude)


def test_a_cli_that_is_too_old_is_named_with_the_command_that_updates_it(start: Start) -> None:
    """Both versions are told."""
    answer = start(Script(version="2.0.1")).ask("hello")
    assert (answer.status, answer.error["code"]) == (503, "cli_unavailable")
    assert "2.0.1" in answer.error["message"] and "update" in answer.error["message"]


def test_a_file_that_is_not_executable_is_no_cli(start: Start, tmp_path: Path) -> None:
    """It is told like a missing one."""
    (tmp_path / "claude").write_text("#!/bin/sh\n")
    answer = start(claude=str(tmp_path / "claude")).ask("hello")
    assert (answer.status, answer.error["code"]) == (503, "cli_unavailable")
    assert "no executable file" in answer.error["message"]


@pytest.mark.parametrize("content", ["#!/nowhere/sh\n", "#!/bin/sh\necho something else\n"], ids=["broken", "other"])
def test_a_program_that_is_not_the_cli_is_told_so(start: Start, tmp_path: Path, content: str) -> None:
    """Whether it cannot be run or answers something else."""
    (tmp_path / "claude").write_text(content)
    (tmp_path / "claude").chmod(0o755)
    answer = start(claude=str(tmp_path / "claude")).ask("hello")
    assert (answer.status, answer.error["code"]) == (503, "cli_unavailable")
    assert "Run:" in answer.error["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("point", ["turn", "message_start", "delta:1"])
def test_a_client_that_goes_away_ends_its_turn(start: Start, stream: bool, point: str) -> None:
    """The child gets SIGTERM, the worker is free, and the child is not used again."""
    proxy = start(f"stall@{point}", max_concurrent=1, max_queue=0)
    exchange = proxy.send(chat("go", stream=stream))
    proxy.wait_for_log(lambda log: bool(log) and len(log[0].user_messages) == 1)
    if stream and point == "delta:1":
        records = exchange.records()
        while "Hello" not in next(records):
            pass
    exchange.close()
    proxy.wait_until_empty()
    (child,) = proxy.log()
    assert (child.signals, child.end) == (("SIGTERM",), "SIGTERM")
    proxy.script()
    assert proxy.ask("again").status == 200


def test_a_client_that_goes_away_while_the_child_talks_ends_its_turn(start: Start) -> None:
    """It is noticed also where no silence gives time to look."""
    proxy = start("words=100000", "delay=0.01", inactivity_timeout=5.0)
    exchange = proxy.send(chat("go"))
    wait_until(lambda: proxy.service.fleet.counts().leased, "a child at work")
    proxy.wait_for_log(lambda log: bool(log) and len(log[0].user_messages) == 1)
    exchange.close()
    proxy.wait_until_empty()
    assert proxy.log()[0].end == "SIGTERM"


def test_a_client_that_goes_away_from_the_queue_gives_its_place_back(start: Start) -> None:
    """The next one is let in, and no child is ever started for the one that left."""
    proxy = start("stall", max_concurrent=1, max_queue=1)
    running = proxy.send(chat("running"))
    proxy.wait_for_log(lambda log: bool(log) and len(log[0].user_messages) == 1)
    queued = proxy.send(chat("queued"))
    wait_until(lambda: proxy.service.workers.queued == 1, "one request in the queue")
    assert proxy.ask("refused").status == 429
    queued.close()
    wait_until(lambda: proxy.service.workers.queued == 0, "the queue empty again")
    other = proxy.send(chat("other"))
    wait_until(lambda: proxy.service.workers.queued == 1, "another request in the queue")
    other.close()
    wait_until(lambda: proxy.service.workers.queued == 0, "the queue empty once more")
    running.close()
    proxy.wait_until_empty()
    assert len(proxy.log()) == 1


def test_a_client_that_does_not_read_loses_its_turn_and_its_thread(start: Start) -> None:
    """Worker, child and waitress's thread are free again while its connection is still open."""
    proxy = start("words=60000", client_timeout=0.5, inactivity_timeout=5.0)
    exchange = proxy.send(chat("go", stream=True), receive_buffer=4096)
    proxy.wait_for_log(bool)
    with closing(exchange):
        proxy.wait_until_empty()
        dispatcher = proxy.server._server.task_dispatcher
        wait_until(lambda: not dispatcher.active_count, "waitress's thread free")
        assert proxy.ask("fake:words=1").status == 200


def test_a_slow_client_that_reads_keeps_its_turn(start_booted: Start) -> None:
    """Silence of a child that waits for the client is no silence."""
    proxy = start_booted("words=30000", client_timeout=5.0, inactivity_timeout=0.5)
    exchange = proxy.send(chat("go", stream=True), receive_buffer=4096)
    records = exchange.records()
    next(records)
    fleet = proxy.service.fleet
    turn_is_held_back = proxy.service.workers
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 1.0, "twice the limit on silence gone by")
    assert fleet.counts().leased == 1 and turn_is_held_back.active == 1
    assert sum(1 for _ in records) > 30000
    exchange.close()


def test_beyond_workers_and_queue_a_request_is_refused_at_once(start: Start) -> None:
    """429 with Retry-After; those that were taken go on."""
    proxy = start("stall@delta:1", max_concurrent=2, max_queue=1)
    taken = [proxy.send(chat(f"taken {number}", stream=True)) for number in range(3)]
    wait_until(lambda: (proxy.service.workers.active, proxy.service.workers.queued) == (2, 1), "all places taken")
    answer = proxy.ask("one too many")
    assert (answer.status, answer.error["type"], answer.error["code"]) == (429, LIMIT, "concurrency_limit")
    assert int(answer.headers["retry-after"]) >= 1
    for exchange in taken:
        exchange.close()
    proxy.wait_until_empty()


def test_the_official_client_tries_again_when_the_queue_was_full(
    start: Start, connect: Callable[..., openai.OpenAI]
) -> None:
    """It raises RateLimitError only without retries."""
    proxy = start("stall@delta:1", max_concurrent=1, max_queue=0)
    with closing(proxy.send(chat("taken", stream=True))) as taken:
        next(taken.records())
        with pytest.raises(openai.RateLimitError) as raised:
            connect(proxy).chat.completions.create(**chat("one too many"))
        assert raised.value.code == "concurrency_limit"
    proxy.wait_until_empty()


def test_health_answers_at_once_while_every_worker_is_busy(start: Start) -> None:
    """And says how busy they are."""
    proxy = start("stall@delta:1", max_concurrent=2, max_queue=2)
    taken = [proxy.send(chat(f"taken {number}", stream=True)) for number in range(4)]
    wait_until(lambda: proxy.service.workers.queued == 2, "all places taken")
    began = time.monotonic()
    health = proxy.get("/health").json
    assert time.monotonic() - began < 1.0
    assert (health["status"], health["active"], health["queued"]) == ("ok", 2, 2)
    for exchange in taken:
        exchange.close()
    proxy.wait_until_empty()


@pytest.mark.parametrize("point", ["turn", "delta:1"])
def test_a_quiet_stream_gives_signs_of_life(start: Start, point: str) -> None:
    """The role chunk first, also where nothing was said yet; then comments, which every SDK skips."""
    proxy = start(f"stall@{point}", heartbeat_interval=0.3)
    exchange = proxy.send(chat("go", stream=True))
    records = exchange.records()
    assert json.loads(next(records).removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
    if point == "delta:1":
        assert "Hello" in next(records)
    assert [next(records), next(records)] == [": keep-alive"] * 2
    exchange.close()
    proxy.wait_until_empty()


def test_a_failure_after_the_first_sign_of_life_is_told_in_the_stream(start_booted: Start) -> None:
    """The status has been sent by then."""
    proxy = start_booted("stall@turn", heartbeat_interval=0.3, inactivity_timeout=1.5)
    stream = proxy.stream("go")
    assert stream.deltas == [{"role": "assistant", "content": "", "refusal": None}]
    assert ": keep-alive" in stream.records
    assert [error["code"] for error in stream.errors] == ["timeout"]
    proxy.wait_until_empty()


def test_the_official_client_raises_what_a_stream_tells(start: Start, connect: Callable[..., openai.OpenAI]) -> None:
    """An error event is an APIError, after the text that came before it."""
    proxy = start("crash@delta:2")
    said = []
    with pytest.raises(openai.APIError, match="ended"):
        for chunk in connect(proxy).chat.completions.create(**chat("one two three"), stream=True):
            said.append(chunk.choices[0].delta.content)
    assert said == ["", "Hello ", "from "]


def test_a_bug_of_our_own_is_told_and_logged(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 without a word of the cause; the log has the traceback; the worker goes on."""
    proxy = start()
    monkeypatch.setattr(type(proxy.service.runner), "_attempt", lambda self, turn, *rest: 1 // 0)
    answer = proxy.ask("hello")
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert "division" not in answer.error["message"] and "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert proxy.ask("hello").status == 200


def test_a_bug_beside_a_leased_child_gives_it_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is: nobody else would ever end the child, or could use it."""
    proxy = start()
    runner = type(proxy.service.runner)
    for name in ("_keep_books", "_ask", "_emit"):
        with monkeypatch.context() as broken:
            broken.setattr(runner, name, lambda self, turn, *rest: 1 // 0)
            assert proxy.ask("hello").status == 500
        wait_until(lambda: proxy.service.fleet.counts().leased == 0, f"the child given up after a bug in {name}")
    assert proxy.ask("hello").status == 200


def test_a_bug_in_a_dialect_is_told_in_the_stream(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream does not just stop."""
    from claude_proxy.dialects.chat import answer as chat_completions

    proxy = start()
    monkeypatch.setattr(chat_completions, "build_usage", lambda usage: 1 // 0)
    stream = proxy.stream("hello", stream_options={"include_usage": True})
    assert [error["code"] for error in stream.errors] == ["internal_error"] and not stream.is_done
    assert proxy.ask("hello").status == 500
    assert "ZeroDivisionError" in caplog.text


# The whole program, as a process of its own.


class Program:
    """`python -m claude_proxy` with the fake as its CLI."""

    def __init__(self, folder: Path, claude: Path, *flags: str) -> None:
        home = folder / "home"
        temporary = folder / "tmp"
        for made in (home, temporary):
            made.mkdir(exist_ok=True)
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "TMPDIR": str(temporary)}
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
        command = [sys.executable, "-m", "claude_proxy", "--port", "0", "--claude", str(claude), *flags]
        self.temporary = temporary
        self.process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout and self.process.stderr
        first = self.process.stdout.readline()
        assert "listens on http://127.0.0.1:" in first, (first, self.process.stderr.read())
        self.port = int(first.split("http://127.0.0.1:")[1].split()[0])

    def send(self, body: Any) -> Exchange:
        return Exchange(
            self.port,
            "POST",
            "/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )

    def health(self) -> dict[str, Any]:
        """What `/health` says."""
        return Exchange(self.port, "GET", "/health", None, {}).answer().json

    def wait_for_line(self, words: str) -> None:
        """Until stderr has said this."""
        assert self.process.stderr
        for line in self.process.stderr:
            if words in line:
                return
        raise AssertionError(f"never said: {words}")

    def end(self) -> int:
        """The exit status."""
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start the program; what is left of it at the end is killed by pid."""
    programs: list[Program] = []
    claudes: list[Path] = []

    def start_program(
        *directives: str, flags: tuple[str, ...] = ("--warm", "0"), claude: Path | None = None
    ) -> Program:
        path = claude or install(tmp_path / "cli", Script(directives))
        claudes.append(path)
        programs.append(Program(tmp_path, path, *flags))
        return programs[-1]

    yield start_program
    for program in programs:
        program.close()
    for path in claudes:
        if path.with_name("claude.log").exists():
            kill_everything(path)


def children_of(tmp_path: Path) -> list[int]:
    """pids of the fake's processes and grandchildren that still run."""
    log = read_log(tmp_path / "cli" / "claude")
    return [pid for process in log for pid in (process.pid, *process.grandchildren) if is_alive(pid)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_running_turns_end_and_takes_no_new_ones(
    run: Callable[..., Program], tmp_path: Path, number: signal.Signals
) -> None:
    """The stream ends as it should, the exit status is 0, and no process or folder stays."""
    program = run("words=40", "delay=0.05")
    with closing(program.send(chat("go", stream=True))) as exchange:
        records = exchange.records()
        next(records)
        program.process.send_signal(number)
        wait_until(lambda: program.health()["status"] == "draining", "the proxy draining")
        refused = program.send(chat("late")).answer()
        assert (refused.status, refused.error["code"]) == (503, "shutting_down")
        assert list(records)[-1] == "data: [DONE]"
    assert program.end() == 0
    assert children_of(tmp_path) == [] and os.listdir(program.temporary) == []


def test_a_forced_end_has_exit_status_1(run: Callable[..., Program]) -> None:
    """As the program's docstring says."""
    program = run("stall@delta:1", flags=("--shutdown-timeout", "0.5", "--warm", "0"))
    exchange = program.send(chat("go", stream=True))
    next(exchange.records())
    program.process.send_signal(signal.SIGTERM)
    try:
        assert program.end() == 1
    finally:
        exchange.close()


def test_a_turn_that_does_not_end_in_time_is_told_that_the_proxy_is_going(
    run: Callable[..., Program], tmp_path: Path
) -> None:
    """One error event, and nothing left."""
    program = run("stall@delta:1", flags=("--shutdown-timeout", "0.5", "--warm", "1"))
    exchange = program.send(chat("go", stream=True))
    records = exchange.records()
    next(records)
    program.process.send_signal(signal.SIGTERM)
    (error,) = [record for record in records if '"error"' in record]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "shutting_down"
    exchange.close()
    program.end()
    assert children_of(tmp_path) == [] and os.listdir(program.temporary) == []


def test_a_second_signal_ends_it_at_once(run: Callable[..., Program], tmp_path: Path) -> None:
    """Exit status 1, and no child outlives it."""
    program = run("ignore_term@boot", "stall@delta:1")
    exchange = program.send(chat("go", stream=True))
    next(exchange.records())
    program.process.send_signal(signal.SIGINT)
    program.wait_for_line("Finishing")
    began = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    assert program.end() == 1
    assert time.monotonic() - began < 5.0
    exchange.close()
    wait_until(lambda: children_of(tmp_path) == [], "no child left")


@pytest.mark.parametrize("state", ["idle spare", "idle live", "mid-turn"])
def test_sigkill_of_the_proxy_leaves_no_child(run: Callable[..., Program], tmp_path: Path, state: str) -> None:
    """The kernel tells them."""
    spare = state == "idle spare"
    directives = ("stall@delta:1",) if state == "mid-turn" else ()
    program = run(*directives, flags=("--warm", "1" if spare else "0"))
    if not spare:
        exchange = program.send(chat("go", stream=True))
        records = exchange.records()
        next(records)
        if state == "idle live":
            assert list(records)[-1] == "data: [DONE]"
    wait_until(lambda: bool(children_of(tmp_path)), "a child")
    program.process.kill()
    program.end()
    wait_until(lambda: children_of(tmp_path) == [], "no child left")
    if not spare:
        exchange.close()


RESPONSIBLE_CLI = """#!{python}
import os, signal, subprocess, sys, time
if "--version" in sys.argv:
    sys.exit(print("2.1.400 (Claude Code)"))
if "auth" in sys.argv:
    sys.exit(print('{{"loggedIn": true}}'))
command = subprocess.Popen(["sleep", "300"], start_new_session=True)
def end(number, frame):
    command.kill()
    os._exit(143)
signal.signal(signal.SIGTERM, end)
with open({pids!r}, "w") as file:
    file.write(f"{{os.getpid()}} {{command.pid}}\\n")
signal.alarm(120)
while True:
    time.sleep(1)
"""


def test_sigkill_of_the_proxy_lets_the_cli_take_its_commands_along(run: Callable[..., Program], tmp_path: Path) -> None:
    """A command in a session of its own is reached only by a CLI that is asked to end, not killed."""
    pids = tmp_path / "pids"
    claude = tmp_path / "responsible"
    claude.write_text(RESPONSIBLE_CLI.format(python=sys.executable, pids=str(pids)))
    claude.chmod(0o755)
    program = run(claude=claude, flags=("--warm", "1"))
    wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"), "the CLI and its command")
    family = [int(pid) for pid in pids.read_text().split()]
    assert all(is_alive(pid) for pid in family)
    program.process.kill()
    program.end()
    wait_until(lambda: not any(is_alive(pid) for pid in family), "the CLI and its command gone")


def test_the_next_start_clears_up_after_a_proxy_that_was_killed(run: Callable[..., Program], tmp_path: Path) -> None:
    """Its folder goes; a child that ignored the end of its proxy does, too."""
    first = run("ignore_term@boot", "stall@delta:1")
    exchange = first.send(chat("go", stream=True))
    next(exchange.records())
    first.process.kill()
    first.end()
    exchange.close()
    assert children_of(tmp_path) and os.listdir(first.temporary)
    second = run()
    wait_until(lambda: children_of(tmp_path) == [], "the child of the first proxy gone")
    second.process.send_signal(signal.SIGTERM)
    assert second.end() == 0
    assert os.listdir(second.temporary) == []


def test_the_next_start_ends_what_an_agents_tools_left_running(run: Callable[..., Program], tmp_path: Path) -> None:
    """Its CLI went with the proxy that was killed, and nobody had written the tool's process down."""
    directives = ("call=Bash:{}", "command@tool:1", "stall@tool:1")
    first = run(*directives, flags=("--mode", "agent", "--warm", "0"))
    exchange = first.send(chat("go", stream=True))
    log = wait_for_log(tmp_path / "cli" / "claude", lambda log: any(one.grandchildren for one in log), DEADLINE)
    [tool] = [pid for process in log for pid in process.grandchildren]
    first.process.kill()
    first.end()
    exchange.close()
    wait_until(lambda: children_of(tmp_path) == [tool], "the CLI gone, its tool left")
    second = run()
    wait_until(lambda: children_of(tmp_path) == [], "the tool gone")
    second.process.send_signal(signal.SIGTERM)
    assert second.end() == 0
    assert os.listdir(second.temporary) == []


def test_a_taken_port_ends_with_one_line_and_status_2(run: Callable[..., Program], tmp_path: Path) -> None:
    """And names the flag that mends it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
        done = subprocess.run(
            [sys.executable, "-m", "claude_proxy", "--port", str(port)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "--port" in done.stderr
