"""Use over HTTP: what the plan has left, what each owner has used, and what Prometheus is told."""

import json
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from claude_proxy.monitoring.plan import PlanQuestion
from claude_proxy.storage.sessions import make_owner
from tests.contract.conftest import Start
from tests.fake_cli import Script
from tests.harness import CHAT, Json, Proxy, chat, control_requests, wait_until

MODEL = "claude-sonnet-5-5"
A, B = {"Authorization": "Bearer key-of-a"}, {"Authorization": "Bearer key-of-b"}
PLAN: Json = {
    "five_hour": {"utilization": 12.0, "resets_at": "2099-01-31T15:00:00Z"},
    "seven_day": {"utilization": 34.0, "resets_at": "2099-02-03T15:00:00Z"},
}


def soon() -> int:
    """An hour from now, in Unix seconds."""
    return int(time.time()) + 3600


def use_of(proxy: Proxy, query: str = "", **headers: str) -> Json:
    answer = proxy.get(f"/v1/usage{query}", **headers)
    assert answer.status == 200, answer.body
    use = answer.json["use"]
    assert isinstance(use, dict)
    return use


def plan_of(proxy: Proxy, **headers: str) -> Json:
    plan = proxy.get("/v1/usage", **headers).json["plan"]
    assert isinstance(plan, dict)
    return plan


def scrape(proxy: Proxy, **headers: str) -> dict[tuple[str, ...], float]:
    """Value by name without the prefix, and the values of its labels in the order of their names."""
    answer = proxy.get("/metrics", **headers)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (
            sample.name.removeprefix("claude_proxy_"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def count_asks(proxy: Proxy) -> int:
    """How often the CLI was asked for the plan's use."""
    return sum(len(control_requests(process, "get_usage")) for process in proxy.log())


def test_what_a_request_used_is_in_the_report_at_once(start: Start) -> None:
    """Whole answers and streams of every dialect, by day, model and session."""
    proxy = start()
    assert proxy.ask("one").status == 200
    assert proxy.stream("two").is_done
    body = {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": "three"}]}
    assert proxy.send(body, path="/v1/messages", headers={"X-Session-Id": "mine"}).answer().status == 200
    use = use_of(proxy)
    total = use["total"]
    assert (total["requests"], total["failed"]) == (3, 0)
    assert (total["inputTokens"], total["outputTokens"]) == (30, 36)
    assert (total["cacheReadTokens"], total["cacheCreationTokens"]) == (21, 9)
    assert [(row["model"], row["requests"]) for row in use["models"]] == [(MODEL, 3)]
    assert {row["session"]: row["requests"] for row in use["sessions"]}["hdr_mine"] == 1
    assert sum(row["requests"] for row in use["days"]) == 3
    assert use_of(proxy, "?until=2001-01-01")["total"]["requests"] == 0
    assert use_of(proxy, "?since=2001-01-01")["total"]["requests"] == 3


def test_the_route_is_there_without_v1(start: Start) -> None:
    """As every other is."""
    answer = start().get("/usage")
    assert (answer.status, set(answer.json)) == (200, {"plan", "use"})


def test_a_failed_request_counts_as_one(start: Start) -> None:
    """It is a request of its owner's all the same."""
    proxy = start("error=500")
    assert proxy.ask("hello").status == 502
    assert (use_of(proxy)["total"]["requests"], use_of(proxy)["total"]["failed"]) == (1, 1)


def test_an_owner_sees_only_its_own_use(start: Start) -> None:
    """The API key is the owner; without one there is no answer at all."""
    proxy = start(api_key=("key-of-a", "key-of-b"))
    assert proxy.send(chat("hello"), headers=A).answer().status == 200
    assert (use_of(proxy, **A)["total"]["requests"], use_of(proxy, **B)["total"]["requests"]) == (1, 0)
    assert proxy.get("/v1/usage").status == 401


def test_a_deleted_session_leaves_only_its_counts(start: Start) -> None:
    """Its name is the client's own."""
    proxy = start()
    assert proxy.send(chat("hello"), headers={"X-Session-Id": "private"}).answer().status == 200
    proxy.wait_until_idle()
    deleted = proxy.send(None, path="/v1/sessions/hdr_private", method="DELETE").answer()
    assert deleted.status == 200
    use = use_of(proxy)
    assert (use["total"]["requests"], use["sessions"]) == (1, [])


@pytest.mark.parametrize(
    "query, param",
    [("since=yesterday", "since"), ("until=2026-02-30", "until"), ("since=2026-02-01&until=2026-01-31", "since")],
)
def test_a_range_that_makes_no_sense_is_refused(query: str, param: str, proxy: Proxy) -> None:
    """With the parameter's name."""
    answer = proxy.get(f"/v1/usage?{query}")
    assert (answer.status, answer.error["param"]) == (400, param)


def test_a_turn_s_event_tells_of_the_plan(start: Start) -> None:
    """The answer's header warns, and so does the report."""
    proxy, epoch = start(), soon()
    answer = proxy.ask(f"hello fake:rate_limit=allowed_warning:{epoch}")
    assert answer.status == 200 and answer.headers["x-claude-proxy-plan-warning"].startswith("five_hour 90% until ")
    plan = plan_of(proxy)
    (window,) = plan["windows"]
    assert (window["type"], window["status"], window["utilization"]) == ("five_hour", "allowed_warning", 0.9)
    assert (window["refuses"], plan["source"]) == (False, "rate_limit_event")
    warned = proxy.ask("again").headers["x-claude-proxy-plan-warning"]
    assert warned == f"five_hour 90% until {window['resetsAt']}"


def test_a_plan_that_is_used_up_refuses_without_asking(start: Start) -> None:
    """No child is given the second request; a restart has it asked anew."""
    proxy = start(live=0)
    first = proxy.ask(f"hello fake:plan_limit={soon()}")
    asked = [process.user_messages for process in proxy.log()]
    second = proxy.ask("hello again")
    for answer in (first, second):
        assert (answer.status, answer.error["code"], answer.headers["x-should-retry"]) == (429, "plan_limit", "false")
        assert 3500 < int(answer.headers["retry-after"]) <= 3600
    assert [process.user_messages for process in proxy.log()] == asked
    assert plan_of(proxy)["windows"][0]["refuses"] is True
    assert scrape(proxy)["plan_rejected", "five_hour"] == 1
    again = start(state_dir=proxy.config.state_dir)
    assert again.ask("hello").status == 200


def test_another_model_answers_while_the_plan_refuses_the_one_asked_for(start: Start) -> None:
    """Where one is set; what refuses them all refuses it, too."""
    info = {"status": "rejected", "resetsAt": soon(), "rateLimitType": "seven_day_sonnet"}
    event = json.dumps({"type": "rate_limit_event", "rate_limit_info": info}, separators=(",", ":"))
    proxy = start(fallback_model="haiku", live=0)
    assert proxy.ask(f"hello fake:emit={event}").headers["x-claude-proxy-model"] == MODEL
    answer = proxy.ask("hello again")
    assert (answer.status, answer.headers["x-claude-proxy-model"]) == (200, "claude-haiku-5-5")
    assert proxy.ask("hello", model="opus").headers["x-claude-proxy-model"] == "claude-opus-5-5"
    assert proxy.ask(f"hello fake:plan_limit={soon()}", model="opus").status == 429
    assert proxy.ask("hello again").status == 429


def test_the_cli_tells_how_much_of_the_plan_is_used(start: Start) -> None:
    """An idle child is asked, once for many who want to know."""
    proxy = start(Script(plan=PLAN), warm=1)
    wait_until(lambda: proxy.service.fleet.counts().spare, "a spare")
    for _ in range(3):
        plan = plan_of(proxy)
        assert [(row["type"], row["utilization"], row["resetsAt"]) for row in plan["windows"]] == [
            ("five_hour", 0.12, "2099-01-31T15:00:00Z"),
            ("seven_day", 0.34, "2099-02-03T15:00:00Z"),
        ]
        assert (plan["subscription"], plan["source"]) == ("max", "get_usage")
    assert count_asks(proxy) == 1
    assert scrape(proxy)["plan_utilization_ratio", "seven_day"] == 0.34
    assert proxy.ask("hello").text == "Hello from upstream: hello"


def test_a_child_that_holds_a_conversation_can_be_asked_too(start: Start) -> None:
    """It goes on with it afterwards."""
    proxy = start(Script(plan=PLAN))
    first = proxy.ask("hello")
    proxy.wait_until_idle()
    assert plan_of(proxy)["source"] == "get_usage"
    second = proxy.ask("hello", {"role": "assistant", "content": first.text}, "and now")
    assert second.text == "Hello from upstream: and now"
    assert len(proxy.log()) == 1


@pytest.mark.parametrize("plan", [None, "refused", "silent"])
def test_without_the_cli_s_word_the_route_answers_all_the_same(
    plan: Any, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the events told; the child that was asked serves the next request."""
    monkeypatch.setattr(PlanQuestion.refresh, "__defaults__", (0.05,))
    proxy = start(Script(plan=plan))
    assert proxy.ask(f"hello fake:rate_limit=allowed_warning:{soon()}").status == 200
    proxy.wait_until_idle()
    found = plan_of(proxy)
    assert ([row["type"] for row in found["windows"]], found["source"]) == (["five_hour"], "rate_limit_event")
    wait_until(lambda: count_asks(proxy) == 1, "the question")
    assert proxy.ask("hello again").status == 200
    assert scrape(proxy)["requests_total", "chat", MODEL, "succeeded"] == 2


def test_without_a_child_the_route_answers_at_once(proxy: Proxy) -> None:
    """Nobody is started for the question."""
    plan = plan_of(proxy)
    assert (plan["windows"], plan["source"], plan["asOf"]) == ([], None, None)
    assert proxy.log() == ()


def test_metrics_count_what_the_proxy_did(start: Start) -> None:
    """Under both paths."""
    proxy = start(warm=1)
    assert proxy.ask("hello").status == 200
    assert proxy.ask("hello fake:error=500").status == 502
    proxy.wait_until_idle()
    samples = scrape(proxy)
    assert samples["requests_total", "chat", MODEL, "succeeded"] == 1
    assert sum(value for key, value in samples.items() if key[0] == "requests_total") == 2
    assert samples["tokens_total", "input", MODEL] >= 10
    assert samples["time_to_first_token_seconds_count", "chat"] == 1
    assert samples["request_duration_seconds_count", "chat"] == 2
    assert (samples["queue_length",], samples["workers_active",]) == (0, 0)
    assert samples["children", "live"] == 1
    assert samples["children_started_total",] >= 2
    wait_until(lambda: any(key[0] == "children_ended_total" for key in scrape(proxy)), "an ended child in the metrics")
    assert proxy.get("/v1/metrics").status == 200


def test_metrics_are_behind_the_key(start: Start) -> None:
    """Like everything but the health."""
    proxy = start(api_key=("key-of-a",))
    assert proxy.get("/metrics").status == 401
    assert scrape(proxy, **A)["queue_length",] == 0


def test_a_store_in_memory_keeps_the_ledger_for_the_run(start: Start) -> None:
    """Nothing of it is on disk."""
    proxy = start(no_store=True)
    assert proxy.send(chat("hello"), path=CHAT).answer().status == 200
    assert proxy.service.ledger.report(make_owner("")).total.requests == 1
    assert proxy.service.store.path is None
