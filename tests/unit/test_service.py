"""The composition root: every part is built, handed its collaborators, started and stopped; nothing needs a CLI."""

from pathlib import Path
from typing import Any

import pytest

from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Recycling
from claude_proxy.config import Config, ConfigError
from claude_proxy.core.conversation import Conversation, user
from claude_proxy.core.errors import Interrupted, ShuttingDown
from claude_proxy.service import Service
from tests.standins import make_turn

HI = Conversation("sonnet", (user("hi"),))


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """Built, and not started: no thread, no process."""
    return Service(Config(state_dir=str(tmp_path), no_store=True, max_queue=1), recycling=Recycling(EVERYTHING))


def test_an_unknown_fallback_model_is_an_error_of_the_start(tmp_path: Path) -> None:
    """Before anything is built."""
    with pytest.raises(ConfigError, match="--fallback-model"):
        Service(Config(state_dir=str(tmp_path), fallback_model="made up"))


def test_what_is_known_before_the_start(service: Service) -> None:
    """Nothing that the CLI would have to say."""
    status = service.status()
    assert (status.cli_path, status.logged_in, status.cli_problem) == (None, None, None)
    assert (status.active, status.queued, status.draining, status.recycling) == (0, 0, False, EVERYTHING)


@pytest.mark.parametrize("settings", [{"no_recycle": True}, {"persist": True}])
def test_children_are_not_used_again_where_they_must_not_be(tmp_path: Path, settings: dict[str, Any]) -> None:
    """And `/health` says so."""
    status = Service(Config(state_dir=str(tmp_path), **settings)).status()
    assert (status.recycling, status.recycling_reason) == (NOTHING, "switched off")


def test_a_turn_is_found_by_its_owner_only(service: Service) -> None:
    """Who may stop it is who sent it."""
    turn = make_turn(HI)
    service.submit(turn)
    assert [service.interrupt(owner, turn.id) for owner in ("another", "", "")] == [False, True, False]
    assert isinstance(turn.abort_reason, Interrupted)


def test_a_turn_whose_view_is_done_is_forgotten(service: Service) -> None:
    """One that has not ended has lost its client."""
    turn = make_turn(HI)
    service.submit(turn)
    service.release(turn)
    assert turn.abort_reason is not None and service.workers.queued == 0
    assert not service.interrupt("", turn.id)


def test_a_service_that_drains_takes_no_turns(service: Service) -> None:
    """What waits is told."""
    waiting = make_turn(HI)
    service.submit(waiting)
    assert service.drain(0.0) is False
    assert isinstance(waiting.abort_reason, ShuttingDown) and service.status().draining
    with pytest.raises(ShuttingDown):
        service.submit(make_turn(HI, id="req_2"))
