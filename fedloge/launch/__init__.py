"""Starting a run on an engine, and showing or sending on its progress."""
