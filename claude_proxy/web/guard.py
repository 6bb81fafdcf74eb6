"""Who may call: the key, the Host, the Origin, and what CORS tells a browser.

In: headers. Out: nothing, or the refusal. The real attackers of a local server are web pages: DNS rebinding gives
them our address under their own name (so the Host is checked), and any page may send a request (so the Origin is).
"""

import hmac
import ipaddress
from dataclasses import dataclass

from werkzeug.datastructures import Headers

from ..addresses import is_loopback
from ..config import Config
from ..core.errors import Forbidden, Unauthorized

EXPOSED_HEADERS = (
    "x-request-id, request-id, retry-after, x-should-retry, server-timing, x-claude-proxy-session, "
    "x-claude-proxy-token-count, x-claude-proxy-plan-warning, "
    "x-claude-proxy-model, x-claude-proxy-mode, x-claude-proxy-ignored"
)


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules in force."""

    api_keys: tuple[str, ...]
    host: str
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]

    @classmethod
    def from_config(cls, config: Config) -> "Guard":
        hosts = tuple(host_name(name) for name in config.allowed_host)
        return cls(config.api_key, config.host, hosts, config.cors_origin)

    def check_host(self, host: str) -> None:
        """Raises Forbidden for a name that is neither loopback nor listed."""
        name = host_name(host)
        if not (is_loopback(name) or name in self.allowed_hosts or self._is_bound_address(name)):
            raise Forbidden(f"Host {host[:80]!r} is not allowed; start with --allowed-host to allow it")

    def check_origin(self, origin: str | None, host: str) -> None:
        """Raises Forbidden for a web page that is neither ours nor listed. `host` must have been checked."""
        if origin is None or self.cors_allows(origin):
            return
        if origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise Forbidden(f"Origin {origin[:80]!r} is not allowed; start with --cors-origin to allow it")

    def check_key(self, headers: Headers) -> None:
        """Raises Unauthorized unless no key is needed, or it is there."""
        if not self.has_key(headers):
            raise Unauthorized("The API key is missing or wrong")

    def has_key(self, headers: Headers) -> bool:
        """True where the caller may know and do everything. Compared in constant time."""
        if not self.api_keys:
            return True
        # WSGI hands the bytes of a header over as Latin-1; a key in UTF-8 is compared byte for byte.
        given = [key.encode("latin-1", "replace") for key in _keys(headers)]
        return any([hmac.compare_digest(key, wanted.encode()) for key in given for wanted in self.api_keys])

    def cors_allows(self, origin: str) -> bool:
        """True for a listed origin; `http://localhost:*` lists every port of it."""
        for listed in self.cors_origins:
            if listed in ("*", origin) or (listed.endswith(":*") and origin.rpartition(":")[0] == listed[:-2]):
                return True
        return False

    def cors_headers(self, origin: str | None, requested: str | None = None) -> dict[str, str]:
        """What a browser must be told about a listed origin; nothing for any other."""
        if origin is None or not self.cors_allows(origin):
            return {}
        headers = {
            "Access-Control-Allow-Origin": origin,
            "Vary": "Origin",
            "Access-Control-Expose-Headers": EXPOSED_HEADERS,
        }
        if requested is not None:
            headers["Access-Control-Allow-Headers"] = requested
            headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
            headers["Access-Control-Max-Age"] = "600"
        return headers

    def _is_bound_address(self, name: str) -> bool:
        """An IP literal names no site, so that rebinding cannot use it; it must be one that we are bound to."""
        try:
            address = ipaddress.ip_address(name)
            bound = ipaddress.ip_address(self.host.strip("[]"))
        except ValueError:
            return False
        return bound.is_unspecified or address == bound


def presented_key(headers: Headers) -> str:
    """The key that a caller sent, in whichever header; empty without one."""
    return next((key for key in _keys(headers) if key), "")


def _keys(headers: Headers) -> tuple[str, str]:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else "", headers.get("X-Api-Key", "")


def host_name(host: str) -> str:
    """`Example.org:3456` -> `example.org`; `[::1]:3456` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name = host.rpartition(":")[0] if host.count(":") == 1 else host
    return name.lower().rstrip(".")
