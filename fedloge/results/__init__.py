"""Runs read, grouped and compared; tables, figures and the page."""
