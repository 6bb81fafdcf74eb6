"""Random clients on one proxy: every request upstream holds exactly what its client sent, and nothing of another's.

`python -m tests.long.fuzz_recycling --requests 2000 --seed 1`: the real CLI against the demo's API, five clients at a
time that talk, edit, regenerate, branch, call functions one by one and in parallel, leave calls unanswered, send
pictures, go away in the middle, are cut at their token limit, and meet errors and refusals of the API. Prints what was
done and exits with 1 at the first request that differs. No login, no network.
"""

import argparse
import base64
import itertools
import random
import struct
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from claude_proxy.claude.process.locate import find
from claude_proxy.core.timing import Timing
from tests.e2e.real import RealProxy, assert_upstream, calls
from tests.harness import Json, assistant

MODELS = ("sonnet", "haiku", "opus")
SYSTEMS = (None, "You are MUSE.", "You are CLIO.\nBe brief.", "You are URANIA. " * 40)
ERRORS = ("demo:status=529", "demo:status=500", "demo:status=400", "demo:error=2", "demo:cut=3", "demo:refusal")


def make_tool(name: str) -> Json:
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "description": f"{name} it", "parameters": parameters}}


TOOLS = ((), (make_tool("look"),), (make_tool("look"), make_tool("find")), (make_tool("zoom"),))
TOKENS = itertools.count(1)


def make_picture(shade: int) -> str:
    """A PNG of one grey pixel, as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes((0, shade)))) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


class Talk:
    """One client's conversation."""

    def __init__(self, proxy: RealProxy, rng: random.Random) -> None:
        self.proxy, self.rng = proxy, rng
        self.model, self.system = rng.choice(MODELS), rng.choice(SYSTEMS)
        self.tools: tuple[Json, ...] = rng.choice(TOOLS)
        self.said: list[Json] = []

    def copy(self) -> "Talk":
        other = Talk(self.proxy, self.rng)
        other.model, other.system, other.tools = self.model, self.system, self.tools
        other.said = list(self.said)
        return other

    def fields(self, **fields: Any) -> Json:
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        tools = {"tools": list(self.tools)} if self.tools else {}
        return {"model": self.model, "messages": [*system, *self.said], **tools, **fields}

    def put(self, words: str, picture: bool = False) -> str:
        """Add a question with a token of its own; returns the token."""
        token = f"T{next(TOKENS)}."
        content: Any = f"{token} {words}"
        if picture:
            image = {"type": "image_url", "image_url": {"url": make_picture(self.rng.randrange(256))}}
            content = [image, {"type": "text", "text": content}]
        self.said.append({"role": "user", "content": content})
        return token

    def ask(self, token: str, **fields: Any) -> Json | None:
        """Ask; check what reached the API; returns the answer's message, None where it failed."""
        answer = self.proxy.send(self.fields(**fields)).answer()
        self.check(token, must=answer.status == 200)
        if answer.status != 200:
            return None
        message: Json = answer.json["choices"][0]["message"]
        return message

    def check(self, token: str, *, must: bool) -> None:
        """Whatever reached the API with this token last is exactly this conversation."""
        raw = token.encode()
        found = [call for call in calls(self.proxy.api) if raw in call.raw.rpartition(b'"role":"user"')[2]]
        if must and not found:
            raise AssertionError(f"{token} never reached the API")
        for call in found[-1:]:
            assert_upstream(dict(call.body), *map(as_sent, self.said), system=self.system)


def as_sent(message: Json) -> Json:
    """A chat message with its pictures as the Messages API has them."""
    if not isinstance(message.get("content"), list):
        return message
    parts = []
    for part in message["content"]:
        if part["type"] == "image_url":
            data = part["image_url"]["url"].partition(",")[2]
            part = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        parts.append(part)
    return {**message, "content": parts}


class Client(threading.Thread):
    """One client with a few conversations; does as many requests as are left."""

    def __init__(self, proxy: RealProxy, seed: int, left: "itertools.count[int]", most: int) -> None:
        super().__init__(name=f"client-{seed}")
        self.proxy, self.rng, self.left, self.most = proxy, random.Random(seed), left, most
        self.talks: list[Talk] = []
        self.done: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while next(self.left) < self.most:
                self.step()
        except BaseException as error:  # told by the main thread, which ends with status 1
            self.error = error

    def step(self) -> None:
        """One request, of a random kind."""
        rng = self.rng
        if not self.talks or rng.random() < 0.25:
            self.talks = [*self.talks[-5:], Talk(self.proxy, rng)]
        talk = rng.choice(self.talks)
        kinds = [self.say] * 4 + [self.edit, self.regenerate, self.branch, self.leave, self.cut, self.fail, self.show]
        kinds += [self.call] * 3 if talk.tools else []
        kind = rng.choice(kinds)
        kind(talk)
        self.done[kind.__name__] += 1

    def settle(self, talk: Talk, message: Json | None) -> None:
        """Keep the answer, or take the question back, as a client does."""
        if message is None or not (message.get("content") or message.get("tool_calls")):
            talk.said.pop()
        else:
            talk.said.append({name: message[name] for name in ("role", "content", "tool_calls") if message.get(name)})

    def say(self, talk: Talk) -> None:
        self.settle(talk, talk.ask(talk.put("hello")))

    def show(self, talk: Talk) -> None:
        self.settle(talk, talk.ask(talk.put("a picture", picture=True)))

    def edit(self, talk: Talk) -> None:
        """Change an earlier question, as an editor's user does who goes back: what follows it goes."""
        questions = [number for number, one in enumerate(talk.said) if one["role"] == "user"]
        if questions:
            talk.said = talk.said[: self.rng.choice(questions)]
        self.settle(talk, talk.ask(talk.put("edited")))

    def regenerate(self, talk: Talk) -> None:
        if talk.said and talk.said[-1]["role"] == "assistant" and talk.said[-2]["role"] == "user":
            content = talk.said[-2]["content"]
            if isinstance(content, str):
                talk.said.pop()
                self.settle(talk, talk.ask(content.split()[0]))
                return
        self.say(talk)

    def branch(self, talk: Talk) -> None:
        other = talk.copy()
        answers = [number for number, one in enumerate(other.said) if is_settled(other.said, number)]
        other.said = other.said[: self.rng.choice(answers) + 1] if answers else []
        self.talks.append(other)
        self.settle(other, other.ask(other.put("branch")))

    def leave(self, talk: Talk) -> None:
        """Go away in the middle of a stream."""
        token = talk.put("demo:words=40 demo:delay=10")
        exchange = self.proxy.send(talk.fields(stream=True))
        records = exchange.records()
        for _ in range(self.rng.randrange(6)):
            next(records, None)
        exchange.close()
        talk.check(token, must=False)
        talk.said.pop()

    def cut(self, talk: Talk) -> None:
        self.settle(talk, talk.ask(talk.put("demo:words=30"), max_tokens=self.rng.randrange(2, 8)))

    def fail(self, talk: Talk) -> None:
        self.settle(talk, talk.ask(talk.put(self.rng.choice(ERRORS))))

    def call(self, talk: Talk) -> None:
        """A round of calls: answered, answered with a word beside the results, or left."""
        names = [tool["function"]["name"] for tool in talk.tools]
        chosen = [self.rng.choice(names) for _ in range(self.rng.choice((1, 1, 2)))]
        asked = " ".join(f'demo:call={name}{{"q":"{self.rng.randrange(1000)}"}}' for name in chosen)
        start = len(talk.said)
        token = talk.put(asked)
        message = talk.ask(token)
        self.settle(talk, message)
        if message is None or not message.get("tool_calls"):
            return
        if self.rng.random() < 0.3:
            talk.said = talk.said[:start]  # the call is never answered
            return
        for tool_call in message["tool_calls"]:
            result = f"R{next(TOKENS)}."
            talk.said.append({"role": "tool", "tool_call_id": tool_call["id"], "content": result})
        if self.rng.random() < 0.2:
            result = talk.put("and a word beside the results")
        answer = talk.ask(result)
        if answer is None:
            talk.said = talk.said[:start]
        else:
            talk.said.append(assistant(answer["content"]))


def is_settled(said: list[Json], number: int) -> bool:
    """True for an answer after which the conversation can go on: it made no call."""
    return said[number]["role"] == "assistant" and not said[number].get("tool_calls")


def run(requests: int, seed: int, at_once: int, *flags: str) -> Counter[str]:
    """So many requests; what was done. Raises AssertionError for a request upstream that differs."""
    left = itertools.count()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        settings = {"max_concurrent": at_once, "max_queue": 4 * at_once, "no_recycle": "--no-recycle" in flags}
        proxy = RealProxy(Path(name), find("", {}, Timing()).path, settings)
        try:
            clients = [Client(proxy, seed * 1000 + number, left, requests) for number in range(at_once)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            for client in clients:
                if client.error is not None:
                    raise client.error
            started = proxy.service.fleet.tally.started
        finally:
            proxy.close()
    done = sum((client.done for client in clients), Counter[str]())
    done["processes started"] = started
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--at-once", type=int, default=5)
    parser.add_argument("--no-recycle", action="store_true")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    flags = ("--no-recycle",) if arguments.no_recycle else ()
    for what, count in run(arguments.requests, arguments.seed, arguments.at_once, *flags).most_common():
        print(f"{count:6} {what}")


if __name__ == "__main__":
    main()
