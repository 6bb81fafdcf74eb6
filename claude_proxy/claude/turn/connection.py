"""The connection to one child: its initialisation, model and parameters, and the conversation it holds.

In: a profile, settings, messages. Out: the CLI's messages, typed. What every conversation needs and no turn cares
about is dealt with here: answers to our control requests, and refusals of requests that we do not serve.
Rule: only validated messages are sent; everything is written back to back, the CLI works it off in order.
"""

import itertools
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...core.conversation import Message, ToolResult, plain_id
from ...core.errors import ChildSilent, ProxyError, RecycleRefused, UpstreamError
from ...core.models import Catalogue, CliModel
from ...core.session_key import SessionKey
from ...core.timing import Timing
from ..process.child import Child
from ..wire import outbound, protocol
from ..wire.history import HeldMessage, History
from ..wire.profile import Point, Profile
from ..wire.protocol import (
    ApiRetry,
    Assistant,
    ControlAnswer,
    ControlCancel,
    ControlRequest,
    ControlResponse,
    Inbound,
    Init,
    PermissionAsk,
    RateLimit,
    Result,
    StreamEvent,
    ToolCall,
    ToolProgress,
    UserLine,
)
from ..wire.recycling import Recycling
from ..wire.toolset import LARGEST_RESULT, Toolset
from .recycler import Recycler

log = logging.getLogger(__name__)


NO_SETTINGS: dict[str, Any] = {
    "env": {"CLAUDE_CODE_EXTRA_BODY": "", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": ""},
    "effortLevel": None,
}

# What the CLI says only while a turn runs, or begins or ends one: an idle child that says it acts unasked.
TURN_MESSAGES = (StreamEvent, Assistant, UserLine, ToolCall, PermissionAsk, ControlCancel, Init, ApiRetry, Result)
# What it may say at any time. A test holds that each message of the protocol is in one of the two.
ANYTIME_MESSAGES = (ControlResponse, ControlRequest, RateLimit, ToolProgress)


class Connection:
    """A child under one owner at a time.

    agent: it was started for agent mode. model: what the CLI was started with or set to. profile: None while it is
    blank. owner: whose texts it has seen, the digest of an API key; None while it has seen none. session: the key of
    the session it serves. session_id: the CLI's own, once it has told. is_remembered: the store knows that one, to go
    on with it. cache_ttl: the CLI's own, once it is `ready`. last_used: on the fleet's clock. was_interrupted: a thread
    that does not own it has asked it to stop its turn.
    """

    def __init__(
        self,
        child: Child,
        model: str,
        catalogue: Catalogue,
        recycling: Recycling,
        timing: Timing,
        *,
        agent: bool = False,
    ) -> None:
        self.child = child
        self.model = model
        self.agent = agent
        self.profile: Profile | None = None
        self.owner: str | None = None
        self.last_used = 0.0
        self.session: SessionKey | None = None
        self.session_id: str | None = None
        self.is_remembered = False
        self.cache_ttl = "1h"
        self.was_interrupted = False
        self.ready = False
        self._recycler = Recycler(self, recycling)
        self._control_timeout = timing.control_timeout
        self._message_uuid: str | None = None
        self._assistant_uuid: str | None = None
        self._catalogue = catalogue
        self._usage_takers: dict[str, Callable[[dict[str, Any] | None], None]] = {}
        self._settings = NO_SETTINGS
        self._numbers = itertools.count(1)
        self._awaited: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._answers: dict[str, ControlAnswer] = {}
        self._calls: dict[str, ToolCall] = {}
        self.toolset = Toolset(())

    def prepare(self, profile: Profile) -> None:
        """Initialise a blank child for a profile; its answers are taken by a later `receive`. Raises ChildDied."""
        if self.profile == profile:
            return
        if self.profile is not None:
            raise ValueError("a child is initialised once; `become` makes another of it")
        self.profile = profile
        self.toolset = profile.toolset
        extra = self.toolset.manifest()
        if profile.json_schema is not None:
            extra["jsonSchema"] = msgspec.json.decode(profile.json_schema)
        request_id = self._expect("initialize")
        self._send(outbound.build_initialize(request_id, profile.system, extra, keeps_own=profile.agent))
        if profile.model != self.model:
            self._send(outbound.build_set_model(self._expect("set_model"), profile.model))
            self.model = profile.model

    def apply(self, settings: dict[str, Any]) -> None:
        """Parameters of the next turn, in full; nothing is sent where they are in force already."""
        if settings != self._settings:
            self._send(outbound.build_settings(self._expect("apply_flag_settings"), settings))
            self._settings = settings

    @property
    def history(self) -> History:
        """What it holds."""
        return self._recycler.history

    def hold(self, chain: Sequence[bytes]) -> None:
        """A stored session was loaded, which holds the messages of these digests, H₀ first; none can be taken out."""
        self.history.begin(chain[0])
        for digest in chain[1:]:
            self.history.append(HeldMessage(digest))

    @property
    def is_recyclable(self) -> bool:
        """True where the turn that began last can be taken back, whatever has become of it."""
        return not self.agent and self.profile is not None and self._recycler.can_take_back

    def become(self, profile: Profile, keep: int, alive: Callable[[], None]) -> None:
        """Hold the first `keep` messages only and serve `profile`, which the CLI confirms before this returns.

        `keep` must be reachable, and 0 where the profile is another one; see `can_become`. Raises RecycleRefused,
        ChildDied.
        """
        self._recycler.rewind(keep, alive)
        self._calls.clear()
        if self.profile is not None and profile != self.profile:
            self._recycler.switch(self.profile, profile, alive)
            self.profile, self.toolset, self.model = profile, profile.toolset, profile.model

    def stop_answer(self) -> None:
        """The answer is over for the client, and not for the CLI, which is about to ask the API to go on: stop it now.

        Only its owner may; `take_back` must follow, or the child must be retired.
        """
        if self.agent:
            return
        if not self.is_recyclable or not self._recycler.stop_turn():
            self.child.stop_now()

    def take_back(self) -> None:
        """Hold what was held before the turn that began last. Raises RecycleRefused, ChildDied."""
        self._recycler.take_back(do_nothing)
        self._calls.clear()
        self.was_interrupted = False

    def interrupt(self) -> None:
        """Have the turn stopped, and the thread that listens woken: any thread may, and it never waits.

        Where that cannot be done at once, or the child could not be used again, it is terminated.
        """
        self.was_interrupted = True
        line = outbound.build_interrupt(f"interrupt-{next(self._numbers)}")
        if self.agent or not self._recycler.is_allowed or not self.child.try_send(line):
            self.child.terminate()

    def begin_turn(self, start: bytes) -> None:
        """What follows belongs to one turn, and can be taken back. start: H₀ of its conversation."""
        self._recycler.begin_turn(start)

    def replay(
        self, message: Message, digest: bytes, alive: Callable[[], None], *, cache_breakpoint: bool = False
    ) -> None:
        """Put an earlier message into the history, in its role, without asking for an answer.

        Waits for the CLI to have taken a user message: without that the order is lost
        (`tests/data/transcripts/replayed_history.jsonl`).

        Args:
            message: the next one.
            digest: of the conversation up to this message.
            alive: called whenever the child was heard.
            cache_breakpoint: let the API's prompt cache end an entry here; the CLI's own are all behind the history.
        """
        while cache_breakpoint and not self.ready:
            self._take_one(alive)
        ttl = self.cache_ttl if cache_breakpoint else None
        name = new_uuid()
        self._send(outbound.build_message(self.toolset.rename(message), name, query=False, cache_ttl=ttl))
        self._note(message, digest, name, has_breakpoint=cache_breakpoint)
        while message.role == "user":
            inbound = self.receive(alive)
            if isinstance(inbound, Result):
                if inbound.is_error:
                    raise UpstreamError("The Claude Code CLI did not take an earlier message of the conversation")
                return

    def ask(self, message: Message, digest: bytes) -> None:
        """Send the newest user message: the answer begins. digest: of the conversation up to this message."""
        self._assistant_uuid = None
        name = new_uuid()
        self._send(outbound.build_message(message, name, query=True))
        self._note(message, digest, name)

    def note_reply(self, digest: bytes) -> None:
        """The answer is whole, and the child holds it. digest: of the conversation with it."""
        self.history.append(HeldMessage(digest, uuid=self._assistant_uuid))

    def _note(self, message: Message, digest: bytes, name: str, *, has_breakpoint: bool = False) -> None:
        """What the child now holds. Results of tools are never a target: their round goes with its question."""
        is_answer = message.role == "assistant"
        is_target = not is_answer and not any(isinstance(block, ToolResult) for block in message.content)
        self.history.append(
            HeldMessage(digest, name if is_target else None, name if is_answer else None, has_breakpoint)
        )

    @property
    def point(self) -> Point | None:
        """Where it stands, for a later `--resume`; None before its first answer."""
        if self.session_id is None or self._message_uuid is None:
            return None
        return Point(self.session_id, self._message_uuid)

    @property
    def is_parked(self) -> bool:
        """True while the turn waits for results of the client's functions."""
        return bool(self._calls)

    def can_answer(self, message: Message) -> bool:
        """True where this message holds the results of all pending calls, nothing else, and the CLI takes them as they
        are; anything else must be replayed."""
        results = [block for block in message.content if isinstance(block, ToolResult)]
        return (
            len(results) == len(message.content)
            and {plain_id(result.tool_use_id) for result in results} == set(self._calls)
            and all(outbound.is_deliverable(result, LARGEST_RESULT) for result in results)
        )

    def answer(self, message: Message, digest: bytes) -> None:
        """Give the pending calls their results: the parked turn goes on. `can_answer` must hold.

        digest: of the conversation up to this message.
        """
        self._assistant_uuid = None
        self.history.append(HeldMessage(digest))
        for result in message.content:
            assert isinstance(result, ToolResult)
            self._send(outbound.build_tool_answer(self._calls.pop(plain_id(result.tool_use_id)), result))

    def permit(self, ask: PermissionAsk, allow: bool, message: str) -> None:
        """Answer a question of the CLI's; may be called by anyone, while the owner listens. Raises ChildDied."""
        self._send(outbound.build_permission(ask, allow, message))

    def request_usage(self, take: Callable[[dict[str, Any] | None], None]) -> None:
        """Ask how much of the plan is used; it changes nothing in the child, and holds no turn up.

        take: is given the answer, None where the CLI has none, by whoever reads the child next, with the fleet's lock
        held or not: it must not wait. Never called where the child ends before. Raises ChildDied.
        """
        request_id = self._expect("get_usage")
        self._usage_takers[request_id] = take
        self._send(outbound.build_get_usage(request_id))

    def receive(self, alive: Callable[[], None], timeout: float | None = None) -> Inbound:
        """The next message that is not about control; `alive` is called for every line.

        timeout: seconds until a line must come; None for none. Raises ChildDied at the end, ProtocolError, ChildSilent,
        UpstreamError when a control request of ours was refused.
        """
        while True:
            inbound = self._take_one(alive, timeout)
            if inbound is not None:
                return inbound

    def _take_one(self, alive: Callable[[], None], timeout: float | None = None) -> Inbound | None:
        """One line; None where it was about control, or of a type that is not known here. Raises ChildSilent."""
        line = self.child.receive(timeout)
        if line is None:
            raise ChildSilent("The Claude Code CLI did not answer in time")
        inbound = protocol.parse_line(line)
        is_handled = inbound is None or self._handle(inbound)
        log.debug("Child %d: %s", self.child.pid, type(inbound).__name__)
        if not isinstance(inbound, ToolProgress):
            alive()
        return None if is_handled else inbound

    def poll_idle(self) -> bool:
        """Take what an idle child has to say. False when it is dead, or says what nobody asked for: retire it then."""
        try:
            while self.child.has_output():
                line = self.child.receive(0.0)
                inbound = protocol.parse_line(line) if line is not None else None
                if inbound is not None and not self._handle(inbound) and isinstance(inbound, TURN_MESSAGES):
                    return False
        except ProxyError:
            return False
        return True

    def request(self, what: str, build: Callable[[str], bytes]) -> str:
        """Send a control request whose answer `wait_for` takes; its id. build: makes the line of the id."""
        request_id = self._expect(what)
        self._wanted.add(request_id)
        self._send(build(request_id))
        return request_id

    def wait_for(self, request_id: str, alive: Callable[[], None]) -> ControlAnswer:
        """The answer to a `request`; what a turn that was stopped still says is dropped. Raises RecycleRefused."""
        deadline = time.monotonic() + self._control_timeout
        while request_id not in self._answers:
            try:
                self._take_one(alive, max(0.0, deadline - time.monotonic()))
            except ChildSilent as error:
                raise RecycleRefused(
                    f"The Claude Code CLI did not answer within {self._control_timeout:g} s"
                ) from error
        return self._answers.pop(request_id)

    def is_quiet(self) -> bool:
        """True for a live child that has said nothing since its last turn that matters, and runs."""
        return self.is_running() and self.poll_idle()

    def is_running(self) -> bool:
        return not self.child.has_exited()

    def terminate(self) -> None:
        """Stop it at once, turn or no turn; may be called by anyone."""
        self.child.terminate()

    def stop_now(self) -> None:
        """End it this instant; only its owner may, and only to retire it."""
        self.child.stop_now()

    def _send(self, line: bytes) -> None:
        self.child.send(line)

    def _expect(self, what: str) -> str:
        request_id = f"proxy-{next(self._numbers)}"
        self._awaited[request_id] = what
        return request_id

    def _handle(self, inbound: Inbound) -> bool:
        """True when the message was about control and has been dealt with."""
        match inbound:
            case ControlResponse(answer):
                self._take_answer(answer)
                return True
            case Init(session_id):
                self.session_id = session_id
                return False
            case Assistant(uuid=str(name), parent_tool_use_id=None):
                self._message_uuid = self._assistant_uuid = name
                return False
            case UserLine(uuid=str(name), parent_tool_use_id=None):
                self._message_uuid = name
                return False
            case ToolCall():
                self._calls[plain_id(inbound.tool_use_id)] = inbound
                return False
            case ControlCancel() if not self.agent:
                return True
            case PermissionAsk() if not self.agent:
                self._refuse(inbound.request_id, "can_use_tool")
                return True
            case ControlRequest(request_id, request):
                self._refuse(request_id, request.get("subtype"))
                return True
        return False

    def _refuse(self, request_id: str, what: object) -> None:
        # A call whose turn was stopped is taken back with such a message, of which the client need not know.
        level = logging.DEBUG if what == "mcp_message" else logging.WARNING
        log.log(level, "Child %d asked for %s, which is not served", self.child.pid, what)
        self._send(outbound.build_refusal(request_id, "not supported by this client"))

    def _take_answer(self, answer: ControlAnswer) -> None:
        what = self._awaited.pop(answer.request_id, None)
        if what is None:
            return  # an interrupt's, which other threads send
        if answer.request_id in self._wanted:
            self._wanted.discard(answer.request_id)
            self._answers[answer.request_id] = answer
            return
        take = self._usage_takers.pop(answer.request_id, None)
        if take is not None:
            return take(answer.response if answer.subtype == "success" else None)
        if answer.subtype != "success":
            raise UpstreamError(f"The Claude Code CLI refused {what}: {answer.error or 'no reason given'}")
        if what == "initialize":
            self.ready = True
            response = answer.response or {}
            self.cache_ttl = parse_cache_ttl(response.get("account"))
            self._catalogue.update(parse_models(response.get("models")))


def new_uuid() -> str:
    """A name for one line, never used before: the CLI drops a line whose name it has seen, and the turn would hang."""
    return str(uuid.uuid4())


def do_nothing() -> None:
    """The child was heard, and no clock is to be set."""


def parse_cache_ttl(account: Any) -> str:
    """The lifetime that the CLI asks of the API's cache: an hour for a plan's login, five minutes for a key."""
    source = account.get("apiKeySource") if isinstance(account, dict) else None
    return "5m" if source not in (None, "", "none") else "1h"


def parse_models(raw: Any) -> tuple[CliModel, ...]:
    """The models of an `initialize` answer; entries of another shape are left out."""
    rows = raw if isinstance(raw, list) else []
    return tuple(
        CliModel(
            row["value"],
            row["resolvedModel"],
            str(row.get("displayName", row["value"])),
            str(row.get("description", "")),
        )
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("value"), str) and isinstance(row.get("resolvedModel"), str)
    )
