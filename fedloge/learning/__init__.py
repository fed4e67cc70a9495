"""Local training: losses, the loop, a client's data in a round, metrics and probes."""
