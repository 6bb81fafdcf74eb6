"""The CLI as a process of the system: where it is, how one is started, signalled and reaped."""
