"""All that knows the Claude Code CLI, and nothing about HTTP."""
