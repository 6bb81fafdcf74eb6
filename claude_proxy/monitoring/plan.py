"""The plan's windows, as the CLI reports them: which are nearly used up, which refuse, and until when.

In: `rate_limit_event`s of turns, the CLI's answers to `get_usage`. Out: a refusal before a child is asked, a warning
for a header, a snapshot for `/v1/usage` and the metrics.
Invariants: only the state of a whole answer refuses; a window's own `rejected` does not, nor does one beyond which paid
use continues. A refusal without an end is not remembered. A restart forgets everything, so that a changed plan or login
counts at once.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, Protocol

from ..claude.wire.protocol import RateLimitInfo
from ..core.errors import PlanLimitReached
from ..core.models import family_of, family_of_window
from ..core.times import iso_time

log = logging.getLogger(__name__)

# Below this share a window that refused does so no more.
FAR_FROM_USED_UP = 0.9
ASK_INTERVAL = 60.0
ANSWER_TIMEOUT = 3.0
WORDS = {
    "five_hour": "5-hour limit",
    "seven_day": "weekly limit",
    "overage": "limit of paid extra use",
}

Source = Literal["rate_limit_event", "get_usage"]


@dataclass(frozen=True, slots=True)
class Window:
    """One window. status: allowed, allowed_warning, rejected, or None where only its use is known. utilization: 0 to 1,
    more where paid use goes on. resets_at, noted_at: Unix seconds. refuses: requests are refused until it resets."""

    type: str
    status: str | None = None
    utilization: float | None = None
    resets_at: float | None = None
    noted_at: float = 0.0
    refuses: bool = False

    @property
    def words(self) -> str:
        """`weekly limit for opus`."""
        family = family_of_window(self.type)
        return WORDS.get(self.type) or (f"weekly limit for {family.alias}" if family else f"limit {self.type}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known now. windows: by type, those that have not been reset since. overage: whether paid use beyond the
    plan is allowed, by the API's word; None where it said nothing. subscription: the plan's name, if the CLI knows it.
    source, as_of: of the last report."""

    windows: tuple[Window, ...]
    overage: str | None
    using_overage: bool
    subscription: str | None
    source: Source | None
    as_of: float | None


class PlanLimits:
    """The windows of the plan that the CLI is logged in to. `wall_clock` gives Unix seconds."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # guards: all that follows
        self._windows: dict[str, Window] = {}
        self._overage: str | None = None
        self._using_overage = False
        self._subscription: str | None = None
        self._source: Source | None = None
        self._as_of: float | None = None

    def note(self, info: RateLimitInfo) -> None:
        """What an answer's `rate_limit_event` says. A `rejected` without the end of its window is a plain 429."""
        now = self._wall_clock()
        rejected = info.status == "rejected"
        if rejected and info.resets_at is None:
            return
        # As the CLI itself tells a refusal from an answer that is paid for.
        paid = bool(info.is_using_overage or (info.overage_in_use and info.rate_limit_type != "overage"))
        refused = rejected and not paid
        reported = info.all_windows()
        kind = info.rate_limit_type or ("plan" if rejected else None)
        with self._lock:
            before = self._current(now)
            for name, one in reported.items():
                self._merge(Window(name, one.status, one.utilization, one.resets_at, now), refused)
            if kind is not None:
                self._merge(Window(kind, info.status, info.utilization, info.resets_at, now, refused), refused)
            elif info.status == "allowed":
                self._clear(lambda window: family_of_window(window.type) is None)
            self._overage, self._using_overage = info.overage_status or self._overage, paid
            self._source, self._as_of = "rate_limit_event", now
            after = self._current(now)
        self._log_changes(before, after)

    def note_usage(self, answer: Mapping[str, Any]) -> None:
        """The CLI's answer to `get_usage` (`SDKControlGetUsageResponse`): it says how much is used, not what is
        refused; but a window that refuses and is far from used up belongs to a plan that was changed.

        Its `rate_limits` are None without a plan, and where the API could not be reached.
        """
        now = self._wall_clock()
        subscription = answer.get("subscription_type")
        limits = answer.get("rate_limits")
        with self._lock:
            self._subscription = subscription if isinstance(subscription, str) else None
            if not isinstance(limits, Mapping):
                return
            before = self._current(now)
            for name, row in _rows(limits):
                used, reset = _fraction(row.get("utilization")), _unix_time(row.get("resets_at"))
                if used is not None or reset is not None:
                    self._windows[name] = _with_usage(before.get(name, Window(name)), used, reset, now)
            self._source, self._as_of = "get_usage", now
            after = self._current(now)
        self._log_changes(before, after)

    def check(self, model: str) -> PlanLimitReached | None:
        """Why a request for this model is refused now; `retry_after` are the seconds until that window is reset."""
        now = self._wall_clock()
        with self._lock:
            refusing = [
                window for window in self._current(now).values() if window.refuses and concerns(window.type, model)
            ]
        if not refusing:
            return None
        longest = max(refusing, key=lambda window: window.resets_at or now)
        return PlanLimitReached(
            f"The plan's {longest.words} is reached. Requests are refused until it resets",
            retry_after=max(1.0, (longest.resets_at or now) - now),
        )

    def warning(self, model: str = "") -> str | None:
        """For a header: `five_hour 91% until 2026-01-31T15:00:00Z`, more of them after `; `; None without any.

        model: whose windows are meant; all of them without it. A window beyond which paid use continues is one, too.
        """
        warned = [
            _describe(one)
            for one in self.snapshot().windows
            if _state(one) in ("allowed_warning", "exceeded") and (not model or concerns(one.type, model))
        ]
        return "; ".join(warned) or None

    def snapshot(self) -> Snapshot:
        """What is known now."""
        now = self._wall_clock()
        with self._lock:
            windows = tuple(window for _, window in sorted(self._current(now).items()))
            return Snapshot(
                *(windows, self._overage, self._using_overage, self._subscription, self._source, self._as_of)
            )

    def _merge(self, window: Window, refused: bool) -> None:
        """Replace what was known by what was reported, and keep what the report leaves open. The lock must be held.

        refused: whether the request was; if it was not, no window in its report refuses.
        """
        known = self._windows.get(window.type)
        if known is not None:
            same = window.resets_at in (None, known.resets_at)
            status = window.status or (known.status if same else None)
            still = refused and known.refuses and status == "rejected"
            window = replace(
                window,
                status=status,
                utilization=known.utilization if same and window.utilization is None else window.utilization,
                resets_at=window.resets_at or known.resets_at,
                refuses=window.refuses or still,
            )
        self._windows[window.type] = window

    def _clear(self, over: Callable[[Window], bool]) -> None:
        """The lock must be held."""
        for name, window in self._windows.items():
            if window.status not in (None, "allowed") and over(window):
                self._windows[name] = replace(window, status="allowed", refuses=False)

    def _current(self, now: float) -> dict[str, Window]:
        """The windows that have not been reset since. The lock must be held."""
        self._windows = {
            name: window for name, window in self._windows.items() if window.resets_at is None or window.resets_at > now
        }
        return dict(self._windows)

    def _log_changes(self, before: Mapping[str, Window], after: Mapping[str, Window]) -> None:
        """A line for each change of state."""
        for name in sorted({*before, *after}):
            old, new = before.get(name, Window(name)), after.get(name, Window(name))
            if _state(old) != _state(new):
                level, words = _CHANGES[_state(new)]
                log.log(level, "The plan's %s %s: %s", new.words, words, _describe(new))


class IdleChildren(Protocol):
    """The children that no turn has."""

    def request_usage(self, take: Callable[[Mapping[str, Any] | None], None], /) -> bool:
        """Ask one of them how much of the plan is used; False where there is none.

        take: called with the answer, or with None, later and by another thread, or never.
        """


class PlanQuestion:
    """Asks the CLI how much of the plan is used: at most once in `ASK_INTERVAL` seconds, for all clients together."""

    def __init__(self, limits: PlanLimits, children: IdleChildren, clock: Callable[[], float]) -> None:
        """
        Args:
            limits: learn the answer.
            children: one of them is asked.
            clock: monotonic.
        """
        self._limits = limits
        self._children = children
        self._clock = clock
        self._lock = threading.Lock()  # guards: _asked_at, _answered
        self._asked_at = float("-inf")
        self._answered = threading.Event()

    def refresh(self, timeout: float = ANSWER_TIMEOUT) -> bool:
        """Bring the limits up to date; True once the CLI has answered, and while its answer is new enough. Waits until
        `timeout` seconds after the question; False for every failure."""
        now = self._clock()
        with self._lock:
            is_due = now - self._asked_at >= ASK_INTERVAL
            if is_due:
                self._asked_at, self._answered = now, threading.Event()
            asked_at, answered = self._asked_at, self._answered
        if is_due and not self._children.request_usage(lambda answer: self._take(answer, answered)):
            with self._lock:
                self._asked_at = float("-inf")
            return False
        return answered.wait(max(0.0, asked_at + timeout - now))

    def _take(self, answer: Mapping[str, Any] | None, answered: threading.Event) -> None:
        if answer is not None:
            self._limits.note_usage(answer)
        answered.set()


_CHANGES = {
    "allowed": (logging.INFO, "is free"),
    "allowed_warning": (logging.WARNING, "is nearly reached"),
    "exceeded": (logging.WARNING, "is exceeded; requests are still served"),
    "rejected": (logging.WARNING, "is reached"),
}


def concerns(kind: str, model: str) -> bool:
    """True where a window of this type counts the use of a model."""
    family = family_of_window(kind)
    return family is None or family is family_of(model)


def _with_usage(window: Window, used: float | None, reset: float | None, now: float) -> Window:
    """A window with what `get_usage` says of it."""
    if window.refuses and used is not None and used < FAR_FROM_USED_UP:
        window = replace(window, status="allowed", refuses=False)
    if window.refuses:
        return replace(window, utilization=window.utilization if used is None else used)
    return replace(
        window,
        utilization=window.utilization if used is None else used,
        resets_at=reset or window.resets_at,
        noted_at=now,
    )


def _state(window: Window) -> str:
    """What of a window is worth a line; a rejected one that refuses nothing is exceeded."""
    if window.status == "rejected":
        return "rejected" if window.refuses else "exceeded"
    return "allowed_warning" if window.status == "allowed_warning" else "allowed"


def _describe(window: Window) -> str:
    used = f" {window.utilization:.0%}" if window.utilization is not None else ""
    until = f" until {iso_time(window.resets_at)}" if window.resets_at is not None else ""
    return f"{window.type}{used}{until}"


def _rows(limits: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The windows of `rate_limits`, each with its type; those for one model are listed apart."""
    rows = [(name, row) for name, row in limits.items() if isinstance(row, Mapping) and "resets_at" in row]
    scoped = limits.get("model_scoped")
    for row in scoped if isinstance(scoped, list) else []:
        if isinstance(row, Mapping) and row.get("display_name"):
            rows.append((f"seven_day_{str(row['display_name']).lower()[:40]}", row))
    return rows


def _fraction(percent: Any) -> float | None:
    return float(percent) / 100 if isinstance(percent, (int, float)) and not isinstance(percent, bool) else None


def _unix_time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
