"""End to end: a client, the proxy, the real Claude Code CLI, and a Messages API on loopback that keeps what it got."""
