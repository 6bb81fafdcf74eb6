"""A turn: what it is, what an agent does not take from a client, and how it is ended."""

import pytest

from claude_proxy.core.conversation import Conversation, Options, ThinkingMode, Tool, ToolChoice, user
from claude_proxy.core.errors import ChildSilent, ClientGone, Interrupted
from claude_proxy.core.events import TextDelta, Usage
from claude_proxy.core.session_key import SessionKey
from claude_proxy.storage.sessions import Session
from claude_proxy.turns.channel import Channel
from claude_proxy.turns.modes import KEPT_BY_AGENT, strip_for_agent
from claude_proxy.turns.turn import Report, Turn
from tests.standins import make_turn

TOOL = Tool("f", "", {"type": "object"})
ALL = Options(
    max_tokens=5,
    stop_sequences=("x",),
    temperature=0.5,
    top_p=0.5,
    top_k=5,
    effort="high",
    thinking=ThinkingMode("adaptive"),
    tool_choice=ToolChoice("any", parallel=False),
    json_schema={"type": "object"},
)


def conversation(options: Options = Options(), tools: tuple[Tool, ...] = ()) -> Conversation:
    return Conversation("sonnet", (user("hi"),), "You are MUSE.", tools, options)


def test_an_agent_takes_no_tools_and_no_limits_of_one_call() -> None:
    """They are named; everything else stays."""
    kept, dropped = strip_for_agent(conversation(ALL, (TOOL,)))
    assert sorted(dropped) == ["max_tokens", "parallel_tool_calls", "stop", "tool_choice", "tools"]
    assert (kept.tools, kept.system, kept.messages) == ((), "You are MUSE.", (user("hi"),))
    options = kept.options
    assert (options.temperature, options.top_p, options.top_k, options.effort) == (0.5, 0.5, 5, "high")
    assert (options.thinking, options.json_schema) == (ALL.thinking, ALL.json_schema)
    assert (options.max_tokens, options.stop_sequences, options.tool_choice) == (None, (), ToolChoice())


def test_what_was_not_asked_for_is_not_named() -> None:
    """And a dialect's default is no wish: an agent thinks as the CLI does."""
    plain = conversation(Options(thinking=ThinkingMode("disabled", asked=False)))
    kept, dropped = strip_for_agent(plain)
    assert dropped == () and kept.options == Options()


def test_a_choice_among_tools_is_one_too() -> None:
    """Also where it leaves the choice to the model."""
    assert strip_for_agent(conversation(Options(tool_choice=ToolChoice(allowed=("f",)))))[1] == ("tool_choice",)


def test_every_field_of_the_options_is_decided_for_an_agent() -> None:
    """A field that is new is put back to its default and named as ignored, until someone decides otherwise."""
    examples = {name: getattr(ALL, name) for name in Options.__struct_fields__}
    for name, value in examples.items():
        assert value != getattr(Options(), name), f"the example of {name} is its default"
        kept, dropped = strip_for_agent(conversation(Options(**{name: value})))
        is_kept = getattr(kept.options, name) == value
        assert is_kept is (name in KEPT_BY_AGENT or name == "thinking")
        assert bool(dropped) is not is_kept, name


def test_a_turn_knows_its_mode() -> None:
    """An agent's history is never a chat's, with tools or without."""
    chat, tools = make_turn(conversation()), make_turn(conversation(tools=(TOOL,)))
    agent = make_turn(conversation(tools=(TOOL,)), agent=True, ignored=("seed",))
    assert [turn.mode.name for turn in (chat, tools, agent)] == ["chat", "client-tools", "agent"]
    assert [turn.mode.digest_kind for turn in (chat, tools, agent)] == ["chat", "chat", "agent"]
    assert agent.ignores(()) == ("seed", "tools")
    assert agent.profile.agent and agent.profile.tools == ()


def test_another_model_means_another_session() -> None:
    """The digest of a conversation holds its model."""
    turn = make_turn(conversation(), "opus", agent=True)
    turn.begin_session(Session(SessionKey("", "auto_1"), 0, 0))
    turn.use_model("sonnet")
    assert (turn.profile.model, turn.profile.agent, turn.session) == ("sonnet", True, None)


class Child:
    """What a turn sees of its child."""

    def __init__(self) -> None:
        self.interrupted = 0
        self.terminated = 0

    def interrupt(self) -> None:
        self.interrupted += 1

    def terminate(self) -> None:
        self.terminated += 1


class Queue:
    """What a turn sees of the queue that it waits in."""

    def __init__(self) -> None:
        self.cancelled: list[Turn] = []

    def cancel_queued(self, turn: Turn) -> None:
        self.cancelled.append(turn)


def test_a_turn_without_a_child_gives_its_place_back_when_it_is_aborted() -> None:
    """The first reason counts."""
    turn, queue, first = make_turn(conversation()), Queue(), Interrupted("stop")
    turn.wait_in(queue)
    turn.abort(first)
    turn.abort(ClientGone("later"))
    assert queue.cancelled == [turn] and turn.abort_reason is first


def test_a_turn_with_a_child_ends_it_when_it_is_aborted() -> None:
    """Once; the next child is not taken at all."""
    turn, child = make_turn(conversation()), Child()
    turn.attach(child)
    turn.abort(Interrupted("stop"))
    turn.release()
    assert (child.interrupted, child.terminated) == (1, 0)
    with pytest.raises(Interrupted):
        turn.attach(Child())


def test_a_child_that_hangs_is_terminated() -> None:
    """It would not hear that it is to stop its turn."""
    turn, child = make_turn(conversation()), Child()
    turn.attach(child)
    turn.abort(ChildSilent("silent"))
    assert (child.interrupted, child.terminated) == (0, 1)


def test_a_release_after_the_end_changes_nothing() -> None:
    """Every turn that went well is released."""
    turn, child = make_turn(conversation()), Child()
    turn.attach(child)
    turn.end_answer()
    turn.release()
    assert (child.interrupted, child.terminated) == (0, 0) and turn.abort_reason is None


def test_a_release_before_the_end_means_that_the_client_has_gone() -> None:
    """The child is ended."""
    turn, child = make_turn(conversation()), Child()
    turn.attach(child)
    turn.release()
    assert child.interrupted == 1 and isinstance(turn.abort_reason, ClientGone)


def test_a_client_that_goes_during_the_last_event_frees_the_worker() -> None:
    """It would wait for a reader otherwise."""
    turn = make_turn(conversation(), channel=Channel(1))
    turn.channel.put(TextDelta(0, "a"), 1.0)
    turn.end_answer()
    turn.release()
    with pytest.raises(ClientGone):
        turn.channel.put(TextDelta(0, "b"), 10.0)


def test_what_fails_after_the_first_word_is_not_to_be_asked_again() -> None:
    """Running it again would repeat its cost."""
    turn, error = make_turn(conversation()), Interrupted("stop")
    turn.report.note_first("m", Usage(), 1.0)
    turn.abort(error)
    assert error.should_retry is False


def test_the_timing_is_that_of_the_last_attempt() -> None:
    """Steps that have not ended took nothing."""
    report = Report()
    report.note_arrived(1.0)
    report.note_taken(1.5)
    report.note_leased("new", 2.0)
    assert report.timing() == {"queue": 0.5, "lease": 0.5, "replay": 0.0, "first": 0.0}
    report.note_asked(3.0)
    report.note_first("m", Usage(), 5.0)
    assert report.timing() == {"queue": 0.5, "lease": 0.5, "replay": 1.0, "first": 2.0}
    report.note_leased("new", 6.0)
    assert report.timing()["replay"] == 0.0
