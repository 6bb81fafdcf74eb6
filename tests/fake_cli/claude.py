#!/usr/bin/env python3
"""A scripted stand-in for the `claude` binary: JSON lines in, JSON lines out, misbehaviour on request.

In: the argv, environment and stdin of a real child. Out: what the real CLI (2.1.329) writes, in the shapes
and the order of `tests/data/transcripts`. The rule: without directives it is a faithful CLI that echoes;
whatever is odd was asked for. Beyond the transcripts the real one was seen to: end with status 143 on
SIGTERM and 0 on SIGINT; ignore JSON that is no object (but not `null`) and unknown types; go on by itself
after `max_tokens` and, once, after a refusal; and, when stdin ends while a tool call is parked, not to end
but to hand the model an error as the result.

Directives, `name[@point][#n][=argument]`, come from the script file (`Script` in the package) and from the
words of the user's text that begin with `fake:`, such as `fake:crash@delta:2=3`. Such words hold no blanks
(JSON: `\\u0020`).

Shapes of the answer (no point):
| directive | the turn |
|---|---|
| (none) | "Hello from upstream: TEXT", one delta a word; after a tool result "Tool said: RESULT" |
| `deltas=["a","b"]` | these text deltas |
| `words=N` | N text deltas: "word0 ", "word1 ", … |
| `huge[=BYTES]` | one text delta of so many bytes (10 MiB) |
| `reply=["a","b"]` | the text deltas of the second message (tool results, `max_tokens`, `refusal:once`) |
| `delay=SECONDS` | waits before every text delta (an interrupt is noticed) |
| `thinking=TEXT` | a thinking block comes first |
| `usage={…}` | counts of `message_start`; its `output_tokens` is the final count |
| `model=NAME` | the answering model |
| `stop=REASON` | any reason as it is; `stop_sequence:END` names the sequence; `max_tokens` and |
| | `refusal:once` go on with a second message, as the CLI does by itself; `refusal` is refused again |
| `call=NAME:{…}` | a tool call (repeatable). The client's tool: `tools/call`, waits, echoes the results; |
| | `StructuredOutput`: ends the turn; any other: the CLI runs it itself, one after the other, and asks |
| | `can_use_tool` first where `--permission-prompt-tool` is given and `--allowedTools` does not name it |
| `error=STATUS` | no answer: `<synthetic>` text, `api_error_status`: 400 401 403 404 413 429 500 529 |
| `not_logged_in` | likewise, without a status |
| `too_long` | likewise, "Prompt is too long", `terminal_reason` `blocking_limit` |
| `plan_limit=EPOCH` | likewise, 429 after a `rate_limit_event` `rejected` with this `resetsAt` |
| `bytewise` | every byte is a write of its own, so that reads split characters |

Points: `boot` (before stdin is read), `initialize`, `replay` (a `shouldQuery: false` line), `turn` (before
anything is written), `request` (after `system/status`; meant where none is given), `message_start`,
`delta:N` (after N text deltas in all), `tool:N` (while the N-th of the CLI's own tools runs), `last_delta`,
`end` (after the last `message_stop`), `result` (right after it), `signal` (SIGUSR1 while idle), `rewind`
(`rewind_conversation`; `stall` leaves it unanswered). `#n`: only the n-th turn, replayed line, initialize,
signal or rewind of the process. Several at one point happen as written.

What happens at a point:
| directive | what happens |
|---|---|
| `crash[=STATUS]`, `kill` | exits (1); SIGKILLs itself |
| `stall` | waits for ever; an interrupt ends the turn; at `initialize` the line is left unanswered |
| `sleep=SECONDS` | waits |
| `ignore_term` | from here on SIGTERM is only logged |
| `deaf`, `close_stdin` | reads stdin no more, so that its pipe fills up; closes it. The process goes on |
| `garbage[=KIND]` | a line: text, null, number, list, string, untyped, utf8 (invalid), blank, cut (unended) |
| `unknown`, `emit=JSON` | a message of an unknown type; any message |
| `stderr=TEXT` | a line on stderr |
| `grandchild[=SECONDS]` | a process in a session of its own that holds stdout and stderr open (300) |
| `command[=SECONDS]` | what a shell of the Bash tool leaves running (300): a session of its own, the environment |
| | of the CLI, no parent |
| `progress` | `tool_progress` of the tool that runs |
| `retry=STATUS` | `system/api_retry` |
| `rate_limit=STATUS[:EPOCH]` | `rate_limit_event`: allowed, allowed_warning, rejected |
| `subagent=TEXT` | a whole message of a sub-agent (`parent_tool_use_id`) |
| `synthetic=TEXT` | an `assistant` line of the model `<synthetic>` that is no error |
| `ask[=SUBTYPE]` | a `control_request` (`can_use_tool`); the turn stands still until it is answered |
| `restart` | within a message: it begins again with a second `message_start`, without the end of the first |
| `unasked=TEXT` | at `result` or `signal`: a turn that nobody asked for |
| `refuse=REASON` | at `rewind`: the answer `rewound: false` with this reason; `unsupported`: the error of a CLI that
| | does not know the request; `elsewhere`: rewound, to another place |

"""

import collections
import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any, Callable, NamedTuple, NoReturn

Json = dict[str, Any]

VERSION = "2.1.329"
LIFETIME = 300  # seconds; a child that a broken test forgot must not live for ever
HUGE_BYTES = 10 * 1024 * 1024
BAD_DIRECTIVE_STATUS = 64
TERMINATED_STATUS = 143

SHAPES = frozenset(
    "deltas words huge reply delay thinking usage model stop call error not_logged_in too_long plan_limit"
    " bytewise".split()
)
ACTIONS = frozenset(
    "crash kill stall sleep ignore_term deaf close_stdin garbage unknown emit stderr grandchild retry"
    " rate_limit subagent synthetic ask restart unasked command progress refuse".split()
)
POINTS = frozenset("boot initialize replay turn request message_start last_delta end result signal rewind".split())

EFFORTS = ("low", "medium", "high", "xhigh", "max")
# value, id, shown name, description: what `initialize` lists in the recordings.
MODELS = (
    ("default", "claude-opus-5-5", "Default (recommended)", "Use the default model (currently Opus 5.5)"),
    ("opus", "claude-opus-5-5", "Opus", "Opus 5.5 · Best for everyday, complex tasks"),
    (
        "fable",
        "claude-fable-5-2",
        "Fable",
        "Fable 5.2 · Most capable for your hardest and longest-running tasks",
    ),
    ("sonnet", "claude-sonnet-5-5", "Sonnet", "Sonnet 5.5 · Efficient for routine tasks"),
    ("haiku", "claude-haiku-5-5", "Haiku", "Haiku 5.5 · Fastest for quick answers"),
)
AGENTS = ("claude", "Explore", "general-purpose", "Plan", "statusline-setup")
FAST_MODE = {"fast_mode_state": "off", "fast_mode_disabled_reason": "sdk_opt_in_required"}
USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 7,
    "output_tokens": 1,
}
NO_USAGE = dict.fromkeys(USAGE, 0)
OUTPUT_TOKENS = 12

# status: error, api_error_type, text.
SERVER_SIDE = "This is a server-side issue, usually temporary — try again in a moment."
API_ERRORS = {
    400: ("unknown", "api_error", "API Error: 400 probe error 400"),
    401: ("authentication_failed", "api_error", "Failed to authenticate. API Error: 401 probe error 401"),
    403: (
        "authentication_failed",
        "permission_error",
        "Failed to authenticate. API Error: 403 probe error 403",
    ),
    404: (
        "model_not_found",
        "not_found_error",
        "There's an issue with the selected model. It may not exist.",
    ),
    413: ("invalid_request", "api_error", "Request too large (max 32MB)."),
    429: ("rate_limit", "rate_limit_error", "API Error: Request rejected (429) · probe error 429"),
    500: ("server_error", "api_error", f"API Error: 500 probe error 500. {SERVER_SIDE}"),
    529: ("server_error", "api_error", f"API Error: 529 probe error 529. {SERVER_SIDE}"),
}
# `system/api_retry` says `overloaded` where the final message says `server_error`.
RETRY_ERRORS = {status: error for status, (error, _, _) in API_ERRORS.items()} | {529: "overloaded"}

GARBAGE = {
    "text": b"this is no JSON\n",
    "null": b"null\n",
    "number": b"7\n",
    "list": b'[{"type":"result"}]\n',
    "string": b'"result"\n',
    "untyped": b'{"no":"type"}\n',
    "utf8": b'{"type":"stream_event","event":{"type":"\xff\xfe"}}\n',
    "blank": b"\n",
    "cut": b'{"type":"stream_event","event":{"type":"content_bl',
}

CONTINUE = "Output token limit hit. Resume directly — no apology, no recap of what you were doing."
REFUSED = "Your response above was stopped by a safety classifier — this is not a tool or API error."
CALL_LOST = "The tool call was interrupted before a result was received."
CALL_STOPPED = "The user doesn't want to proceed with this tool use. The tool use was rejected."
LIMIT_REACHED = "Reached maximum number of turns ({})"


class Directive(NamedTuple):
    """One parsed directive; `point` is empty for a shape, `nth` 0 for every time."""

    name: str
    point: str
    nth: int
    argument: str


# What the arguments must be; where this is silent any text will do.
ARGUMENTS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("words", "huge", "crash", "plan_limit", "grandchild", "command"), int),
    **dict.fromkeys(("delay", "sleep"), float),
    **dict.fromkeys(("deltas", "reply", "usage", "emit"), json.loads),
    **dict.fromkeys(("error", "retry"), lambda status: API_ERRORS[int(status)]),
    "call": lambda call: json.loads(call.partition(":")[2]),
    "garbage": lambda kind: GARBAGE[kind],
}
# Those that mean something without an argument.
OPTIONAL = frozenset("huge crash grandchild command garbage".split())


def parse_directive(text: str) -> Directive:
    """`name[@point][#n][=argument]`; ValueError for a part that means nothing."""
    head, _, argument = text.partition("=")
    head, _, nth = head.partition("#")
    name, _, point = head.partition("@")
    if name in ACTIONS:
        point = point or "request"
        kind, _, count = point.partition(":")
        known = point in POINTS or (kind in ("delta", "tool") and count.isdigit() and int(count) > 0)
    else:
        known = name in SHAPES and not point
    if not known or (nth and not (nth.isdigit() and int(nth) > 0)):
        raise ValueError(f"no such directive: {text!r}")
    try:
        if argument or name not in OPTIONAL:
            ARGUMENTS.get(name, str)(argument)
    except (ValueError, KeyError) as error:
        raise ValueError(f"no such argument: {text!r}") from error
    return Directive(name, point, int(nth or 0), argument)


def new_id() -> str:
    """A random UUID, without the cost of importing `uuid`."""
    digits = os.urandom(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def timestamp() -> str:
    """Now, as the CLI writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def split_words(text: str) -> list[str]:
    """`"a b"` → `["a ", "b"]`: the pieces in which the recorded upstream streamed."""
    words = text.split(" ")
    return [word + " " for word in words[:-1]] + words[-1:]


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, however full the pipe is."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def build_model(value: str, resolved: str, name: str, description: str) -> Json:
    """One entry of the models that `initialize` answers; haiku and sonnet have no fast mode."""
    entry: Json = {"value": value, "resolvedModel": resolved, "displayName": name, "description": description}
    entry |= {"supportsEffort": True, "supportedEffortLevels": EFFORTS, "supportsAdaptiveThinking": True}
    if value not in ("sonnet", "haiku"):
        entry["supportsFastMode"] = True
    return entry | {"supportsAutoMode": True, "supportsThinkingOff": False}


def build_initialized(version: str, account: Json, permission_mode: str) -> Json:
    """The body of the answer to `initialize`."""
    off = ("auto_enable", "auto_connect_default", "available", "auto_on_by_default")
    return {
        "commands": [],
        "agents": [{"name": name, "description": f"The agent {name}."} for name in AGENTS],
        "output_style": "default",
        "available_output_styles": ["default", "Concise"],
        "user_output_styles_dir": "/home/user/.claude/output-styles",
        "models": [build_model(*row) for row in MODELS],
        "account": account,
        "pid": os.getpid(),
        "claude_code_version": version,
        "current_permission_mode": permission_mode,
        "hook_on_failure_supported": True,
        "hooks_when_unanswered_kept": 0,
        "other_hook_ask_outranks_host": True,
        "feedback_mode": {"kind": "disabled"},
        "analytics_disabled": True,
        **{f"remote_control_{name}": False for name in off},
        "ide_rc_auto_enable_gate": False,
        **FAST_MODE,
        "session_state": "idle",
        "capabilities": ["ui_surface_v1", "get_usage_detached_v1"],
    }


def build_init(version: str, model: str, tools: list[str], servers: list[Json], key: str, mode: str) -> Json:
    """`system/init`: what is really offered to the model."""
    return {
        "type": "system",
        "subtype": "init",
        "cwd": os.getcwd(),
        "tools": tools,
        "mcp_servers": servers,
        "model": model,
        "permissionMode": mode,
        "slash_commands": [],
        "apiKeySource": key,
        "claude_code_version": version,
        "output_style": "default",
        "agents": AGENTS,
        "skills": [],
        "plugins": [],
        "capabilities": ["interrupt_receipt_v1", "sdk_mcp_manifests"],
        "analytics_disabled": True,
        "product_feedback_disabled": True,
        "served_by_anthropic": False,
        "memory_paths": {"auto": "/home/user/.claude/projects/-workdir/memory/"},
        "original_cwd": os.getcwd(),
        "additional_directories": [],
        "messaging_socket_path": f"/tmp/cc-socks/{os.getpid()}.sock",
        **FAST_MODE,
        "per_turn_effort_active": True,
        "ultrathink_available": False,
        "ultrathink_typed_raises": False,
        "view_mode": "default",
    }


def build_usage(usage: Json) -> Json:
    """`result.usage` with these four counts."""
    return {
        **usage,
        "output_tokens_details": {"thinking_tokens": 0},
        "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
        "service_tier": "standard",
        "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
        "inference_geo": "",
        "iterations": [],
        "speed": "standard",
        "fallback_credit": None,
    }


def build_model_usage(model: str, usage: Json) -> Json:
    """One value of `result.modelUsage`."""
    return {
        "inputTokens": usage["input_tokens"],
        "outputTokens": usage["output_tokens"],
        "cacheReadInputTokens": usage["cache_read_input_tokens"],
        "cacheCreationInputTokens": usage["cache_creation_input_tokens"],
        "webSearchRequests": 0,
        "costUSD": usage["output_tokens"] / 100_000,
        "contextWindow": 1_000_000,
        "maxOutputTokens": 128_000,
        "thinkingTokens": 0,
        "cacheCreationEphemeral5mInputTokens": 0,
        "cacheCreationEphemeral1hInputTokens": 0,
        "canonicalModel": model,
        "provider": "firstParty",
        "costBasis": "list",
    }


def build_subagent_stats() -> Json:
    """`result.subagent_stats` of a turn without sub-agents."""
    return {
        "spawned": 0,
        "requested": {"background": 0, "foreground": 0, "unset": 0},
        "started_in_background": 0,
        "max_depth": 0,
        "spawned_by_subagents": 0,
        "completed": 0,
        "failed": 0,
        "killed": {"parent": 0, "user": 0, "system": 0},
        "refused": {"depth_limit": 0, "concurrency_limit": 0, "budget": 0},
        "by_type": {},
    }


def build_synthetic(text: str, stop_reason: str = "stop_sequence", **extra: Any) -> Json:
    """An `assistant` line of the model `<synthetic>`: an error or a notice, never an answer."""
    nothing = dict.fromkeys(("diagnostics", "container", "stop_details", "context_management"))
    message: Json = {
        **nothing,
        "id": new_id(),
        "type": "message",
        "role": "assistant",
        "model": "<synthetic>",
    }
    unknown = (
        "output_tokens_details",
        "service_tier",
        "inference_geo",
        "iterations",
        "speed",
        "fallback_credit",
    )
    message["usage"] = build_usage(NO_USAGE) | dict.fromkeys(unknown)
    message |= {"stop_reason": stop_reason, "stop_sequence": "", "content": [{"type": "text", "text": text}]}
    return {
        "type": "assistant",
        "message": message,
        "parent_tool_use_id": None,
        "timestamp": timestamp(),
    } | extra


def build_stale(reason: str) -> Json:
    """A rewind that was refused."""
    return {"response": {"rewound": False, "reason": reason}}


def build_user(content: list[Json], **extra: Any) -> Json:
    """A `user` line: the CLI's own words to the model, or the result of a tool."""
    message = {"role": "user", "content": content}
    return {"type": "user", "message": message, "parent_tool_use_id": None, "timestamp": timestamp()} | extra


def build_tool_result(call: str, content: Any, **extra: Any) -> Json:
    """The `user` line that hands the model the result of a tool call."""
    block = {"tool_use_id": call, "type": "tool_result", "content": content} | extra
    decision = {"decision": "accept", "source": "config"}
    meta = [{"id": call, "permission_decision": decision}]
    return build_user([block], tool_use_result=content, tool_result_meta=meta)


def build_denied_result(call: str, message: str, **meta: Any) -> Json:
    """The `user` line that tells the model that a tool was not run."""
    block = {"type": "tool_result", "content": message, "is_error": True, "tool_use_id": call}
    return build_user([block], tool_use_result=f"Error: {message}", tool_result_meta=[{"id": call} | meta])


def build_question(name: str, arguments: Json, call: str) -> Json:
    """The body of a `can_use_tool` request."""
    about = str(arguments.get("command", name))
    rule = {"toolName": name, "ruleContent": about}
    return {
        "subtype": "can_use_tool",
        "tool_name": name,
        "display_name": name,
        "input": arguments,
        "description": about,
        "permission_suggestions": [
            {"type": "addRules", "rules": [rule], "behavior": "allow", "destination": "localSettings"},
            {"type": "addDirectories", "directories": [os.getcwd()], "destination": "session"},
            {"type": "setMode", "mode": "acceptEdits", "destination": "session"},
        ],
        "blocked_path": os.path.join(os.getcwd(), "a"),
        "tool_use_id": call,
    }


def build_rate_limit(status: str, resets_at: int) -> Json:
    """`rate_limit_event`, as the CLI makes it from the `anthropic-ratelimit-unified-*` headers."""
    window = {"utilization": 0.9, "resetsAt": resets_at, "status": status, "surpassedThreshold": 0.9}
    info: Json = {
        "status": status,
        "resetsAt": resets_at,
        "rateLimitType": "five_hour",
        "isUsingOverage": False,
    }
    if status == "allowed_warning":
        info |= {"utilization": 0.9, "surpassedThreshold": 0.9}
    return {"type": "rate_limit_event", "rate_limit_info": info | {"unifiedWindows": {"five_hour": window}}}


class Interrupted(Exception):
    """The running turn was interrupted."""


class Restarted(Exception):
    """The message on the wire begins again."""


class Unanswered(Exception):
    """A line that stays without its answer."""


class Refused(Exception):
    """A control request that is answered with an error: text, error_code."""


class Log:
    """The diary of one process, written as it happens, so that even SIGKILL loses nothing."""

    def __init__(self, folder: str, kind: str) -> None:
        self.number = 0
        self._fd = -1
        while folder and self._fd < 0:
            self.number += 1
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
                self._fd = os.open(os.path.join(folder, f"{kind}-{self.number}.jsonl"), flags, 0o600)
            except FileExistsError:
                pass

    def write(self, event: str, **fields: Any) -> None:
        """Append one event."""
        if self._fd >= 0:
            write_all(self._fd, json.dumps({"event": event} | fields).encode() + b"\n")


class Held(NamedTuple):
    """A message of the history: its uuid, whether a rewind finds it, whether it is an answer."""

    uuid: str
    is_target: bool
    is_answer: bool


class State:
    """What the reader tells the turns."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # guards: all that follows
        self.inbox: collections.deque[Json] = collections.deque()
        self.answers: dict[str, Json] = {}
        self.asked: list[str] = []  # ids of the questions of permission that wait
        self.busy = False
        self.running = False  # from the start of a turn to its `result`
        self.interrupted = False
        self.ended = False
        self.history: list[Held] = []
        self.names: set[str] = set()  # uuids of the lines that were read; one that comes again is dropped

    def tell(self, **fields: Any) -> None:
        """Set these fields and wake whoever waits."""
        with self.changed:
            for name, value in fields.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def put(self, message: Json) -> None:
        """Queue a `user` line, or what a signal asks for."""
        with self.changed:
            self.inbox.append(message)
            self.changed.notify_all()

    def wait(self, predicate: Callable[[], Any], timeout: float | None = None) -> bool:
        """True as soon as the predicate holds, False after the timeout."""
        with self.changed:
            return bool(self.changed.wait_for(predicate, timeout))

    def next(self) -> Json | None:
        """The next line to act on, None at the end of stdin."""
        with self.changed:
            self.changed.wait_for(lambda: self.inbox or self.ended)
            if not self.inbox:
                return None
            message = self.inbox.popleft()
            self.busy = is_query(message)
            return message

    def merge_waiting(self) -> None:
        """Make one of the queries that came while a turn was running, as the CLI does."""
        with self.changed:
            while len(self.inbox) > 1 and is_query(self.inbox[0]) and is_query(self.inbox[1]):
                first, second = self.inbox.popleft(), self.inbox.popleft()
                self.inbox.appendleft({"type": "user", "message": {"content": blocks_of(first) + blocks_of(second)}})


def is_query(message: Json) -> bool:
    """A `user` line that starts a turn."""
    return message.get("type") == "user" and message.get("shouldQuery") is not False


def blocks_of(message: Json) -> list[Any]:
    """The content blocks of a `user` line; a string is one text block."""
    content = message["message"].get("content")
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def is_sound(block: Any) -> bool:
    """Whether the CLI survives this block: others hang the turn for ever."""
    return isinstance(block, dict) and (block.get("type") != "text" or isinstance(block.get("text"), str))


class Cli:
    """One stream-json process: settings, output, the main loop."""

    def __init__(self, script: Json, log: Log, argv: list[str]) -> None:
        self.log = log
        self.script = script
        self.state = State()
        self.reader = Reader(self)
        self.version: str = script["version"]
        self.session_id = new_id()
        self.permission_mode = option(argv, "--permission-mode", "default")
        self.model = resolve_model(option(argv, "--model", "default"))
        self.builtin_tools = [name for name in option(argv, "--tools", "").split(",") if name]
        self.asks = option(argv, "--permission-prompt-tool", "") == "stdio"
        self.allowed = {rule.partition("(")[0].strip() for rule in option(argv, "--allowedTools", "").split(",")}
        self.max_turns = int(option(argv, "--max-turns", "0"))
        self.client_tools: dict[str, str] = {}  # name: server
        self.servers: list[Json] = []
        self.settings: Json = {}
        self.ignore_term = False
        self.errored = False
        self.results = 0
        self.turns = 0
        self.replayed = 0
        self.calls = 1
        self.totals: dict[str, Json] = {}
        self.last_answer = ""
        self._writing = threading.Lock()  # guards: fd 1

    def run(self) -> NoReturn:
        """Act until stdin ends: status 0, or 1 after an errored last turn."""
        threading.Thread(target=self.obey_signals, name="signals", daemon=True).start()
        Stage(self, self.directives(), 1).happen("boot")
        self.reader.start()
        while (message := self.state.next()) is not None:
            self.act(message)
        self.leave(1 if self.errored else 0, "eof")

    def act(self, message: Json) -> None:
        """One line of the inbox."""
        if message["type"] == "signal":
            Stage(self, self.directives(), message["nth"]).happen("signal")
        elif is_query(message):
            self.hold(message)
            self.take_turn(blocks_of(message))
        else:
            self.hold(message)
            self.replayed += 1
            Stage(self, self.directives(), self.replayed).happen("replay")
            self.emit_init()
            self.finish(
                {"is_error": False, "num_turns": 0, "stop_reason": None, "subtype": "success", "result": ""},
                {},
            )

    def hold(self, message: Json) -> None:
        """A user's line is a part of the history; results of tools are no target of a rewind."""
        is_round = any(is_sound(block) and block["type"] == "tool_result" for block in blocks_of(message))
        with self.state.changed:
            self.state.history.append(Held(message.get("uuid", ""), not is_round, False))

    def take_turn(self, blocks: list[Any]) -> None:
        """One turn for these content blocks."""
        self.turns += 1
        text = " ".join(block["text"] for block in blocks if is_sound(block) and block.get("type") == "text")
        directives = self.directives(text)
        if not all(is_sound(block) for block in blocks):
            directives.append(parse_directive("stall"))
        results = [block.get("content") for block in blocks if is_sound(block) and block["type"] == "tool_result"]
        Turn(
            self,
            directives,
            self.turns,
            f"Tool said: {results[-1]}" if results else f"Hello from upstream: {text}",
        ).run()
        with self.state.changed:
            self.state.history.append(Held(self.last_answer, False, True))
        self.state.tell(running=False)
        self.state.merge_waiting()

    def directives(self, text: str = "") -> list[Directive]:
        """Those of the script for this process, for words in the text, and the text's own, in this order."""
        written = list(self.script["directives"]) + list(self.script["processes"].get(str(self.log.number), ()))
        for word, more in self.script["texts"].items():
            written += more if word in text else ()
        written += [word.removeprefix("fake:") for word in text.split() if word.startswith("fake:")]
        try:
            return [parse_directive(word) for word in written]
        except ValueError as error:
            write_all(2, f"fake claude: {error}\n".encode())
            self.leave(BAD_DIRECTIVE_STATUS, "bad directive")

    def write(self, data: bytes, bytewise: bool = False) -> None:
        """To stdout, whole or one byte a write; without a reader the process ends."""
        pieces = [data[i : i + 1] for i in range(len(data))] if bytewise else [data]
        try:
            with self._writing:
                for piece in pieces:
                    write_all(1, piece)
        except BrokenPipeError:
            self.leave(1, "stdout closed")

    def emit(self, message: Json, bytewise: bool = False) -> None:
        """One line; all but the control messages carry the session and an id."""
        if not message["type"].startswith("control_"):
            message = {"session_id": self.session_id, "uuid": new_id()} | message
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":")) + "\n"
        self.write(line.encode("utf-8", "backslashreplace"), bytewise)

    def emit_init(self, bytewise: bool = False) -> None:
        """`system/init`."""
        key = self.account().get("apiKeySource", "none")
        tools = [*self.builtin_tools, *self.client_tools]
        self.emit(build_init(self.version, self.model, tools, self.servers, key, self.permission_mode), bytewise)

    def account(self) -> Json:
        """The login, as `initialize` tells it."""
        account = {"tokenSource": "none", "apiProvider": "firstParty"}
        if not self.script["logged_in"]:
            return account
        if "CLAUDE_CODE_OAUTH_TOKEN" in os.environ:
            return account | {"tokenSource": "CLAUDE_CODE_OAUTH_TOKEN"}
        return account | {"apiKeySource": "ANTHROPIC_API_KEY"}

    def finish(self, result: Json, used: dict[str, Json], bytewise: bool = False) -> None:
        """The `result` line; `used`: this turn's counts by model. Totals go over the process's life."""
        for model, usage in used.items():
            total = self.totals.get(model, NO_USAGE)
            self.totals[model] = {name: total[name] + usage[name] for name in USAGE}
        totals = {model: build_model_usage(model, usage) for model, usage in self.totals.items()}
        self.errored = result["is_error"]
        base: Json = {
            "type": "result",
            "duration_ms": 1,
            "duration_api_ms": 1,
            "total_cost_usd": sum(total["costUSD"] for total in totals.values()),
            "usage": build_usage(NO_USAGE),
            "modelUsage": totals,
            "model_usage_since_last_result": {name: build_model_usage(name, usage) for name, usage in used.items()},
            "permission_denials": [],
            **FAST_MODE,
            "subagent_stats": build_subagent_stats(),
            "safety_stops": 0,
            "queued_turn_count": 0,
            "result_index": self.results,
        }
        self.results += 1
        self.emit(base | result, bytewise)

    def obey_signals(self) -> None:
        """The thread that takes the signals, so that none is late while a pipe is full."""
        poked = 0
        while True:
            number = signal.sigwait({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
            self.log.write("signal", name=signal.Signals(number).name)
            if number == signal.SIGUSR1:
                poked += 1
                self.state.put({"type": "signal", "nth": poked})
            elif number == signal.SIGINT:
                self.leave(0, "SIGINT")
            elif not self.ignore_term:
                self.leave(TERMINATED_STATUS, "SIGTERM")

    def leave(self, status: int, reason: str) -> NoReturn:
        """End at once, from any thread."""
        self.log.write("end", reason=reason, status=status)
        os._exit(status)


class Reader(threading.Thread):
    """Reads stdin, also while a turn runs: answers control requests at once, queues the rest."""

    def __init__(self, cli: Cli) -> None:
        super().__init__(name="reader", daemon=True)
        self.cli = cli
        self.initialized = 0
        self.rewinds = 0
        self.connected: set[str] = set()
        self.mode = ""  # "deaf" or "closed" once reading is to stop
        self.stopped = threading.Event()
        self._wake = os.pipe()

    def stop(self, mode: str) -> None:
        """Read no more ("deaf"), or close stdin too ("closed"); returns when it is done."""
        self.mode = mode
        os.write(self._wake[1], b"x")
        if threading.current_thread() is not self and self.is_alive():
            self.stopped.wait()
        elif not self.is_alive():
            self.quit()

    def quit(self) -> None:
        """Carry out what `stop` asked for."""
        if self.mode == "closed":
            # The pipe's end goes, but the number stays taken: no later file becomes fd 0.
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
        self.stopped.set()

    def run(self) -> None:
        """Split stdin into lines until it ends or `stop`."""
        parts: list[bytes] = []
        while not self.mode:
            ready, _, _ = select.select([0, self._wake[0]], [], [])
            if self._wake[0] in ready:
                continue
            data = os.read(0, 1 << 16)
            *lines, rest = data.split(b"\n")
            for line in lines:
                self.take(b"".join((*parts, line)))
                parts = []
            parts.append(rest)
            if not data:
                self.cli.state.tell(ended=True)
                return
        self.quit()

    def take(self, raw: bytes) -> None:
        """One line; what the real CLI does not survive ends the process with its words."""
        line = raw.decode("utf-8", "replace")
        self.cli.log.write("line", text=line)
        if self.mode or not line.strip():
            return
        try:
            message = json.loads(line)
        except ValueError:
            self.die(f"Error parsing streaming input line (type=unknown, {len(line)} chars): SyntaxError")
        if message is None:
            self.die(f"Error parsing streaming input line (type=unknown, {len(line)} chars): TypeError")
        if isinstance(message, dict):
            self.sort(message)

    def die(self, words: str) -> NoReturn:
        """Status 1 and a line on stderr."""
        write_all(2, words.encode() + b"\n")
        self.cli.leave(1, "bad line")

    def sort(self, message: Json) -> None:
        """By type; `assistant` lines and unknown types have no answer."""
        kind = message.get("type")
        if kind == "control_request":
            self.answer(message["request_id"], message["request"])
        elif kind == "control_response":
            answer = message["response"]
            with self.cli.state.changed:
                self.cli.state.answers[answer["request_id"]] = answer
                self.cli.state.changed.notify_all()
        elif kind == "assistant":
            with self.cli.state.changed:
                self.cli.state.history.append(Held(message.get("uuid", ""), False, True))
        elif kind == "user":
            inner = message.get("message")
            role = inner.get("role") if isinstance(inner, dict) else None
            if role != "user":
                self.die(f"Error: Expected message role 'user', got '{role or 'undefined'}'")
            name = message.get("uuid")
            if name not in self.cli.state.names:
                self.cli.state.names |= {name} if name else set()
                self.cli.state.put(message)

    def answer(self, request_id: str, request: Json) -> None:
        """Answer a control request."""
        subtype = str(request.get("subtype"))
        answers: dict[str, Callable[[Json], Json]] = {
            "initialize": self.initialize,
            "set_model": self.set_model,
            "apply_flag_settings": self.apply_flag_settings,
            "interrupt": self.interrupt,
            "rewind_conversation": self.rewind,
            "mcp_set_servers": self.set_servers,
            "get_usage": self.get_usage,
        }
        response: Json = {"subtype": "success", "request_id": request_id}
        try:
            if subtype not in answers:
                raise Refused(f"Unsupported control request subtype: {subtype}", "unsupported_request")
            response |= answers[subtype](request)
        except Refused as refused:
            response |= {"subtype": "error", "error": refused.args[0], "error_code": refused.args[1]}
        except Unanswered:
            return
        self.cli.emit({"type": "control_response", "response": response})
        if subtype == "interrupt":
            with self.cli.state.changed:
                self.cli.state.interrupted = self.cli.state.busy or any(map(is_query, self.cli.state.inbox))
                self.cli.state.changed.notify_all()
        elif subtype == "initialize" and self.initialized > 1:
            self.cli.emit({"type": "system", "subtype": "background_tasks_changed", "tasks": []})

    def initialize(self, request: Json) -> Json:
        """The account and its models; the tools of the manifests are remembered for `system/init`."""
        cli = self.cli
        self.initialized += 1
        Stage(cli, cli.directives(), self.initialized).happen("initialize")
        manifests = request.get("sdkMcpServerManifests") or {}
        cli.client_tools = {
            tool["name"]: server for server, one in manifests.items() for tool in one["toolsListResult"]["tools"]
        }
        cli.servers = [{"name": server, "status": "connected", "source": "sdk"} for server in manifests]
        if "jsonSchema" in request and "StructuredOutput" not in cli.builtin_tools:
            cli.builtin_tools.append("StructuredOutput")
        body = build_initialized(cli.version, cli.account(), cli.permission_mode)
        if manifests:
            connected = self.connected & set(manifests)
            body["sdk_mcp_manifests_parked"] = {
                name: "already_connected" if name in connected else "parked" for name in manifests
            }
            self.connected |= set(manifests)
        return {"response": body, "pending_permission_requests": [], "pending_user_dialog_requests": []}

    def set_model(self, request: Json) -> Json:
        """An alias becomes its id, other ids of the family pass, anything else is an error."""
        model = resolve_model(request.get("model") or "default")
        if not model.startswith("claude-"):
            raise Refused(f"Unable to validate model: {model}", "check_failed")
        self.cli.model = model
        return {"response": {"model": model}}

    def set_servers(self, request: Json) -> Json:
        """All servers go that are not named; only an empty list is sent here."""
        self.connected &= set(request["servers"])
        self.cli.client_tools, self.cli.servers = {}, []
        return {"response": {"added": [], "removed": ["client"], "errors": {}}}

    def rewind(self, request: Json) -> Json:
        """Take messages out of the history, the newest back to the target; a turn that runs is stopped first."""
        state = self.cli.state
        self.rewinds += 1
        stage = Stage(self.cli, self.cli.directives(), self.rewinds)
        refused = next((one.argument for one in stage.directives if (one.name, one.point) == ("refuse", "rewind")), "")
        stage.happen("rewind")
        if refused == "unsupported":
            raise Refused("Unsupported control request subtype: rewind_conversation", "unsupported_request")
        if state.running and not request.get("interrupt_if_running"):
            return build_stale("turn_running")
        state.tell(interrupted=state.running)
        state.wait(lambda: not state.running and not any(map(is_query, state.inbox)))
        state.tell(interrupted=False)  # the turn may have ended by itself meanwhile
        with state.changed:
            reason = refused if refused not in ("", "elsewhere") else self.find_flaw(request)
            if reason:
                return build_stale(reason)
            target = request["target_message_uuid"]
            index = next(number for number, held in enumerate(state.history) if held.uuid == target)
            del state.history[index:]
            before = state.history[-1] if state.history else None
        preceding = "elsewhere" if refused else before.uuid if before is not None and before.is_answer else None
        answer = {"rewound": True, "targetMessageUuid": target, "prefillText": "", "precedingAssistantUuid": preceding}
        return {"response": answer}

    def find_flaw(self, request: Json) -> str:
        """Why a rewind is refused; empty where it is not."""
        history, target = self.cli.state.history, request["target_message_uuid"]
        users = [held for held in history if not held.is_answer]
        found = [held for held in users if held.uuid == target]
        if not found:
            return "target_not_found"
        if not found[0].is_target:
            return "target_splits_tool_call"
        last_seen = request.get("last_seen_user_message_uuid")
        newest = [held.uuid for held in users if held.is_target][-1]
        if last_seen is None:
            return "" if target == newest else "stale_target"
        return "" if last_seen == newest else "unseen_later_turn"

    def apply_flag_settings(self, request: Json) -> Json:
        """Remembered; the success has no body."""
        self.cli.settings = self.cli.settings | request.get("settings", {})
        return {}

    def interrupt(self, _request: Json) -> Json:
        """Questions that wait are taken back first."""
        with self.cli.state.changed:
            asked, self.cli.state.asked = self.cli.state.asked, []
        for request_id in asked:
            self.cli.emit({"type": "control_cancel_request", "request_id": request_id})
        return {"response": {"still_queued": []}}

    def get_usage(self, _request: Json) -> Json:
        """As for a login without a plan, unless the script has one."""
        limits = self.cli.script["plan"]
        if limits == "refused":
            raise Refused("get_usage failed", "failed")
        if limits == "silent":
            raise Unanswered
        session = dict.fromkeys(("total_cost_usd", "total_api_duration_ms", "total_duration_ms"), 0)
        session |= dict.fromkeys(("total_lines_added", "total_lines_removed"), 0)
        plan = {
            "subscription_type": "max" if limits else None,
            "rate_limits_available": bool(limits),
            "rate_limits": limits,
            "behaviors": None,
        }
        return {"response": {"session": {**session, "model_usage": {}}, **plan}}


class Stage:
    """A place where directives can happen; `nth` counts its kind in this process."""

    def __init__(self, cli: Cli, directives: list[Directive], nth: int) -> None:
        self.cli = cli
        self.directives = [one for one in directives if one.nth in (0, nth)]
        self.parent: str | None = None
        self.running = ("Bash", "toolu_none")  # the tool that runs: name, tool_use id

    def happen(self, point: str) -> None:
        """Do what was asked for at this point, once."""
        for one in [one for one in self.directives if one.point == point]:
            self.directives.remove(one)
            if point in ("initialize", "rewind") and one.name == "stall":
                raise Unanswered
            getattr(self, f"_do_{one.name}")(one.argument)

    def emit(self, message: Json) -> None:
        """One line to stdout."""
        self.cli.emit(message)

    def wait(self, predicate: Callable[[], Any], timeout: float | None = None) -> None:
        """Until the predicate holds or the time is over."""
        self.cli.state.wait(predicate, timeout)

    def _do_crash(self, argument: str) -> None:
        self.cli.leave(int(argument or 1), "crash")

    def _do_kill(self, _argument: str) -> None:
        self.cli.log.write("end", reason="kill", status=-signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _do_stall(self, _argument: str) -> None:
        self.wait(lambda: False)

    def _do_sleep(self, argument: str) -> None:
        self.wait(lambda: False, float(argument))

    def _do_ignore_term(self, _argument: str) -> None:
        self.cli.ignore_term = True

    def _do_deaf(self, _argument: str) -> None:
        self.cli.reader.stop("deaf")

    def _do_close_stdin(self, _argument: str) -> None:
        self.cli.reader.stop("closed")

    def _do_garbage(self, argument: str) -> None:
        self.cli.write(GARBAGE[argument or "text"])

    def _do_unknown(self, _argument: str) -> None:
        self.emit({"type": "a_type_of_tomorrow", "payload": {"type": "message_start"}})

    def _do_emit(self, argument: str) -> None:
        self.emit(json.loads(argument))

    def _do_stderr(self, argument: str) -> None:
        write_all(2, argument.encode() + b"\n")

    def _do_grandchild(self, argument: str) -> None:
        # In a session of its own, like every command of the real Bash tool; it inherits stdout and stderr.
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        sleep = ["sleep", argument or str(LIFETIME)]
        pid = os.posix_spawn("/bin/sleep", sleep, {}, file_actions=[null], setsid=True, setsigmask=[])
        self.cli.log.write("grandchild", pid=pid)

    def _do_command(self, argument: str) -> None:
        # The shell ends at once, so that nothing but the environment tells whose command this is.
        read, write = os.pipe()
        shell = ["sh", "-c", f"sleep {argument or LIFETIME} >/dev/null 2>&1 & echo $!"]
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, write, 1)]
        pid = os.posix_spawn("/bin/sh", shell, os.environ, file_actions=files, setsid=True, setsigmask=[])
        os.close(write)
        with open(read, encoding="ascii") as said:
            self.cli.log.write("grandchild", pid=int(said.read()))
        os.waitpid(pid, 0)

    def _do_progress(self, _argument: str) -> None:
        name, call = self.running
        progress = {"type": "tool_progress", "tool_use_id": f"{call}-heartbeat-0", "tool_name": name}
        self.emit(progress | {"parent_tool_use_id": call, "elapsed_time_seconds": 30, "heartbeat": True})

    def _do_retry(self, argument: str) -> None:
        status = int(argument)
        retry = {"attempt": 1, "max_retries": 10, "retry_delay_ms": 60_000, "error_status": status}
        self.emit({"type": "system", "subtype": "api_retry", **retry, "error": RETRY_ERRORS[status]})

    def _do_rate_limit(self, argument: str) -> None:
        status, _, resets_at = argument.partition(":")
        self.emit(build_rate_limit(status, int(resets_at or time.time() + 3600)))

    def _do_subagent(self, argument: str) -> None:
        other = Turn(self.cli, [], 0, "")
        other.parent = "toolu_parent"
        other.say([argument], "end_turn")

    def _do_synthetic(self, argument: str) -> None:
        self.emit(build_synthetic(argument))

    def _do_ask(self, argument: str) -> None:
        subtype = argument or "can_use_tool"
        request: Json = {"subtype": subtype}
        if subtype == "can_use_tool":
            request = build_question("Bash", {"command": "true"}, "toolu_ask")
        request_id = new_id()
        self.emit({"type": "control_request", "request_id": request_id, "request": request})
        self.wait(lambda: request_id in self.cli.state.answers)

    def _do_restart(self, _argument: str) -> None:
        raise Restarted

    def _do_refuse(self, _argument: str) -> None:
        """The reader sees to it."""

    def _do_unasked(self, argument: str) -> None:
        Turn(self.cli, [], 0, argument).run()


class Turn(Stage):
    """One turn: from `system/init` to `result`."""

    def __init__(self, cli: Cli, directives: list[Directive], nth: int, echo: str) -> None:
        super().__init__(cli, directives, nth)
        shapes = [one for one in self.directives if not one.point]
        self.shape = {one.name: one.argument for one in shapes}
        self.calls = [one.argument.partition(":")[::2] for one in shapes if one.name == "call"]
        self.echo = echo
        self.user_lines = 0
        self.deltas_sent = 0
        self.text = ""
        self.message_id = ""
        self.block: tuple[int, str] | None = None  # the block on the wire: index, text so far
        self.blocks = 0
        self.usage: Json = USAGE
        self.used: list[Json] = []
        self.parked: dict[str, str] = {}  # request_id: tool_use id
        self.asked: dict[str, str] = {}  # tool_use id: request_id of the question whether it may run
        self.tools_run = 0
        self.denials: list[Json] = []
        self.model = self.shape.get("model") or cli.model

    def run(self) -> None:
        """The whole turn, however it ends."""
        self.cli.state.tell(busy=True, running=True)
        try:
            self.happen("turn")
            self.cli.emit_init("bytewise" in self.shape)
            self.status()
            self.happen("request")
            result = self.fail() if self.failure() else self.answer()
            self.happen("end")
        except Interrupted:
            result = self.abort()
        self.cli.state.tell(busy=False, interrupted=False)
        used = {self.model: {name: sum(one[name] for one in self.used) for name in USAGE}} if self.used else {}
        usage = build_usage(used.get(self.model, NO_USAGE) if result["subtype"] == "success" else NO_USAGE)
        result = {"usage": usage, "num_turns": 1 + self.user_lines, "permission_denials": self.denials} | result
        self.cli.finish(result, used, "bytewise" in self.shape)
        self.happen("result")

    def emit(self, message: Json) -> None:
        """One line, unless the turn was interrupted."""
        if self.cli.state.interrupted:
            raise Interrupted
        self.cli.emit(message, "bytewise" in self.shape)

    def wait(self, predicate: Callable[[], Any], timeout: float | None = None) -> None:
        """As on every stage; an interrupt ends it."""
        state = self.cli.state
        state.wait(lambda: state.interrupted or predicate(), timeout)
        if state.interrupted:
            raise Interrupted

    def status(self) -> None:
        """A request leaves for the API."""
        self.emit({"type": "system", "subtype": "status", "status": "requesting"})

    def user(self, message: Json) -> None:
        """A `user` line of the CLI's own."""
        self.user_lines += 1
        self.emit(message)

    # Turns that fail before they begin: the notice of the model `<synthetic>`, and its `result`.

    def failure(self) -> tuple[str, str, Json, Json] | None:
        """Text, terminal_reason, more of the notice, more of the result; None for a turn that works."""
        if not self.cli.script["logged_in"] or "not_logged_in" in self.shape:
            return "Not logged in · Please run /login", "api_error", {"error": "authentication_failed"}, {}
        if "too_long" in self.shape:
            return "Prompt is too long", "blocking_limit", {"error": "invalid_request"}, {}
        status = 429 if "plan_limit" in self.shape else int(self.shape.get("error", 0))
        if not status:
            return None
        error, kind, text = API_ERRORS[status]
        more: Json = {"api_error_status": status, "api_error_type": kind}
        if "plan_limit" in self.shape:
            text = "You've hit your 5-hour limit"
            more["api_error"] = "usage_limit_reached"
        return text, "image_error" if status == 413 else "api_error", {"error": error} | more, more

    def fail(self) -> Json:
        """Write the notice; the result of the failed turn."""
        found = self.failure()
        assert found is not None
        text, terminal_reason, notice, more = found
        if "plan_limit" in self.shape:
            event = build_rate_limit("rejected", int(self.shape["plan_limit"]))
            notice |= {"api_error_params": {"rate_limit_info": event["rate_limit_info"]}}
            self.emit(event)
        self.emit(build_synthetic(text, is_api_error_message=True, **notice))
        return self.ended("stop_sequence", is_error=True, terminal_reason=terminal_reason, result=text) | more

    def ended(self, stop_reason: str, **fields: Any) -> Json:
        """The fields of `result` that depend on the turn."""
        result = {
            "subtype": "success",
            "is_error": False,
            "stop_reason": stop_reason,
            "terminal_reason": "completed",
        }
        result |= {"api_error_status": None, "result": self.text} | fields
        if not result["is_error"]:
            times = ("ttft_ms", "ttft_stream_ms", "time_to_request_ms", "first_content_frame_ms")
            result |= dict.fromkeys(times, 1)
        return result

    # Turns that are answered.

    def answer(self) -> Json:
        """Stream the answer; the fields of its result."""
        if self.calls:
            return self.answer_with_tools()
        stop, _, detail = self.shape.get("stop", "end_turn").partition(":")
        if stop == "refusal":
            return self.refuse(detail == "once")
        self.say(self.deltas(), stop, detail or None, thinking=self.shape.get("thinking"))
        if stop == "max_tokens":
            self.user(build_user([{"type": "text", "text": CONTINUE}], isSynthetic=True))
            self.status()
            stop = "end_turn"
            self.say(self.reply("and so on"), stop)
        return self.ended(stop)

    def deltas(self) -> list[str]:
        """The text deltas of the first message."""
        if "deltas" in self.shape:
            return [str(piece) for piece in json.loads(self.shape["deltas"])]
        if "words" in self.shape:
            return [f"word{i} " for i in range(int(self.shape["words"]))]
        if "huge" in self.shape:
            return ["x" * int(self.shape["huge"] or HUGE_BYTES)]
        return split_words(self.echo)

    def reply(self, otherwise: str) -> list[str]:
        """The text deltas of the second message."""
        return list(json.loads(self.shape["reply"])) if "reply" in self.shape else split_words(otherwise)

    def refuse(self, once: bool) -> Json:
        """The CLI notes a refusal and asks once more by itself; a second one is an error."""
        self.say(self.deltas(), "refusal")
        note = "The safeguards stopped the response above · continuing once with that noted"
        self.emit({"type": "system", "subtype": "informational", "content": note, "level": "notice"})
        refused = {"isSynthetic": True, "refused_message_id": self.message_id}
        self.user(build_user([{"type": "text", "text": REFUSED}], **refused))
        self.status()
        if once:
            self.say(self.reply("as you wish"), "end_turn")
            return self.ended("end_turn", safety_stops=1)
        text = "API Error: The safeguards flagged this message."
        self.begin()
        self.say_text(self.reply("no"))
        nothing = dict.fromkeys(("request_id", "api_refusal_category", "api_refusal_explanation"))
        refusal = {"original_model": self.model, "refused_user_message_uuid": new_id(), "content": ""}
        self.emit({"type": "system", "subtype": "model_refusal_no_fallback", **refusal, **nothing})
        more = {
            "error": "invalid_request",
            "is_api_error_message": True,
            "refused_message_id": self.message_id,
        }
        self.emit(build_synthetic(text, "refusal", **more))
        self.finish_message("refusal", None)
        return self.ended("refusal", is_error=True, terminal_reason="api_error", result=text, safety_stops=2)

    def answer_with_tools(self) -> Json:
        """A message with tool calls, their results, and a second message that echoes them."""
        tool_ids = [f"toolu_{os.urandom(10).hex()}" for _ in self.calls]
        self.begin()
        self.say_text(self.deltas() if "deltas" in self.shape else ["calling"])
        for (name, arguments), tool_id in zip(self.calls, tool_ids):
            self.call(name, arguments, tool_id)
        if self.calls[0][0] == "StructuredOutput":
            self.end_content("tool_use", None)
            self.user(build_tool_result(tool_ids[0], "Structured output provided successfully"))
            self.end_message()
            arguments = self.calls[0][1]
            return self.ended("tool_use", result=arguments, structured_output=json.loads(arguments))
        self.end_content("tool_use", None)
        self.ask_permission(*self.calls[0], tool_ids[0])
        self.end_message()
        said = self.give_results(tool_ids)
        if self.cli.max_turns == 1:
            return self.stop_at_limit()
        self.status()
        self.say(self.reply("Tool said: " + " ".join(said)), "end_turn")
        return self.ended("end_turn")

    def give_results(self, tool_ids: list[str]) -> list[str]:
        """Wait for the client's results, write all results as `user` lines; their texts."""
        state = self.cli.state
        self.wait(lambda: state.ended or all(request_id in state.answers for request_id in self.parked))
        answers = {tool_id: state.answers.get(request_id) for request_id, tool_id in self.parked.items()}
        self.parked = {}
        said = []
        for (name, arguments), tool_id in zip(self.calls, tool_ids):
            if tool_id not in answers:
                said.append(self.run_tool(name, arguments, tool_id))
                continue
            content, is_error = parse_tool_answer(answers[tool_id])
            self.user(build_tool_result(tool_id, content, **({"is_error": True} if is_error else {})))
            said.append(content if isinstance(content, str) else " ".join(part.get("text", "") for part in content))
        return said

    def run_tool(self, name: str, arguments: str, tool_id: str) -> str:
        """One of the CLI's own: its permission, what happens while it runs, its `user` line; the text of that."""
        self.ask_permission(name, arguments, tool_id)
        denied = self.await_permission(tool_id)
        if denied is not None:
            self.denials.append({"tool_name": name, "tool_use_id": tool_id, "tool_input": json.loads(arguments)})
            decision = {"decision": "reject", "source": "user_reject"}
            kind = {"non_execution_kind": "permission-rule", "permission_decision": decision}
            self.user(build_denied_result(tool_id, denied, **kind))
            return denied
        self.tools_run += 1
        self.running = (name, tool_id)
        self.happen(f"tool:{self.tools_run}")
        self.user(build_tool_result(tool_id, f"{name} done", is_error=False))
        return f"{name} done"

    def ask_permission(self, name: str, arguments: str, tool_id: str) -> None:
        """`can_use_tool`, once, where somebody is to be asked."""
        cli = self.cli
        if not cli.asks or name in cli.allowed or name in cli.client_tools or tool_id in self.asked:
            return
        request_id = self.asked[tool_id] = new_id()
        with cli.state.changed:
            cli.state.asked.append(request_id)
        request = build_question(name, json.loads(arguments), tool_id)
        self.emit({"type": "control_request", "request_id": request_id, "request": request})

    def await_permission(self, tool_id: str) -> str | None:
        """What the model is told of a denial; None for a tool that may run."""
        request_id = self.asked.get(tool_id)
        if request_id is None:
            return None
        state = self.cli.state
        self.wait(lambda: request_id in state.answers)
        with state.changed:
            state.asked.remove(request_id)
        del self.asked[tool_id]
        answer = state.answers[request_id].get("response") or {}
        return None if answer.get("behavior") == "allow" else str(answer.get("message", "no answer"))

    def stop_at_limit(self) -> Json:
        """The result of a turn that `--max-turns` ended."""
        errors = [LIMIT_REACHED.format(self.cli.max_turns)]
        result = {"subtype": "error_max_turns", "is_error": True, "errors": errors}
        return result | {"stop_reason": "tool_use", "terminal_reason": "max_turns"}

    def call(self, name: str, arguments: str, tool_id: str) -> None:
        """A `tool_use` block; for a tool of the client the `tools/call` follows at once."""
        parsed = json.loads(arguments)
        block = {"type": "tool_use", "id": tool_id, "name": name, "input": {}}
        self.start_block(block)
        for i in range(0, len(arguments), 7):
            self.delta({"type": "input_json_delta", "partial_json": arguments[i : i + 7]})
        server = self.cli.client_tools.get(name)
        shown = name.replace("_", " ").title()
        meta = {"id": tool_id, "display_name": shown, "server_display_name": server, "tool_name": name}
        self.end_block(block | {"input": parsed}, **({"tool_use_meta": [meta]} if server and shown != name else {}))
        if server is None:
            return
        self.cli.calls += 1
        mark = {"claudecode/toolUseId": tool_id, "progressToken": self.cli.calls}
        message = {"method": "tools/call", "params": {"name": name, "arguments": parsed, "_meta": mark}}
        self.ask_client(server, message | {"jsonrpc": "2.0", "id": self.cli.calls}, tool_id)

    def ask_client(self, server: str, message: Json, tool_id: str) -> None:
        """An MCP message over the control channel; the turn is parked until it is answered."""
        request_id = new_id()
        request = {"subtype": "mcp_message", "server_name": server, "message": message}
        self.parked[request_id] = tool_id
        self.emit({"type": "control_request", "request_id": request_id, "request": request})

    # One message of the Messages API, as `stream_event` and `assistant` lines.

    def say(self, deltas: list[str], stop: str, sequence: str | None = None, thinking: str | None = None) -> None:
        """A whole message of text; `restart` lets it begin again."""
        while True:
            try:
                self.begin()
                if thinking is not None:
                    self.think(thinking)
                self.say_text(deltas)
                return self.finish_message(stop, sequence)
            except Restarted:
                continue

    def begin(self) -> None:
        """`message_start`; without `thinking_display` where the settings switch thinking off."""
        self.message_id = f"msg_{os.urandom(10).hex()}"
        self.block, self.blocks = None, 0
        self.usage = USAGE | json.loads(self.shape.get("usage") or "{}")
        body = json.loads(self.cli.settings.get("env", {}).get("CLAUDE_CODE_EXTRA_BODY") or "{}")
        display = {} if body.get("thinking", {}).get("type") == "disabled" else {"thinking_display": "updates"}
        self.event({"type": "message_start", "message": self.body([])}, ttft_ms=1, **display)
        self.happen("message_start")

    def think(self, text: str) -> None:
        """A thinking block, signed."""
        display = {"thinking_display": "updates"}
        self.start_block({"type": "thinking", "thinking": "", "signature": ""}, **display)
        tokens = {"estimated_tokens": len(text), "estimated_tokens_delta": len(text)}
        self.emit({"type": "system", "subtype": "thinking_tokens", **tokens})
        self.delta({"type": "thinking_delta", "thinking": text}, **display)
        self.delta({"type": "signature_delta", "signature": "c2ln"})
        self.end_block({"type": "thinking", "thinking": text, "signature": "c2ln"}, thinking_duration_ms=1, **display)

    def say_text(self, deltas: list[str]) -> None:
        """A text block."""
        delay = float(self.shape.get("delay") or 0)
        self.text = ""
        self.start_block({"type": "text", "text": ""})
        for piece in deltas:
            if delay:
                self.wait(lambda: False, delay)
            self.delta({"type": "text_delta", "text": piece})
            self.text += piece
            self.block = (self.blocks, self.text)
            self.deltas_sent += 1
            self.happen(f"delta:{self.deltas_sent}")
        self.happen("last_delta")
        self.end_block({"type": "text", "text": self.text})

    def start_block(self, block: Json, **extra: Any) -> None:
        """`content_block_start`."""
        self.block = (self.blocks, "")
        self.event({"type": "content_block_start", "index": self.blocks, "content_block": block}, **extra)

    def delta(self, delta: Json, **extra: Any) -> None:
        """`content_block_delta`."""
        self.event({"type": "content_block_delta", "index": self.blocks, "delta": delta}, **extra)

    def end_block(self, block: Json, **extra: Any) -> None:
        """The finished block as an `assistant` line, which comes before `content_block_stop`."""
        self.emit(self.assistant(block) | extra)
        self.event({"type": "content_block_stop", "index": self.blocks})
        self.block = None
        self.blocks += 1

    def assistant(self, block: Json) -> Json:
        """An `assistant` line with one finished block."""
        message = self.body([block]) | {"context_management": None}
        self.cli.last_answer = new_id()
        return {
            "type": "assistant",
            "uuid": self.cli.last_answer,
            "message": message,
            "parent_tool_use_id": self.parent,
            "timestamp": timestamp(),
        }

    def body(self, content: list[Json]) -> Json:
        """The message as the API describes it while it is not finished."""
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self.usage | {"output_tokens": 1},
        }

    def finish_message(self, stop: str, sequence: str | None) -> None:
        """`message_delta` and `message_stop`."""
        self.end_content(stop, sequence)
        self.end_message()

    def end_content(self, stop: str, sequence: str | None) -> None:
        """`message_delta`."""
        delta = {"stop_reason": stop, "stop_sequence": sequence}
        usage = {"output_tokens": self.final_output_tokens()}
        self.event({"type": "message_delta", "delta": delta, "usage": usage})

    def end_message(self) -> None:
        """`message_stop`; the message's tokens count from here."""
        self.used.append(self.usage | {"output_tokens": self.final_output_tokens()})
        self.event({"type": "message_stop"})
        self.message_id = ""

    def final_output_tokens(self) -> int:
        """12, as in the recordings, or what `usage` says."""
        return int(json.loads(self.shape.get("usage") or "{}").get("output_tokens", OUTPUT_TOKENS))

    def event(self, event: Json, **extra: Any) -> None:
        """One event of the Messages API."""
        message = {"type": "stream_event", "event": event, "parent_tool_use_id": self.parent}
        self.emit(message | {"api_message_id": self.message_id} | extra)

    def abort(self) -> Json:
        """End as after an interrupt: what was said so far, the CLI's note, the end of the message."""
        self.cli.state.tell(interrupted=False)
        message_id, block, parked = self.message_id, self.block, [*self.parked.values(), *self.asked]
        for tool_id in self.parked.values():
            self.cli.emit(self.cancelled())
            self.user(build_tool_result(tool_id, CALL_STOPPED, is_error=True))
        for tool_id in self.asked:
            self.denials.append({"tool_name": "Bash", "tool_use_id": tool_id, "tool_input": {"command": "true"}})
            self.user(build_denied_result(tool_id, CALL_STOPPED, non_execution_kind="user-rejected"))
        if block is not None and block[1]:
            self.emit(self.assistant({"type": "text", "text": block[1]}) | {"aborted": True})
        note = "[Request interrupted by user for tool use]" if parked else "[Request interrupted by user]"
        self.user(build_user([{"type": "text", "text": note}]))
        if message_id:
            self.used.append(self.usage | {"output_tokens": 1})
            self.abandon(block)
        text = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null"
        result: Json = {"subtype": "error_during_execution", "is_error": True, "errors": [text]}
        result["terminal_reason"] = "aborted_tools" if parked else "aborted_streaming"
        return result | {"stop_reason": "tool_use" if parked else None}

    def abandon(self, block: tuple[int, str] | None) -> None:
        """The events with which the CLI itself closes an interrupted message."""
        if block is not None:
            self.event({"type": "content_block_stop", "index": block[0]})
        nothing = dict.fromkeys(("container", "stop_details", "stop_reason", "stop_sequence"))
        usage = build_usage(self.usage | {"output_tokens": 1})
        for name in ("cache_creation", "inference_geo", "service_tier", "speed"):
            del usage[name]
        self.event({"type": "message_delta", "context_management": None, "delta": nothing, "usage": usage})
        abandoned = {"api_message_id": self.message_id, "from_block_index": self.blocks + 1}
        self.event({"type": "message_stop"}, abandoned_blocks=abandoned)

    def cancelled(self) -> Json:
        """The notice that a parked call is of no more interest."""
        params = {"requestId": self.cli.calls, "reason": "AbortError: remote-cancel"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        request = {"subtype": "mcp_message", "server_name": "client", "message": message}
        return {"type": "control_request", "request_id": new_id(), "request": request}


def parse_tool_answer(answer: Json | None) -> tuple[Any, bool]:
    """The client's answer to `tools/call` → content, is_error; None when stdin ended before it came."""
    if answer is None:
        return CALL_LOST, True
    if answer["subtype"] != "success":
        return str(answer.get("error")), True
    mcp = answer["response"]["mcp_response"]
    if "result" not in mcp:
        return str(mcp.get("error")), True
    return mcp["result"]["content"], bool(mcp["result"].get("isError"))


def resolve_model(name: str) -> str:
    """An alias → its id; other names as they are."""
    ids = {value: resolved for value, resolved, _, _ in MODELS}
    return ids.get(name.removesuffix("[1m]"), name)


def option(argv: list[str], name: str, default: str) -> str:
    """The value of an option of argv."""
    return argv[argv.index(name) + 1] if name in argv[:-1] else default


DEFAULT_SCRIPT: Json = {
    "version": VERSION,
    "logged_in": True,
    "plan": None,
    "directives": [],
    "processes": {},
    "texts": {},
    "recorded_variables": [],
    "log": "",
}
# Set by the wrapper's shell and by Python itself, not by whoever started the child.
OWN_VARIABLES = frozenset(("PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"))


def load_script(argv: list[str]) -> tuple[Json, list[str]]:
    """The script that the wrapper names, and the argv without it."""
    if argv[:1] != ["--fake-script"]:
        return DEFAULT_SCRIPT, argv
    with open(argv[1], encoding="utf-8") as file:
        return DEFAULT_SCRIPT | json.load(file), argv[2:]


def build_auth_status(logged_in: bool) -> Json:
    """What `auth status --json` prints."""
    method = "oauth_token" if "CLAUDE_CODE_OAUTH_TOKEN" in os.environ else "api_key"
    status: Json = {
        "loggedIn": logged_in,
        "authMethod": method if logged_in else "none",
        "apiProvider": "firstParty",
    }
    return status | ({"apiKeySource": "ANTHROPIC_API_KEY"} if logged_in and method == "api_key" else {})


def main(argv: list[str]) -> NoReturn:
    """`--version`, `auth status --json`, or a stream-json child."""
    script, argv = load_script(argv)
    signal.alarm(LIFETIME)
    streaming = option(argv, "--input-format", "") == "stream-json"
    # Before the log says that the process is there: whoever has read it may send signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) if streaming else ())
    log = Log(script["log"], "stream" if streaming else "command")
    names = sorted(set(os.environ) - OWN_VARIABLES)
    values = {name: os.environ[name] for name in script["recorded_variables"] if name in os.environ}
    log.write("start", pid=os.getpid(), argv=argv, environment=names, variables=values, folder=os.getcwd())
    cli = Cli(script, log, argv)
    if streaming:
        cli.run()
    if "--version" in argv:
        cli.write(f"{cli.version} (Claude Code)\n".encode())
        cli.leave(0, "version")
    if argv[:2] == ["auth", "status"]:
        cli.write(json.dumps(build_auth_status(script["logged_in"]), indent=2).encode() + b"\n")
        cli.leave(0 if script["logged_in"] else 1, "auth status")
    write_all(2, b"fake claude: only --version, auth status and --input-format stream-json are played\n")
    cli.leave(BAD_DIRECTIVE_STATUS, "usage")


if __name__ == "__main__":
    main(sys.argv[1:])
