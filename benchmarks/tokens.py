"""How far the estimate of `count_tokens` is from what the API counts: `python -m benchmarks.tokens URL`.

It asks a running proxy with a real login (or a Messages API of your own) for one token of an answer to each sample, and
compares the usage that comes back, less that of an empty prompt, with the estimate for the same texts. It costs a few
thousand input tokens. Against `--demo` the numbers mean nothing: the demo counts four characters a token.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import requests

GOAL = 0.10
MODEL = "claude-sonnet-4"


def samples() -> dict[str, str]:
    """English prose, code and JSON of a few kilobytes each, from this repository."""
    here = Path(__file__).resolve().parent.parent
    prose = (here / "README.md").read_text(encoding="utf-8")
    code = (here / "claude_proxy" / "conversation.py").read_text(encoding="utf-8")
    lines = (here / "tests" / "data" / "transcripts" / "chat_two_turns.jsonl").read_text(encoding="utf-8")
    return {"prose": prose[:8000], "code": code[:8000], "JSON": lines[:8000]}


def count(url: str, key: str, text: str) -> int:
    """The estimate for one user message."""
    return int(_post(f"{url}/v1/messages/count_tokens", key, text)["input_tokens"])


def measure(url: str, key: str, text: str) -> int:
    """What the API says it read: fresh, from its cache and into it."""
    usage = _post(f"{url}/v1/messages", key, text, max_tokens=1)["usage"]
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(int(usage.get(name) or 0) for name in names)


def _post(url: str, key: str, text: str, **fields: int) -> Any:
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
    response = requests.post(url, json=body, headers={"x-api-key": key, "anthropic-version": "2023-06-01"}, timeout=120)
    response.raise_for_status()
    return response.json()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="such as http://127.0.0.1:3456")
    parser.add_argument("--key", default="unused")
    arguments = parser.parse_args()
    empty = measure(arguments.url, arguments.key, "x"), count(arguments.url, arguments.key, "x")
    errors = []
    print("| sample | API | estimate | error |\n|---|---:|---:|---:|")
    for name, text in samples().items():
        real = measure(arguments.url, arguments.key, text) - empty[0]
        guess = count(arguments.url, arguments.key, text) - empty[1]
        errors.append(abs(guess / real - 1))
        print(f"| {name} | {real} | {guess} | {guess / real - 1:+.1%} |")
    print(f"mean error {statistics.mean(errors):.1%}, goal {GOAL:.0%}")


if __name__ == "__main__":
    main()
