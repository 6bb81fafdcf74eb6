"""A small Anthropic Messages API on loopback: no account, no network, no model.

It answers from the prompt alone, refuses what the real API refuses, and does what words such as
`demo:delay=50` in the prompt ask for (`COMMANDS` lists them). The package knows nothing of the rest of the
program: it is an upstream.

    request                    the body as types
    rules, history             what the real API refuses
    prompt, cache              tokens and the prompt cache
    commands, turn             what the newest turn of the user says and asks for
    answer, instances, render  the answer, and its bytes
    pacing, limits             when those bytes leave; the headers of a plan limit
    replies, app, server       a request's reply, the routes, the threads and sockets
    recorder                   the last requests, for tests
"""

from .commands import COMMANDS, Command
from .recorder import RecordedRequest
from .server import DemoApi

__all__ = ["COMMANDS", "Command", "DemoApi", "RecordedRequest"]
