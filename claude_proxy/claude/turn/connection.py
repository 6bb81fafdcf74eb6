"""The connection to one child: its initialisation, model and parameters, and the conversation it holds.

In: a profile, settings, messages. Out: the CLI's messages, typed. What every conversation needs and no turn cares
about is dealt with here: answers to our control requests, and refusals of requests that we do not serve.
Rule: only validated messages are sent; everything is written back to back, the CLI works it off in order.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ...core.conversation import Message, ToolResult, plain_id
from ...core.errors import ProxyError, UpstreamError
from ...core.models import Catalogue, CliModel
from ...core.session_key import SessionKey
from ..process.child import Child
from ..wire import outbound, protocol
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
from ..wire.toolset import LARGEST_RESULT, Toolset

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
    blank. history_digest: of the conversation it holds, the reply included; None while it holds none. session: the
    key of the session it serves. session_id: the CLI's own, once it has told. is_remembered: the store knows that one,
    to go on with it. cache_ttl: the CLI's own, once it is `ready`. last_used: on the fleet's clock.
    """

    def __init__(self, child: Child, model: str, catalogue: Catalogue, *, agent: bool = False) -> None:
        self.child = child
        self.model = model
        self.agent = agent
        self.profile: Profile | None = None
        self.history_digest: bytes | None = None
        self.last_used = 0.0
        self.session: SessionKey | None = None
        self.session_id: str | None = None
        self.is_remembered = False
        self.cache_ttl = "1h"
        self._message_uuid: str | None = None
        self.ready = False
        self._catalogue = catalogue
        self._usage_takers: dict[str, Callable[[dict[str, Any] | None], None]] = {}
        self._settings = NO_SETTINGS
        self._numbers = itertools.count(1)
        self._awaited: dict[str, str] = {}
        self._preloading: deque[Message] = deque()
        self._preload_digest: bytes | None = None
        self._calls: dict[str, ToolCall] = {}
        self.toolset = Toolset(())

    def prepare(self, profile: Profile) -> None:
        """Initialise a blank child for a profile; its answers are taken by a later `receive`. Raises ChildDied."""
        if self.profile == profile:
            return
        if self.profile is not None:
            raise ValueError("a child is initialised once")
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

    def replay(self, message: Message, alive: Callable[[], None], *, cache_breakpoint: bool = False) -> None:
        """Put an earlier message into the history, in its role, without asking for an answer.

        Waits until the CLI has taken a user message: without that the order is lost
        (`tests/data/transcripts/replayed_history.jsonl`).

        Args:
            message: what was said, in its role.
            alive: called for every line of the child's.
            cache_breakpoint: let the API's prompt cache end an entry here; the CLI's own breakpoints all come after the
                history.

        Raises:
            ProxyError: as `receive` does, and where the CLI refuses the message.
        """
        while cache_breakpoint and not self.ready:
            self._take_one(alive)
        ttl = self.cache_ttl if cache_breakpoint else None
        self._send(outbound.build_message(self.toolset.rename(message), query=False, cache_ttl=ttl))
        while message.role == "user":
            inbound = self.receive(alive)
            if isinstance(inbound, Result):
                if inbound.is_error:
                    raise UpstreamError("The Claude Code CLI did not take an earlier message of the conversation")
                return

    def preload(self, messages: Sequence[Message], history_digest: bytes) -> None:
        """Put a history into an idle child, step by step: `poll_idle` goes on with it whenever the CLI has taken one.

        history_digest: of these messages, which the child has once all are in. Raises ChildDied.
        """
        self._preloading.extend(messages)
        self._preload_digest = history_digest
        self._preload_next()

    def _preload_next(self) -> None:
        while self._preloading:
            message = self._preloading.popleft()
            ttl = None if self._preloading else self.cache_ttl
            self._send(outbound.build_message(self.toolset.rename(message), query=False, cache_ttl=ttl))
            if message.role == "user":
                return
        self.history_digest, self._preload_digest = self._preload_digest, None

    def ask(self, message: Message) -> None:
        """Send the newest user message: the turn begins."""
        self._send(outbound.build_message(message, query=True))

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

    def answer(self, message: Message) -> None:
        """Give the pending calls their results: the parked turn goes on. `can_answer` must hold."""
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

    def receive(self, alive: Callable[[], None]) -> Inbound:
        """The next message that is not about control; `alive` is called for every line.

        Raises ChildDied at the end, ProtocolError, UpstreamError when a control request of ours was refused.
        """
        while True:
            inbound = self._take_one(alive)
            if inbound is not None:
                return inbound

    def _take_one(self, alive: Callable[[], None]) -> Inbound | None:
        """One line; None where it was about control, or of a type that is not known here."""
        line = self.child.receive()
        inbound = protocol.parse_line(line) if line is not None else None
        if not isinstance(inbound, ToolProgress):
            alive()
        log.debug("Child %d: %s", self.child.pid, type(inbound).__name__)
        return None if inbound is None or self._handle(inbound) else inbound

    def poll_idle(self) -> bool:
        """Take what an idle child has to say. False when it is dead, or says what nobody asked for: retire it then."""
        try:
            while self.child.has_output():
                line = self.child.receive(0.0)
                inbound = protocol.parse_line(line) if line is not None else None
                if inbound is not None and not self._handle(inbound) and self._is_unasked(inbound):
                    return False
        except ProxyError:
            return False
        return True

    def _is_unasked(self, inbound: Inbound) -> bool:
        """True for a sign of a turn that no request asked for. Goes on with a history that is being put in."""
        if self._preload_digest is not None:  # the CLI begins and ends a turn for each user message, without an answer
            if isinstance(inbound, Result) and not inbound.is_error:
                self._preload_next()
                return False
            if isinstance(inbound, Init):
                return False
        return isinstance(inbound, TURN_MESSAGES)

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
            case Assistant(uuid=str(uuid), parent_tool_use_id=None) | UserLine(uuid=str(uuid), parent_tool_use_id=None):
                self._message_uuid = uuid
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
        log.warning("Child %d asked for %s, which is not served", self.child.pid, what)
        self._send(outbound.build_refusal(request_id, "not supported by this client"))

    def _take_answer(self, answer: ControlAnswer) -> None:
        what = self._awaited.pop(answer.request_id, None)
        take = self._usage_takers.pop(answer.request_id, None)
        if take is not None:
            return take(answer.response if answer.subtype == "success" else None)
        if answer.subtype != "success":
            raise UpstreamError(
                f"The Claude Code CLI refused {what or 'a request'}: {answer.error or 'no reason given'}"
            )
        if what == "initialize":
            self.ready = True
            response = answer.response or {}
            self.cache_ttl = parse_cache_ttl(response.get("account"))
            self._catalogue.update(parse_models(response.get("models")))


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
