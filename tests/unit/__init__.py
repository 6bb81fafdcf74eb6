"""Pure tests: no thread of the proxy, no socket, no process, no sleep."""
