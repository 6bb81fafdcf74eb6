"""Whether the CLI is logged in: what turns prove, what the CLI says, what a person should do."""

import pytest

from claude_proxy.core.errors import CliUnavailable
from claude_proxy.turns.login import Login, LoginState


class Source:
    """The CLI: what it answers, and how often it was asked."""

    def __init__(self, answer: bool | None = True, missing: bool = False) -> None:
        self.answer, self.missing, self.asked = answer, missing, 0

    def is_logged_in(self) -> bool | None:
        self.asked += 1
        if self.missing:
            raise CliUnavailable("There is no CLI")
        return self.answer

    def login_advice(self) -> str:
        return "claude auth login"


ADVICE = "The Claude Code CLI is not logged in. Run: claude auth login"


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (Source(True), Login(True)),
        (Source(False), Login(False, ADVICE)),
        (Source(None), Login(None)),
        (Source(missing=True), Login(None, "There is no CLI")),
    ],
)
def test_the_cli_is_asked(source: Source, wanted: Login) -> None:
    """What it does not say is not known."""
    state = LoginState(source)
    assert state.known == Login()
    assert state.check() == wanted == state.known


def test_every_answer_proves_a_login() -> None:
    """Without a question; a failure proves the opposite."""
    source = Source()
    state = LoginState(source)
    for logged_in, wanted in ((True, Login(True)), (False, Login(False, ADVICE)), (True, Login(True))):
        state.note(logged_in)
        assert state.known == wanted
    assert source.asked == 0
