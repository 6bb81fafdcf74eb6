"""PURE: what a client asked of one turn -> settings of the CLI, and what of it cannot be honoured.

In: canonical options, what is known of the model. Out: `Parameters`. The API takes a temperature other than 1, a
changed `top_p` and `thinking: enabled` only one way: sampling parameters need thinking off, and `clear_thinking` needs
it on. So a request that sets them runs without thinking, unless it asks for thinking itself: then thinking wins.
"""

import json
from dataclasses import dataclass
from typing import Any

from ..conversation import Options

LARGEST_TEMPERATURE = 1.0
THINKING_OFF: dict[str, Any] = {"thinking": {"type": "disabled"}, "context_management": {"edits": []}}
EFFORT_LEVELS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """settings: for `apply_flag_settings`, in full. ignored: the client's names for what cannot be honoured, sorted.
    refusable: names among the honoured ones that some models refuse altogether, with a 400.
    """

    settings: dict[str, Any]
    ignored: tuple[str, ...] = ()
    refusable: tuple[str, ...] = ()


def build_parameters(options: Options, *, refuses_sampling: bool = False) -> Parameters:
    """Settings for one turn; `refuses_sampling` leaves out what this model was seen to refuse."""
    body: dict[str, Any] = {}
    ignored: list[str] = []
    stops = [stop for stop in options.stop_sequences if stop.strip()]
    if stops:
        body["stop_sequences"] = stops
    if len(stops) < len(options.stop_sequences):
        ignored.append("stop")  # the API takes no stop sequence of blanks alone
    sampling = _sampling(options, ignored)
    refusable = [*sampling, *(("reasoning_effort",) if options.effort == "none" else ())]
    if refuses_sampling:
        ignored.extend(refusable)
        sampling, refusable = {}, []
    elif options.effort not in (None, "none"):
        ignored.extend(sampling)
        sampling, refusable = {}, []
    if refusable:
        body.update(THINKING_OFF)
    body.update(sampling)
    settings = {
        "env": {
            "CLAUDE_CODE_EXTRA_BODY": json.dumps(body) if body else "",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(options.max_tokens) if options.max_tokens else "",
        },
        "effortLevel": EFFORT_LEVELS.get(options.effort or ""),
    }
    return Parameters(settings, tuple(sorted(set(ignored))), tuple(refusable))


def _sampling(options: Options, ignored: list[str]) -> dict[str, Any]:
    """Sampling parameters that differ from the API's defaults, in its range; one of the two at most."""
    sampling: dict[str, Any] = {}
    if options.temperature is not None and options.temperature != 1:
        if options.temperature > LARGEST_TEMPERATURE:
            ignored.append("temperature")  # OpenAI goes up to 2; the API's own highest is its default
        else:
            sampling["temperature"] = options.temperature
    if options.top_p is not None and options.top_p != 1:
        if sampling:
            ignored.append("top_p")
        else:
            sampling["top_p"] = options.top_p
    return sampling
