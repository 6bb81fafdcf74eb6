"""What survives a restart: one SQLite file, and who writes what into it."""
