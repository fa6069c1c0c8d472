"""Copies of runs in experiment trackers."""
