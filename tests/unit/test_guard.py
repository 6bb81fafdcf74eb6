"""Who may call: tables of keys, hosts and origins."""

import pytest
from werkzeug.datastructures import Headers

from claude_proxy.config import Config
from claude_proxy.core.errors import Forbidden, Unauthorized
from claude_proxy.web.guard import Guard, host_name, presented_key


def guard(**settings: object) -> Guard:
    return Guard.from_config(Config(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:3456", "localhost"),
        ("example.org.", "example.org"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:3456", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("", ""),
    ],
)
def test_a_host_is_compared_by_its_name(host: str, name: str) -> None:
    """Without port, brackets and case."""
    assert host_name(host) == name


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "127.1.2.3:9", "[::1]:9", "Proxy.Example:443"])
def test_loopback_and_listed_hosts_are_ours(host: str) -> None:
    """Under any port."""
    guard(allowed_host=("proxy.example",)).check_host(host)


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"])
def test_any_other_host_is_refused(host: str) -> None:
    """Rebinding brings a page's own name."""
    with pytest.raises(Forbidden):
        guard(allowed_host=("proxy.example",)).check_host(host)


@pytest.mark.parametrize(
    ("bound", "host", "allowed"),
    [
        ("0.0.0.0", "10.0.0.1", True),
        ("::", "[fd00::1]:9", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("0.0.0.0", "evil.example", False),
    ],
)
def test_an_address_is_accepted_where_it_is_bound(bound: str, host: str, allowed: bool) -> None:
    """An address names no site."""
    rules = guard(host=bound, api_key=("k",))
    if allowed:
        rules.check_host(host)
    else:
        with pytest.raises(Forbidden):
            rules.check_host(host)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://localhost:3456", True),
        ("HTTPS://localhost:3456", True),
        ("https://app.example", True),
        ("http://dev.example:5173", True),
        ("http://localhost:9", False),
        ("null", False),
        ("", False),
        ("https://app.example.evil", False),
        ("http://dev.example", False),
        ("http://dev.example.evil:1", False),
    ],
)
def test_an_origin_is_ours_or_listed(origin: str | None, allowed: bool) -> None:
    """`:*` lists every port."""
    rules = guard(cors_origin=("https://app.example", "http://dev.example:*"))
    if allowed:
        rules.check_origin(origin, "localhost:3456")
    else:
        with pytest.raises(Forbidden):
            rules.check_origin(origin, "localhost:3456")


def test_every_origin_can_be_listed() -> None:
    """By a star."""
    assert guard(cors_origin=("*",), api_key=("k",)).cors_allows("https://any.example")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, False),
        ({"Authorization": "Bearer one"}, True),
        ({"Authorization": "bEARER  two "}, True),
        ({"X-Api-Key": "two"}, True),
        ({"Authorization": "Bearer x", "X-Api-Key": "one"}, True),
        ({"Authorization": "one"}, False),
        ({"Authorization": "Basic one"}, False),
        ({"Authorization": "Bearer one two"}, False),
        ({"Authorization": "Bearer \udcff"}, False),
        ({"X-Api-Key": "ONE"}, False),
    ],
)
def test_a_key_is_asked_for_where_there_is_one(headers: dict[str, str], allowed: bool) -> None:
    """In either header; without keys nobody is asked."""
    rules = guard(api_key=("one", "two"))
    assert rules.has_key(Headers(headers)) is allowed
    if not allowed:
        with pytest.raises(Unauthorized):
            rules.check_key(Headers(headers))
    guard().check_key(Headers(headers))


def test_the_presented_key_is_the_first_that_is_there() -> None:
    """Empty without one."""
    assert presented_key(Headers({})) == ""
    assert presented_key(Headers({"X-Api-Key": "k"})) == "k"
    assert presented_key(Headers({"X-Api-Key": "k", "Authorization": "Bearer b"})) == "b"


def test_cors_headers_are_for_listed_origins_only() -> None:
    """A preflight repeats what was asked for."""
    rules = guard(cors_origin=("https://app.example",))
    assert rules.cors_headers(None) == rules.cors_headers("https://evil.example", "x") == {}
    plain = rules.cors_headers("https://app.example")
    assert plain["Access-Control-Allow-Origin"] == "https://app.example" and plain["Vary"] == "Origin"
    assert "Access-Control-Allow-Headers" not in plain
    assert rules.cors_headers("https://app.example", "x-a")["Access-Control-Allow-Headers"] == "x-a"
