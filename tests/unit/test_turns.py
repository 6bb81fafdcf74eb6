"""A turn, before anybody runs it: what it is, and what an agent does not take from a client."""

from typing import cast

from claude_proxy.core.conversation import Conversation, Options, ThinkingMode, Tool, ToolChoice, user
from claude_proxy.core.session_key import SessionKey
from claude_proxy.storage.sessions import Session
from claude_proxy.turns.turn import Turn, strip_for_agent

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
    assert dropped == ("tools", "tool_choice", "parallel_tool_calls", "max_tokens", "stop")
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


def test_a_turn_knows_its_mode() -> None:
    """An agent's history is none of a chat's, with tools or without."""
    chat, tools = Turn(conversation(), "sonnet"), Turn(conversation(tools=(TOOL,)), "sonnet")
    agent = Turn(conversation(tools=(TOOL,)), "sonnet", agent=True, ignored=("seed",))
    assert [turn.mode for turn in (chat, tools, agent)] == ["chat", "client-tools", "agent"]
    assert [turn.kind for turn in (chat, tools, agent)] == ["chat", "chat", "agent"]
    assert agent.ignores(()) == ("seed", "tools")
    assert agent.profile.agent and agent.profile.tools == ()


def test_another_model_means_another_session() -> None:
    """The digest of a conversation holds its model."""
    turn = Turn(conversation(), "opus", agent=True)
    turn.session = cast(Session | None, Session(SessionKey("", "auto_1"), 0, 0))
    turn.use_model("sonnet")
    assert (turn.profile.model, turn.profile.agent, turn.session) == ("sonnet", True, None)
