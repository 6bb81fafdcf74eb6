"""What an agent's CLI says in a turn becomes one answer with its tools beside it, or the error it means."""

import json
from typing import Any

import pytest

from claude_proxy.claude.turn.agent_translator import AgentTranslator
from claude_proxy.core.conversation import Text, Thinking
from claude_proxy.core.errors import NotAuthenticated, PlanLimitReached, ProxyError, RateLimited, UpstreamError
from claude_proxy.core.events import BlockStart, Completion, MessageEnd, SignatureDelta, TextDelta, ThinkingDelta, Usage
from tests.cli_lines import (
    MESSAGE_STOP,
    RESULT,
    TRANSCRIPTS,
    Json,
    check_rules,
    closed,
    delta,
    event,
    feed,
    opened,
    read,
    start,
    stopped,
    text,
    turns_of,
)
from tests.clocks import Clock

NOW = 1_000.0


class Bench:
    """A translator on a clock that is turned by hand, and everything that came out of it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.translator = AgentTranslator(NOW, self.clock, **options)
        self.events: list[Any] = []

    def feed(self, *messages: Json, after: float = 0.0) -> list[Any]:
        """The events of these messages, `after` seconds later."""
        self.clock.now += after
        events = feed(self.translator, *messages)
        self.events += events
        return events

    def answer(self) -> Completion:
        """The whole; its rules hold."""
        return check_rules(self.events)

    def shown(self) -> list[tuple[str, str]]:
        """Kind and content of each block."""
        return [shown(block) for block in self.answer().blocks]


def shown(block: Any) -> tuple[str, str]:
    match block:
        case Text(text):
            return "text", text
        case Thinking(thinking):
            return "thinking", thinking
    raise AssertionError(block)


def tool(call_id: str = "t1", name: str = "Bash", parent: str | None = None, **arguments: Any) -> Json:
    """The finished block of a call."""
    block = {"type": "tool_use", "id": call_id, "name": name, "input": arguments or {"command": "ls"}}
    message = {"model": "claude-x", "content": [block]}
    return {"type": "assistant", "message": message, "parent_tool_use_id": parent}


def result(call_id: str = "t1", content: Any = "fine", *, failed: bool = False, parent: str | None = None) -> Json:
    """What a tool gave."""
    block = {"type": "tool_result", "tool_use_id": call_id, "content": content, "is_error": failed}
    return {"type": "user", "message": {"role": "user", "content": [block]}, "parent_tool_use_id": parent}


def thought(index: int, *pieces: str) -> list[Json]:
    said = (delta(index, "thinking_delta", thinking=piece) for piece in pieces)
    return [opened(index, "thinking"), *said, delta(index, "signature_delta", signature="s"), closed(index)]


def called(index: int = 1, call_id: str = "t1", **fields: Any) -> list[Json]:
    """The block of a call, as it streams, with its finished line in it."""
    opening = opened(index, "tool_use", id=call_id, name="Bash")
    pieces = delta(index, "input_json_delta", partial_json="{}")
    return [opening, pieces, tool(call_id, **fields), closed(index)]


PAUSE = [stopped("tool_use"), MESSAGE_STOP]
END = [stopped("end_turn"), MESSAGE_STOP, RESULT]
FAILED: Json = {**RESULT, "is_error": True, "result": "words"}

# The recordings


RECORDED = {
    "agent_bash": [
        ("text", "calling"),
        ("thinking", "▸ Bash: echo hi from bash\n✓ Bash (0.0 s)\n"),
        ("text", "\n\nTool said: hi from bash"),
    ],
    "agent_permissions": [
        ("text", "calling"),
        ("thinking", "▸ Bash: touch a; echo hello\n✓ Bash (0.0 s)\n"),
        ("text", "\n\nTool said: hello"),
    ],
    "agent_subagent": [
        ("text", "calling"),
        ("thinking", "▸ Task: look around\n  ▸ Bash: echo inner\n  ✓ Bash: echo inner (0.0 s)\n✓ Task (0.0 s)\n"),
        ("text", "\n\nTool said:   <tools-used-before-summary>Bash</tools-used-before-summary>    [Sub"),
    ],
    "agent_tool_progress": [
        ("text", "calling"),
        ("thinking", "▸ Bash: sleep 31\n✓ Bash (0.0 s)\n"),
        ("text", "\n\nTool said: (Bash completed with no output)"),
    ],
    "agent_max_turns": [
        ("text", "calling"),
        (
            "thinking",
            "▸ Bash: echo one\n✓ Bash (0.0 s)\nstopped: the limit of model calls for one request is reached\n",
        ),
    ],
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_turn_becomes_one_answer(name: str) -> None:
    """The texts of all calls of the model, and what its tools did in between."""
    bench = Bench()
    bench.feed(*turns_of(read(name))[0])
    assert bench.shown() == RECORDED[name]
    assert bench.translator.done and not bench.translator.running
    reason = "max_tokens" if name == "agent_max_turns" else "end_turn"
    assert bench.answer().stop_reason == reason and not bench.translator.cut


def test_every_recording_is_translated_here() -> None:
    """A new one needs its place."""
    assert {path.stem for path in TRANSCRIPTS.glob("agent_*.jsonl")} == set(RECORDED)


def test_a_recorded_denial_is_a_failed_tool() -> None:
    """With what the model was told."""
    bench = Bench()
    bench.feed(*turns_of(read("agent_permissions"))[1])
    line = "✗ Bash (0.0 s): The user does not allow this use of the tool.\n"
    assert bench.shown()[1] == ("thinking", f"▸ Bash: touch b; echo hello\n{line}")


def test_a_recorded_interrupt_is_an_error() -> None:
    """Nobody here asks for one."""
    bench = Bench()
    with pytest.raises(UpstreamError):
        bench.feed(*turns_of(read("agent_permissions"))[2])


def test_what_sub_agents_took_counts_in_the_total() -> None:
    """Four calls, of which the client is told of its own two; the input is that of the newest."""
    bench = Bench()
    (turn,) = turns_of(read("agent_subagent"))
    bench.feed(*turn)
    assert bench.translator.total == Usage(40, 48, 28, 12)
    assert bench.answer().usage == Usage(10, 24, 7, 3)


# Built by hand: answers


@pytest.mark.parametrize(
    ("progress", "blocks"),
    [
        ("none", [("text", "I look."), ("text", "\n\nDone.")]),
        ("reasoning", [("text", "I look."), ("thinking", "▸ Bash: ls\n✓ Bash (1.5 s)\n"), ("text", "\n\nDone.")]),
        ("content", [("text", "I look."), ("text", "\n\n▸ Bash: ls\n✓ Bash (1.5 s)"), ("text", "\n\nDone.")]),
    ],
)
def test_tools_are_shown_as_the_setting_says(progress: str, blocks: list[tuple[str, str]]) -> None:
    """Never as calls; a blank line stands between the texts of two calls of the model."""
    bench = Bench(progress=progress)
    bench.feed(start(), *text(0, "I ", "look."), *called(), *PAUSE)
    bench.feed(result(), after=1.5)
    bench.feed(start(), *text(0, "Done."), *END)
    assert bench.shown() == blocks


def test_progress_before_the_first_word_needs_no_line_before_it() -> None:
    """Neither a blank one nor an end of another."""
    bench = Bench(progress="content")
    bench.feed(start(), *called(0), *PAUSE, result(), start(), *text(0, "Done."), *END)
    assert bench.answer().text == "▸ Bash: ls\n✓ Bash (0.0 s)\n\nDone."


def test_texts_of_one_call_are_joined_as_they_are() -> None:
    """Only those of different calls are set apart."""
    bench = Bench()
    bench.feed(start(), *text(0, "a"), *text(1, "b"), *END)
    assert bench.shown() == [("text", "a"), ("text", "b")]


@pytest.mark.parametrize(("end", "between"), [("hm", "\n"), ("hm\n", "")])
def test_progress_begins_on_a_line_of_its_own_after_thinking(end: str, between: str) -> None:
    """Also in a client that joins all reasoning."""
    bench = Bench()
    bench.feed(start(), *thought(0, "h", end), *called(), *PAUSE, result(), start(), *thought(0, "so"), *END)
    assert bench.shown() == [
        ("thinking", f"h{end}"),
        ("thinking", f"{between}▸ Bash: ls\n✓ Bash (0.0 s)\n"),
        ("thinking", "so"),
    ]
    assert [one.signature for one in bench.events if isinstance(one, SignatureDelta)] == ["s", "s"]


def test_tools_that_run_beside_each_other_are_named_in_full() -> None:
    """The last one runs alone again."""
    bench = Bench()
    bench.feed(start(), *called(0, "t1"), *called(1, "t2", name="Read", file_path="/a"), *PAUSE)
    assert [one.label for one in bench.translator.running.values()] == ["Bash: ls", "Read: /a"]
    bench.feed(result("t2", "<tool_use_error>no</tool_use_error>", failed=True), after=1.0)
    bench.feed(result("t1"), after=1.0)
    bench.feed(start(), *text(0, "Done."), *END)
    assert bench.shown()[0] == (
        "thinking",
        "▸ Bash: ls\n▸ Read: /a\n✗ Read: /a (1.0 s): no\n✓ Bash (2.0 s)\n",
    )


def test_what_happened_can_be_taken_once() -> None:
    """Starts and ends of tools, with seconds, also those of sub-agents, also where nothing is shown."""
    bench = Bench(progress="none")
    bench.feed(start(), *called(0), tool("t2", "Read", "t1", file_path="/a"))
    bench.feed(result("t2", parent="t1"), result("unknown"), after=0.25)
    bench.feed(result(failed=True), after=1.0)
    assert bench.translator.take() == [
        ("tool_started", {"tool_id": "t1", "tool": "Bash", "label": "Bash: ls"}),
        ("tool_started", {"tool_id": "t2", "tool": "Read", "label": "Read: /a"}),
        ("tool_ended", {"tool_id": "t2", "tool": "Read", "label": "Read: /a", "seconds": 0.25, "ok": True}),
        ("tool_ended", {"tool_id": "t1", "tool": "Bash", "label": "Bash: ls", "seconds": 1.25, "ok": False}),
    ]
    assert bench.translator.take() == []


def test_the_texts_of_sub_agents_are_no_answer() -> None:
    """Nor are their messages, nor what the CLI says under the name `<synthetic>`."""
    stranger = [{**one, "parent_tool_use_id": "t1"} for one in (start(), *text(0, "inner"), stopped("end_turn"))]
    said = {"type": "assistant", "message": {"model": "claude-x", "content": [{"type": "text"}]}}
    synthetic = {"type": "assistant", "message": {"model": "<synthetic>", "content": [{"type": "text"}]}}
    bench = Bench()
    bench.feed(start(), *called(0), *stranger, said, synthetic, *PAUSE, result(), start(), *text(0, "a"), *END)
    assert bench.answer().text == "a"


@pytest.mark.parametrize("progress", ["reasoning", "content"])
@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_progress_waits_for_the_end_of_a_block_that_is_arriving(progress: str, kind: str) -> None:
    """An earlier call may end while the model goes on talking."""
    bench = Bench(progress=progress)
    said = {"text": "text_delta", "thinking": "thinking_delta"}[kind]
    bench.feed(start(), *called(0), opened(1, kind), delta(1, said, **{kind: "wo"}))
    assert bench.feed(result()) == []
    bench.feed(delta(1, said, **{kind: "rd"}), closed(1), *END)
    blocks = [content for _, content in bench.shown()]
    assert [content.strip() for content in blocks] == ["▸ Bash: ls", "word", "✓ Bash (0.0 s)"]


def test_progress_does_not_wait_for_a_block_that_has_said_nothing() -> None:
    """It is shown before it."""
    bench = Bench()
    bench.feed(start(), *called(0), opened(1), result(), delta(1, "text_delta", text="word"), closed(1), *END)
    assert bench.shown() == [("thinking", "▸ Bash: ls\n✓ Bash (0.0 s)\n"), ("text", "word")]


def test_blocks_without_words_and_of_unknown_types_are_left_out() -> None:
    """Also what is said in them, and deltas of tomorrow."""
    bench = Bench()
    bench.feed(
        start(),
        event("ping"),
        *text(0),
        *thought(1),
        opened(2, "redacted_thinking"),
        delta(2, "text_delta", text="hidden"),
        closed(2),
        event("content_block_start", index=3),
        closed(3),
        *text(4, "", "a"),
        *END,
    )
    assert bench.shown() == [("text", "a")]


def test_server_tools_are_tools() -> None:
    """They run elsewhere, and are shown all the same."""
    line = tool("t1", "web_search", query="x")
    line["message"]["content"][0]["type"] = "server_tool_use"
    bench = Bench()
    bench.feed(start(), line, *text(0, "a"), *END)
    assert bench.shown()[0] == ("thinking", '▸ web_search: {"query":"x"}\n')


# Ends


def test_the_structured_output_is_the_whole_answer() -> None:
    """What the model says beside it is left out, tools are shown as reasoning: nothing may stand beside JSON."""
    for progress in ("reasoning", "content"):
        bench = Bench(progress=progress, structured=True)
        bench.feed(start(), *text(0, "Here:"), *called(1), *PAUSE, result())
        bench.feed(start(), tool("t2", "StructuredOutput", a=1), *PAUSE, result("t2"))
        bench.feed({**RESULT, "structured_output": {"a": 1}})
        assert bench.shown() == [("thinking", "▸ Bash: ls\n✓ Bash (0.0 s)\n"), ("text", '{"a":1}')]
        assert (bench.answer().stop_reason, bench.translator.cut) == ("end_turn", True)


def test_a_structured_output_that_never_came_is_an_error() -> None:
    """Prose is no substitute."""
    with pytest.raises(UpstreamError):
        Bench(structured=True).feed(start(), *text(0, "prose"), *END)


@pytest.mark.parametrize(
    ("subtype", "words"),
    [("error_max_turns", "the limit of model calls"), ("error_max_budget_usd", "the budget")],
)
def test_a_limit_of_the_users_own_ends_the_answer(subtype: str, words: str) -> None:
    """It is whole as far as it goes, and says why it stops, as `max_tokens`; the child may go on."""
    bench = Bench()
    bench.feed(start(), *text(0, "a"), *called(1), *PAUSE, result(), {**FAILED, "subtype": subtype})
    assert words in bench.shown()[-1][1] and bench.shown()[-1][0] == "thinking"
    assert bench.answer().stop_reason == "max_tokens"
    assert bench.translator.done and not bench.translator.cut


@pytest.mark.parametrize("progress", ["none", "reasoning", "content"])
def test_a_limit_in_the_middle_of_a_block_closes_it(progress: str) -> None:
    """And what waited for its end is shown."""
    bench = Bench(progress=progress)
    bench.feed(start(), *called(0), opened(1), delta(1, "text_delta", text="wo"), result())
    bench.feed({**FAILED, "subtype": "error_max_turns"})
    told = [content.strip() for _, content in bench.shown()]
    assert "wo" in told and ("✓ Bash (0.0 s)" in told[-1]) is (progress != "none")


def test_a_limit_before_the_first_word_is_an_error() -> None:
    """There is no answer to end."""
    with pytest.raises(UpstreamError):
        Bench().feed({**FAILED, "subtype": "error_max_turns"})


def test_the_cli_goes_on_after_max_tokens() -> None:
    """Its own note is none of the answer."""
    note = {"type": "user", "message": {"role": "user", "content": [{"type": "text", "text": "Resume directly"}]}}
    bench = Bench()
    bench.feed(start(), *text(0, "a"), stopped("max_tokens"), MESSAGE_STOP, note, start(), *text(0, "b"), *END)
    assert (bench.answer().text, bench.answer().stop_reason) == ("a\n\nb", "end_turn")


@pytest.mark.parametrize(("explanation", "wanted"), [("because", "because"), (7, None)])
def test_a_refusal_in_the_middle_ends_the_answer(explanation: Any, wanted: str | None) -> None:
    """The CLI asked once more, in vain; its notes are in the history of the child, which must go."""
    refused = [stopped("refusal", stop_details={"explanation": explanation}), MESSAGE_STOP]
    bench = Bench()
    bench.feed(start(), *called(0), *PAUSE, result(), start(), *refused, start(), *refused)
    bench.feed({**FAILED, "stop_reason": "refusal"})
    end = bench.events[-1]
    assert isinstance(end, MessageEnd) and (end.stop_reason, end.explanation) == ("refusal", wanted)
    assert bench.translator.cut
    bench.answer()


def test_a_refusal_that_the_cli_got_over_is_none() -> None:
    """Its second question was answered."""
    bench = Bench()
    bench.feed(start(), stopped("refusal"), MESSAGE_STOP, start(), *text(0, "a"), *END)
    assert bench.answer().stop_reason == "end_turn" and not bench.translator.cut


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "pause_turn"])
def test_the_reason_of_the_last_call_is_that_of_the_answer(reason: str) -> None:
    """Those before it led to tools."""
    bench = Bench()
    bench.feed(start(), *called(0), *PAUSE, result(), start(), *text(0, "a"), stopped(reason), RESULT)
    assert bench.answer().stop_reason == reason


def test_an_answer_that_ends_with_its_tools_has_ended() -> None:
    """`tool_use` would ask the client to run them."""
    bench = Bench()
    bench.feed(start(), *called(0), *PAUSE, RESULT)
    assert bench.answer().stop_reason == "end_turn"
    assert not bench.translator.running


# Failures


def test_a_call_that_is_begun_again_goes_on_below() -> None:
    """Hours of work may lie behind it: what was said stays, and is said to have broken off."""
    bench = Bench()
    bench.feed(start(), *called(0), *PAUSE, result())
    bench.feed(start(), opened(0), delta(0, "text_delta", text="half a wo"), start(), *text(0, "a word"), *END)
    assert [one for kind, one in bench.shown() if kind == "text"] == ["half a wo", "\n\na word"]
    assert any("broke off here" in one for kind, one in bench.shown() if kind == "thinking")


@pytest.mark.parametrize(
    "messages",
    [
        [event("message_start")],
        [RESULT],
        [start(), RESULT],
        [start(), *text(0, "a"), RESULT],
        [start(), *text(0, "a"), FAILED],
        [start(), *called(0), *PAUSE, result(), start(), opened(0), delta(0, "text_delta", text="wo"), RESULT],
    ],
    ids=["no message", "no answer", "no end", "broken off", "failed", "a later call broken off"],
)
def test_what_is_no_whole_answer_is_an_error(messages: list[Json]) -> None:
    """Never an end."""
    with pytest.raises(UpstreamError):
        Bench().feed(*messages)


def test_a_call_may_be_made_again_before_its_first_word() -> None:
    """The CLI does so by itself; only what was said counts."""
    retry = {"type": "system", "subtype": "api_retry", "error_status": 529}
    bench = Bench()
    bench.feed(retry, start(output_tokens=5), retry, start(output_tokens=1), *text(0, "a"), *END)
    assert (bench.answer().text, bench.answer().usage.output_tokens) == ("a", 9)


@pytest.mark.parametrize(
    ("status", "error"), [(401, NotAuthenticated), (429, RateLimited), (400, ProxyError), (404, ProxyError)]
)
def test_a_failure_that_trying_again_cannot_mend_ends_a_turn_that_has_not_begun(
    status: int, error: type[ProxyError]
) -> None:
    """The CLI would try for minutes."""
    retry = {"type": "system", "subtype": "api_retry", "error_status": status, "retry_delay_ms": 60_000}
    with pytest.raises(error):
        Bench().feed(retry)


@pytest.mark.parametrize("status", [401, 429, 500, None])
def test_a_turn_that_has_begun_is_left_to_the_cli(status: int | None) -> None:
    """Its work so far would be lost."""
    retry = {"type": "system", "subtype": "api_retry", "error_status": status, "retry_delay_ms": 60_000}
    bench = Bench()
    bench.feed(start(), *called(0), *PAUSE, result(), retry, start(), *text(0, "a"), *END)
    assert bench.answer().text == "a"


def test_a_failed_turn_means_what_its_fields_say() -> None:
    """What was told before it counts, too."""
    limit = {"type": "rate_limit_event", "rate_limit_info": {"status": "rejected", "resetsAt": NOW + 50}}
    with pytest.raises(PlanLimitReached) as raised:
        Bench().feed(start(), *called(0), *PAUSE, limit, {**FAILED, "api_error_status": 429})
    assert raised.value.retry_after == 50.0
    notice = {"type": "assistant", "message": {"model": "<synthetic>"}, "error": "authentication_failed"}
    with pytest.raises(NotAuthenticated):
        Bench().feed(notice, FAILED)


# Counts


def test_the_client_is_told_the_input_of_the_newest_call_and_the_output_of_all() -> None:
    """The context is read anew with each call; a sum of it would be larger than any window."""
    bench = Bench()
    bench.feed(start(input_tokens=100, output_tokens=1), *called(0), *PAUSE, result())
    assert bench.translator.usage == Usage(100, 9)
    bench.feed(start(input_tokens=150, cache_read_input_tokens=7, output_tokens=1), *text(0, "a"), *END)
    assert bench.answer().usage == Usage(150, 18, 7)


def test_the_total_is_what_the_cli_says_of_all_models() -> None:
    """What was seen of the calls themselves, where it says nothing, or says it in another shape."""
    models = {
        "a": {"inputTokens": 10, "outputTokens": 20, "cacheReadInputTokens": 30, "cacheCreationInputTokens": 40},
        "b": {"inputTokens": 1, "outputTokens": 1, "thinkingTokens": 5, "costUSD": 0.5, "of_tomorrow": {}},
    }
    for by_model, wanted in (
        (models, Usage(11, 21, 30, 40, 5)),
        ({}, Usage(5, 18)),
        (None, Usage(5, 18)),
        ({"a": {"inputTokens": "many"}}, Usage(5, 18)),
    ):
        bench = Bench()
        bench.feed(start(input_tokens=2), *called(0), *PAUSE, result())
        assert bench.translator.total == Usage(2, 9)
        bench.feed(start(input_tokens=3), *text(0, "a"), stopped("end_turn"))
        bench.feed({**RESULT, "model_usage_since_last_result": by_model})
        assert bench.translator.total == wanted


def test_lines_that_mean_nothing_to_an_answer_are_passed_over() -> None:
    """Signs of life, notices, questions: others hear of them."""
    ask = {"subtype": "can_use_tool", "tool_name": "Bash", "input": {}}
    others: list[Json] = [
        {"type": "tool_progress", "tool_use_id": "t1"},
        {"type": "system", "subtype": "init"},
        {"type": "control_request", "request_id": "r", "request": ask},
        {"type": "control_cancel_request", "request_id": "r"},
        {"type": "user", "message": {"role": "user", "content": "text"}},
    ]
    bench = Bench()
    bench.feed(start())
    assert bench.feed(*others) == []


def test_the_first_event_of_a_block_is_its_start() -> None:
    """Nothing is opened before its first words."""
    bench = Bench()
    assert bench.feed(start(), opened(0))[1:] == []
    assert bench.feed(delta(0, "text_delta", text="a")) == [BlockStart(0, Text("")), TextDelta(0, "a")]
    assert bench.feed(closed(0), *called(1))[1:] == [BlockStart(1, Thinking("")), ThinkingDelta(1, "▸ Bash: ls\n")]


def test_json_is_written_without_blanks() -> None:
    """As other answers of this kind."""
    bench = Bench(structured=True)
    value = {"a": [1, 2], "ä": None}
    bench.feed(start(), *PAUSE, {**RESULT, "structured_output": value})
    assert bench.answer().text == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
