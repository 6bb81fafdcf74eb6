"""What is written down about a turn: activity (what goes on), sessions (whose conversation), ledger (what it used).

The engine and the runner call it with each step of a turn. Invariant: nothing here is needed to ask the question, so
that the runner keeps these books while the model thinks; a failed write costs the memory of a turn, never the turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..claude.wire.profile import Point
from ..core.conversation import Message
from ..core.errors import ProxyError
from ..core.events import MessageStart
from ..core.session_key import SessionKey
from ..storage.ledger import Ledger, Spent
from ..storage.sessions import Sessions
from .observer import Observers
from .turn import Turn


class Remembering(Protocol):
    """A child, as far as the books need it: which conversation it holds, and where the CLI's own session stands."""

    session: SessionKey | None
    is_remembered: bool

    @property
    def session_id(self) -> str | None: ...

    @property
    def point(self) -> Point | None: ...


@dataclass(frozen=True, slots=True)
class Books:
    """The books of all turns."""

    observers: Observers
    sessions: Sessions
    ledger: Ledger

    def begin(self, turn: Turn) -> None:
        """The turn waits for a worker."""
        self.observers.activity.begin(
            turn.id,
            owner=turn.name.owner,
            dialect=turn.request.dialect,
            mode=turn.mode.name,
            model=turn.profile.model,
        )

    def begin_session(self, turn: Turn, chain: Sequence[bytes]) -> None:
        """Find the conversation that the turn continues; does nothing where that is known."""
        if turn.session is None:
            turn.begin_session(self.sessions.begin(turn.name, chain))

    def release_session(self, turn: Turn) -> None:
        """The turn adds nothing to its conversation: the id that it was given may be used again."""
        if turn.session is not None:
            self.sessions.release(turn.session)

    def note_leased(self, turn: Turn, held: int) -> None:
        """A child has been asked, of which `held` messages were there already."""
        report = turn.report
        report.note_plan_warning(self.observers.plan_limits.warning(turn.profile.model))
        self.observers.activity.note(
            turn.id, "leased", session=report.session, model=turn.profile.model, how=report.origin
        )
        turn.log_begin(held)

    def note_first(self, turn: Turn, event: MessageStart) -> None:
        """The answer has begun."""
        self.observers.activity.note(turn.id, "first_token", model=event.model, usage=event.usage)

    def settle(self, turn: Turn, child: Remembering, head: bytes, reply: Message | None) -> bool:
        """Write down a turn that ended well.

        False where the conversation must not go on in this child: deleted meanwhile, or the blank answer of a chat.

        Args:
            child: what answered; learns which session it holds.
            head: the digest from which the conversation goes on.
            reply: the answer as a message of the conversation; None where it is blank.
        """
        spent = self.ledger.statements(spent_by(turn))
        if reply is None and not turn.mode.runs_agent:
            self.sessions.write(spent)
            return False
        assert turn.session is not None
        messages = turn.conversation.messages
        new = (*messages[len(messages) - turn.request.new_messages :], *([] if reply is None else [reply]))
        child.session = turn.session.key
        child.is_remembered = self.sessions.finish(
            turn.session,
            (head,),
            len(messages) + (reply is not None),
            model=turn.report.model,
            mode=turn.mode.name,
            point=child.point if turn.mode.persists else None,
            claude_session_id=child.session_id,
            history=new if turn.request.stores_history else (),
            more=spent,
        )
        if not child.is_remembered:
            self.sessions.write(spent)
        return child.is_remembered

    def done(self, turn: Turn) -> None:
        """The turn ended well."""
        self.observers.activity.done(turn.id, None, usage=turn.report.usage, total=turn.report.total)

    def cancelled(self, turn: Turn) -> None:
        """The turn ended before a worker had it."""
        self.observers.activity.done(turn.id, turn.abort_reason)

    def refused(self, turn: Turn, error: ProxyError) -> None:
        """The turn did not get a place in the queue."""
        self.observers.activity.done(turn.id, error)

    def failed(self, turn: Turn, error: ProxyError) -> None:
        """The turn ended with an error."""
        self.release_session(turn)
        self.sessions.write(self.ledger.statements(spent_by(turn, failed=True)))
        self.observers.activity.done(turn.id, error, usage=turn.report.usage, total=turn.report.total)

    def withdraw_questions(self, turn: Turn) -> None:
        """What the turn's agent asked needs no answer any more."""
        self.observers.permissions.withdraw(turn.id)


def spent_by(turn: Turn, *, failed: bool = False) -> Spent:
    """What goes into the ledger."""
    report = turn.report
    return Spent(
        owner=turn.name.owner,
        dialect=turn.request.dialect,
        mode=turn.mode.name,
        model=report.model or turn.profile.model,
        session=report.session,
        usage=report.total,
        cost_usd=report.cost_usd,
        failed=failed,
    )
