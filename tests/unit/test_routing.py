"""Routes: which view answers, and that a request refused before any view has seen it is refused in its own dialect."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from claude_proxy.config import Config
from claude_proxy.service import Service
from claude_proxy.web.app import create_app
from claude_proxy.web.guard import Guard
from claude_proxy.web.negotiation import speaks_messages
from claude_proxy.web.routes import build_table
from claude_proxy.web.routing import Route

Json = dict[str, Any]

KEY = "secret"
CONFIG = Config(api_key=(KEY,), max_body_bytes=1000)
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
VERSION = {"anthropic-version": "2023-06-01"}
TABLE = build_table(Service(CONFIG), Guard.from_config(CONFIG))
# These answer, or refuse, without reading a body.
BODILESS = ("/responses/compact", "/responses/<response_id>/cancel")
# What stands first in a path -> the dialect of every route below; all others answer as OpenAI does.
NAMES = {"messages": "messages", "responses": "responses", "conversations": "responses"}


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    """The application, called without a socket or a thread; its service is not started."""
    yield create_app(Service(CONFIG)).test_client()


def ways(route: Route) -> Iterator[tuple[str, Json]]:
    """Each path of a route, without and with a header that the SDKs of the Messages API send."""
    for path in route.paths:
        for headers in ({}, VERSION):
            yield re.sub(r"<[^>]+>", "x", path), headers


def reads_body(route: Route) -> bool:
    return route.method == "POST" and route.path not in BODILESS


def name_of(route: Route) -> str:
    return route.dialect(Headers()).name


def check_shape(route: Route, answer: TestResponse, status: int, headers: Json) -> None:
    """AssertionError unless this is an error of that status in the shape of the route's dialect."""
    body = answer.get_json()
    assert answer.status_code == status, body
    if route.dialect(Headers(headers)).name == "messages":
        assert set(body) == {"type", "error", "request_id"} and body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
        assert answer.headers["anthropic-version"] == "2023-06-01"
    else:
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
        assert "anthropic-version" not in answer.headers


def label(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", TABLE.routes, ids=label)
class TestEveryRoute:
    """Under each of its paths. A header of the Messages API decides only where two dialects share the path."""

    def test_without_the_key(self, client: FlaskClient, route: Route) -> None:
        """401, but not where the route is public."""
        for path, headers in ways(route):
            answer = client.open(path, method=route.method, headers=headers)
            if route.public:
                assert answer.status_code == 200
            else:
                check_shape(route, answer, 401, headers)

    def test_under_a_foreign_host(self, client: FlaskClient, route: Route) -> None:
        """403, public or not."""
        for path, headers in ways(route):
            answer = client.open(path, method=route.method, headers={**headers, **WITH_KEY, "Host": "evil.example"})
            check_shape(route, answer, 403, headers)

    def test_from_a_foreign_page(self, client: FlaskClient, route: Route) -> None:
        """403, too."""
        for path, headers in ways(route):
            sent = {**headers, **WITH_KEY, "Origin": "https://evil.example"}
            check_shape(route, client.open(path, method=route.method, headers=sent), 403, headers)

    def test_with_a_method_that_is_not_served(self, client: FlaskClient, route: Route) -> None:
        """405, by the route that has the path."""
        for path, headers in ways(route):
            answer = client.open(path, method="PATCH", headers={**headers, **WITH_KEY})
            check_shape(route, answer, 405, headers)
            assert route.method in answer.headers["Allow"]

    def test_below_a_path_that_is_served(self, client: FlaskClient, route: Route) -> None:
        """404, by the route that the path is most like; `/` is like none."""
        for path, headers in ways(route):
            answer = client.post(path.rstrip("/") + "/no/such/thing", headers={**headers, **WITH_KEY})
            if route.path == "/":
                assert ("request_id" in answer.get_json()) == bool(headers)
            else:
                # What is below these is a name, which may hold slashes.
                is_name = route.path.startswith(("/models", "/sessions"))
                check_shape(route, answer, 405 if is_name else 404, headers)


@pytest.mark.parametrize("route", [route for route in TABLE.routes if reads_body(route)], ids=label)
class TestEveryRouteThatReadsABody:
    """What is wrong with a body is said before anything of it is read."""

    def test_with_too_large_a_body(self, client: FlaskClient, route: Route) -> None:
        """413."""
        for path, headers in ways(route):
            sent = {**headers, **WITH_KEY, "Content-Type": "application/json"}
            check_shape(route, client.post(path, headers=sent, data=b"x" * 1001), 413, headers)

    def test_with_a_body_that_is_not_json(self, client: FlaskClient, route: Route) -> None:
        """415."""
        for path, headers in ways(route):
            sent = {**headers, **WITH_KEY, "Content-Type": "text/plain"}
            check_shape(route, client.post(path, headers=sent, data=b"{}"), 415, headers)


@pytest.mark.parametrize("route", TABLE.routes, ids=label)
def test_a_route_speaks_the_dialect_of_its_path(route: Route) -> None:
    """All but the lists of models, which two dialects share: those follow the headers."""
    if "models" in route.path:
        assert [route.dialect(Headers(sent)).name for sent in ({}, VERSION)] == ["chat", "messages"]
    else:
        assert name_of(route) == NAMES.get(route.path.split("/")[1], "chat")


def test_one_path_has_one_dialect() -> None:
    """A 405 knows no method that would choose."""
    dialects: dict[str, set[str]] = {}
    for route in TABLE.routes:
        dialects.setdefault(route.path, set()).add(name_of(route))
    assert all(len(names) == 1 for names in dialects.values())


@pytest.mark.parametrize(
    ("path", "headers", "is_messages"),
    [
        ("/v1/embeddings", {}, False),
        ("/v1/files", VERSION, True),
        ("/files", {"x-api-key": KEY}, True),
        ("/nothing", VERSION, True),
        ("/v1", {}, False),
        ("/v2/messages", {}, False),
        ("/v1/messages/batches/x/results", {}, True),
        ("/v1/v1/messages", {}, False),
    ],
)
def test_a_path_that_is_like_no_route_is_refused_by_its_headers(
    client: FlaskClient, path: str, headers: Json, is_messages: bool
) -> None:
    """As on a path that two dialects share."""
    answer = client.get(path, headers={**WITH_KEY, **headers})
    assert answer.status_code == 404
    assert ("request_id" in answer.get_json()) is is_messages


def test_health_alone_is_public() -> None:
    """With and without its prefix."""
    assert [route.path for route in TABLE.routes if route.public] == ["/health"]


@pytest.mark.parametrize(
    ("headers", "messages"),
    [({}, False), (VERSION, True), ({"X-Api-Key": "k"}, True), ({"Authorization": "Bearer k"}, False)],
)
def test_headers_tell_the_clients_of_a_shared_path_apart(headers: Json, messages: bool) -> None:
    """By what only the SDKs of the Messages API send."""
    assert speaks_messages(Headers(headers)) is messages


def test_an_answer_repeats_the_version_and_the_betas_of_its_request(client: FlaskClient) -> None:
    """The betas up to a limit."""
    sent = {**WITH_KEY, "anthropic-version": "2026-01-01", "anthropic-beta": "b" * 1200}
    answer = client.get("/v1/messages", headers=sent)
    assert answer.headers["anthropic-version"] == "2026-01-01"
    assert answer.headers["anthropic-beta"] == "b" * 1000
