"""The tests: unit, contract (with a scripted CLI) and end to end (with the real one)."""
