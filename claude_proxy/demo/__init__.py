"""A small Anthropic Messages API on loopback: no account, no network, no model.

The service starts it for `--demo`. It answers from the prompt alone and does what words such as
`demo:delay=50` in the prompt ask for (`COMMANDS` lists them). What has the shape of a request it answers;
the rules by which the real API refuses are the tests' (`tests/upstream`).
Invariant: the package imports nothing of the rest of the program: it is an upstream.

    request                    the body as types
    prompt, cache              tokens and the prompt cache
    commands, turn             what the newest turn of the user says and asks for
    answer, instances, render  the answer, and its bytes
    pacing, limits             when those bytes leave; the headers of a plan limit
    replies, app, server       a request's reply, the routes, the threads and sockets
"""

from .commands import COMMANDS, Command
from .server import DemoApi

__all__ = ["COMMANDS", "Command", "DemoApi"]
