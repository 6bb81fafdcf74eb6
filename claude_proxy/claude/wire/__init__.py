"""Pure: lines of the CLI's JSON stream to types and back, what a child is initialised with, what a turn sets."""
