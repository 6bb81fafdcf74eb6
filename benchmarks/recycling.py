"""What a child that is used again saves: `python -m benchmarks.recycling`.

Pairs of one run: the CLI alone, in its own conversation, beside new, edited and regenerated conversations through the
proxy; and a burst of one-shot prompts with and without `--no-recycle`. Run it while nothing else runs.
"""

import statistics
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

import psutil

from claude_proxy.demo import DemoApi

from .latency import assistant, header, row, system, user
from .running import CliAlone, Proxy

REPEATS = 40
WARM_UP = 8
BURST, AT_ONCE = 100, 5


def wait_until_checked(proxy: Proxy) -> None:
    """Until the proxy knows whether this CLI lets its children be used again."""
    deadline = time.monotonic() + 30
    while proxy.health()["recycling"]["reason"] == "not checked yet":
        if time.monotonic() > deadline:
            raise RuntimeError("the check of the start did not end")
        time.sleep(0.05)


def first_words(cli: CliAlone) -> None:
    """A live CLI's turn beside every kind of conversation that a child is made to take."""
    times: dict[str, list[float]] = {name: [] for name in ("alone", "live", "same", "other", "edited", "again")}
    with cli.running() as alone, Proxy() as proxy:
        wait_until_checked(proxy)
        proxy.wait_for_spares(1)
        for number in range(WARM_UP + REPEATS):
            talk = [system("You are a benchmark."), user(f"question {number}")]
            took = {
                "alone": alone.ask(f"turn {number}").first,
                "same": proxy.ask(talk).first,
                "other": proxy.ask([system(f"You are {number}."), user("hello")]).first,
            }
            answer = proxy.ask(talk).text
            later = [*talk, assistant(answer), user("go on")]
            took["live"] = proxy.ask(later).first
            took["edited"] = proxy.ask([*later[:-1], user("go on, please")]).first
            took["again"] = proxy.ask([*later[:-1], user("go on, please")]).first
            if number >= WARM_UP:
                for name, seconds in took.items():
                    times[name].append(seconds)
    header("time to first word; ratio: median of pairs to the CLI alone")
    row("the CLI alone, a turn of its conversation", times["alone"])
    for name, what in (
        ("live", "a conversation that its child goes on with"),
        ("same", "new conversation, same system prompt"),
        ("other", "new conversation, another system prompt"),
        ("edited", "the last message edited"),
        ("again", "the last answer regenerated"),
    ):
        pairs = [one / other for one, other in zip(times[name], times["alone"], strict=True)]
        middle = statistics.median(times[name])
        goal = "" if name == "live" else "<= 1.25"
        print(
            f"| {what:<58} | {middle * 1000:8.1f} | {max(times[name]) * 1000:8.1f} | {statistics.median(pairs):5.2f} |"
            f" {goal:<22} |",
            flush=True,
        )


def burst(*flags: str) -> tuple[float, float, int]:
    """Prompts in a second, seconds of CPU for each (the API inside the proxy included), processes at the end."""
    with Proxy("--max-queue", str(BURST), *flags) as proxy:
        if not flags:
            wait_until_checked(proxy)
        proxy.wait_for_spares(1)
        prompts = deque(range(BURST))
        before = cpu_of(proxy.pid)

        def work() -> None:
            while True:
                try:
                    number = prompts.popleft()
                except IndexError:
                    return
                proxy.ask([system("You are a benchmark."), user(f"prompt {number}")])

        threads = [threading.Thread(target=work) for _ in range(AT_ONCE)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - started
        spent = cpu_of(proxy.pid) - before
        return BURST / took, spent / BURST, len(psutil.Process(proxy.pid).children(recursive=True))


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process, its living descendants, and those that it has reaped."""
    process = psutil.Process(pid)
    own = process.cpu_times()
    living = sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))
    return float(own.user + own.system + own.children_user + own.children_system + living)


def main() -> None:
    with DemoApi() as api, tempfile.TemporaryDirectory(prefix="benchmark-cli-") as home:
        first_words(CliAlone(api.base_url, Path(home)))
    print(f"\n| {BURST} one-shot prompts, {AT_ONCE} at a time | a second | CPU s each | processes |")
    print("|---|---:|---:|---:|")
    rates = {}
    for name, flags in (("children used again", ()), ("`--no-recycle`", ("--no-recycle",))):
        rate, spent, left = burst(*flags)
        rates[name] = rate
        print(f"| {name} | {rate:.1f} | {spent:.3f} | {left} |", flush=True)
    again, anew = rates.values()
    print(f"\n{again / anew:.1f} times the rate (goal >= 5)")


if __name__ == "__main__":
    main()
