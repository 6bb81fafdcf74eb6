"""What a Telegram chat should show, what it shows, and the next call that brings the two together. Pure.

In: notices, outcomes of calls, each with the time, from `Telegram`. Out: one call at a time, and when the next is due.
Invariants: only the newest state of a message is ever sent, so that a delay costs edits, not memory. A message is
edited at most every three seconds, sent at most once, and deleted when it has nothing left to say. While Telegram
rate-limits (429) nothing is sent. A message that the server refuses is given up.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from ..monitoring.activity import Entry, Notice
from . import texts

DELAY = 5.0
EDIT_INTERVAL = 3.0
DEFAULT_RETRY_AFTER = 5.0
REFUSED_PAUSE = 60.0
LONGEST_BACKOFF = 60.0
REQUESTS_KEPT = 100
MESSAGES_KEPT = 400
ENDED_KEPT = 500
LIMITS_KEPT = 100

Method = Literal["sendMessage", "editMessageText", "deleteMessage"]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the Bot API that is due: its parameters without the chat, and the message that it is about."""

    method: Method
    parameters: dict[str, Any]
    key: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a call.

    status: 200 for success, 0 where no answer came; `may_have_arrived`: the server may have received it all the same.
    message_id: of the message that was sent. retry_after: seconds, with 429. is_same: the text was there already.
    """

    status: int
    message_id: int | None = None
    retry_after: float | None = None
    is_same: bool = False
    may_have_arrived: bool = False


@dataclass(slots=True)
class _Message:
    """wanted: the text that the chat should show, None for no message; shown: what it shows. Nothing before `due`."""

    wanted: str | None
    due: float
    rank: int
    is_quiet: bool = False
    is_kept: bool = False
    is_given_up: bool = False
    id: int | None = None
    shown: str | None = None

    @property
    def is_ready(self) -> bool:
        return self.wanted != self.shown and not self.is_given_up

    def change(self, text: str) -> None:
        """From now on the chat should show this."""
        self.wanted = text

    def note_shown(self, now: float) -> None:
        """The chat shows what was wanted; not changed again before `EDIT_INTERVAL` has passed."""
        self.shown = self.wanted
        self.due = now + EDIT_INTERVAL

    def note_sent(self, message_id: int) -> None:
        """The chat has the message, under this id."""
        self.id = message_id

    def withdraw(self) -> None:
        """The chat should show it no longer: delete it as soon as that is possible."""
        self.wanted, self.due = None, -inf

    def give_up(self) -> None:
        """No further call is about it."""
        self.is_given_up, self.id = True, None


@dataclass(slots=True)
class _Request:
    """The tools of a request that runs; keys: of the messages that end with it."""

    tools: deque[texts.Tool] = field(default_factory=lambda: deque(maxlen=texts.TOOLS_SHOWN))
    count: int = 0
    keys: set[str] = field(default_factory=set)

    def start_tool(self, data: Mapping[str, Any]) -> None:
        """data: of a notice `tool_started`."""
        self.tools.append(texts.Tool(data["tool_id"], data["tool"], data["label"]))
        self.count += 1

    def end_tool(self, data: Mapping[str, Any]) -> None:
        """data: of a notice `tool_ended`."""
        for tool in self.tools:
            if tool.id == data["tool_id"]:
                tool.end(data["seconds"], data["ok"])


class Board:
    """The messages of one chat."""

    def __init__(self) -> None:
        self._messages: dict[str, _Message] = {}
        self._requests: dict[str, _Request] = {}
        # A notice may come a little after the end, from another thread.
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._limits: OrderedDict[tuple[Any, ...], None] = OrderedDict()
        self._paused_until = -inf
        self._failures = 0
        self._count = 0

    def note(self, now: float, entry: Entry, notice: Notice) -> None:
        """Something happened at `now`."""
        if entry.id in self._ended:
            return
        match notice.kind:
            case "tool_started" | "tool_ended":
                self._note_tool(now, entry, notice)
            case "permission_asked":
                key = f"permission {notice.data['permission_id']}"
                self._request(entry.id).keys.add(key)
                self._put(key, _Message(texts.build_permission(entry, notice.data), now, rank=0))
            case "permission_decided":
                self._clear(f"permission {notice.data['permission_id']}")
            case "rate_limit":
                self._note_limit(now, notice)
            case "done":
                self._note_end(now, entry, notice)

    def close(self) -> None:
        """Delete the messages about what runs now; those that are to be kept may still be sent."""
        for key, message in list(self._messages.items()):
            if not message.is_kept:
                self._clear(key)

    def due(self) -> float:
        """When the next call is due; infinite while the chat shows what it should."""
        times = [message.due for message in self._messages.values() if message.is_ready]
        return max(self._paused_until, min(times)) if times else inf

    def next_call(self, now: float) -> Call | None:
        """The call to make now; `settle` must be called with its outcome before the next one."""
        ready = [item for item in self._messages.items() if item[1].is_ready and item[1].due <= now]
        if not ready or now < self._paused_until:
            return None
        key, message = min(ready, key=lambda item: (item[1].rank, item[1].due))
        if message.wanted is None:
            return Call("deleteMessage", {"message_id": message.id}, key)
        text = {"text": texts.fit(message.wanted), "link_preview_options": {"is_disabled": True}}
        if message.id is not None:
            return Call("editMessageText", {"message_id": message.id, **text}, key)
        return Call("sendMessage", {**text, "disable_notification": message.is_quiet}, key)

    def settle(self, now: float, call: Call, outcome: Outcome) -> None:
        """Note the outcome of the last call."""
        if outcome.status == 429:
            wait = DEFAULT_RETRY_AFTER if outcome.retry_after is None else outcome.retry_after
            self._paused_until = now + wait
        elif outcome.status == 0 or outcome.status >= 500:
            self._settle_failure(now, call, outcome)
        else:
            self._failures = 0
            if outcome.status == 200 or outcome.is_same:
                self._settle_success(now, call, outcome)
            else:
                # Refused: so would be the same call again, and the bot may have been removed from the chat.
                self._give_up(call.key)
                self._paused_until = now + REFUSED_PAUSE if outcome.status in (401, 403, 404) else -inf

    def _settle_success(self, now: float, call: Call, outcome: Outcome) -> None:
        message = self._messages[call.key]
        if call.method == "deleteMessage" or message.is_kept:
            del self._messages[call.key]
            return
        message.note_shown(now)
        if call.method == "sendMessage":
            if outcome.message_id is None:
                self._give_up(call.key)
            else:
                message.note_sent(outcome.message_id)

    def _settle_failure(self, now: float, call: Call, outcome: Outcome) -> None:
        """Try again later, but never send twice: without its id the first message could not be deleted."""
        self._failures += 1
        self._paused_until = now + min(LONGEST_BACKOFF, 2.0 ** min(self._failures, 10))
        if call.method == "sendMessage" and outcome.may_have_arrived:
            self._give_up(call.key)

    def _note_tool(self, now: float, entry: Entry, notice: Notice) -> None:
        if notice.kind == "tool_ended" and entry.id not in self._requests:
            return
        request = self._request(entry.id)
        if notice.kind == "tool_started":
            request.start_tool(notice.data)
        else:
            request.end_tool(notice.data)
        key = f"progress {entry.id}"
        text = texts.build_progress(entry, list(request.tools), request.count)
        if key in request.keys:
            self._change(key, text)
        else:
            request.keys.add(key)
            self._put(key, _Message(text, now + DELAY, rank=2, is_quiet=True))

    def _note_limit(self, now: float, notice: Notice) -> None:
        """Once for each state of each window: the CLI reports it with every answer."""
        data = notice.data
        mark = (data["type"], data["resets_at"], data["status"])
        if data["status"] in ("allowed_warning", "rejected") and mark not in self._limits:
            self._limits[mark] = None
            _trim(self._limits, LIMITS_KEPT)
            self._put_kept(now, texts.build_limit(data))

    def _note_end(self, now: float, entry: Entry, notice: Notice) -> None:
        self._ended[entry.id] = None
        _trim(self._ended, ENDED_KEPT)
        request = self._requests.pop(entry.id, None) or _Request()
        for key in request.keys:
            self._clear(key)
        if notice.data.get("silent"):
            self._put_kept(now, texts.build_silence(entry, list(request.tools)))

    def _request(self, request_id: str) -> _Request:
        if request_id not in self._requests:
            self._requests[request_id] = _Request()
            # The end of a request may have been dropped from the queue; without a bound it would stay for ever.
            for oldest in _surplus(self._requests, REQUESTS_KEPT):
                for key in self._requests.pop(oldest).keys:
                    self._clear(key)
        return self._requests[request_id]

    def _put_kept(self, now: float, text: str) -> None:
        self._count += 1
        self._put(f"kept {self._count}", _Message(text, now, rank=1, is_kept=True))

    def _put(self, key: str, message: _Message) -> None:
        self._messages[key] = message
        for oldest in _surplus(self._messages, MESSAGES_KEPT):
            del self._messages[oldest]

    def _change(self, key: str, text: str) -> None:
        if key in self._messages:
            self._messages[key].change(text)

    def _clear(self, key: str) -> None:
        """Remove a message: at once where it was not sent, else as soon as it can be deleted."""
        message = self._messages.get(key)
        if message is not None and message.id is None:
            del self._messages[key]
        elif message is not None:
            message.withdraw()

    def _give_up(self, key: str) -> None:
        """It stays known until its request ends, so that it is not sent again."""
        message = self._messages[key]
        message.give_up()
        if message.is_kept or message.wanted is None:
            del self._messages[key]


def _surplus(items: dict[str, Any], most: int) -> list[str]:
    """The keys of the oldest, beyond that many."""
    return list(items)[: max(0, len(items) - most)]


def _trim(items: OrderedDict[Any, None], most: int) -> None:
    while len(items) > most:
        items.popitem(last=False)
