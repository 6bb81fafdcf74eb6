"""Every notice as a JSON POST to one URL, signed, in order, tried again where that may help.

In: notices. Out: POSTs, one at a time. Rules: a delivery has one id for all its tries; what was refused (4xx) or
redirected is not tried again; a signature covers the time of the try and the body. Neither the secret nor the URL is
logged: both may let others in.
"""

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

from ..core.times import iso_time
from ..monitoring.activity import Entry, Notice
from .poster import Poster, Reply, without_login
from .sink import Clock, Item, Sink

TIMEOUT = 5.0
BACKOFFS = (1.0, 2.0, 4.0)
LONGEST_RETRY_AFTER = 60.0


class Webhook(Sink):
    """A receiver of notices. secret: empty for deliveries without signature. `wall_clock` gives Unix seconds; `wait`
    waits that many seconds and says whether to go on."""

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        super().__init__("webhook", clock)
        self._url = without_login(url)
        self._secret = secret.encode()
        self._wall_clock = wall_clock
        self._wait = wait or self.pause
        self._poster = Poster(url)

    def run(self) -> None:
        while self.tell_next(limit=1):
            pass
        self._poster.close()

    def tell(self, item: Item) -> None:
        """Post one notice, up to four times; what fails then is given up."""
        delivery = f"evt_{uuid.uuid4().hex}"
        body = json.dumps(build_body(delivery, item.entry, item.notice)).encode()
        reply = self._post(delivery, body)
        for backoff in BACKOFFS:
            if not reply.is_transient or not self._wait(read_wait(reply, backoff, self._wall_clock())):
                break
            reply = self._post(delivery, body)
        if not reply.has_succeeded:
            self.complain("The webhook %s; notices get lost", reply)

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
