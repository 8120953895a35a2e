"""Measurements of sweeper: each prints what it did and what came out. Run by make bench..."""
