"""Time to the first word, and memory, through the proxy and without it: `python -m benchmarks.latency`.

Prints tables; every ratio is of medians within this one run. Run it while nothing else runs. Sections can be chosen:
`python -m benchmarks.latency first follow`.
"""

import argparse
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from claude_proxy.demo import DemoApi

from .running import SPARE_AGE, CliAlone, Proxy, Times

REPEATS = 20
WORDS, DELAY_MS = 400, 10
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def row(name: str, times: Sequence[float], base: float | None = None, goal: str = "") -> float:
    """Print one line of a table; returns the median."""
    middle = statistics.median(times)
    ratio = f"{middle / base:5.2f}" if base else "     "
    print(f"| {name:<58} | {middle * 1000:8.1f} | {max(times) * 1000:8.1f} | {ratio} | {goal:<22} |", flush=True)
    return middle


def header(title: str) -> None:
    print(f"\n| {title:<58} | median ms |   max ms | ratio | goal                   |")
    print(f"|{'-' * 60}|{'-' * 10}:|{'-' * 9}:|{'-' * 6}:|{'-' * 24}|", flush=True)


def first_turns(cli: CliAlone) -> None:
    """(a) one process per request, (b) new conversations, (c) replayed ones, (f) with a spare that fits."""
    cold = [cli.ask_once("hello") for _ in range(REPEATS)]
    prepared = []
    for _ in range(REPEATS):
        with cli.running() as conversation:
            time.sleep(SPARE_AGE)  # a process that has just been busy answers sooner than one that waited
            prepared.append(conversation.ask("hello").first)
    with Proxy() as proxy:
        other, same, replayed = [], [], []
        for number in range(REPEATS):
            proxy.wait_for_spares(1)
            other.append(proxy.ask([system(f"Profile {number}."), user("hello")]))
            proxy.wait_for_spares(1)
            same.append(proxy.ask([system(f"Profile {number}."), user(f"hello {number}")]))
            proxy.wait_for_spares(1)
            history = [user("one"), assistant("two"), user("three"), assistant("four"), user("five")]
            replayed.append(proxy.ask([system(f"Profile {number}."), *history]))
        proxy.wait_for_spares(1)
        memory = psutil.Process(proxy.pid)
        own = memory.memory_info().rss / 2**20
        children = [child.memory_info().rss / 2**20 for child in memory.children(recursive=True)]
    header("time to first word, first turn")
    base = row("(a) `claude -p` started for the prompt", firsts(cold))
    ready = row("    the CLI alone, started and initialised before", prepared, base)
    row("(b) new conversation, a spare that must be initialised", firsts(other), base, "<= 0.25 of (a)")
    fitting = row("(f) new conversation, a spare that fits", firsts(same), base)
    row("(c) 5 messages replayed, a spare that fits", firsts(replayed), base)
    print(f"(f) to the CLI alone, initialised: {fitting / ready:.2f} (goal <= 1.3)")
    header("total, first turn")
    base = row("(a) `claude -p` started for the prompt", totals(cold))
    row("(b) new conversation through the proxy", totals(other), base)
    print(
        f"\nIdle proxy: {own:.0f} MB RSS of its own (goal < 60), spares {', '.join(f'{mb:.0f}' for mb in children)} MB"
    )


def follow_ups(cli: CliAlone) -> None:
    """(e) turns 2 to 10 of one conversation, against the same in a CLI process that is driven directly."""
    alone, through, cold = [], [], []
    for _ in range(max(1, REPEATS // 5)):
        with cli.running() as conversation:
            alone += [conversation.ask(f"turn {turn}").first for turn in range(10)][1:]
    with Proxy() as proxy:
        for repeat in range(max(1, REPEATS // 5)):
            proxy.wait_for_spares(1)
            messages = [system("You are a benchmark."), user(f"turn 0 of {repeat}")]
            for turn in range(1, 11):
                times = proxy.ask(messages)
                if turn > 1:
                    through.append(times.first)
                messages += [assistant(times.text), user(f"turn {turn}")]
    cold = [cli.ask_once("hello").first for _ in range(5)]
    header("time to first word, turns 2 to 10")
    base = row("    the CLI alone, already in the conversation", alone)
    middle = row("(e) through the proxy", through, base, "<= 1.15")
    print(f"`claude -p` per request takes {statistics.median(cold) / middle:.1f} times as long (goal >= 15)")


def streams() -> None:
    """(d) 1, 4 and 8 streams at once."""
    header(f"(d) {WORDS} words at {DELAY_MS} ms each, total")
    with Proxy("--max-concurrent", "8", "--warm", "8") as proxy:
        for count in (1, 4, 8):
            proxy.wait_for_spares(8)
            prompts = [[system("S."), user(f"demo:words={WORDS} demo:delay={DELAY_MS} {n}")] for n in range(count)]
            results: list[Times] = []

            def run(prompt: list[dict[str, Any]], into: list[Times] = results) -> None:
                into.append(proxy.ask(prompt))

            at_once([partial(run, prompt) for prompt in prompts])
            row(f"{count} streams, until the last is done", totals(results), None, "8: <= 5500 ms")
            row(f"{count} streams, first word", firsts(results))


def long_histories() -> None:
    """(g) long conversations that arrive new, and then go on."""
    header("(g) time to first word of a conversation that arrives new")
    with Proxy() as proxy:
        for count in (50, 200, 1000):
            messages: list[dict[str, Any]] = [system("Long.")]
            for number in range(count // 2):
                messages += [user(f"question {number}"), assistant(f"answer {number}")]
            proxy.wait_for_spares(1)
            new = proxy.ask([*messages, user("and now?")])
            row(f"{count} messages, new", [new.first])
            messages += [user("and now?"), assistant(new.text)]
            row(f"{count} messages, continued", [proxy.ask([*messages, user("and then?")]).first])


def moving_context() -> None:
    """(i) the last message is context that moves to the end with every turn."""
    header("(i) time to first word, context moves to the end each turn")
    with Proxy() as proxy:
        fitting = []
        for number in range(5):
            proxy.wait_for_spares(1)
            fitting.append(proxy.ask([system("Claw."), user(f"hello {number}")]).first)
        base = row("(f) new conversation, a spare that fits", fitting)
        for count in (10, 100):
            messages: list[dict[str, Any]] = [system("Claw.")]
            for number in range(count // 2):
                messages += [user(f"question {number}"), assistant(f"answer {number}")]
            later = []
            for turn in range(8):
                messages.append(user(f"turn {turn} of {count}"))
                times = proxy.ask([*messages, user(f"<<<CONTEXT>>> {turn}")])
                if turn:
                    later.append(times.first)
                messages.append(assistant(times.text))
                time.sleep(3.0)  # what a person, or a tool, takes before the next turn
            row(f"{count} messages and more, from the second turn on", later, base, "<= 1.5 of (f)")


def tool_rounds(cli: CliAlone) -> None:
    """A loop of ten tool rounds: from the result to the first word after it."""
    listed = [{"name": "get_weather", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]
    server = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "client", "version": "1"},
    }
    tools = {
        "sdkMcpServers": ["client"],
        "sdkMcpServerManifests": {"client": {"initializeResult": server, "toolsListResult": {"tools": listed}}},
    }
    prompt = 'demo:call=get_weather{"city":"Paris"} demo:rounds=10'
    with cli.running(tools) as conversation:
        alone = conversation.call_rounds(prompt, 10)
    through, written = [], []
    with Proxy() as proxy:
        messages = [user(prompt)]
        for round_number in range(11):
            if round_number < 2:
                proxy.wait_for_spares(1)  # what boots beside the first rounds is not what is measured
            times = proxy.ask(messages, tools=[TOOL], stream_options={"include_usage": True})
            through.append(times.first)
            usage = times.body[-1]["usage"]
            written.append(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])
            messages += answer_calls(times)
    header("tool loop of 10 rounds, from the result to the next word")
    base = row("    the CLI alone", alone)
    row("    through the proxy", through[1:], base, "<= 1.2")
    print(f"prompt tokens that the cache did not serve, by round: {written}")


def memory(turns: int) -> None:
    """(h) the proxy and its live children after many turns."""
    with Proxy() as proxy:
        messages = [system("Memory."), user("turn 0")]
        process = psutil.Process(proxy.pid)
        print(f"\n(h) memory over {turns} turns, MB RSS: proxy, then its children")
        for turn in range(1, turns + 1):
            text = proxy.ask(messages).text
            messages += [assistant(text), user(f"turn {turn}")]
            if turn % 20 == 0:
                messages = [system("Memory."), user(f"turn {turn}")]
            if turn in (10, turns // 4, turns // 2, turns):
                own = process.memory_info().rss / 2**20
                rest = sorted(round(child.memory_info().rss / 2**20) for child in process.children(recursive=True))
                print(f"| after {turn:>5} turns | {own:6.1f} | {rest} |", flush=True)


def answer_calls(times: Times) -> list[dict[str, Any]]:
    """The client's next messages: the calls as they came, and their results."""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in times.body:
        for piece in (chunk["choices"][0]["delta"].get("tool_calls") or []) if chunk["choices"] else []:
            call = calls.setdefault(
                piece["index"], {"id": piece.get("id"), "type": "function", "function": {"arguments": ""}}
            )
            call["function"]["name"] = piece["function"].get("name") or call["function"].get("name")
            call["function"]["arguments"] += piece["function"].get("arguments", "")
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls.values()]
    return [{"role": "assistant", "content": times.text or None, "tool_calls": list(calls.values())}, *results]


def firsts(times: Sequence[Times]) -> list[float]:
    return [one.first for one in times]


def totals(times: Sequence[Times]) -> list[float]:
    return [one.total for one in times]


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    sections = ("first", "follow", "streams", "long", "context", "tools", "memory")
    parser.add_argument("sections", nargs="*", default=sections, help=f"any of {', '.join(sections)}")
    parser.add_argument("--turns", type=int, default=1000, help="turns of the memory section")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, {psutil.cpu_count()} cores, Python {platform.python_version()}")
    with DemoApi() as api, tempfile.TemporaryDirectory(prefix="benchmark-cli-") as home:
        cli = CliAlone(api.base_url, Path(home))
        table: dict[str, Callable[[], None]] = {
            "first": lambda: first_turns(cli),
            "follow": lambda: follow_ups(cli),
            "streams": streams,
            "long": long_histories,
            "context": moving_context,
            "tools": lambda: tool_rounds(cli),
            "memory": lambda: memory(arguments.turns),
        }
        for name in arguments.sections:
            table[name]()


if __name__ == "__main__":
    main()
