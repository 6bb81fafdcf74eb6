"""Every notice as a JSON POST to one URL, signed, in order, retried where that may help.

In: notices. Out: POSTs, one at a time. Invariants: all tries of a delivery have one id; a refusal (4xx) or a redirect
is not retried; a signature covers the time of the try and the body. Neither the secret nor the URL is logged: both may
give access.
"""

import hashlib
import hmac
import json
import time
import uuid
from email.utils import parsedate_to_datetime
from typing import Any

from ..core.times import iso_time
from ..monitoring.activity import Entry, Notice
from .poster import Poster, Posts, Reply, without_login
from .sink import Clock, Item, Sink

TIMEOUT = 5.0
BACKOFFS = (1.0, 2.0, 4.0)
LONGEST_RETRY_AFTER = 60.0


class Webhook(Sink):
    """A receiver of notices."""

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        poster: Posts | None = None,
    ) -> None:
        """
        Args:
            url: where to; its user and password become HTTP basic authentication.
            secret: signs the deliveries; empty for none.
            clock: monotonic.
            wall_clock: Unix seconds.
            poster: sends the POSTs; None for one of its own.
        """
        super().__init__("webhook", clock)
        self._url = without_login(url)
        self._secret = secret.encode()
        self._wall_clock = wall_clock
        self._poster = poster or Poster(url)

    def run(self) -> None:
        while self.deliver_next(limit=1):
            pass
        self._poster.close()

    def deliver(self, item: Item) -> None:
        """Post one notice, up to four times; then it is lost."""
        delivery = f"evt_{uuid.uuid4().hex}"
        body = json.dumps(build_body(delivery, item.entry, item.notice)).encode()
        reply = self._post(delivery, body)
        for backoff in BACKOFFS:
            if not reply.is_transient or not self.pause(read_wait(reply, backoff, self._wall_clock())):
                break
            reply = self._post(delivery, body)
        if not reply.has_succeeded:
            self.warn_throttled("The webhook %s; notices get lost", reply)

    def _post(self, delivery: str, body: bytes) -> Reply:
        timestamp = str(int(self._wall_clock()))
        headers = {
            "Content-Type": "application/json",
            "X-Claude-Proxy-Timestamp": timestamp,
            "X-Claude-Proxy-Delivery": delivery,
        }
        if self._secret:
            headers["X-Claude-Proxy-Signature"] = sign(self._secret, timestamp, body)
        return self._poster.post(self._url, body, headers, min(TIMEOUT, max(0.1, self.time_left)))


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """`sha256=` and the hex HMAC-SHA256 of `<timestamp>.<body>`."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def build_body(delivery: str, entry: Entry, notice: Notice) -> dict[str, Any]:
    """The notice, and the request as it was then; names as in `/v1/requests`."""
    return {
        "id": delivery,
        "type": notice.kind,
        "requestId": notice.request_id,
        "number": notice.number,
        "at": iso_time(notice.at, milliseconds=True),
        "data": {_in_camel_case(name): value for name, value in notice.data.items()},
        "request": {
            "state": entry.state,
            "dialect": entry.dialect,
            "mode": entry.mode,
            "model": entry.model,
            "session": entry.session or None,
        },
    }


def read_wait(reply: Reply, backoff: float, now: float) -> float:
    """Seconds until the next try: as the receiver asks, up to a minute, else `backoff`. `now`: Unix seconds."""
    text = reply.retry_after.strip()
    if not text:
        return backoff
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError):
        return backoff
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def _in_camel_case(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
