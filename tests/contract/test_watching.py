"""Who watches over HTTP: requests are listed, followed and stopped, permissions shown and decided; watchers are few."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from claude_proxy.core.session_key import SessionKey
from claude_proxy.monitoring.permissions import Decision
from claude_proxy.storage.sessions import make_owner
from claude_proxy.web.audience import LARGEST_AUDIENCE
from tests.contract.conftest import Start
from tests.harness import CHAT, Answer, Exchange, Json, Proxy, chat, wait_until

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
MODEL = "claude-sonnet-5-5"
A, B = {"Authorization": "Bearer key-of-a"}, {"Authorization": "Bearer key-of-b"}

# Of each dialect, the body of a request of three words.
BODIES: dict[str, Json] = {
    CHAT: chat("one two three"),
    MESSAGES: {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": "one two three"}]},
    RESPONSES: {"model": MODEL, "input": "one two three"},
}


@pytest.fixture
def watchers() -> Iterator[ExitStack]:
    """Whoever watches has gone by the end of the test."""
    with ExitStack() as stack:
        yield stack


def delete(proxy: Proxy, request_id: str, **headers: str) -> Answer:
    return proxy.send(None, path=f"/v1/requests/{request_id}", method="DELETE", headers=headers).answer()


def decide(proxy: Proxy, permission_id: str, body: Any, **headers: str) -> Answer:
    return proxy.send(body, path=f"/v1/permissions/{permission_id}", headers=headers).answer()


def watch(proxy: Proxy, path: str, **headers: str) -> Exchange:
    return proxy.send(None, path=path, method="GET", headers=headers)


def listed(proxy: Proxy, **headers: str) -> list[Json]:
    body = proxy.get("/v1/requests", **headers).json
    assert body["total"] == len(body["requests"])
    found: list[Json] = body["requests"]
    return found


def find(proxy: Proxy, matches: Callable[[Json], Any]) -> Json:
    """The first request that is so, as soon as there is one."""
    found: list[Json] = []

    def look() -> bool:
        found[:] = [one for one in listed(proxy) if matches(one)]
        return bool(found)

    wait_until(look, "a request that is so")
    return found[0]


def read(record: str) -> tuple[str, Json]:
    kind, data = record.split("\n")
    return kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def ask(proxy: Proxy, label: str = "ls", **fields: Any) -> str:
    """A question of the agent."""
    session = SessionKey("", "hdr_a")
    given = {"request_id": "req_1", "session": session, "tool": "Bash", "input": {"command": label}}
    return proxy.service.permissions.ask(**{**given, "label": label, "decide": lambda decision: None, **fields})


# Requests


def test_a_running_request_is_listed_and_looked_at(start: Start) -> None:
    """By the id that its answer carries; with what is known of it by now, and nothing of what was said."""
    proxy = start("stall@delta:2")
    exchange = proxy.send(chat("one two three", stream=True), headers={"X-Session-Id": "my chat"})
    name = exchange.headers["x-request-id"]
    [one] = listed(proxy)
    assert (one["id"], one["state"], one["dialect"], one["mode"]) == (name, "running", "chat", "chat")
    assert (one["sessionId"], one["how"], one["model"]) == ("hdr_my%20chat", "new", MODEL)
    assert one["seconds"] >= one["firstTokenSeconds"] > 0
    assert (one["status"], one["error"], one["endedAt"], one["tools"]) == (None, None, None, [])
    again = proxy.get(f"/v1/requests/{name}").json
    assert {**again, "seconds": 0} == {**one, "seconds": 0}
    assert "two" not in json.dumps(one)
    assert delete(proxy, name).status == 200
    exchange.close()


@pytest.mark.parametrize("route", [CHAT, MESSAGES, RESPONSES])
def test_a_request_that_ended_stays_listed(proxy: Proxy, route: str) -> None:
    """With its dialect, how it ended, and the tokens that its client was told."""
    answer = proxy.send(BODIES[route], path=route).answer()
    [one] = listed(proxy)
    assert one["id"] == answer.headers["x-request-id"]
    assert (one["state"], one["status"], one["error"]) == ("succeeded", 200, None)
    assert one["dialect"] in route
    assert one["tokens"] == {"input": 20, "cached": 7, "output": 12}
    assert one["createdAt"] <= one["startedAt"] <= one["firstTokenAt"] <= one["endedAt"]


def test_a_request_that_failed_says_why(start: Start) -> None:
    """By its status and the kind of its failure; the newest request comes first."""
    proxy = start("crash@delta:2#1")
    assert proxy.ask("one two three").status == 502
    proxy.script()
    assert proxy.ask("hi").status == 200
    newest, failed = listed(proxy)
    assert newest["state"] == "succeeded"
    assert (failed["state"], failed["status"], failed["error"]) == ("failed", 502, "upstream_error")


def test_the_events_of_a_request_come_in_order(start: Start, watchers: ExitStack) -> None:
    """First what has happened, then what happens, numbered; after `done` nothing."""
    proxy = start("stall@delta:2", heartbeat_interval=0.2)
    exchange = watchers.enter_context(closing(proxy.send(chat("one two three", stream=True))))
    name = exchange.headers["x-request-id"]
    watcher = watchers.enter_context(closing(watch(proxy, f"/v1/requests/{name}/events")))
    records = (record for record in watcher.records() if record != ": keep-alive")
    told = [read(next(records)) for _ in range(3)]
    proxy.service.activity.note(name, "tool_started", tool_id="t1", tool="Bash", label="Bash: ls")
    told.append(read(next(records)))
    assert proxy.get(f"/v1/requests/{name}").json["tools"] == ["Bash: ls"]
    proxy.service.activity.note(name, "tool_ended", tool_id="t1", tool="Bash", label="Bash: ls", seconds=1.5, ok=True)
    told.append(read(next(records)))
    permission = ask(proxy, request_id=name)
    decide(proxy, permission, {"decision": "deny"})
    told += [read(next(records)) for _ in range(2)]
    delete(proxy, name)
    told += map(read, records)
    kinds = [kind for kind, _ in told]
    asked = ["permission_asked", "permission_decided"]
    assert kinds == ["queued", "leased", "first_token", "tool_started", "tool_ended", *asked, "done"]
    assert [data["number"] for _, data in told] == list(range(8))
    assert {data["requestId"] for _, data in told} == {name}
    assert told[3][1]["toolId"] == "t1" and told[4][1]["seconds"] == 1.5
    assert [data["permissionId"] for _, data in told[5:7]] == [permission, permission]
    assert (told[5][1]["label"], told[6][1]["decision"]) == ("ls", "denied")
    assert {"state": "interrupted", "status": 409, "error": "interrupted"}.items() <= told[7][1].items()
    later = watch(proxy, f"/v1/requests/{name}/events?after=3").stream()
    assert [read(record) for record in later.records] == told[4:]
    assert watch(proxy, f"/v1/requests/{name}/events?after=7").stream().records == ()


def test_a_quiet_stream_of_events_gives_signs_of_life(start: Start) -> None:
    """As comments."""
    proxy = start("sleep@request=1", heartbeat_interval=0.2)
    exchange = proxy.send(chat("hi"))
    name = find(proxy, lambda one: one["state"] == "running")["id"]
    records = watch(proxy, f"/v1/requests/{name}/events").stream().records
    assert ": keep-alive" in records and records[-1].startswith("event: done\n")
    assert exchange.answer().status == 200


@pytest.mark.parametrize("route", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_request_is_stopped_before_it_has_said_anything(start: Start, route: str, streaming: bool) -> None:
    """Its client gets a status, and is told not to try again; its child ends."""
    proxy = start("stall@request")
    exchange = proxy.send({**BODIES[route], "stream": streaming}, path=route)
    proxy.wait_for_log(lambda log: any(message["type"] == "user" for one in log for message in one.messages))
    answer = delete(proxy, find(proxy, lambda one: one["state"] == "running")["id"])
    assert (answer.status, answer.json["ok"]) == (200, True)
    check_conflict(route, exchange.answer())
    proxy.wait_until_empty()


@pytest.mark.parametrize("route", [CHAT, MESSAGES, RESPONSES])
def test_a_whole_answer_is_stopped_in_the_middle(start: Start, route: str) -> None:
    """Nothing was sent yet: a status, too."""
    proxy = start("stall@delta:2")
    exchange = proxy.send(BODIES[route], path=route)
    delete(proxy, find(proxy, lambda one: one["firstTokenAt"])["id"])
    check_conflict(route, exchange.answer())
    proxy.wait_until_empty()


def check_conflict(route: str, answer: Answer) -> None:
    """The 409 of a dialect."""
    assert (answer.status, answer.headers["x-should-retry"]) == (409, "false")
    error = answer.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"] == "The request was interrupted"
    assert route == MESSAGES or error["code"] == "interrupted"


@pytest.mark.parametrize("route", [CHAT, MESSAGES, RESPONSES])
def test_a_stream_is_stopped_in_the_middle(start: Start, route: str) -> None:
    """Told in the stream, once, as its dialect tells failures; its child ends."""
    proxy = start("stall@delta:2")
    exchange = proxy.send({**BODIES[route], "stream": True}, path=route)
    delete(proxy, exchange.headers["x-request-id"])
    records = exchange.stream().records
    told = [json.loads(record.split("data: ")[1]) for record in records if not record.endswith("[DONE]")]
    errors = [one["error"] for one in told if "error" in one]
    assert [error["type"] for error in errors] == ["invalid_request_error"]
    assert errors[0]["message"] == "The request was interrupted"
    if route == RESPONSES:
        assert told[-1]["response"]["status"] == "failed"
        assert told[-1]["response"]["error"]["code"] == "invalid_prompt"
    proxy.wait_until_empty()
    assert listed(proxy)[0]["state"] == "interrupted"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_request_is_stopped_while_it_waits(start: Start, streaming: bool) -> None:
    """It gives its place back at once; the one that runs goes on."""
    proxy = start("stall@request", max_concurrent=1, max_queue=1)
    running = proxy.send(chat("hi"))
    first = find(proxy, lambda one: one["state"] == "running")["id"]
    waiting = proxy.send(chat("ho", stream=streaming))
    name = find(proxy, lambda one: one["state"] == "queued")["id"]
    assert delete(proxy, name).status == 200
    check_conflict(CHAT, waiting.answer())
    assert proxy.service.workers.queued == 0
    told = [read(record) for record in watch(proxy, f"/v1/requests/{name}/events").stream().records]
    assert [kind for kind, _ in told] == ["queued", "done"]
    assert told[1][1]["state"] == "interrupted"
    assert [one["state"] for one in listed(proxy)] == ["interrupted", "running"]
    delete(proxy, first)
    check_conflict(CHAT, running.answer())


def test_what_has_ended_cannot_be_stopped(start: Start) -> None:
    """409 for what is known to have ended, 404 for what is unknown; nothing else changes."""
    proxy = start()
    name = proxy.ask("hi").headers["x-request-id"]
    for _ in range(2):
        answer = delete(proxy, name)
        assert (answer.status, answer.error["code"]) == (409, "already_ended")
    assert listed(proxy)[0]["state"] == "succeeded"
    assert (delete(proxy, "req_none").status, proxy.get("/v1/requests/req_none").status) == (404, 404)
    assert proxy.get("/v1/requests/req_none/events").status == 404
    answer = proxy.get(f"/v1/requests/{name}/events?after=x")
    assert (answer.status, answer.error["param"]) == (400, "after")


def test_the_routes_are_there_without_v1(proxy: Proxy) -> None:
    """As all others."""
    name = proxy.ask("hi").headers["x-request-id"]
    assert proxy.get("/requests").json["requests"][0]["id"] == proxy.get(f"/requests/{name}").json["id"] == name
    assert len(watch(proxy, f"/requests/{name}/events").stream().records) == 4
    assert proxy.get("/permissions").json == {"permissions": [], "total": 0}


# Background


@pytest.mark.parametrize("place", ["running", "queued"])
def test_a_background_response_is_a_request_that_can_be_stopped(start: Start, watchers: ExitStack, place: str) -> None:
    """It is cancelled, for who polls and for who watches, wherever it was."""
    proxy = start("stall@delta:2", max_concurrent=1)
    sent = {**BODIES[RESPONSES], "background": True}
    begun = [proxy.send(sent, path=RESPONSES).answer().json["id"] for _ in range(2)]
    find(proxy, lambda one: one["firstTokenAt"])
    position = 0 if place == "running" else 1
    name = begun[position]
    request = find(proxy, lambda one: one["state"] == place)
    assert request["id"].removeprefix("req_") == name.removeprefix("resp_")
    watcher = watchers.enter_context(closing(watch(proxy, f"{RESPONSES}/{name}?stream=true")))
    assert delete(proxy, request["id"]).status == 200
    wait_until(lambda: proxy.get(f"{RESPONSES}/{name}").json["status"] == "cancelled", "who polls sees it")
    assert read(watcher.stream().records[-1])[1]["response"]["status"] == "cancelled"
    wait_until(lambda: proxy.get(f"/v1/requests/{request['id']}").json["state"] == "interrupted", "it has ended")
    assert delete(proxy, request["id"]).status == 409
    other = begun[1 - position].replace("resp_", "req_")
    find(proxy, lambda one: one["id"] == other and one["state"] == "running")
    delete(proxy, other)
    proxy.wait_until_empty()


@pytest.mark.parametrize("place", ["running", "queued"])
def test_a_background_response_that_is_cancelled_has_ended_as_a_request(start: Start, place: str) -> None:
    """Nothing of it stays: its session can go on."""
    proxy = start("stall@delta:2", max_concurrent=1)
    headers = {"X-Session-Id": "s", "X-Session-History": "server"}
    names = []
    for number in range(2):
        sent = {**BODIES[RESPONSES], "background": True}
        answer = proxy.send(sent, path=RESPONSES, headers={**headers, "X-Session-Id": f"s{number}"}).answer()
        names.append(answer.json["id"])
    find(proxy, lambda one: one["firstTokenAt"])
    name = names[0 if place == "running" else 1]
    for one in (name, *names):
        proxy.send(None, path=f"{RESPONSES}/{one}/cancel").answer()
    wait_until(lambda: {one["state"] for one in listed(proxy)} == {"interrupted"}, "both have ended")
    proxy.wait_until_empty()
    proxy.script()
    for number in range(2):
        again = proxy.send(chat("hi"), headers={**headers, "X-Session-Id": f"s{number}"})
        assert again.answer().text == "Hello from upstream: hi"


# Permissions


@pytest.mark.parametrize(
    ("choice", "decision"),
    [
        ({"decision": "allow"}, Decision(True)),
        ({"decision": "always"}, Decision(True)),
        ({"decision": "deny", "message": "Not here."}, Decision(False, "Not here.")),
    ],
)
def test_a_permission_is_listed_and_decided(proxy: Proxy, choice: Json, decision: Decision) -> None:
    """Once: whoever comes second is told so."""
    got: list[Decision] = []
    name = ask(proxy, decide=got.append)
    [one] = proxy.get("/v1/permissions").json["permissions"]
    assert (one["id"], one["requestId"], one["sessionId"], one["tool"]) == (name, "req_1", "hdr_a", "Bash")
    assert (one["input"], one["label"]) == ({"command": "ls"}, "ls")
    assert one["createdAt"] < one["expiresAt"]
    answer = decide(proxy, name, choice)
    assert (answer.status, answer.json["ok"], answer.json["decision"]) == (200, True, choice["decision"])
    assert got == [decision]
    late = decide(proxy, name, {"decision": "deny"})
    assert (late.status, late.error["code"]) == (409, "already_decided")
    assert proxy.get("/v1/permissions").json == {"permissions": [], "total": 0}
    assert len(got) == 1


def test_a_wrong_decision_decides_nothing(proxy: Proxy) -> None:
    """A 400 that names the field, a 404 for an unknown one, a 415 for what is no JSON."""
    name = ask(proxy)
    wrong: tuple[tuple[Json, str], ...] = (
        ({}, "decision"),
        ({"decision": "maybe"}, "decision"),
        ({"decision": "deny", "message": 1}, "message"),
    )
    for body, param in wrong:
        answer = decide(proxy, name, body)
        assert (answer.status, answer.error["param"]) == (400, param)
    assert decide(proxy, name, {"decision": "allow"}, **{"Content-Type": "text/plain"}).status == 415
    assert decide(proxy, "perm_none", {"decision": "allow"}).status == 404
    assert proxy.get("/v1/permissions").json["total"] == 1


def test_a_deleted_session_asks_again(proxy: Proxy) -> None:
    """What was always allowed in it, is not any more."""
    assert proxy.send(chat("hi"), headers={"X-Session-Id": "a"}).answer().status == 200
    decide(proxy, ask(proxy), {"decision": "always"})
    got: list[Decision] = []
    ask(proxy, decide=got.append)
    assert len(got) == 1
    proxy.send(None, path="/v1/sessions/hdr_a", method="DELETE").answer()
    ask(proxy, decide=got.append)
    assert len(got) == 1 and proxy.get("/v1/permissions").json["total"] == 1


def test_permissions_are_watched(start: Start) -> None:
    """What waits comes first, then what is asked and decided, by whomever; signs of life in between."""
    proxy = start(heartbeat_interval=0.2)
    first = ask(proxy, "first")
    watcher = watch(proxy, "/v1/permissions/events")
    records = watcher.records()
    kind, snapshot = read(next(records))
    assert (kind, snapshot) == ("snapshot", proxy.get("/v1/permissions").json)
    assert next(records) == ": keep-alive"
    second = ask(proxy, "second")
    decide(proxy, first, {"decision": "deny"})
    proxy.service.permissions.withdraw("req_1")
    told: list[tuple[str, Json]] = []
    while len(told) < 3:
        record = next(records)
        if record != ": keep-alive":
            told.append(read(record))
    assert [(kind, data["id"], data.get("decision")) for kind, data in told] == [
        ("asked", second, None),
        ("decided", first, "denied"),
        ("decided", second, "withdrawn"),
    ]
    watcher.close()


def test_a_watcher_of_permissions_is_let_go_when_the_proxy_ends(proxy: Proxy) -> None:
    """There is no other end to what it watches."""
    watcher = watch(proxy, "/v1/permissions/events")
    records = watcher.records()
    next(records)
    proxy.service.drain(0.0)
    assert list(records) == []
    watcher.close()


# Owners and audience


def test_another_key_sees_stops_and_decides_nothing(start: Start) -> None:
    """What is not one's own is not there."""
    proxy = start("stall@delta:2", api_key=("key-of-a", "key-of-b"))
    exchange = proxy.send(chat("one two three", stream=True), headers=A)
    name = exchange.headers["x-request-id"]
    assert [one["id"] for one in listed(proxy, **A)] == [name] and listed(proxy, **B) == []
    for path in (f"/v1/requests/{name}", f"/v1/requests/{name}/events"):
        assert proxy.get(path, **B).status == 404
    assert delete(proxy, name, **B).status == 404
    assert proxy.get("/v1/requests").status == 401
    permission = ask(proxy, session=SessionKey(make_owner("key-of-a"), "hdr_a"))
    assert proxy.get("/v1/permissions", **B).json["total"] == 0
    assert decide(proxy, permission, {"decision": "allow"}, **B).status == 404
    assert decide(proxy, permission, {"decision": "allow"}, **A).status == 200
    assert decide(proxy, permission, {"decision": "allow"}, **B).status == 404
    assert delete(proxy, name, **A).status == 200
    exchange.close()


def test_watchers_are_few_and_delay_nobody(start: Start) -> None:
    """All streams share one bound; beyond it a 429. With all of them open, the worker busy, and as many waiting for it
    and for turns of their session as may, the proxy still answers; who leaves makes room."""
    proxy = start("stall@delta:2", max_concurrent=1, max_queue=10)
    background = proxy.send({**BODIES[RESPONSES], "background": True}, path=RESPONSES).answer().json["id"]
    name = background.replace("resp_", "req_")
    find(proxy, lambda one: one["id"] == name and one["firstTokenAt"])
    keeps = {"X-Session-Id": "s", "X-Session-History": "server"}
    turns = [proxy.send(chat("first of its session"), headers=keeps)]
    turns += [proxy.send(chat(f"conversation {number}")) for number in range(9)]
    wait_until(lambda: len(listed(proxy)) == 11, "all places taken")
    later = [proxy.send(chat("later in the session"), headers=keeps) for _ in range(10)]
    queues = proxy.service.session_queue._queues
    wait_until(lambda: sum(map(len, queues.values())) == 11, "as many in its session as may")
    paths = [f"{RESPONSES}/{background}?stream=true", f"/v1/requests/{name}/events", "/v1/permissions/events"]
    watching = [watch(proxy, paths[min(number, 2)]) for number in range(LARGEST_AUDIENCE)]
    for one in watching:
        next(one.records())
    for path in paths:
        refused = proxy.get(path)
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
    assert proxy.get("/health").json["active"] == 1
    assert proxy.ask("one too many").status == 429
    watching.pop().close()
    wait_until(lambda: is_let_in(proxy), "the place of one who has gone", timeout=5)
    for one in [*watching, *later]:
        one.close()
    for request in listed(proxy):
        delete(proxy, request["id"])
    for turn in turns:
        check_conflict(CHAT, turn.answer())


def is_let_in(proxy: Proxy) -> bool:
    watcher = watch(proxy, "/v1/permissions/events")
    let_in = watcher.response.status == 200
    watcher.close()
    return let_in
