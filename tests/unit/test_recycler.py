"""What a used child is told to forget and to become, and what of its answers is believed."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from claude_proxy.claude.turn import recycler as module
from claude_proxy.claude.turn.recycler import Recycler, plan_switch
from claude_proxy.claude.wire.history import HeldMessage
from claude_proxy.claude.wire.profile import Profile
from claude_proxy.claude.wire.protocol import ControlAnswer
from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Recycling
from claude_proxy.core.conversation import Tool
from claude_proxy.core.errors import RecycleRefused

Json = dict[str, Any]
MUSE, CLIO = Profile("sonnet", "MUSE"), Profile("opus", "CLIO")
TOOLS = Profile("sonnet", "MUSE", (Tool("f", "", {"type": "object"}),))
DONE = {"rewound": True, "precedingAssistantUuid": None}


class Controls:
    """The control channel: what was sent, and the answers that are given in turn."""

    def __init__(self, *answers: Json | str) -> None:
        self.answers = list(answers)
        self.sent: list[Json] = []

    def request(self, what: str, build: Callable[[str], bytes]) -> str:
        self.sent.append(json.loads(build(what))["request"])
        return str(len(self.sent))

    def wait_for(self, request_id: str, alive: Callable[[], None]) -> ControlAnswer:
        given = self.answers.pop(0)
        if isinstance(given, str):
            return ControlAnswer(request_id, "error", error=given)
        return ControlAnswer(request_id, "success", given)

    @property
    def subtypes(self) -> list[str]:
        return [request["subtype"] for request in self.sent]


def alive() -> None:
    """Heard."""


def used(*answers: Json | str, recycling: Recycling | None = None) -> tuple[Recycler, Controls]:
    """A child that has answered two questions, the second of which is its last turn."""
    controls = Controls(*answers)
    recycler = Recycler(controls, recycling or Recycling(EVERYTHING))
    for number in (1, 2):
        recycler.begin_turn(b"0")
        recycler.history.append(HeldMessage(b"q%d" % number, target=f"q{number}"))
        recycler.history.append(HeldMessage(b"a%d" % number, uuid=f"a{number}"))
    return recycler, controls


def test_a_rewind_names_where_from_and_where_to() -> None:
    """A turn that runs is stopped with it."""
    recycler, controls = used(DONE)
    recycler.rewind(0, alive)
    [request] = controls.sent
    assert request == {
        "subtype": "rewind_conversation",
        "target_message_uuid": "q1",
        "last_seen_user_message_uuid": "q2",
        "interrupt_if_running": True,
    }
    assert len(recycler.history) == 0


def test_what_is_held_already_needs_no_rewind() -> None:
    """Nothing is sent."""
    recycler, controls = used()
    recycler.rewind(4, alive)
    assert controls.sent == [] and len(recycler.history) == 4


@pytest.mark.parametrize(
    "answer",
    [
        {"rewound": False, "reason": "stale_target"},
        {},
        {"rewound": True, "precedingAssistantUuid": "another"},
        {"rewound": True},
        "Unsupported control request subtype",
    ],
)
def test_a_rewind_that_did_not_do_what_was_asked_is_an_error(answer: Json | str) -> None:
    """The child still holds something of another conversation: it is given up, and so is the belief in its history."""
    recycler, _ = used(answer)
    with pytest.raises(RecycleRefused):
        recycler.rewind(2, alive)
    assert len(recycler.history) == 4


def test_a_cli_that_does_not_know_the_request_is_not_asked_again() -> None:
    """Today's other way is used from then on."""
    recycling = Recycling(EVERYTHING)
    recycler, _ = used("Unsupported control request subtype", recycling=recycling)
    with pytest.raises(RecycleRefused):
        recycler.rewind(0, alive)
    assert recycling.abilities == NOTHING and "Unsupported" in recycling.reason
    assert not recycler.can_take_back


def test_a_rewind_right_behind_a_question_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.1.266 wants it; not for ever."""
    monkeypatch.setattr(module, "REWIND_PAUSE", 0.0)
    queued = {"rewound": False, "reason": "commands_queued"}
    recycler, controls = used(queued, queued, DONE)
    recycler.rewind(0, alive)
    assert controls.subtypes == ["rewind_conversation"] * 3
    endless, _ = used(*[queued] * 100)
    with pytest.raises(RecycleRefused, match="commands_queued"):
        endless.rewind(0, alive)


def test_the_last_turn_is_taken_back_in_two_steps() -> None:
    """It is stopped at once; whether that was taken is looked at once the client has its answer."""
    recycler, controls = used({"rewound": True, "precedingAssistantUuid": "a1"})
    assert recycler.can_take_back and recycler.stop_turn()
    assert controls.sent[0]["target_message_uuid"] == "q2" and len(recycler.history) == 4
    recycler.take_back(alive)
    assert len(controls.sent) == 1 and len(recycler.history) == 2
    recycler.take_back(alive)
    assert len(controls.sent) == 1


def test_results_of_tools_are_taken_back_with_their_question() -> None:
    """They are no target of their own."""
    recycler, controls = used({"rewound": True, "precedingAssistantUuid": "a1"})
    recycler.begin_turn(b"0")
    recycler.history.append(HeldMessage(b"r"))
    recycler.take_back(alive)
    assert controls.sent[0]["target_message_uuid"] == "q2" and len(recycler.history) == 2


def test_what_cannot_be_rewound_cannot_be_taken_back() -> None:
    """Because the CLI does not take it, or because the history begins with an answer."""
    recycler, _ = used(recycling=Recycling())
    assert not recycler.can_take_back and not recycler.stop_turn()
    begun, _ = used()
    begun.history.messages[:] = [HeldMessage(b"a", uuid="a"), HeldMessage(b"q")]
    begun.begin_turn(b"0")
    begun.history.append(HeldMessage(b"r"))
    assert not begun.can_take_back and not begun.stop_turn()


@pytest.mark.parametrize(
    ("have", "want", "wanted"),
    [
        (MUSE, MUSE, []),
        (MUSE, CLIO, ["set_model"]),
        (MUSE, TOOLS, ["mcp_set_servers", "initialize"]),
        (TOOLS, MUSE, ["mcp_set_servers"]),
        (TOOLS, CLIO, ["set_model", "mcp_set_servers"]),
    ],
)
def test_a_profile_is_exchanged_by_these_requests(have: Profile, want: Profile, wanted: list[str]) -> None:
    """Tools are taken away first: a second `initialize` alone would show the new ones and route none of their calls."""
    recycler, controls = used(*[{}] * len(wanted))
    recycler.switch(have, want, alive)
    assert (
        controls.subtypes
        == wanted
        == [json.loads(build("r"))["request"]["subtype"] for _, build in plan_switch(have, want)]
    )


def test_the_prompt_goes_with_the_model_only_where_it_changes() -> None:
    """A model alone leaves the prompt as it is."""
    recycler, controls = used({}, {})
    recycler.switch(MUSE, Profile("opus", "MUSE"), alive)
    recycler.switch(MUSE, CLIO, alive)
    assert controls.sent == [
        {"subtype": "set_model", "model": "opus"},
        {"subtype": "set_model", "model": "opus", "system_prompt": "CLIO"},
    ]


@pytest.mark.parametrize(
    "answers", [("refused", {}), ({}, "refused"), ({}, {"sdk_mcp_manifests_parked": {"client": "already_connected"}})]
)
def test_a_switch_that_was_not_taken_is_an_error(answers: tuple[Json | str, ...]) -> None:
    """Nothing is asked of such a child."""
    recycler, _ = used(*answers)
    with pytest.raises(RecycleRefused):
        recycler.switch(MUSE, TOOLS, alive)
