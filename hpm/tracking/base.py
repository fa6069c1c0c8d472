"""Tracker: where a run is copied to.

The run's own files are the truth, and a tracker's copy may be late or missing: no tracker ends a run that has begun,
and training never waits for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from hpm.runs.metrics_file import Row


class TrackingError(Exception):
    """A tracker could not take what it was given. The message is one line and holds no password."""


class UnusableTrackerError(TrackingError):
    """A tracker's settings with which it can never take anything."""


@runtime_checkable
class Tracker(Protocol):
    """Takes a copy of a run: parameters, tags, metrics, pictures and files.

    Attributes:
        enabled: whether runs are copied at all.
        problem: why the copy is not complete yet, or None.
    """

    enabled: bool
    problem: str | None

    @property
    def where(self) -> str:
        """The address that runs are sent to, without its secrets."""

    def start(self, folder: Path, *, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Begin the copy of a run, or go on with the one that its folder belongs to.

        Args:
            folder: the run's.
            name: the run's name.
            parameters: everything in force, by name.
            tags: what the run may be found by.

        Raises:
            UserError: for settings with which no run could ever be copied; whoever cannot be reached is no reason.
        """

    def send(self, rows: Sequence[Row], files: Sequence[Path] = ()) -> None:
        """Hand over metrics and files, and return at once.

        Args:
            rows: all rows of the run so far, those that were handed over before as well.
            files: new ones.
        """

    def finish(self, status: str) -> None:
        """End the copy. Waits for what is outstanding, but not for long.

        Args:
            status: "FINISHED", "FAILED" or "KILLED".
        """

    def has_all_of(self, folder: Path) -> bool:
        """Whether a run that has ended was copied completely, or need not be."""

    def add_metrics(
        self, folder: Path, metrics: Mapping[str, float], *, step: int, files: Sequence[Path] = ()
    ) -> str | None:
        """Add figures to the copy of a run that has ended; waits until they are there.

        Args:
            folder: the run's.
            metrics: figures, by name.
            step: steps that the measured model had taken.
            files: pictures and others that go with them. Default none.

        Returns:
            Where they went, without its secrets; None where this run was never copied.

        Raises:
            TrackingError: if they could not be sent.
        """


class NoTracker:
    """Copies nothing, for runs without a tracker, and for all processes of a run but the main one."""

    enabled = False
    where = "nowhere"

    def __init__(self) -> None:
        self.problem: str | None = None

    def start(self, folder: Path, *, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Nothing begins."""

    def send(self, rows: Sequence[Row], files: Sequence[Path] = ()) -> None:
        """Nothing is kept."""

    def finish(self, status: str) -> None:
        """Nothing is outstanding."""

    def has_all_of(self, folder: Path) -> bool:
        """Always: no run needs to be copied."""
        return True

    def add_metrics(
        self, folder: Path, metrics: Mapping[str, float], *, step: int, files: Sequence[Path] = ()
    ) -> str | None:
        """None: no run was ever copied."""
        return None
