"""MetricsFile: a run's metrics, one JSON row a line."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hpm.errors import Notice
from hpm.runtime.files import flush_to_disk, replacing

Row = dict[str, Any]


class MetricsFile:
    """A JSON-lines file of metrics. Survives a kill at any moment, and never holds a step twice.

    What cannot be written, e.g. because the disk is full, waits in memory and is written with the next row that can.

    Attributes:
        problem: why rows wait, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._waiting: list[str] = []
        self._whole: int | None = None  # bytes before half a line, where one stands at the end

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; on its way to the disk when this returns, unless the disk refuses it, which is warned of once."""
        warned = self.problem is not None
        self._waiting.append(json.dumps(row) + "\n")
        try:
            self.flush()
        except OSError:
            if not warned:
                warnings.warn(f"{self.problem}; metrics wait in memory", Notice, stacklevel=2)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: if the disk refuses it; nothing is lost.
        """
        try:
            self._cut()
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.pop(0)
        except OSError as error:
            self.problem = f"{self.path} cannot be written: {error.strerror or error}"
            raise
        self.problem = None

    def _write(self, line: str) -> None:
        length = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a") as file:
                file.write(line)
        except OSError:
            self._whole = length
            with suppress(OSError):
                self._cut()
            raise

    def _cut(self) -> None:
        """Take off half a line, which would hide all that follow."""
        if self._whole is not None and self.path.exists():
            os.truncate(self.path, self._whole)
        self._whole = None

    def rows(self) -> list[Row]:
        """All rows, those that wait too; a last line that a kill cut short is left out."""
        rows: list[Row] = []
        for line in self.path.read_text().splitlines() if self.path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows + [json.loads(line) for line in self._waiting]

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop rows, e.g. those after the checkpoint that a run goes on from."""
        with replacing(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows() if wanted(row)))
            flush_to_disk(partial)
        self._waiting = []
        self._whole = None
        self.problem = None
