"""Hydra configuration: every default of sweeper is a value in these files."""
