"""Which mode a request runs in: the server's own, unless its header says otherwise."""

from typing import Any

import pytest
from werkzeug.datastructures import Headers

from claude_proxy.config import MODES, Config
from claude_proxy.core.errors import BadRequest, Forbidden
from claude_proxy.turns.modes import build_modes
from claude_proxy.web.modes import HEADER, choose_mode

MODES_OF_SERVER = build_modes()
CHAT, ALLOWED, AGENT = Config(), Config(agent=True), Config(mode="agent")


def asks(config: Config, asked: str | None = None, **fields: Any) -> bool:
    headers = Headers({} if asked is None else {HEADER: asked})
    return choose_mode(headers, config, MODES_OF_SERVER, **{"has_tools": False, **fields}).runs_agent


@pytest.mark.parametrize("asked", [None, "", " "])
def test_a_request_that_does_not_say_runs_in_the_servers_mode(asked: str | None) -> None:
    """That agent mode is allowed does not make it the mode."""
    assert [asks(config, asked) for config in (CHAT, ALLOWED, AGENT)] == [False, False, True]


def test_tools_of_the_client_are_run_by_the_client() -> None:
    """Also where the server's mode is the agent's, unless the header says so."""
    assert not asks(AGENT, has_tools=True)
    assert asks(AGENT, "agent", has_tools=True)


@pytest.mark.parametrize("asked", ["agent", "Agent", " AGENT "])
def test_the_header_asks_for_agent_mode_where_it_is_allowed(asked: str) -> None:
    """In any case; 403 where it is off."""
    assert asks(ALLOWED, asked) and asks(AGENT, asked)
    with pytest.raises(Forbidden, match="--agent"):
        asks(CHAT, asked)


def test_the_header_asks_for_a_chat_everywhere() -> None:
    """That needs no permission."""
    assert not any(asks(config, "chat") for config in (CHAT, ALLOWED, AGENT))


@pytest.mark.parametrize("config", [CHAT, ALLOWED, AGENT])
def test_a_mode_that_does_not_exist_is_refused_by_name(config: Config) -> None:
    """With those that do, and not the whole of what a client may have put there."""
    with pytest.raises(BadRequest) as raised:
        asks(config, "client-tools" * 100)
    assert raised.value.param == HEADER and all(mode in raised.value.message for mode in MODES)
    assert len(raised.value.message) < 200
