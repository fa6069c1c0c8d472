"""RunFolder: what a run leaves behind.

config.gin        the configuration as given; running from it repeats the run
operative.gin     the same with every default spelled out
run.json          the manifest: what other programs ask of the run
metrics.jsonl     one row for each logging interval and each evaluation
checkpoints/      the newest checkpoints
pictures/         one picture for each evaluation
summary.json      the final figures; there once the run is complete
unreadable.txt    images that could not be read, where there are any
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from hpm.errors import Notice, RunInUseError, UserError
from hpm.runs.manifest import Manifest
from hpm.runs.metrics_file import MetricsFile, Row
from hpm.runtime.files import begun_for, write_json, write_text

_PATIENCE = 20.0  # seconds; workers of a process that was just killed need a moment


class RunFolder:
    """The folder of one run.

    Args:
        path: where it is, or will be.

    Attributes:
        next_config: the configuration of a run that goes on with changed settings, until `prepare_resume` writes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.gin"
        self.operative = path / "operative.gin"
        self.manifest = path / "run.json"
        self.metrics = MetricsFile(path / "metrics.jsonl")
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self.summary = path / "summary.json"
        self.unreadable = path / "unreadable.txt"
        self.next_config: str | None = None
        self._lock = path / ".lock"

    def create(self, config: str, operative: str, manifest: Manifest) -> None:
        """Start a new run here.

        Raises:
            UserError: if the folder holds anything already, or cannot be written.
        """
        if self.config.exists():
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume --output {self.path}, or choose another "
                "--output"
            )
        # A start that was killed leaves these: the configuration, which makes it a run, is written last.
        begun = {self.operative.name, self.manifest.name}
        begun |= {left.name for path in (self.manifest, self.config) for left in begun_for(path)}
        if self.path.is_dir() and any(path.name not in begun for path in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty; choose another --output")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.operative.write_text(operative)
            manifest.write(self.manifest)
            write_text(self.config, config)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; choose another --output") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from this run while it is entered.

        Raises:
            RunInUseError: if another process is writing here, and goes on with it.
        """
        lock = self._acquire()
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _acquire(self) -> BaseFileLock | None:
        """The lock, held; None on a file system that has none."""
        lock = FileLock(self._lock)
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise RunInUseError(
                f"{self.path} is being written by another process; wait until it ends, or stop it"
            ) from error
        except (OSError, NotImplementedError):
            return None
        return lock

    def prepare_resume(self, wanted: Callable[[Row], bool]) -> None:
        """Go on with the run: with the rows of metrics that are wanted, and the configuration `next_config`.

        Raises:
            UserError: if the folder cannot be written.
        """
        try:
            self.metrics.keep(wanted)
            if self.next_config is not None:
                write_text(self.config, self.next_config)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; make room there") from error

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
            raise UserError(f"{self.path} is not a run: {self.config.name} is missing. Pass the folder of a run")
        return self.config.read_text()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the final figures; this makes the run complete."""
        write_json(self.summary, summary)
