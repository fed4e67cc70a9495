"""Local training: losses, the loop, a client's data in a round, and measurement."""
