"""What a client does: its ClientApp, its work, its personal state on disk."""
