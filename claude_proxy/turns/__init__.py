"""One request on its way: queued, run on a child, observed, and remembered."""
