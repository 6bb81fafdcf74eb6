"""What the tests of agent mode share: prompts that make the demo's model call tools, and what the API saw of it.

In: names and inputs of tools. Out: the demo's commands; outlines of requests upstream.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.real import PATIENCE, RealProxy, as_blocks, how
from tests.harness import Answer, Json, assistant, wait_until

# Seconds between two looks at all processes of the machine.
LOOK_INTERVAL = 0.05

AGENT = {"X-Claude-Mode": "agent"}
# Settings of a proxy for one test, which needs no spare.
ALONE: Json = {"agent": True, "warm": 0}


def call(tool: str, **arguments: Any) -> str:
    """The command that makes the demo's model call this tool."""
    return f"demo:call={tool}{json.dumps(arguments, separators=(',', ':'))}"


def bash(command: str, **arguments: Any) -> str:
    """A call of Bash."""
    return call("Bash", command=command, **arguments)


def workdir(proxy: RealProxy) -> Path:
    """Where its agent works."""
    return proxy.config.work_folder


def say(proxy: RealProxy, *messages: Any, headers: Mapping[str, str] | None = None, **fields: Any) -> Answer:
    """A whole answer of the agent's; AssertionError for a failure."""
    answer = proxy.say(*messages, headers={**AGENT, **(headers or {})}, **fields)
    assert answer.status == 200, answer.body
    return answer


def mode(answer: Any) -> str:
    """The mode that ran, as the response's header says."""
    return str(answer.headers["x-claude-proxy-mode"])


def progress(answer: Answer) -> list[str]:
    """The lines in which a chat client sees the tools."""
    return str(answer.json["choices"][0]["message"].get("reasoning_content", "")).splitlines()


def outline(body: Json) -> list[str]:
    """`user TEXT`, `assistant TEXT`, `call NAME INPUT`, `result TEXT` or `error TEXT`: all that was said in a request
    upstream, in order, without what the CLI adds by itself."""
    lines = []
    for message in body["messages"]:
        for block in as_blocks(message["content"]) if message["role"] != "system" else ():
            lines += _lines(message["role"], block)
    return lines


def _lines(role: str, block: Json) -> list[str]:
    match block["type"]:
        case "text" if not block["text"].startswith("<system-reminder>"):
            return [f"{role} {block['text'].strip()}"]
        case "tool_use":
            return [f"call {block['name']} {json.dumps(block['input'], separators=(',', ':'))}"]
        case "tool_result":
            text = "\n".join(part.get("text", "") for part in as_blocks(block.get("content") or ""))
            return [f"{'error' if block.get('is_error') else 'result'} {text}"]
    return []


def outlines(proxy: RealProxy) -> list[list[str]]:
    """Of all requests upstream, oldest first."""
    return [outline(body) for body in proxy.bodies]


class Talk:
    """A client of the agent's that keeps its history, as it saw it, and sends all of it."""

    def __init__(self, proxy: Any, *said: Any, headers: Mapping[str, str] | None = None) -> None:
        """`proxy`: a `RealProxy` or a `Program`; somebody else after a restart."""
        self.proxy = proxy
        self.said: list[Any] = list(said)
        self.headers = {**AGENT, **(headers or {})}

    def say(self, text: str, **fields: Any) -> Answer:
        """Add a user message, ask, add the answer."""
        answer: Answer = self.proxy.say(*self.said, text, headers=self.headers, **fields)
        assert answer.status == 200, answer.body
        self.said += [text, assistant(answer.text)]
        return answer

    def how(self, text: str) -> str:
        """As `say`: which way the conversation was continued."""
        return how(self.say(text))


def processes_saying(word: str, *, count_shells: bool = True) -> list[psutil.Process]:
    """Running processes in whose command line this stands; zombies do not run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(word in part for part in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found += [process] if count_shells or process.name() not in ("sh", "bash") else []
    return found


def wait_for_processes(word: str, count: int = 1) -> list[psutil.Process]:
    """Those of `processes_saying` that are no shells, as soon as there are so many."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = processes_saying(word, count_shells=False)
        return len(found) == count

    wait_until(look, f"{count} processes that say {word}", PATIENCE, interval=LOOK_INTERVAL)
    return found


def wait_until_gone(word: str) -> None:
    """Nothing of `processes_saying` is left."""
    wait_until(
        lambda: not processes_saying(word), f"nothing that says {word} is left", PATIENCE, interval=LOOK_INTERVAL
    )
