"""Queues, texts, answers and signatures of sinks: no thread, no socket, no waiting."""

import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import pytest

from claude_proxy import notify as sinks
from claude_proxy.addresses import is_web_address, name_server
from claude_proxy.config import Config
from claude_proxy.core.errors import InternalError
from claude_proxy.monitoring.activity import Entry
from claude_proxy.notify import texts
from claude_proxy.notify.poster import Poster, Reply, without_login
from claude_proxy.notify.sink import Item, Sink
from claude_proxy.notify.telegram import Telegram, parse_answer, parse_outcome
from claude_proxy.notify.webhook import Webhook, read_wait
from tests.clocks import Clock
from tests.notices import AT, Requests


class Notes(Sink):
    """A sink that writes down what it is told."""

    def __init__(self, clock: Clock, waiting: int = 3) -> None:
        super().__init__("notes", clock, waiting)
        self.told: list[str] = []

    def deliver(self, item: Item) -> None:
        if item.notice.data.get("tool_id") == "bug":
            raise RuntimeError("a bug")
        self.told.append(f"{item.notice.kind} {item.notice.number} {item.at:g}")


def test_notices_are_told_in_their_order_with_the_time_at_which_they_came() -> None:
    """Those before `start` too; all that wait, or as many as asked for."""
    clock = Clock(7.0)
    notes = Notes(clock)
    requests = Requests(notes)
    requests.begin()
    clock.now = 9.0
    requests.end()
    assert notes.deliver_next(limit=1)
    assert notes.told == ["queued 0 7"]
    assert notes.deliver_next()
    assert notes.told == ["queued 0 7", "leased 1 7", "done 2 9"]
    assert not notes.deliver_next(0.0) and not notes.deliver_next(-1.0)


def test_a_full_queue_drops_the_oldest_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever gives the notice is not made to wait."""
    notes = Notes(Clock())
    requests = Requests(notes)
    requests.begin()
    for number in range(5):
        requests.start_tool(f"t{number}")
    notes.deliver_next()
    assert notes.told == ["tool_started 4 100", "tool_started 5 100", "tool_started 6 100"]
    assert notes.dropped == 4
    assert [record.getMessage() for record in caplog.records] == [
        "notes does not keep up: the oldest of the notices that wait for it are dropped"
    ]


def test_a_closed_sink_takes_nothing_and_tells_what_waits_while_there_is_time() -> None:
    """Closing again does not give it more."""
    clock = Clock()
    notes = Notes(clock)
    requests = Requests(notes)
    requests.begin()
    assert (notes.is_closing, notes.time_left) == (False, inf)
    notes.close(2.0)
    assert (notes.is_closing, notes.time_left) == (True, 2.0)
    notes.close(50.0)
    requests.end()
    assert not notes.pause(1000.0)
    assert notes.deliver_next(limit=1) and notes.told == ["queued 0 100"]
    clock.now += 2.0
    assert notes.time_left == 0.0 and not notes.deliver_next()
    assert notes.told == ["queued 0 100"]
    notes.join(1000.0)


def test_our_own_bug_over_one_notice_costs_that_one(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback."""
    notes = Notes(Clock())
    requests = Requests(notes)
    requests.begin()
    requests.start_tool("bug")
    notes.deliver_next()
    requests.end()
    notes.deliver_next()
    assert [one.split()[0] for one in notes.told] == ["queued", "leased", "done"]
    assert caplog.records[0].levelno == logging.ERROR and caplog.records[0].exc_info


def test_warnings_come_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """A sink that is down fails every time."""
    clock = Clock()
    notes = Notes(clock)
    for seconds in (0.0, 1.0, 59.9, 60.0, 61.0):
        clock.now = 100.0 + seconds
        notes.warn_throttled("down for %g", seconds)
    assert [record.getMessage() for record in caplog.records] == ["down for 0", "down for 60"]


def test_a_sink_says_what_it_does() -> None:
    """The base does nothing."""
    base = Sink("base")
    with pytest.raises(NotImplementedError):
        base.run()
    with pytest.raises(NotImplementedError):
        base.deliver(Item(0.0, None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({}, []),
        ({"telegram_bot_token": "1:a"}, []),
        ({"telegram_notify_id": "5"}, []),
        ({"webhook_secret": "s"}, []),
        ({"telegram_bot_token": "1:a", "telegram_notify_id": "5"}, [Telegram]),
        ({"telegram_bot_token": "1:a", "telegram_notify_id": "5", "webhook": "http://x"}, [Telegram, Webhook]),
    ],
)
def test_the_settings_say_which_sinks_there_are(settings: dict[str, Any], kinds: list[type]) -> None:
    """A bot needs a chat, and a chat a bot. What was never started can be stopped."""
    built = sinks.build(Config(**settings))
    assert [type(listener) for listener in built.listeners] == kinds
    built.stop()


@pytest.mark.parametrize(
    ("tool", "label", "shown"),
    [
        ("Bash", "make test", "Bash: make test"),
        ("Bash", "Bash: make test", "Bash: make test"),
        ("Bash", "", "Bash"),
        ("Read", " a\n\tb ", "Read: a b"),
        ("Bash", "x" * 500, "Bash: " + "x" * 193 + "…"),
    ],
)
def test_a_tool_is_one_short_line(tool: str, label: str, shown: str) -> None:
    """Whatever its input was."""
    assert texts.name_tool(tool, label) == shown


@pytest.mark.parametrize("letter", ["a", "é", "😀"])
def test_a_text_fits_into_a_message(letter: str) -> None:
    """4096 UTF-16 units at most, and no half character."""
    assert texts.fit(letter * 1000) == letter * 1000
    for shift in ("", "b"):
        cut = texts.fit(shift + letter * 5000)
        assert 4094 <= len(cut.encode("utf-16-le")) // 2 <= 4096
        assert re.fullmatch(f"{shift}{letter}+…", cut)


def test_half_a_character_does_not_make_a_text_unsendable() -> None:
    """A tool's input may hold one."""
    assert texts.fit("a\ud83db") == "a?b"


def test_the_longest_texts_fit(caplog: pytest.LogCaptureFixture) -> None:
    """Without being cut: six tools whose names and inputs are long."""
    long = "😀" * 1000
    entry = Entry("req_1", "o", "chat", "agent", long, AT, session=long)
    tools = [texts.Tool(str(number), long, long, 5.0, ok=False) for number in range(6)]
    for text in (texts.build_progress(entry, tools, 100), texts.build_silence(entry, tools)):
        assert texts.fit(text) == text


def reply(status: int = 200, **body: Any) -> Reply:
    return Reply(status, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (reply(ok=True, result={"message_id": 7}), {"status": 200, "message_id": 7}),
        (reply(ok=True, result=True), {"status": 200}),
        (reply(ok=True, result={"message_id": "x"}), {"status": 200}),
        (Reply(200, b"<html>"), {"status": 200}),
        (Reply(200, b"[]"), {"status": 200}),
        (Reply(502, b"\xff"), {"status": 502}),
        (reply(429, ok=False, parameters={"retry_after": 7}), {"status": 429, "retry_after": 7.0}),
        (reply(429, ok=False, parameters={"retry_after": 0}), {"status": 429, "retry_after": 1.0}),
        (reply(429, ok=False, parameters={"retry_after": 1e12}), {"status": 429, "retry_after": 86400.0}),
        (reply(429, ok=False, parameters={"retry_after": "soon"}), {"status": 429}),
        (reply(429, ok=False), {"status": 429}),
        (reply(400, ok=False, description="Bad Request: message is not modified: x"), {"status": 400, "is_same": True}),
        (reply(400, ok=False, description="Bad Request: chat not found"), {"status": 400}),
        (Reply(0, failure="ReadTimeout", may_have_arrived=True), {"status": 0, "may_have_arrived": True}),
        (Reply(0, failure="ConnectionError"), {"status": 0}),
    ],
)
def test_what_an_answer_of_telegram_means(given: Reply, found: dict[str, Any]) -> None:
    """Not every server on the way speaks JSON."""
    outcome = parse_outcome(given, parse_answer(given.body))
    everything = {"message_id": None, "retry_after": None, "is_same": False, "may_have_arrived": False, **found}
    assert {name: getattr(outcome, name) for name in everything} == everything


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 2.0),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("3600", 60.0),
        ("soon", 2.0),
        ("-5", 2.0),
        ("1.5", 2.0),
        ("²", 2.0),
        ("9" * 400, 60.0),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0),
        ("Tue, 14 Nov 2023 23:13:30 GMT", 60.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
    ],
)
def test_a_receiver_says_when_to_come_again(text: str, seconds: float) -> None:
    """In seconds or as a date, up to a minute; nonsense counts as nothing."""
    assert read_wait(Reply(503, retry_after=text), 2.0, AT) == seconds


class Script:
    """Stands where a webhook's `Poster` stands: gives these statuses, one after the other."""

    def __init__(self, clock: Clock, *statuses: int) -> None:
        self.clock = clock
        self.statuses = list(statuses)
        self.posts: list[tuple[Mapping[str, str], bytes, float]] = []
        self.waits: list[float] = []

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Reply:
        self.posts.append((headers, body, timeout))
        status = self.statuses.pop(0)
        return Reply(status, failure="" if status else "ConnectTimeout", retry_after="7" if status == 429 else "")

    def close(self) -> None:
        pass


class PatientWebhook(Webhook):
    """Waits on the clock of its script alone."""

    def __init__(self, script: Script, secret: str = "") -> None:
        clock = script.clock
        super().__init__("http://u:p@127.0.0.1:9/secret", secret, clock=clock, wall_clock=clock, poster=script)
        self._script = script

    def pause(self, seconds: float) -> bool:
        self._script.waits.append(seconds)
        self._script.clock.now += seconds
        return True


def deliver(*statuses: int, secret: str = "") -> Script:
    """One notice, told to a webhook that answers so."""
    clock = Clock(AT + 0.9)
    script = Script(clock, *statuses)
    hook = PatientWebhook(script, secret)
    requests = Requests(hook)
    requests.begin()
    hook.deliver_next(limit=1)
    return script


@pytest.mark.parametrize(
    ("statuses", "waits"),
    [
        ((200,), []),
        ((204,), []),
        ((500, 201), [1.0]),
        ((0, 503, 200), [1.0, 2.0]),
        ((429, 0, 502, 200), [7.0, 2.0, 4.0]),
        ((0, 0, 0, 0), [1.0, 2.0, 4.0]),
        ((500, 500, 500, 500), [1.0, 2.0, 4.0]),
        ((301,), []),
        ((400,), []),
        ((401,), []),
        ((404,), []),
        ((410,), []),
        ((500, 422), [1.0]),
    ],
)
def test_a_delivery_is_tried_again_where_that_may_help(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, statuses: tuple[int, ...], waits: list[float]
) -> None:
    """Three times at most, later each time; what was lost is told, without the URL."""
    script = deliver(*statuses)
    assert script.statuses == [] and script.waits == waits
    has_failed = not 200 <= statuses[-1] < 300
    assert [record.levelname for record in caplog.records] == ["WARNING"] * has_failed
    assert "secret" not in caplog.text and "127.0.0.1" not in caplog.text
    if has_failed:
        assert (f"answered {statuses[-1]}" if statuses[-1] else "ConnectTimeout") in caplog.text


def test_all_tries_are_one_delivery_each_with_its_own_time_and_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver knows a delivery that it has had already; an old signature is of no use to anybody."""
    script = deliver(500, 500, 200, secret="geheim é")
    bodies = {body for _, body, _ in script.posts}
    assert len(bodies) == 1
    body = bodies.pop()
    assert {headers["X-Claude-Proxy-Delivery"] for headers, _, _ in script.posts} == {json.loads(body)["id"]}
    assert [headers["X-Claude-Proxy-Timestamp"] for headers, _, _ in script.posts] == [
        *("1700000000", "1700000001", "1700000003")
    ]
    for headers, _, _ in script.posts:
        signed = headers["X-Claude-Proxy-Timestamp"].encode() + b"." + body
        expected = hmac.new("geheim é".encode(), signed, hashlib.sha256).hexdigest()
        assert headers["X-Claude-Proxy-Signature"] == f"sha256={expected}"


def test_the_check_of_the_documentation_accepts_what_is_genuine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers copy it."""
    text = (Path(__file__).parents[2] / "docs" / "notifications.md").read_text(encoding="utf-8")
    scope: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], scope)  # the snippet of our own page
    is_genuine = scope["is_genuine"]
    headers, body, _ = deliver(200, secret="s").posts[0]
    monkeypatch.setattr(time, "time", lambda: AT + 299)
    assert is_genuine("s", headers, body)
    assert not is_genuine("t", headers, body) and not is_genuine("s", headers, body + b" ")
    assert not is_genuine("s", {**headers, "X-Claude-Proxy-Timestamp": str(int(AT) + 1)}, body)
    monkeypatch.setattr(time, "time", lambda: AT + 301)
    assert not is_genuine("s", headers, body)


def test_without_a_secret_there_is_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that anybody could make would be worse than none."""
    headers, _, timeout = deliver(200).posts[0]
    assert sorted(headers) == ["Content-Type", "X-Claude-Proxy-Delivery", "X-Claude-Proxy-Timestamp"]
    assert timeout == 5.0


def test_the_body_of_a_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """The notice and its request as it was then, in the names of `/v1/requests`; half characters do no harm."""
    clock = Clock(AT)
    script = Script(clock, *[200] * 4)
    hook = PatientWebhook(script)
    requests = Requests(hook)
    requests.begin()
    requests.note("rate_limit", status="allowed", type="five_hour", utilization=0.5, resets_at=AT)
    requests.end(InternalError("\ud83d"))
    hook.deliver_next()
    queued, leased, limit, done = (json.loads(body) for _, body, _ in script.posts)
    head = {"requestId": "req_1", "at": "2023-11-14T22:13:20.000Z"}
    asked = {"state": "queued", "dialect": "chat", "mode": "agent", "model": "sonnet", "session": None}
    assert re.fullmatch(r"evt_[0-9a-f]{32}", queued.pop("id"))
    assert queued == {"type": "queued", "number": 0, **head, "data": {}, "request": asked}
    assert leased["request"] == {**asked, "state": "running", "session": "hdr_chat"}
    assert limit["data"] == {"status": "allowed", "type": "five_hour", "utilization": 0.5, "resetsAt": AT}
    assert (done["type"], done["number"], done["request"]["state"]) == ("done", 3, "failed")
    assert done["data"] == {"state": "failed", "status": 500, "error": "internal_error"}


@pytest.mark.parametrize(
    ("text", "is_one", "name"),
    [
        ("http://127.0.0.1:9/x?y=z", True, "127.0.0.1:9"),
        ("HTTPS://u:p@example.org", True, "example.org"),
        ("https://[::1]:8443/x", True, "[::1]:8443"),
        ("", False, None),
        ("example.org/x", False, None),
        ("ftp://example.org", False, None),
        ("http://", False, None),
        ("http://:80/", False, None),
        ("http://x:0/", False, None),
        ("http://x:99999/", False, None),
        ("http://x:y/", False, None),
        ("http://[::1/", False, None),
        ("http://a b/", False, None),
        ("http://a\nb/", False, None),
    ],
)
def test_what_is_a_web_address(text: str, is_one: bool, name: str | None) -> None:
    """http or https, with a host; of one that holds secrets the host may be shown."""
    assert is_web_address(text) == is_one
    if name is not None:
        assert name_server(text) == name


def test_a_login_in_a_url_is_taken_out_of_it() -> None:
    """It is sent in a header, and to that server alone."""
    assert without_login("https://us%40er:p%C3%A4ss@example.org:8/x?y#z") == "https://example.org:8/x?y#z"
    assert without_login("https://example.org/a@b") == "https://example.org/a@b"


def test_loopback_is_not_reached_through_a_proxy() -> None:
    """Nobody wants that; other servers are, as the environment says."""
    for url, uses_proxies in (("http://localhost:9", False), ("http://[::1]", False), ("https://example.org", True)):
        poster = Poster(url)
        assert poster._session.trust_env is uses_proxies
        poster.close()
