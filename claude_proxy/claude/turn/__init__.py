"""One turn with a child: what is sent, and what its messages mean to the client."""
