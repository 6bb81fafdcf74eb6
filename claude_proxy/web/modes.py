"""Which mode a request runs in: what the server's own is, what its header asks for.

In: headers, the settings. Out: whether the CLI's own tools run.
"""

from werkzeug.datastructures import Headers

from ..config import MODES, Config
from ..core.errors import BadRequest, Forbidden

HEADER = "X-Claude-Mode"


def asks_for_agent(headers: Headers, config: Config, *, has_tools: bool) -> bool:
    """True for agent mode. Tools of the client's are run by the client, unless the header says otherwise.

    Raises Forbidden where agent mode is off, BadRequest for a mode that does not exist.
    """
    asked = headers.get(HEADER, "").strip().lower()
    if not asked:
        return config.mode == "agent" and not has_tools
    if asked not in MODES:
        raise BadRequest(f"{HEADER} is {asked[:40]!r}, and must be one of {', '.join(MODES)}", param=HEADER)
    if asked == "agent" and not config.has_agent:
        raise Forbidden("Agent mode is off: start the proxy with --agent to let requests ask for it")
    return asked == "agent"
