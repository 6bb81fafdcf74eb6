"""One person's Claude Code CLI behind every OpenAI- or Anthropic-compatible client on that person's machine."""

__version__ = "0.1.0"
