"""Whether this very CLI takes a rewind, another profile, other tools: seen once on loopback, then remembered.

The service runs it in a thread of its own after the start; until it has ended, children are not recycled. Builds that
do not know a member of a request may answer success and change nothing, so that an answer proves nothing: the check
compares what reaches the API from a child that was recycled with what reaches it from a fresh one, and has a call of a
tool that only the new set has come back. Invariant: what was not seen to work is not used.
"""

import contextlib
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ...core.conversation import Message, Options, Text, Tool, ToolResult, user
from ...core.errors import ProxyError
from ...core.models import Catalogue
from ...core.timing import Timing
from ..process.child import Child
from ..process.locate import Installation
from ..turn.connection import Connection
from ..wire.parameters import build_parameters
from ..wire.profile import Profile
from ..wire.protocol import Inbound, Result, StreamEvent, ToolCall
from ..wire.recycling import EVERYTHING, NOTHING, Abilities, Recycling
from .check_api import ANSWER, CALL, HOLD, CheckApi, Json

log = logging.getLogger(__name__)

FILE_NAME = "cli-check.json"
# What is checked may change; what was remembered of an earlier check is then worth nothing.
CHECK_VERSION = 1
READ_BYTES = 1 << 20

_SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}
ALPHA, BETA, SHARED = (Tool(name, f"The tool {name}", _SCHEMA) for name in ("alpha", "beta", "shared"))
FIRST = Profile("haiku", "You are PROMPT-ONE.", (ALPHA, SHARED))
SECOND = Profile("sonnet", "You are PROMPT-TWO.", (BETA, SHARED))
QUESTION, EARLIER = f"QUESTION-TWO {CALL}", "QUESTION-ONE"
# The ids of a session and of a message differ, and so do three digits of the CLI's version, and a child's own folder.
_VARYING = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<=cc_version=)[0-9a-z.]+|toolu_check_[0-9a-f]+")


class Starter(Protocol):
    """Starts children against a Messages API on loopback, with a home folder of their own; clears up after them."""

    def start(self, model: str) -> Child: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the check has seen. reason: why something is missing; empty where nothing is."""

    abilities: Abilities
    reason: str = ""


class SelfCheck:
    """Finds out what the CLI takes, or remembers it."""

    def __init__(
        self,
        recycling: Recycling,
        find: Callable[[], Installation],
        make_starter: Callable[[str], Starter],
        folder: Path | None,
        timing: Timing,
    ) -> None:
        """Args:
        recycling: told what may be used.
        find: the CLI in use; raises CliUnavailable.
        make_starter: of the URL of a Messages API.
        folder: where the outcome is remembered, by the binary's hash; None for nowhere.
        timing: how long the check may take.
        """
        self._recycling = recycling
        self._find = find
        self._make_starter = make_starter
        self._timing = timing
        self._file = folder / FILE_NAME if folder is not None else None
        self._lock = threading.Lock()  # guards: _children, _is_cancelled
        self._children: list[Child] = []
        self._is_cancelled = False

    def run(self) -> None:
        """Never raises; takes about a second the first time that a binary is seen."""
        try:
            installation = self._find()
            name = f"{installation.version} {hash_file(installation.path)}"
            outcome = self._remembered(name)
            if outcome is None:
                outcome = self._check()
                self._remember(name, outcome)
        except (ProxyError, OSError, ValueError) as error:
            outcome = Outcome(NOTHING, f"the check of the start failed: {error}")
        except Exception:  # a bug of the check costs speed, never the service
            log.exception("The check of the CLI failed for a reason of our own")
            outcome = Outcome(NOTHING, "the check of the start failed; the log says why")
        self._recycling.allow(outcome.abilities, outcome.reason)
        if outcome.reason:
            log.info("Children are not recycled: %s", outcome.reason)

    def cancel(self) -> None:
        """The proxy ends: so does the check, at once. Any thread may."""
        with self._lock:
            self._is_cancelled = True
            children = list(self._children)
        for child in children:
            child.kill()

    def _check(self) -> Outcome:
        with CheckApi() as api:
            starter = self._make_starter(api.url)
            try:
                return check(lambda profile: self._start(starter, profile), api, self._timing)
            finally:
                starter.close()

    def _start(self, starter: Starter, profile: Profile) -> Child:
        child = starter.start(profile.model)
        with self._lock:
            self._children.append(child)
            is_cancelled = self._is_cancelled
        if is_cancelled:
            child.kill()
        return child

    def _remembered(self, name: str) -> Outcome | None:
        try:
            known = json.loads(self._file.read_bytes())[f"{CHECK_VERSION} {name}"] if self._file else None
            return Outcome(Abilities(**known["abilities"]), known["reason"]) if known else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, name: str, outcome: Outcome) -> None:
        """The last binary alone: an older one that comes back is checked again."""
        if self._file is None:
            return
        text = json.dumps({f"{CHECK_VERSION} {name}": asdict(outcome)})
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = self._file.with_suffix(".partial")
            partial.write_text(text)
            partial.replace(self._file)
        except OSError as error:
            log.info("The outcome of the CLI's check could not be kept: %s", error)


def hash_file(path: Path) -> str:
    """Names a binary; reads it once, which takes half a second for 400 MB."""
    hasher = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()


def check(start: Callable[[Profile], Child], api: CheckApi, timing: Timing) -> Outcome:
    """Recycle one child, ask it what a fresh one is asked, and compare what reached the API. Raises ProxyError."""
    with contextlib.ExitStack() as started:
        recycled = started.enter_context(contextlib.closing(_Subject(start, FIRST, timing)))
        fresh = started.enter_context(contextlib.closing(_Subject(start, SECOND, timing)))
        recycled.prepare(FIRST)
        recycled.ask(EARLIER)
        recycled.listen(lambda inbound: isinstance(inbound, Result))
        recycled.connection.note_reply(b"answer")
        recycled.prepare(FIRST)
        recycled.ask(HOLD)
        recycled.listen(lambda inbound: isinstance(inbound, StreamEvent) and bool(inbound.event.delta.text))
        try:
            recycled.connection.become(SECOND, 0, recycled.alive)
        except ProxyError as error:
            return Outcome(NOTHING, str(error))
        routed = [subject.ask_for_call(QUESTION) for subject in (recycled, fresh)]
    bodies = api.bodies("QUESTION-TWO")
    if len(bodies) != 2 or not routed[1]:
        return Outcome(NOTHING, "the CLI did not ask as it was told to")
    return compare(bodies[0], bodies[1], routed=routed[0])


def compare(recycled: Json, fresh: Json, *, routed: bool) -> Outcome:
    """What a recycled child's request shows beside a fresh one's."""
    ours, theirs = normalise(recycled), normalise(fresh)
    text = json.dumps(ours)
    if any(word in text for word in (EARLIER, HOLD, ANSWER, "PROMPT-ONE")) or ours["messages"] != theirs["messages"]:
        return Outcome(NOTHING, "a rewound child still holds something of what it held")
    switched = all(ours.get(name) == theirs.get(name) for name in ("model", "system"))
    retooled = routed and ours.get("tools") == theirs.get("tools")
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    unexplained = [name for name in differing if name not in ("model", "system", "tools")]
    if unexplained:
        return Outcome(NOTHING, f"a rewound child's request differs from a fresh one's in {', '.join(unexplained)}")
    abilities = Abilities(rewind=True, switch=switched, retool=retooled)
    missing = [name for name, is_there in asdict(abilities).items() if not is_there]
    return Outcome(abilities, f"this CLI does not {' and '.join(missing)}" if missing else "")


def normalise(body: Json) -> Json:
    """A body less what differs between any two children. `metadata` names the session and the device."""
    kept = {name: value for name, value in body.items() if name != "metadata"}
    result: Json = json.loads(_VARYING.sub("-", json.dumps(kept, sort_keys=True)))
    return result


class _Subject:
    """A child under examination."""

    def __init__(self, start: Callable[[Profile], Child], profile: Profile, timing: Timing) -> None:
        self.child = start(profile)
        self.connection = Connection(self.child, profile.model, Catalogue(), Recycling(EVERYTHING), timing)
        self._timeout = timing.check_timeout
        self._deadline = time.monotonic() + self._timeout
        self._count = 0

    def alive(self) -> None:
        """Raises ProxyError once the check has taken too long."""
        if time.monotonic() > self._deadline:
            raise ProxyError(f"the CLI did not answer within {self._timeout:g} s")

    def prepare(self, profile: Profile) -> None:
        self.connection.prepare(profile)
        self.connection.begin_turn(b"start")
        self.connection.apply(build_parameters(Options(), profile.toolset).settings)

    def ask(self, text: str) -> None:
        self._count += 1
        self.connection.ask(user(text), b"%d" % self._count)

    def listen(self, is_it: Callable[[Inbound], bool]) -> Inbound:
        """The first message that is it. Raises ChildSilent, ProxyError."""
        while True:
            inbound = self.connection.receive(self.alive, self._timeout)
            if is_it(inbound):
                return inbound

    def ask_for_call(self, question: str) -> bool:
        """Ask the second profile's question; True where the CLI routes the call that the API answers with."""
        self.prepare(SECOND)
        self.ask(question)
        inbound = self.listen(lambda inbound: isinstance(inbound, (ToolCall, Result)))
        if not isinstance(inbound, ToolCall):
            return False
        self.connection.answer(Message("user", (ToolResult(inbound.tool_use_id, (Text("done"),)),)), b"called")
        self.listen(lambda inbound: isinstance(inbound, Result))
        return True

    def close(self) -> None:
        self.child.kill()
        with contextlib.suppress(ProxyError):
            while True:  # to the end of its output, so that it is not a zombie when it is reaped
                self.child.receive(self._timeout)
        self.child.reap()
