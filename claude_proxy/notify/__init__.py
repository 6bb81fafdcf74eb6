"""Where progress is shown besides the client: a Telegram chat, a webhook.

In: settings; every notice of `Activity`, through `listeners`. Out: messages and deliveries, each sink in its thread.
The service starts and stops them.
Invariant: a sink may be slow, down or wrong for as long as it likes; a turn never waits for it and never fails with it.
"""

from collections.abc import Sequence

from ..config import Config
from ..monitoring.activity import Listener
from .sink import Sink

__all__ = ["STOP_TIMEOUT", "Sinks", "build"]

STOP_TIMEOUT = 2.0


class Sinks:
    """All sinks that are configured, which may be none."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """For `Activity`."""
        return self._sinks

    def start(self) -> None:
        for sink in self._sinks:
            sink.start()

    def stop(self) -> None:
        """Let all sinks deliver what waits, at the same time and for a short time; then end them."""
        for sink in self._sinks:
            sink.close(STOP_TIMEOUT)
        for sink in self._sinks:
            sink.join(STOP_TIMEOUT)


def build(config: Config) -> Sinks:
    """The sinks that the settings ask for, not started yet."""
    sinks: list[Sink] = []
    # Imported where they are needed: their HTTP client would cost every proxy time at the start, and memory.
    if config.telegram_bot_token and config.telegram_notify_id:
        from .telegram import Telegram

        sinks.append(Telegram(config.telegram_bot_token, config.telegram_notify_id, config.telegram_api_base))
    if config.webhook:
        from .webhook import Webhook

        sinks.append(Webhook(config.webhook, config.webhook_secret))
    return Sinks(sinks)
