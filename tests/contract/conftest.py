"""What the contract tests share: a proxy that runs for real, and the official client."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import openai
import pytest

from claude_proxy.claude.wire.protocol import RateLimitInfo
from claude_proxy.claude.wire.recycling import NOTHING, Abilities
from claude_proxy.core.timing import Timing
from tests.fake_cli import Script, kill_everything
from tests.harness import SPARES_ONCE, TIMING, Proxy, wait_until
from tests.leaks import temporary_folder

__all__ = ["temporary_folder"]

Start = Callable[..., Proxy]


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One proxy for the tables of a module: it keeps no child from one test to the next."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("shared")
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        proxy = Proxy(folder, Script(), {"live": 0, "inactivity_timeout": 1.0})
        with closing(proxy):
            assert proxy.ask("The first child makes the folder of this run.").status == 200
            proxy.wait_until_empty()
            yield proxy
        kill_everything(proxy.claude)
    assert not list(folder.glob("claude-proxy-*"))


@pytest.fixture(autouse=True)
def no_plan_limit_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A plan's limit that one test met is remembered, as it must be; the shared proxy's next test shall not meet it."""
    yield
    if "shared_proxy" in request.fixturenames:
        request.getfixturevalue("shared_proxy").service.plan_limits.note(RateLimitInfo())


@pytest.fixture
def start(temporary_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a proxy with a fake CLI: `start("crash@boot", max_queue=0)`, or `start(Script(…), …)`."""
    with ExitStack() as stack:
        count = 0

        def make(*directives: Any, timing: Timing = TIMING, abilities: Abilities = NOTHING, **settings: Any) -> Proxy:
            nonlocal count
            count += 1
            given = directives[0] if directives and isinstance(directives[0], Script) else Script(directives)
            proxy = Proxy(tmp_path / f"proxy{count}", given, settings, timing, abilities)
            stack.callback(kill_everything, proxy.claude)
            stack.enter_context(closing(proxy))
            return proxy

        yield make


@pytest.fixture
def start_booted(start: Start) -> Start:
    """As `start`, with one child that has booted: a short limit then measures the turn, however busy the machine is."""

    def make(*directives: Any, **settings: Any) -> Proxy:
        proxy = start(*directives, timing=SPARES_ONCE, warm=1, **settings)
        proxy.wait_for_log(bool)  # it may be in the log before the fleet has it
        wait_until(lambda: proxy.service.fleet.counts().spare == 1, "one spare")
        return proxy

    return make


@pytest.fixture
def proxy(start: Start) -> Proxy:
    """A proxy whose CLI echoes."""
    return start()


@pytest.fixture
def connect() -> Iterator[Callable[..., openai.OpenAI]]:
    """The official client of a proxy, without retries."""
    with ExitStack() as stack:

        def make(proxy: Proxy, **options: Any) -> openai.OpenAI:
            given = {"base_url": f"{proxy.url}/v1", "api_key": "unused", "max_retries": 0, **options}
            return stack.enter_context(openai.OpenAI(**given))

        yield make


@pytest.fixture
def openai_client(proxy: Proxy, connect: Callable[..., openai.OpenAI]) -> openai.OpenAI:
    """The official client of `proxy`."""
    return connect(proxy)
