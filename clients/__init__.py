"""What a client does: its ClientApp, its data, its personal state on disk."""
