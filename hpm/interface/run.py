"""Run: a run that was trained, and what it recorded."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from hpm.errors import UserError
from hpm.runs.run_folder import RunFolder
from hpm.runtime.files import expanded
from hpm.runtime.suggestions import did_you_mean, names_like


class Run:
    """A run by its folder; what is asked of it is read from there.

    Args:
        path: the run's folder, as `hpm.train` or `hpm pretrain --output` made it.

    Raises:
        UserError: if there is no run.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise UserError(f"Run takes the path of a folder, and {path!r} is a {type(path).__name__}")
        self.path: Path = expanded(os.fspath(path))
        self._folder = RunFolder(self.path)
        self._folder.saved_config()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> str:
        """The configuration, as text: `hpm.train` repeats the run from the file that holds it, `config.gin`."""
        return self._folder.saved_config()

    @property
    def is_complete(self) -> bool:
        """Whether the run was trained to its end."""
        return self._folder.summary.is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """What was trained, for how long, on what device, and the final metrics, as in `summary.json`.

        Raises:
            UserError: if the run is not complete, or the file is damaged.
        """
        if not self.is_complete:
            raise UserError(
                f"{self.path} is not complete: hpm.train(output={str(self.path)!r}, resume=True) continues it"
            )
        return self._folder.read_summary(shown=True)

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics by name, as `hpm pretrain` prints them; shares are from 0 to 1. NaN was not measured.

        Raises:
            UserError: as `summary` does.
        """
        return {name: math.nan if value is None else value for name, value in self.summary["metrics"].items()}

    def metric_names(self) -> list[str]:
        """The names that `history` knows, in alphabetical order."""
        own = {"kind", "step", "time"}
        return sorted({name for row in self._folder.metrics.rows() for name in row} - own)

    def history(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A metric over the run, from the rows of `metrics.jsonl`.

        Args:
            name: of the metric, one of `metric_names`.

        Returns:
            The steps, int64 [K], and the values after them, float64 [K].

        Raises:
            UserError: for a metric that the run never measured; it names those that it did.
        """
        rows = [(row["step"], row[name]) for row in self._folder.metrics.rows() if name in row]
        if not rows:
            known = self.metric_names()
            meant = did_you_mean(names_like(name, known))
            raise UserError(f"{self.path} has no metric {name!r}.{meant} It has {', '.join(known) or 'none yet'}")
        steps, values = zip(*rows, strict=True)
        return np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64)

    @property
    def pictures(self) -> list[Path]:
        """The pictures that were drawn while it trained, the oldest first."""
        return sorted(self._folder.pictures.glob("*.png"))
