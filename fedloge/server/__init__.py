"""What the server does: its ServerApp, the strategy, checkpoints, the global evaluation."""
