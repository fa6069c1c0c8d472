"""Data sets: write what a config makes of one for other programs."""
