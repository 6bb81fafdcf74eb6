"""A Telegram chat that shows which tools run, what needs a decision, what was killed, and how near a limit is.

In: notices. Out: calls of the Bot API, https://core.telegram.org/bots/api: messages of plain text to one chat.
Invariants: the token is a part of every URL, so that only the `Poster` sees a URL. At the end the messages about
running requests are deleted, as far as the time allows.
"""

import json
import time
from typing import Any

import msgspec

from ..monitoring.activity import Entry, Kind, Notice
from .board import Board, Call, Outcome
from .poster import Poster, Reply, without_login
from .sink import Clock, Item, Sink

TIMEOUT = 5.0
SHORTEST_RETRY_AFTER, LONGEST_RETRY_AFTER = 1.0, 86400.0

SHOWN: frozenset[Kind] = frozenset(
    ("tool_started", "tool_ended", "permission_asked", "permission_decided", "rate_limit", "done")
)


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float | None = None


class _Answer(msgspec.Struct, frozen=True):
    """What every method answers. result: the message, or `true`."""

    ok: bool = False
    result: Any = None
    description: str = ""
    parameters: _Parameters = _Parameters()


class Telegram(Sink):
    """The bot with this token, writing to one chat. api_base: of the Bot API, without the token."""

    def __init__(self, token: str, chat: str, api_base: str, *, clock: Clock = time.monotonic) -> None:
        super().__init__("telegram", clock)
        self._token = token
        self._chat = chat
        self._url = f"{without_login(api_base).rstrip('/')}/bot{token}"
        self._board = Board()
        self._poster = Poster(api_base)

    def on_notice(self, entry: Entry, notice: Notice, /) -> None:
        if notice.kind in SHOWN:
            super().on_notice(entry, notice)

    def run(self) -> None:
        while not self.is_closing:
            self.deliver_next(self._board.due() - self._clock())
            if not self.is_closing:
                self._make_call(TIMEOUT)
        self.deliver_next(0.0)
        self._board.close()
        while (left := self.time_left) > 0 and self._make_call(min(TIMEOUT, left)):
            pass
        self._poster.close()

    def deliver(self, item: Item) -> None:
        self._board.note(*item)

    def _make_call(self, timeout: float) -> bool:
        """Make the call that is due; False without one."""
        call = self._board.next_call(self._clock())
        if call is None:
            return False
        body = json.dumps({"chat_id": self._chat, **call.parameters}).encode()
        reply = self._poster.post(f"{self._url}/{call.method}", body, {"Content-Type": "application/json"}, timeout)
        answer = parse_answer(reply.body)
        outcome = parse_outcome(reply, answer)
        if outcome.status != 200 and not outcome.is_same:
            self._warn_of(call, reply, answer)
        self._board.settle(self._clock(), call, outcome)
        return True

    def _warn_of(self, call: Call, reply: Reply, answer: _Answer) -> None:
        """Telegram's own words help: `chat not found`. Cut, in one line, and without the token, in case it is
        echoed."""
        said = " ".join(answer.description.replace(self._token, "…").split())[:200]
        self.warn_throttled("Telegram %s to %s%s", reply, call.method, f": {said}" if said else "")


def parse_outcome(reply: Reply, answer: _Answer) -> Outcome:
    """What an answer means. No field tells "not modified" from other errors of an edit: there the words decide."""
    retry_after = None
    if reply.status == 429:
        retry_after = answer.parameters.retry_after
        if retry_after is not None:
            retry_after = min(max(retry_after, SHORTEST_RETRY_AFTER), LONGEST_RETRY_AFTER)
    message_id = answer.result.get("message_id") if isinstance(answer.result, dict) else None
    return Outcome(
        reply.status,
        message_id if isinstance(message_id, int) else None,
        retry_after,
        is_same=reply.status == 400 and "message is not modified" in answer.description,
        may_have_arrived=reply.may_have_arrived,
    )


def parse_answer(body: bytes) -> _Answer:
    """An answer without content for what is not JSON: a server on the way may have sent it."""
    try:
        return msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, ValueError):
        return _Answer()
