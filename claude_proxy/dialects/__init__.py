"""Pure: bytes to a conversation, events to bytes. A folder for each dialect; siblings never import one another."""
