"""What the proxy costs in time and memory, as ratios within one run against the CLI alone."""
