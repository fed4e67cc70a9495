"""Sweeps: methods x settings x seeds, from one TOML file."""
