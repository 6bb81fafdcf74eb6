"""Forgetting what was not used for long: sessions, responses and conversations, old rows of the ledger.

The keeper's thread calls `Pruner.prune` at the start and every hour. Invariant: what is younger than the time to live
stays.
"""

import logging

from .ledger import Ledger
from .responses import ResponseBook
from .sessions import Sessions

log = logging.getLogger(__name__)


class Pruner:
    """The housekeeping of the store."""

    def __init__(self, sessions: Sessions, responses: ResponseBook, ledger: Ledger, ttl: float) -> None:
        """
        Args:
            sessions: forget by their own time to live, which is `ttl`.
            responses: those kept for clients, and their conversations.
            ledger: forgets by its own rule.
            ttl: seconds without use.
        """
        self._sessions = sessions
        self._responses = responses
        self._ledger = ledger
        self._ttl = ttl

    def prune(self) -> None:
        forgotten = self._sessions.prune()
        if forgotten:
            log.info("Forgot %d sessions that were not used for %g h", forgotten, self._ttl / 3600)
        gone = self._responses.prune(self._ttl)
        if gone:
            log.info("Forgot %d responses and conversations that were not used", gone)
        self._ledger.prune()
