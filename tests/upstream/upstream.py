"""The demo's Messages API with a layer of WSGI around it that records each request and refuses what the real one would.

Called by the end-to-end tests and by the tests of the demo itself.
Invariant: the layer changes nothing of a request that the real API would take, nor of its answer.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from werkzeug import Request, Response

from claude_proxy.demo import DemoApi
from claude_proxy.demo.app import MAX_BODY_BYTES, has_key, make_request_id
from claude_proxy.demo.errors import ApiError
from claude_proxy.demo.prompt import count_tokens, split_prompt
from claude_proxy.demo.request import parse_body, parse_request

from .recorder import RecordedRequest, RequestLog
from .rules import check_prompt_size, check_request

COUNTING = "/v1/messages/count_tokens"
CHECKED = ("/v1/messages", COUNTING)


class Upstream:
    """A strict Messages API at `base_url` between `start()` and `stop()`, or inside `with`. It starts once.

    port: 0 takes a free one. record: how many of the last requests to keep in `requests`. threads: how many answers can
    be under way at once.
    """

    def __init__(self, *, port: int = 0, record: int = 0, threads: int = 64) -> None:
        self._log = RequestLog(record)
        self.demo = DemoApi(port=port, threads=threads, around=self._around)

    @property
    def base_url(self) -> str:
        return self.demo.base_url

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The last requests, oldest first."""
        return self._log.list()

    def forget_requests(self) -> None:
        """Empty the record."""
        self._log.clear()

    def wait_for(self, predicate: Callable[[RecordedRequest], bool], timeout: float = 10.0) -> RecordedRequest:
        """The first recorded request that fits, now or within `timeout` seconds. Raises TimeoutError."""
        return self._log.wait_for(predicate, timeout)

    def start(self) -> None:
        """Listen and answer. Raises OSError when the port is taken."""
        self.demo.start()

    def stop(self) -> None:
        """Break off all answers, close all sockets and end all threads."""
        self.demo.stop()

    def __enter__(self) -> "Upstream":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _around(self, app: WSGIApplication) -> WSGIApplication:
        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            raw = environ["wsgi.input"].read()
            environ["wsgi.input"] = io.BytesIO(raw)
            request = Request(environ)
            number = self._open(request, raw)

            def begin(status: str, headers: list[tuple[str, str]], *more: Any) -> Callable[[bytes], object]:
                self._log.begin(number, int(status.split()[0]))
                return start_response(status, headers, *more)

            refusal = find_refusal(request, raw)
            return self._watch(number, (_refuse(refusal) if refusal else app)(environ, begin))

        return answer

    def _open(self, request: Request, raw: bytes) -> int:
        query = request.query_string.decode("latin-1")
        path = f"{request.path}?{query}" if query else request.path
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            body = parse_body(raw)
        except ApiError:
            body = {}
        return self._log.open(path, headers, body, raw)

    def _watch(self, number: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks; afterwards the log knows whether all of them were taken."""
        finished = False
        try:
            yield from chunks
            finished = True
        finally:
            self._log.end(number, finished)
            close = getattr(chunks, "close", None)
            if close is not None:
                close()


def find_refusal(request: Request, raw: bytes) -> ApiError | None:
    """Why the real API would refuse a request that the demo takes."""
    is_demos = not has_key(request.headers) or len(raw) > MAX_BODY_BYTES
    if request.method != "POST" or request.path not in CHECKED or is_demos:
        return None
    try:
        body = parse_body(raw)
        parsed = parse_request(body)
    except ApiError:
        return None  # the demo says so itself
    try:
        check_request(parsed, counting=request.path == COUNTING)
        check_prompt_size(count_tokens(split_prompt(body)))
    except ApiError as error:
        return error
    return None


def _refuse(error: ApiError) -> WSGIApplication:
    request_id = make_request_id()
    body = json.dumps(error.build_body(request_id))
    return Response(body, error.status, {"request-id": request_id}, content_type="application/json")
