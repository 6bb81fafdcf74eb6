"""One HTTP client for a sink: a POST and its outcome.

In: URL, headers, body. Out: a `Reply`, never an exception. Each sink has one, in its own thread.
Invariants: a secret (a token in the path, a password in the URL) does not leave the session: texts of exceptions are
dropped here, and the log of urllib3, which holds paths, is off. Redirects are not followed, so that a signed body
arrives only where it was addressed to. Proxies of the environment are used, as by curl, but not to reach loopback.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from requests.auth import HTTPBasicAuth

from .. import __version__
from ..addresses import is_loopback

LONGEST_ANSWER = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a POST.

    status: 0 where no answer came; `failure` is then the kind of failure, in a word, and `may_have_arrived` is set
    where the server may have received the request all the same. retry_after: that header as it came.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    retry_after: str = ""
    failure: str = ""
    may_have_arrived: bool = False

    @property
    def has_succeeded(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_transient(self) -> bool:
        """Another try may do better."""
        return self.status == 0 or self.status == 429 or self.status >= 500

    def __str__(self) -> str:
        return f"answered {self.status}" if self.status else f"could not be reached ({self.failure})"


class Posts(Protocol):
    """What sends a sink's POSTs."""

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Reply:
        """Send one; never raises."""

    def close(self) -> None:
        """Close its connections."""


class Poster:
    """A session with one server, for one thread. `url`: any of that server's; its user and password are sent as HTTP
    basic authentication, to that server alone."""

    def __init__(self, url: str) -> None:
        _silence_library()
        parts = urlsplit(url)
        self._session = requests.Session()
        self._session.trust_env = not is_loopback(parts.hostname or "")
        login = (unquote(parts.username or "").encode(), unquote(parts.password or "").encode())
        # Some authentication must be set: without one the session would look for a login in ~/.netrc.
        self._session.auth = HTTPBasicAuth(*login) if any(login) else _keep
        # As it comes, or a small answer could unpack to a large one.
        self._session.headers.update({"User-Agent": f"claude-proxy/{__version__}", "Accept-Encoding": "identity"})

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Reply:
        """`timeout`: seconds for the connection, and then for each piece of the answer."""
        try:
            response = self._session.post(
                *(url, body), headers=dict(headers), timeout=timeout, allow_redirects=False, stream=True
            )
        except Exception as error:  # of three libraries; the text of each may hold the URL, its class does not
            return Reply(0, failure=type(error).__name__, may_have_arrived=isinstance(error, requests.ReadTimeout))
        with response:
            return Reply(response.status_code, _read(response), response.headers.get("Retry-After", ""))

    def close(self) -> None:
        self._session.close()


def without_login(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _silence_library() -> None:
    """urllib3 logs the path at every level. No other part of the proxy uses it."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "urllib3":
            logging.getLogger(name).disabled = True


def _keep(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _read(response: requests.Response) -> bytes:
    """The beginning of the body; nothing where it does not come."""
    try:
        return bytes(response.raw.read(LONGEST_ANSWER))
    except Exception:  # of urllib3, whose texts may hold the URL; the status is there, and says the most
        return b""
