"""What the end-to-end tests share: the real CLI, proxies in this process, proxies as processes of their own."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.claude.process import locate
from claude_proxy.core.errors import CliUnavailable
from tests.e2e.real import Program, RealProxy, temporary_folder_at
from tests.harness import nothing_left_behind

Start = Callable[..., RealProxy]
Run = Callable[..., Program]


@pytest.fixture(scope="session")
def cli() -> Path:
    """The real CLI, from the `claude-agent-sdk` wheel; without it CI fails, and a machine of one's own skips."""
    path = locate.bundled_cli()
    try:
        if path is None:
            raise CliUnavailable("the package claude-agent-sdk is not installed")
        return locate.find(str(path), os.environ).path
    except CliUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"No real CLI: {error.message}")
        pytest.skip(f"No real CLI: {error.message}")


@pytest.fixture(scope="module", autouse=True)
def clean_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A TMPDIR of the module's own; a thread, process or `claude-proxy-*` folder that stays fails the last test."""
    folder = tmp_path_factory.mktemp("tmp")
    with temporary_folder_at(folder), nothing_left_behind(folder):
        yield folder


@pytest.fixture(scope="module")
def shared(clean_module: Path, cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProxy]:
    """One proxy for all tests of a module that leave no mark on one another."""
    with closing(RealProxy(tmp_path_factory.mktemp("shared"), cli, {})) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared: RealProxy) -> RealProxy:
    """The module's proxy, without a conversation, and with nothing recorded upstream."""
    shared.wait_until_idle()
    assert shared.send(None, path="/v1/sessions", method="DELETE").answer().status == 200
    shared.forget()
    return shared


@pytest.fixture(scope="module")
def shared_agent(clean_module: Path, cli: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealProxy]:
    """One proxy with `--agent` and a working folder of its own, for all tests of a module that can share it."""
    folder = tmp_path_factory.mktemp("agent")
    (folder / "work").mkdir()
    with closing(RealProxy(folder, cli, {"agent": True, "workdir": str(folder / "work")})) as proxy:
        yield proxy


@pytest.fixture
def agent(shared_agent: RealProxy) -> RealProxy:
    """The module's proxy with `--agent`, without a conversation, and with nothing recorded upstream."""
    shared_agent.wait_until_idle()
    assert shared_agent.send(None, path="/v1/sessions", method="DELETE").answer().status == 200
    shared_agent.forget()
    return shared_agent


@pytest.fixture
def start(clean_module: Path, cli: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a proxy of the test's own: `start(strict=True)`; `api=`, `folder=` for one that is started again."""
    with ExitStack() as stack:
        count = 0

        def make(*, folder: Path | None = None, api: Any = None, **settings: Any) -> RealProxy:
            nonlocal count
            count += 1
            made = RealProxy(folder or tmp_path / f"proxy{count}", cli, settings, api)
            return stack.enter_context(closing(made))

        yield make


@pytest.fixture
def run(clean_module: Path, cli: Path, tmp_path: Path) -> Iterator[Run]:
    """Start a proxy as a process of its own: `run("--demo")`; whatever is left of it at the end is killed."""
    with ExitStack() as stack:

        def make(*arguments: str, folder: Path | None = None, **environ: str) -> Program:
            program = Program(folder or tmp_path / "program", cli, *arguments, environ=environ)
            return stack.enter_context(closing(program))

        yield make
