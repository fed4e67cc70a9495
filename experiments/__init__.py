"""What a person does: the command line, engines, recipes, reports."""
