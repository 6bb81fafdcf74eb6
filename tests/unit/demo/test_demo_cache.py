"""Token counts and the prompt cache."""

from typing import Any

import pytest

from claude_proxy.demo.cache import InputUsage, PromptCache
from claude_proxy.demo.prompt import count_tokens, estimate_tokens, split_prompt

from .demo_requests import PDF, PNG, WEATHER, assistant, body, call, document, image, result, text, user

MARK: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
HOUR: dict[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def account(cache: PromptCache, *messages: Any, model: str = "m", **more: Any) -> InputUsage:
    """What a request reads and writes."""
    return cache.account(model, split_prompt(body(*messages, **more)))


@pytest.mark.parametrize(
    ("block", "tokens"),
    [
        (text("x"), 1),
        (text("x" * 9), 3),
        (image(PNG), 1500),
        (document(PDF), 3000),
        ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 8}}, 2),
        ({"type": "thinking", "thinking": "x" * 8, "signature": "s" * 99}, 2),
        (result("a", "x" * 8), 2),
        (result("a", None), 1),
        (result("a", []), 1),
        (result("a", [text("x" * 8), image(PNG)]), 1502),
        (call("a", "four"), 2),
        ({"name": "four", **MARK}, 4),
    ],
)
def test_a_token_is_four_characters(block: dict[str, Any], tokens: int) -> None:
    """Pictures and files count a flat sum, breakpoints nothing."""
    assert estimate_tokens(block) == tokens


def test_tools_and_system_count_too() -> None:
    """The prompt is all that the model reads."""
    assert count_tokens(split_prompt(body("x" * 4))) == 1
    assert count_tokens(split_prompt(body("x" * 4, system="y" * 8))) == 3
    assert count_tokens(split_prompt(body("x" * 4, tools=[WEATHER]))) > 20


def test_without_breakpoints_nothing_is_cached() -> None:
    """All of it is plain input, however often it comes."""
    cache = PromptCache()
    for _ in range(2):
        assert account(cache, "x" * 40) == InputUsage(read=0, written_5m=0, written_1h=0, plain=10)


def test_a_prefix_is_written_once_and_then_read() -> None:
    """Up to the breakpoint; what follows is plain."""
    cache = PromptCache()
    messages = user(text("x" * 40, **MARK), text("y" * 8))
    assert account(cache, messages) == InputUsage(read=0, written_5m=10, written_1h=0, plain=2)
    assert account(cache, messages) == InputUsage(read=10, written_5m=0, written_1h=0, plain=2)


def test_a_conversation_that_grows_reads_what_it_had() -> None:
    """The breakpoint moves on, a string becomes a block, and the old prefix is still found."""
    cache = PromptCache()
    account(cache, user(text("x" * 40, **MARK)), system=[text("s" * 8, **HOUR)])
    grown = account(cache, "x" * 40, assistant("a" * 4), user(text("z" * 8, **MARK)), system=[text("s" * 8, **HOUR)])
    assert grown == InputUsage(read=12, written_5m=3, written_1h=0, plain=0)


def test_each_stretch_is_written_under_its_own_ttl() -> None:
    """A breakpoint's ttl is that of the stretch it ends."""
    usage = account(PromptCache(), user(text("x" * 40, **MARK)), system=[text("s" * 8, **HOUR)])
    assert (usage.written_1h, usage.written_5m, usage.written) == (2, 10, 12)


@pytest.mark.parametrize(("blocks_after", "found"), [(19, True), (20, False)])
def test_the_cache_looks_twenty_blocks_back(blocks_after: int, found: bool) -> None:
    """Counting the breakpoint's own block."""
    cache = PromptCache()
    first = text("x" * 40)
    account(cache, user({**first, **MARK}))
    later = [text(f"more {number}") for number in range(blocks_after - 1)]
    usage = account(cache, user(first, *later, text("end", **MARK)))
    assert (usage.read == 10) is found


def test_another_model_and_another_tool_are_another_cache() -> None:
    """The prompt begins with the tools, and each model has its own."""
    cache = PromptCache()
    messages = user(text("x" * 40, **MARK))
    account(cache, messages)
    assert account(cache, messages, model="n").read == 0
    assert account(cache, messages, tools=[WEATHER]).read == 0
    assert account(cache, messages).read == 10


def test_a_breakpoint_may_stand_in_a_result_or_at_the_top() -> None:
    """Inside a tool's result it counts for the whole result, at the top for the last block."""
    cache = PromptCache()
    history = ["hi", assistant(call("a"))]
    inside = account(cache, *history, user(result("a", [text("x" * 40, **MARK)])))
    assert inside.plain == 0
    top = account(cache, *history, user(result("a", [text("x" * 40)])), **MARK)
    assert top.read == inside.written


def test_the_least_recently_used_prefix_goes_first() -> None:
    """The cache is bounded, and reading keeps a prefix."""
    cache = PromptCache(capacity=2)
    first, second, third = (user(text(letter * 40, **MARK)) for letter in "abc")
    for messages in (first, second, first, third):
        account(cache, messages)
    assert account(cache, first).read == 10
    assert account(cache, second).read == 0
