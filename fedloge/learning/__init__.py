"""Local training: the loop, a client's data in a round, losses, metrics and probes."""
