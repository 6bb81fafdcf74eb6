"""Whether the CLI is logged in: what is known, how it is found out, what to say where it is not.

The engine notes what turns prove, `/health` and the start ask. Invariant: asking for what is known never waits for the
CLI; only `check` does, for up to a second.
"""

import threading
from dataclasses import dataclass
from typing import Protocol

from ..core.errors import CliUnavailable


class LoginSource(Protocol):
    """What asks the CLI itself. Raises CliUnavailable where there is none."""

    def is_logged_in(self) -> bool | None: ...

    def login_advice(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Login:
    """logged_in: None while it is not known. problem: what a person should do about it; None where all is well."""

    logged_in: bool | None = None
    problem: str | None = None


class LoginState:
    """What is known of the CLI's login."""

    def __init__(self, source: LoginSource) -> None:
        self._source = source
        self._lock = threading.Lock()  # guards: _known
        self._known = Login()

    @property
    def known(self) -> Login:
        """Never waits."""
        with self._lock:
            return self._known

    def note(self, logged_in: bool) -> None:
        """A turn has proved that the CLI is logged in, or is not."""
        if not logged_in or self.known != Login(True):  # every answer proves it: nothing to build, nothing to write
            self._remember(Login(logged_in, None if logged_in else self.advice()))

    def check(self) -> Login:
        """Ask the CLI whether it is there and logged in; takes up to a second."""
        try:
            logged_in = self._source.is_logged_in()
            self._remember(Login(logged_in, self.advice() if logged_in is False else None))
        except CliUnavailable as error:
            self._remember(Login(None, error.message))
        return self.known

    def advice(self) -> str:
        """What to run."""
        return f"The Claude Code CLI is not logged in. Run: {self._source.login_advice()}"

    def _remember(self, login: Login) -> None:
        with self._lock:
            self._known = login
