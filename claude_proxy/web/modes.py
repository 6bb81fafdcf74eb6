"""Which mode a request runs in: what the server's own is, what its header asks for.

`serving.py` asks once for each request. Invariant: tools of the client's are run by the client, unless the header says
otherwise.
"""

from werkzeug.datastructures import Headers

from ..config import MODES, Config
from ..core.errors import BadRequest, Forbidden
from ..turns.modes import Mode, Modes

HEADER = "X-Claude-Mode"


def choose_mode(headers: Headers, config: Config, modes: Modes, *, has_tools: bool) -> Mode:
    """The mode of a request. has_tools: it brings functions of the client's.

    Raises Forbidden where agent mode is asked for and off, BadRequest for a mode that does not exist.
    """
    return modes.choose(agent=_asks_for_agent(headers, config, has_tools=has_tools), has_tools=has_tools)


def _asks_for_agent(headers: Headers, config: Config, *, has_tools: bool) -> bool:
    asked = headers.get(HEADER, "").strip().lower()
    if not asked:
        return config.mode == "agent" and not has_tools
    if asked not in MODES:
        raise BadRequest(f"{HEADER} is {asked[:40]!r}, and must be one of {', '.join(MODES)}", param=HEADER)
    if asked == "agent" and not config.has_agent:
        raise Forbidden("Agent mode is off: start the proxy with --agent to let requests ask for it")
    return asked == "agent"
