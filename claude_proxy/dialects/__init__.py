"""Pure: bytes of a request to a conversation, events of a turn to bytes. A folder each; siblings never import one another."""
