"""Where progress is told besides the client: a Telegram chat, a webhook.

In: settings; every notice of `activity`, through `listeners`. Out: messages and deliveries, each sink in its thread.
Rule: a sink may be slow, down or wrong for as long as it likes; a turn never waits for it and never fails with it.
"""

from collections.abc import Sequence

from ..config import Config
from ..monitoring.activity import Listener
from .sink import Sink

__all__ = ["STOP_TIMEOUT", "Sinks", "build"]

STOP_TIMEOUT = 2.0


class Sinks:
    """All sinks that are configured; without any of them nothing here does anything."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    @property
    def listeners(self) -> list[Listener]:
        """What must hear of every notice."""
        return [sink.listen for sink in self._sinks]

    def start(self) -> None:
        for sink in self._sinks:
            sink.start()

    def stop(self) -> None:
        """Let the sinks tell what they still have to tell, side by side, for a short time; then end them."""
        for sink in self._sinks:
            sink.close(STOP_TIMEOUT)
        for sink in self._sinks:
            sink.join(STOP_TIMEOUT)


def build(config: Config) -> Sinks:
    """The sinks that the settings ask for, not started yet."""
    sinks: list[Sink] = []
    # Imported only when asked for: the HTTP client behind them would cost every start time, and memory for good.
    if config.telegram_bot_token and config.telegram_notify_id:
        from .telegram import Telegram

        sinks.append(Telegram(config.telegram_bot_token, config.telegram_notify_id, config.telegram_api_base))
    if config.webhook:
        from .webhook import Webhook

        sinks.append(Webhook(config.webhook, config.webhook_secret))
    return Sinks(sinks)
