"""How long things take that are not settings of the user's: one object, handed to each part that waits.

The service makes it; tests hand in another, so that nothing is patched and nothing takes seconds. Invariant: it never
changes while the proxy runs. `_timeout`: the longest wait for something. `_interval`: the time from one thing to the
next. All in seconds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Each field with what it is for.

    Children, by the keeper:
        stale_call_interval: a call that has waited so long may lose its child to another conversation, instead of a
            process being started; its own conversation can still be replayed.
        free_interval: a child whose conversation was given up waits so long for another one.
        start_timeout: a lease waits for a child that must be started.
        grace_interval: from EOF to SIGTERM to SIGKILL, for a child that must end.
        tick_interval: between two sweeps of the keeper without work.
        retiring_interval: the same while a child is on its way out.
        top_up_interval: from a lease to the start of the next spare: one that boots beside a turn that has just begun
            would slow its first word.
        first_backoff_interval, longest_backoff_interval: from a spare that could not be started to the next try.
        housekeeping_interval: between two prunings of the store.
        memory_floor_bytes: with less memory left, children are neither started ahead nor kept.
    One child:
        control_timeout: a CLI that is well answers a control request in milliseconds.
        end_timeout: from the model's stop reason to the CLI's end of the turn, or to its waiting for results; what it
            does instead is unknown, and the answer is over all the same.
        exit_check_interval: between two looks at a process on systems that cannot wait for its end, and how long its
            exit status may follow the end of its stdout.
        ask_timeout: a command that the CLI answers at once, such as `--version`.
    The check of the start:
        check_timeout: a child under examination must have answered everything.
    The end of the proxy:
        abort_timeout: turns that did not end in time are aborted, and may take so long to end.
        pool_stop_timeout: workers that are still busy then.
        keeper_stop_timeout: every child together; what is left is killed.
    """

    start_timeout: float = 30.0
    stale_call_interval: float = 60.0
    free_interval: float = 60.0
    grace_interval: float = 3.5
    tick_interval: float = 0.5
    retiring_interval: float = 0.05
    top_up_interval: float = 0.3
    first_backoff_interval: float = 1.0
    longest_backoff_interval: float = 60.0
    housekeeping_interval: float = 3600.0
    memory_floor_bytes: int = 1 << 30
    control_timeout: float = 3.0
    end_timeout: float = 5.0
    exit_check_interval: float = 0.25
    ask_timeout: float = 20.0
    check_timeout: float = 20.0
    abort_timeout: float = 3.5
    pool_stop_timeout: float = 10.0
    keeper_stop_timeout: float = 10.5
