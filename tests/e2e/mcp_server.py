"""A small MCP server over stdio, as a user may have one: `note` answers with what it was given.

In: JSON-RPC lines of `initialize`, `tools/list`, `tools/call`; seconds to sleep before the first answer as argument.
Out: their answers.
"""

import json
import sys
import time
from typing import Any

TOOL = {
    "name": "note",
    "description": "Takes a note",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of one request."""
    match method:
        case "initialize":
            about = {"name": "notes", "version": "1"}
            return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
        case "tools/list":
            return {"tools": [TOOL]}
        case "tools/call":
            return {"content": [{"type": "text", "text": f"noted {params['arguments']['text']}"}]}
    return {}


def main() -> None:
    """Serve until stdin ends."""
    time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 0)
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request:
            result = answer(request["method"], request.get("params") or {})
            print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)


if __name__ == "__main__":
    main()
