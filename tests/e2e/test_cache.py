"""What a turn costs upstream: the API's prompt cache goes on serving, live or replayed."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.real import RealProxy
from tests.harness import Json

pytestmark = pytest.mark.e2e

Start = Callable[..., RealProxy]
SYSTEM = {"role": "system", "content": "You are MUSE."}


def blocks(body: Json) -> list[tuple[str, bool]]:
    """The prompt in the order of the API, a text for each block without its breakpoint, and whether it had one."""
    parts: list[tuple[str, Any]] = [("tool", tool) for tool in body.get("tools", [])]
    parts += [("system", block) for block in body["system"] if "billing" not in block["text"]]
    for message in body["messages"]:
        content = message["content"]
        listed = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts += [(message["role"], block) for block in listed]
    stripped = [(role, {key: value for key, value in block.items() if key != "cache_control"}) for role, block in parts]
    marks = ["cache_control" in block for _, block in parts]
    return [(json.dumps(part, sort_keys=True), mark) for part, mark in zip(stripped, marks, strict=True)]


def prefix(body: Json, breakpoint: int) -> list[str]:
    """The prompt up to one of its breakpoints, counted from the end as lists are."""
    listed = blocks(body)
    ends = [index for index, (_, mark) in enumerate(listed) if mark]
    return [text for text, _ in listed[: ends[breakpoint] + 1]]


def texts(body: Json) -> list[str]:
    return [text for text, _ in blocks(body)]


def controls(body: Json) -> list[Json]:
    """Every `cache_control` of a request."""
    found: list[Json] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            found.extend([value["cache_control"]] if "cache_control" in value else [])
            for item in value.values():
                look(item)
        elif isinstance(value, list):
            for item in value:
                look(item)

    look(body)
    return found


def converse(proxy: RealProxy, turns: int, before: Callable[[int], None] = lambda turn: None) -> list[Json]:
    """A conversation of so many turns; the usage of each answer."""
    messages: list[Json] = [SYSTEM]
    usages = []
    for turn in range(turns):
        before(turn)
        part = {"type": "text", "text": f"question {turn}", "cache_control": {"type": "ephemeral"}}
        messages.append({"role": "user", "content": [part]})
        answer = proxy.say(*messages).json
        usages.append(answer["usage"])
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    return usages


def drop_children(proxy: RealProxy) -> None:
    """No child holds a conversation any more: the next turn is a replay."""
    proxy.service.fleet.retire_idle()


def assert_well_marked(bodies: list[Json]) -> None:
    """At most four breakpoints, all with the ttl that the CLI asks for with a plan's login."""
    for body in bodies:
        found = controls(body)
        assert 0 < len(found) <= 4
        assert all(control == {"type": "ephemeral", "ttl": "1h"} for control in found)


def test_a_live_conversation_keeps_its_prefix(start: Start) -> None:
    """Everything up to the last breakpoint of a turn begins the next one, and is read from the cache."""
    proxy = start()
    usages = converse(proxy, 5)
    bodies = proxy.bodies
    assert_well_marked(bodies)
    for earlier, later in zip(bodies, bodies[1:], strict=False):
        known = prefix(earlier, -1)
        assert texts(later)[: len(known)] == known
    for earlier, later in zip(usages, usages[1:], strict=False):
        assert later["prompt_tokens_details"]["cached_tokens"] >= earlier["prompt_tokens"]


def test_a_conversation_that_is_replayed_every_turn_keeps_the_prefix_of_its_history(start: Start) -> None:
    """Up to our own breakpoint, the last but one: the CLI puts its last one behind a message that moves."""
    proxy = start()
    usages = converse(proxy, 6, before=lambda turn: drop_children(proxy))
    bodies = proxy.bodies[1:]
    assert_well_marked(bodies)
    for number, (earlier, later) in enumerate(zip(bodies, bodies[1:], strict=False), start=1):
        known = prefix(earlier, -2)
        assert texts(later)[: len(known)] == known
        assert f"question {number - 1}" in "".join(known)
    for earlier, later in zip(usages[1:], usages[2:], strict=False):
        assert later["prompt_tokens_details"]["cached_tokens"] > earlier["prompt_tokens_details"]["cached_tokens"]


def test_a_replay_in_the_middle_costs_one_turn_of_cache(start: Start) -> None:
    """After it the live prefix is stable again, and the next replay shares the history up to the breakpoint."""
    proxy = start()
    converse(proxy, 7, before=lambda turn: drop_children(proxy) if turn in (2, 5) else None)
    bodies = proxy.bodies
    assert_well_marked(bodies)
    for number in (0, 2, 3, 5):
        known = prefix(bodies[number], -1)
        assert texts(bodies[number + 1])[: len(known)] == known
    replayed = prefix(bodies[2], -2)
    assert texts(bodies[5])[: len(replayed)] == replayed


def test_a_context_that_moves_to_the_end_costs_no_child(start: Start) -> None:
    """OpenClaw's shape: from the second turn on the child forgets the context of the turn before, and goes on."""
    proxy = start()
    messages: list[Json] = [SYSTEM]
    cached = []
    for turn in range(4):
        messages.append({"role": "user", "content": f"question {turn}"})
        answer = proxy.say(*messages, {"role": "user", "content": f"<<<CONTEXT>>> {turn}"})
        if not os.environ.get("NO_RECYCLE"):
            assert answer.headers["x-claude-proxy-session"].endswith("; live" if turn else "; new")
        cached.append(answer.json["usage"]["prompt_tokens_details"]["cached_tokens"])
        messages.append({"role": "assistant", "content": answer.json["choices"][0]["message"]["content"]})
    assert_well_marked(proxy.bodies)
    assert cached[2] > cached[1] and cached[3] > cached[2]


def test_without_a_plan_the_breakpoints_last_five_minutes(start: Start) -> None:
    """With an API key the CLI asks for the API's default, and so do we: a longer one behind it would be refused."""
    proxy = start(
        use_api_key=True,
        environ={"ANTHROPIC_API_KEY": "demo", "CLAUDE_CODE_OAUTH_TOKEN": ""},
    )
    converse(proxy, 3, before=lambda turn: drop_children(proxy))
    for body in proxy.bodies:
        assert controls(body) and all(control == {"type": "ephemeral"} for control in controls(body))
