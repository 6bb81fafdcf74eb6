"""A Telegram chat and a webhook as they see it: sinks with their threads, and servers that behave or do not."""

import hashlib
import hmac
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from claude_proxy import notify as sinks
from claude_proxy.config import Config
from claude_proxy.notify import Sinks, board, telegram, webhook
from tests.contract.conftest import Start
from tests.fake_cli import Script
from tests.harness import chat, wait_until
from tests.notices import Requests
from tests.receiver import CUT, HANG, FakeTelegram, Reaction, Receiver, closed_port, refusal

TOKEN = "4839574812:AAFD39kkdpWt3ywyRZergyOLMaJhac60qcK"
CHAT = "-1001234"
SECRET = "geheimnis"

# What a notice may take: the queue's lock and an append. Far from it, so that a loaded machine does not matter.
AT_ONCE = 0.5


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of whoever runs the tests must not lead elsewhere."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages come soon, and the next try too."""
    monkeypatch.setattr(board, "DELAY", 0.02)
    monkeypatch.setattr(board, "EDIT_INTERVAL", 0.05)
    monkeypatch.setattr(webhook, "BACKOFFS", (0.01, 0.02, 0.04))


@pytest.fixture
def server() -> Iterator[Receiver]:
    """A receiver of deliveries."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def bot() -> Iterator[FakeTelegram]:
    """A Bot API."""
    fake = FakeTelegram()
    yield fake
    fake.close()


Run = Callable[..., Requests]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def run(stack: ExitStack) -> Run:
    """Start the sinks of these settings; returns requests that they hear of."""

    def start(**settings: Any) -> Requests:
        started = sinks.build(Config(**settings))
        started.start()
        stack.callback(started.stop)
        return Requests(*started.listeners)

    return start


def talk_to(bot: Receiver | str) -> dict[str, Any]:
    """The settings of a bot."""
    base = bot if isinstance(bot, str) else bot.url
    return {"telegram_bot_token": TOKEN, "telegram_notify_id": CHAT, "telegram_api_base": base}


def use_tools(requests: Requests, count: int = 3) -> float:
    """A request that runs a few tools; how long its notices took."""
    began = time.monotonic()
    requests.begin()
    for number in range(count):
        requests.start_tool(f"t{number}", f"step {number}")
        requests.end_tool(f"t{number}")
    return time.monotonic() - began


def test_the_chat_sees_tools_come_and_go(bot: FakeTelegram, run: Run) -> None:
    """One message, sent, edited, deleted; to the chat of the settings, in the words of the Bot API."""
    requests = run(**talk_to(bot))
    requests.begin()
    requests.start_tool()
    sent = bot.wait_for(1)[0]
    assert sent.path == f"/bot{TOKEN}/sendMessage" and sent.headers["content-type"] == "application/json"
    assert sent.json == {
        "chat_id": CHAT,
        "text": "Tools at work: sonnet, session hdr_chat, request req_1\n- Bash: make test (running)",
        "link_preview_options": {"is_disabled": True},
        "disable_notification": True,
    }
    requests.end_tool()
    assert bot.wait_for(2)[1].json["message_id"] == 1
    assert "(1.5 s)" in bot.chat[1]
    requests.end()
    assert bot.wait_for(3)[2].json == {"chat_id": CHAT, "message_id": 1}
    assert bot.methods == ["sendMessage", "editMessageText", "deleteMessage"] and bot.chat == {}


def test_what_is_to_stay_stays(bot: FakeTelegram, run: Run, stack: ExitStack) -> None:
    """A turn killed for silence, and a plan limit; not what was asked, once it is decided."""
    requests = run(**talk_to(bot))
    requests.begin()
    requests.ask()
    bot.wait_for(1)
    assert "Decide with POST /v1/permissions/perm_1" in bot.chat[1]
    requests.decide()
    bot.wait_for(2)
    requests.limit("rejected")
    requests.kill_for_silence()
    bot.wait_for(4)
    stack.close()
    assert [text.split()[0] for text in bot.chat.values()] == ["Plan", "Killed"]


def test_the_end_of_the_proxy_deletes_what_says_what_goes_on(bot: FakeTelegram, run: Run, stack: ExitStack) -> None:
    """Also where the request has not ended; what was not sent yet is not sent."""
    requests = run(**talk_to(bot))
    requests.begin()
    requests.start_tool()
    requests.ask()
    bot.wait_for(2)
    stack.close()
    assert bot.chat == {} and sorted(bot.methods[2:]) == ["deleteMessage", "deleteMessage"]


def test_after_a_429_nothing_is_sent_until_the_time_has_come(bot: FakeTelegram, run: Run) -> None:
    """Then the newest state, in one message."""
    bot.next.append(refusal(429, "Too Many Requests: retry after 1", retry_after=1))
    requests = run(**talk_to(bot))
    use_tools(requests)
    bot.wait_for(1)
    told = time.monotonic()
    requests.start_tool("last", "the newest step")
    bot.wait_for(2)
    assert time.monotonic() - told >= 0.9
    assert bot.methods == ["sendMessage", "sendMessage"] and "the newest step" in bot.chat[1]


@pytest.mark.parametrize(
    ("reaction", "words"),
    [
        (refusal(400, "Bad Request: chat not found"), "chat not found"),
        (refusal(401, "Unauthorized"), "answered 401 to sendMessage: Unauthorized"),
        (refusal(403, "Forbidden: bot was blocked by the user"), "blocked"),
        (refusal(404, f"no {TOKEN}\nhere"), "answered 404 to sendMessage: no … here"),
        (refusal(500, "Internal Server Error"), "answered 500"),
        (Reaction(502, b"<html>" + TOKEN.encode()), "answered 502 to sendMessage"),
        (Reaction(302, headers={"Location": "http://127.0.0.1:9/"}), "answered 302"),
        (CUT, "could not be reached"),
    ],
)
def test_a_bot_that_is_refused_or_down_is_told_of_once(
    bot: FakeTelegram, run: Run, caplog: pytest.LogCaptureFixture, reaction: Reaction, words: str
) -> None:
    """The log says why, in one line without the token; the notices took no time."""
    bot.always = reaction
    requests = run(**talk_to(bot))
    assert use_tools(requests) < AT_ONCE
    requests.ask()
    bot.wait_for(1)
    wait_until(lambda: caplog.records, "a line in the log")
    requests.end()
    assert words in caplog.text and len(caplog.records) == 1
    assert TOKEN not in caplog.text and "127.0.0.1" not in caplog.text


def test_an_edit_of_what_the_user_has_deleted_ends_the_message(bot: FakeTelegram, run: Run) -> None:
    """It does not come back, and the next request has its own."""
    requests = run(**talk_to(bot))
    requests.begin()
    requests.start_tool()
    bot.wait_for(1)
    bot.chat.clear()
    requests.start_tool("t2")
    bot.wait_for(2)
    requests.end()
    requests.begin("req_2")
    requests.start_tool(request_id="req_2")
    bot.wait_for(3)
    assert bot.methods == ["sendMessage", "editMessageText", "sendMessage"] and "req_2" in bot.chat[2]


@pytest.mark.parametrize("reaction", [HANG, Reaction(stalls=True, body=b"x")])
def test_a_bot_that_hangs_holds_up_nobody(
    bot: FakeTelegram, run: Run, stack: ExitStack, monkeypatch: pytest.MonkeyPatch, reaction: Reaction
) -> None:
    """Neither the notices nor, for longer than its grace, the end."""
    monkeypatch.setattr(sinks, "STOP_TIMEOUT", 0.3)
    bot.always = reaction
    requests = run(**talk_to(bot))
    requests.begin()
    requests.start_tool()
    bot.wait_for(1)
    began = time.monotonic()
    for number in range(2000):
        requests.start_tool(f"t{number}")
    requests.end()
    assert time.monotonic() - began < 2.0
    began = time.monotonic()
    stack.close()
    assert time.monotonic() - began < sinks.STOP_TIMEOUT + AT_ONCE


def test_a_message_without_an_answer_in_time_is_not_sent_twice(
    bot: FakeTelegram, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be in the chat already."""
    monkeypatch.setattr(telegram, "TIMEOUT", 0.5)
    monkeypatch.setattr(board, "LONGEST_BACKOFF", 0.01)
    bot.next.append(HANG)
    requests = run(**talk_to(bot))
    requests.begin()
    requests.start_tool()
    bot.wait_for(1)
    wait_until(lambda: "ReadTimeout" in caplog.text, "a line in the log")
    requests.limit()
    bot.wait_for(2)
    assert [text.split()[0] for text in bot.chat.values()] == ["Plan"]


def test_nobody_at_the_address_of_the_bot(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The notices take no time; one line says it."""
    with closed_port() as port:
        requests = run(**talk_to(f"http://127.0.0.1:{port}"))
        assert use_tools(requests) < AT_ONCE
        wait_until(lambda: caplog.records, "a line in the log")
    assert "Telegram could not be reached (ConnectionError) to sendMessage" in caplog.text and TOKEN not in caplog.text


@pytest.mark.parametrize("reaction", [None, refusal(401, TOKEN), refusal(429, TOKEN, retry_after=1), CUT, HANG])
def test_the_token_is_never_logged(
    bot: FakeTelegram,
    run: Run,
    stack: ExitStack,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    reaction: Reaction | None,
) -> None:
    """Whatever Telegram does, and however much the libraries are asked to log."""
    monkeypatch.setattr(telegram, "TIMEOUT", 0.1)
    for name in (None, "urllib3", "urllib3.connectionpool", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)
    bot.always = reaction
    requests = run(**talk_to(bot))
    requests.begin()
    requests.start_tool()
    bot.wait_for(1)
    requests.ask()
    requests.end()
    if reaction is not None:
        wait_until(lambda: "Telegram" in caplog.text, "a line in the log")
    stack.close()
    printed = capfd.readouterr()
    for text in (caplog.text, printed.out, printed.err, *(str(record.__dict__) for record in caplog.records)):
        assert TOKEN not in text and TOKEN.partition(":")[2] not in text


def test_a_webhook_gets_every_notice_in_order(server: Receiver, run: Run) -> None:
    """Signed over time and body, each with an id of its own."""
    requests = run(webhook=f"{server.url}/hook?a=b", webhook_secret=SECRET)
    use_tools(requests)
    requests.end()
    posts = server.wait_for(9)
    assert [post.json["type"] for post in posts] == [*("queued", "leased", *["tool_started", "tool_ended"] * 3, "done")]
    assert [post.json["number"] for post in posts] == list(range(9))
    assert len({post.headers["x-claude-proxy-delivery"] for post in posts}) == 9
    for post in posts:
        assert (post.path, post.headers["content-type"]) == ("/hook?a=b", "application/json")
        assert post.headers["user-agent"].startswith("claude-proxy/") and "authorization" not in post.headers
        timestamp = post.headers["x-claude-proxy-timestamp"]
        assert abs(int(timestamp) - time.time()) < 60
        expected = hmac.new(SECRET.encode(), timestamp.encode() + b"." + post.body, hashlib.sha256).hexdigest()
        assert post.headers["x-claude-proxy-signature"] == f"sha256={expected}"


def test_one_connection_serves_many_deliveries(server: Receiver, run: Run) -> None:
    """Not a handshake for each."""
    server.next.append(Reaction(200, b"x" * 10_000))
    requests = run(webhook=server.url)
    use_tools(requests)
    assert len({post.peer for post in server.wait_for(8)}) == 1


@pytest.mark.parametrize("reaction", [Reaction(500), Reaction(503, headers={"Retry-After": "0"}), Reaction(429), CUT])
def test_a_delivery_that_failed_comes_again_before_the_next(
    server: Receiver, run: Run, caplog: pytest.LogCaptureFixture, reaction: Reaction
) -> None:
    """With the same id and body; when it succeeds in the end nothing is logged."""
    server.next.extend([reaction] * 3)
    requests = run(webhook=server.url)
    requests.begin()
    posts = server.wait_for(5)
    assert [post.json["type"] for post in posts] == ["queued"] * 4 + ["leased"]
    assert len({(post.headers["x-claude-proxy-delivery"], post.body) for post in posts[:4]}) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("reaction", "tries"),
    [(Reaction(500), 4), (Reaction(400), 1), (Reaction(404), 1), (Reaction(307, headers={"Location": "/other"}), 1)],
)
def test_a_delivery_that_fails_for_good_is_given_up(
    server: Receiver, run: Run, caplog: pytest.LogCaptureFixture, reaction: Reaction, tries: int
) -> None:
    """The next one comes all the same; a redirect is not followed, the log says once what is wrong."""
    server.next.extend([reaction] * tries * 2)
    requests = run(webhook=f"{server.url}/hook", webhook_secret=SECRET)
    requests.begin()
    requests.end()
    posts = server.wait_for(2 * tries + 1)
    assert [post.json["type"] for post in posts] == ["queued"] * tries + ["leased"] * tries + ["done"]
    assert {post.path for post in posts} == {"/hook"}
    assert [record.getMessage() for record in caplog.records] == [
        f"The webhook answered {reaction.status}; notices get lost"
    ]


def test_a_login_in_the_url_is_sent_as_such_and_never_logged(
    server: Receiver, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """As HTTP basic authentication; nor is the rest of the URL logged, or the secret."""
    caplog.set_level(logging.DEBUG)
    server.next.append(Reaction(403))
    url = f"http://us%40er:p%C3%A4ss@127.0.0.1:{server.port}/hidden-path"
    requests = run(webhook=url, webhook_secret=SECRET)
    requests.begin()
    posts = server.wait_for(2)
    assert posts[0].headers["authorization"] == "Basic dXNAZXI6cMOkc3M="
    wait_until(lambda: "403" in caplog.text, "a line in the log")
    for hidden in ("us%40er", "p%C3%A4ss", "us@er", "päss", "hidden-path", SECRET):
        assert hidden not in caplog.text


def test_no_login_is_looked_for_in_netrc(
    server: Receiver, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there is for others."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password hidden\n", encoding="utf-8")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    run(webhook=server.url.replace("127.0.0.1", "localhost")).begin()
    assert "authorization" not in server.wait_for(1)[0].headers


def test_another_server_is_reached_through_the_proxy_of_the_environment(
    server: Receiver, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with curl; a login of `~/.netrc` is not sent there either."""
    monkeypatch.setenv("http_proxy", server.url)
    run(webhook="http://example.invalid/hook").begin()
    assert server.wait_for(1)[0].path == "http://example.invalid/hook"


@pytest.mark.parametrize("reaction", [HANG, Reaction(stalls=True, body=b"x")])
def test_a_webhook_that_hangs_holds_up_nobody(
    server: Receiver,
    run: Run,
    stack: ExitStack,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    reaction: Reaction,
) -> None:
    """Notices pile up to a bound; the end says how many were lost."""
    monkeypatch.setattr(sinks, "STOP_TIMEOUT", 0.3)
    server.always = reaction
    requests = run(webhook=server.url)
    requests.begin()
    server.wait_for(1)
    began = time.monotonic()
    for number in range(2000):
        requests.start_tool(f"t{number}")
    assert time.monotonic() - began < 2.0
    assert "webhook does not keep up" in caplog.text
    began = time.monotonic()
    stack.close()
    assert time.monotonic() - began < sinks.STOP_TIMEOUT + AT_ONCE
    server.release()
    wait_until(lambda: "notices were not delivered" in caplog.text, "the end of the thread")


def test_the_end_delivers_what_waits(server: Receiver, run: Run, stack: ExitStack) -> None:
    """As long as there is time, and without waiting for a better one."""
    requests = run(webhook=server.url)
    use_tools(requests, 20)
    requests.end()
    stack.close()
    assert len(server.received) == 43


def test_the_end_does_not_wait_for_a_better_time(
    server: Receiver, run: Run, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has failed is not tried again then, what waits is tried once."""
    monkeypatch.setattr(webhook, "BACKOFFS", (1000.0,))
    server.always = Reaction(503)
    requests = run(webhook=server.url)
    requests.begin()
    server.wait_for(1)
    stack.close()
    assert [post.json["type"] for post in server.received] == ["queued", "leased"]


def test_nobody_at_the_address_of_the_webhook(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The notices take no time; one line says it, without the address."""
    with closed_port() as port:
        requests = run(webhook=f"http://127.0.0.1:{port}/hidden")
        assert use_tools(requests) < AT_ONCE
        wait_until(lambda: caplog.records, "a line in the log")
    assert "The webhook could not be reached (ConnectionError)" in caplog.text
    assert "hidden" not in caplog.text and str(port) not in caplog.text


def test_sinks_that_were_never_started_can_be_stopped() -> None:
    """As after a failed start."""
    built: Sinks = sinks.build(Config(webhook="http://127.0.0.1:9", **talk_to("http://127.0.0.1:9")))
    built.stop()


def test_without_a_sink_no_http_client_is_loaded(tmp_path: Path) -> None:
    """It would cost every start time, and memory for good."""
    config = f"config.Config(no_store=True, state_dir={str(tmp_path)!r})"
    code = f"import sys; from claude_proxy import __main__, config, service; service.Service({config})"
    code += "; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_turn_goes_on_whatever_its_sinks_do(
    start: Start, bot: FakeTelegram, server: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Both hang: the answers are right, and come as fast as ever; nor does the end of the proxy wait for them."""
    bot.always = server.always = HANG
    proxy = start(webhook=server.url, webhook_secret=SECRET, **talk_to(bot))
    answers = [proxy.ask("Hello").text]
    proxy.service.activity.note("unknown", "queued")
    server.wait_for(1)
    began = time.monotonic()
    answers += [proxy.ask("Hello", user=f"s{number}").text for number in range(3)]
    assert time.monotonic() - began < 5.0
    assert len(set(answers)) == 1
    began = time.monotonic()
    proxy.service.sinks.stop()
    assert time.monotonic() - began < sinks.STOP_TIMEOUT + AT_ONCE


def test_a_proxy_tells_its_sinks_of_a_request(start: Start, server: Receiver) -> None:
    """From the queue to the end."""
    proxy = start(Script(), webhook=server.url)
    answer = proxy.send(chat("Hello")).answer()
    wait_until(lambda: server.received and server.received[-1].json["type"] == "done", "the end is told")
    bodies = [post.json for post in server.received]
    assert [body["type"] for body in bodies][:2] == ["queued", "leased"]
    assert {body["requestId"] for body in bodies} == {answer.headers["x-request-id"]}
    assert bodies[-1]["data"]["state"] == bodies[-1]["request"]["state"] == "succeeded"
    assert re.fullmatch(r"evt_[0-9a-f]{32}", bodies[-1]["id"])


def test_a_proxy_tells_the_chat_of_its_limits_and_its_kills(start_booted: Start, bot: FakeTelegram) -> None:
    """As the CLI reports them; the second request is killed for its silence."""
    proxy = start_booted(inactivity_timeout=0.5, **talk_to(bot))
    assert proxy.ask("Hello fake:rate_limit=allowed_warning").status == 200
    bot.wait_for(1)
    assert proxy.ask("Are you there? fake:stall").status == 504
    bot.wait_for(2)
    assert [text.partition(":")[0] for text in bot.chat.values()] == [
        *("Plan limit five_hour", "Killed after a long silence")
    ]
