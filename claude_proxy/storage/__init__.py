"""What survives a restart: one SQLite file, and the modules that write into it."""
