"""Starting a run on an engine, and who is told of its rounds."""
