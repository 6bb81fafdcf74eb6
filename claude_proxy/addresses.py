"""What a text is as an address: of a machine, of this machine, of a web server."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """True for `localhost` and for addresses in 127.0.0.0/8 and ::1."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_address(text: str) -> bool:
    """Some shells export the machine's name as HOST; only an address or `localhost` is meant for us."""
    if text.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def is_web_address(text: str) -> bool:
    """True for an http or https URL that names a host."""
    if " " in text or not text.isprintable():
        return False
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def name_server(url: str) -> str:
    """The host of a URL, and its port where it has one: what may be shown of a URL that holds secrets."""
    return urlsplit(url).netloc.rpartition("@")[2]
