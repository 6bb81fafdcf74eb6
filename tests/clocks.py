"""A clock for tests: time passes when it is told to."""


class Clock:
    """Seconds; `now` is set by whoever turns it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
