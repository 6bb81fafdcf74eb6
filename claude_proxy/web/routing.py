"""A route, and the table of all of them: which view answers, and in which dialect failures are answered there.

In: the routes that `routes` lists. Out: the URL rules of the Flask application, and for each request its route. Called
by `app` alone. Invariant: every path has a dialect, also one that no route serves, so that a request which fails before
a view sees it (401, 403, 404, 405, 413, 415) is answered in the dialect that its client speaks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flask import Flask, Request, Response
from werkzeug.datastructures import Headers

from ..dialects.dialect import Dialect

View = Callable[..., Response]
# Makes the dialect of one request, from its headers.
MakeDialect = Callable[[Headers], Dialect]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    path: as Flask writes it, without a prefix. dialect: what its clients speak. public: answered without the API key.
    prefixes: what may stand before the path; the first one is the one to document.
    """

    path: str
    method: str
    view: View
    dialect: MakeDialect
    public: bool = False
    prefixes: tuple[str, ...] = ("/v1", "")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that it serves."""
        return tuple(prefix + self.path for prefix in self.prefixes)

    def likeness(self, path: str) -> int:
        """How many segments of a path are those of this route, from the front, and one more where all are.

        A placeholder is like any segment. A prefix counts for nothing: all routes share it.
        """
        asked = _split(path)
        return max(_count_alike(_split(prefix), _split(self.path), asked) for prefix in self.prefixes)


class RouteTable:
    """All routes. `fallback`: the dialect for paths that are like no route."""

    def __init__(self, routes: Sequence[Route], fallback: MakeDialect) -> None:
        self._routes = tuple(routes)
        self._fallback = fallback
        self._by_endpoint = {f"{route.method} {path}": route for route in self._routes for path in route.paths}

    @property
    def routes(self) -> tuple[Route, ...]:
        return self._routes

    def register(self, app: Flask) -> None:
        """Make them the URL rules of this application."""
        for endpoint, route in self._by_endpoint.items():
            app.add_url_rule(endpoint.partition(" ")[2], endpoint, route.view, methods=[route.method])

    def find(self, request: Request) -> Route | None:
        """The route that answers this request; None for one that will be a 404 or a 405."""
        return self._by_endpoint.get(request.endpoint or "")

    def dialect_for(self, request: Request) -> Dialect:
        """What the client of this request speaks: by its route, or else by the route that its path is most like."""
        route = self.find(request) or self._nearest(request.path)
        make = route.dialect if route is not None else self._fallback
        return make(request.headers)

    def _nearest(self, path: str) -> Route | None:
        best = max(self._routes, key=lambda route: route.likeness(path))
        return best if best.likeness(path) > 0 else None


def _split(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _count_alike(prefix: list[str], pattern: list[str], asked: list[str]) -> int:
    if asked[: len(prefix)] != prefix:
        return 0
    alike = 0
    for wanted, given in zip(pattern, asked[len(prefix) :], strict=False):
        if wanted != given and not wanted.startswith("<"):
            break
        alike += 1
    is_whole = alike == len(pattern) == len(asked) - len(prefix)
    return alike + is_whole
