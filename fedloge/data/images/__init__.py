"""Image files: found, read, decoded and kept. Nothing here imports torch, so that helpers start quickly."""
