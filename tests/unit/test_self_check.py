"""What the check of the start concludes, and what it remembers."""

import json
from pathlib import Path
from typing import Any

import pytest

from claude_proxy.claude.fleet.check_api import ANSWER, HOLD
from claude_proxy.claude.fleet.self_check import EARLIER, FILE_NAME, SelfCheck, compare, hash_file
from claude_proxy.claude.process.child import Child
from claude_proxy.claude.process.locate import Installation
from claude_proxy.claude.wire.recycling import EVERYTHING, NOTHING, Abilities, Recycling
from claude_proxy.core.errors import CliUnavailable
from claude_proxy.core.timing import Timing

Json = dict[str, Any]
BODY: Json = {
    "model": "claude-sonnet",
    "system": [{"type": "text", "text": "cc_version=2.1.331.abc; You are PROMPT-TWO."}],
    "messages": [{"role": "user", "content": "QUESTION-TWO 0f9f5c7a-1111-4222-8333-444455556666"}],
    "tools": [{"name": "beta"}],
    "metadata": {"user_id": "one"},
}


def test_what_differs_between_any_two_children_is_not_compared() -> None:
    """Ids, three digits of the version, who the CLI says it is."""
    other = json.loads(json.dumps(BODY).replace("0f9f5c7a", "aaaaaaaa").replace(".331.abc", ".331.def"))
    assert compare(BODY, {**other, "metadata": {"user_id": "two"}}, routed=True).abilities == EVERYTHING


@pytest.mark.parametrize(
    ("recycled", "routed", "abilities"),
    [
        ({"system": []}, True, Abilities(rewind=True, retool=True)),
        ({"model": "claude-haiku"}, True, Abilities(rewind=True, retool=True)),
        ({"tools": []}, True, Abilities(rewind=True, switch=True)),
        ({}, False, Abilities(rewind=True, switch=True)),
        ({"system": []}, False, Abilities(rewind=True)),
        ({"messages": []}, True, NOTHING),
        ({"max_tokens": 1}, True, NOTHING),
        *[({"system": [{"type": "text", "text": word}]}, True, NOTHING) for word in (EARLIER, HOLD, ANSWER)],
    ],
)
def test_only_what_was_seen_is_used(recycled: Json, routed: bool, abilities: Abilities) -> None:
    """Something left of an earlier conversation, or a difference that has no name, ends it all."""
    outcome = compare({**BODY, **recycled}, BODY, routed=routed)
    assert outcome.abilities == abilities and outcome.reason


class Starter:
    """Starts nothing, and counts how often it was to."""

    def __init__(self) -> None:
        self.asked = 0

    def start(self, model: str) -> Child:
        self.asked += 1
        raise CliUnavailable("not here")

    def close(self) -> None:
        """There is nothing."""


def run(folder: Path | None, binary: Path, starter: Starter) -> Recycling:
    recycling = Recycling()
    installation = Installation(binary, "2.1.331")
    SelfCheck(recycling, lambda: installation, lambda url: starter, folder, Timing()).run()
    return recycling


def remember(folder: Path, binary: Path, text: str) -> None:
    (folder / FILE_NAME).write_text(text.replace("HASH", hash_file(binary)))


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "claude"
    path.write_bytes(b"one release")
    return path


def test_what_was_seen_is_remembered_for_the_very_binary(tmp_path: Path, binary: Path) -> None:
    """Another one of the same version is another."""
    known = '{"1 2.1.331 HASH": {"abilities": {"rewind": true, "switch": false, "retool": true}, "reason": "r"}}'
    remember(tmp_path, binary, known)
    starter = Starter()
    recycling = run(tmp_path, binary, starter)
    assert (recycling.abilities, recycling.reason, starter.asked) == (Abilities(True, False, True), "r", 0)
    binary.write_bytes(b"another build")
    assert run(tmp_path, binary, starter).abilities == NOTHING and starter.asked == 1


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"1 2.1.331 HASH": {"abilities": {"made up": 1}}}'])
def test_a_memory_that_cannot_be_read_is_none(tmp_path: Path, binary: Path, text: str) -> None:
    """The check is made."""
    remember(tmp_path, binary, text)
    starter = Starter()
    assert run(tmp_path, binary, starter).abilities == NOTHING and starter.asked == 1


def test_a_check_that_fails_is_said_and_not_remembered(tmp_path: Path, binary: Path) -> None:
    """The next start tries again."""
    recycling = run(tmp_path, binary, Starter())
    assert "not here" in recycling.reason and not (tmp_path / FILE_NAME).exists()
    assert run(None, tmp_path / "gone", Starter()).abilities == NOTHING
