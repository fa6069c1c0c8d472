"""RunFolder: what a run leaves behind.

config.gin        the configuration as given; running from it repeats the run
operative.gin     the same with every default spelled out
metrics.jsonl     one row for each logging interval and each evaluation
checkpoints/      the newest checkpoints
pictures/         one picture for each evaluation
summary.json      the final figures; there once the run is complete
unreadable.txt    images that could not be read, where there are any
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hpm.errors import Notice, UserError

Row = dict[str, Any]
_ORIGIN = "# started with --init-from "
_PATIENCE = 20.0  # seconds


def _with_origin(config: str, origin: str) -> str:
    return f"{_ORIGIN}{origin}\n{config}"


class RunFolder:
    """The folder of one run.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.gin"
        self.operative = path / "operative.gin"
        self.metrics = MetricsFile(path / "metrics.jsonl")
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self.next_config: str | None = None  # of a run that goes on with changed settings
        self.summary = path / "summary.json"
        self.unreadable = path / "unreadable.txt"

    def create(self, config: str, operative: str, *, init_from: Path | None = None) -> None:
        """Start a new run here, from random weights or from a checkpoint's.

        Raises:
            UserError: if the folder holds anything already, or cannot be written.
        """
        if self.config.exists():
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume --output {self.path}, or choose another "
                "--output"
            )
        # A start that was killed leaves the first of the two files.
        if self.path.is_dir() and any(path != self.operative for path in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty; choose another --output")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.operative.write_text(operative)
            self.config.write_text(config if init_from is None else _with_origin(config, str(init_from)))
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; choose another --output") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from this run while it is entered.

        Raises:
            UserError: if another process is writing here, and goes on with it.
        """
        file = os.open(self.path, os.O_RDONLY)
        try:
            patience = time.monotonic() + _PATIENCE  # workers of a process that was just killed need a moment
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > patience:
                        raise UserError(
                            f"{self.path} is being written by another process; wait until it ends, or stop it"
                        ) from error
                    time.sleep(0.1)
                except OSError:
                    break  # a file system without locks
            yield
        finally:
            os.close(file)

    def prepare_resume(self, wanted: Callable[[Row], bool]) -> None:
        """Go on with the run: with the rows of metrics that are wanted, and the configuration `next_config`.

        Raises:
            UserError: if the folder cannot be written.
        """
        try:
            self.metrics.keep(wanted)
            if self.next_config is not None:
                origin = self.started_from()
                partial = self.config.with_suffix(".partial")
                partial.write_text(self.next_config if origin is None else _with_origin(self.next_config, origin))
                partial.replace(self.config)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; make room there") from error

    def started_from(self) -> str | None:
        """The checkpoint whose weights the run was started from by --init-from, or None."""
        first = self.saved_config().split("\n", 1)[0]
        return first.removeprefix(_ORIGIN) if first.startswith(_ORIGIN) else None

    def count_unreadable(self) -> int:
        """Images that could not be read."""
        return len(self.unreadable.read_text().splitlines()) if self.unreadable.is_file() else 0

    def add_unreadable(self, problems: Mapping[str, str]) -> list[str]:
        """Note images that could not be read, each once.

        Returns:
            The new ones, a line each.
        """
        known = set(self.unreadable.read_text().splitlines()) if self.unreadable.is_file() else set()
        new = [
            line for name, reason in problems.items() if (line := f"{name}: {reason}".replace("\n", " ")) not in known
        ]
        try:
            with self.unreadable.open("a") as file:
                file.writelines(f"{line}\n" for line in new)
        except OSError as error:
            warnings.warn(f"{self.unreadable} could not be written: {error}", Notice, stacklevel=2)
        return new

    def saved_config(self) -> str:
        """The configuration that the run was started from."""
        if not self.config.is_file():
            raise UserError(f"{self.path} holds no run to resume: there is no {self.config.name} in it")
        return self.config.read_text()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the final figures; this makes the run complete."""
        partial = self.summary.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=2) + "\n")
        partial.replace(self.summary)


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
        told = self.problem
        self._waiting.append(json.dumps(row) + "\n")
        try:
            self.flush()
        except OSError:
            if told is None:
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
        partial = self.path.with_suffix(".partial")
        with partial.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows() if wanted(row))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        self._waiting = []
        self._whole = None
        self.problem = None
