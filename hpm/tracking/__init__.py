"""Copies of runs in experiment trackers."""

from hpm.tracking.base import NoTracker, Tracker, TrackingError

__all__ = ["NoTracker", "Tracker", "TrackingError"]
