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
from hpm.runs.content import require_content
from hpm.runs.manifest import Manifest
from hpm.runs.metrics_file import MetricsFile, Row
from hpm.runtime.files import (
    begun_for,
    check_file,
    check_folder,
    printable,
    read_json,
    read_text,
    write_json,
    write_text,
)

_PATIENCE = 20.0  # seconds; workers of a process that was just killed need a moment
_COMPARED = {  # what a study takes of a summary
    "metrics": dict[str, float | None],
    "images": int,
    "training_seconds": float,
    "data": str,
    "device": str,
    "commit": str,
}
_SHOWN = {"steps": int, "evaluation_seconds": float, "picture": str, "tracking": str}  # what else people are shown
_ALSO = {
    "masks_per_image": int,
    "skipped_steps": int,
    "scored_images": dict[str, int],
    "per_class": dict[str, dict[str, float]],
    "tracking_problem": str,
}


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

    def require_new(self) -> None:
        """Find out whether a new run can start here.

        Raises:
            UserError: if the folder holds anything already.
        """
        if self.config.exists():
            raise UserError(
                f"{self.path} already holds a run; continue it with --resume --output {self.path}, or choose another "
                "--output"
            )
        # A start that was killed leaves these: the configuration, which makes it a run, is written last.
        begun = {self.operative.name, self.manifest.name}
        begun |= {left.name for path in (self.operative, self.manifest, self.config) for left in begun_for(path)}
        if self.path.is_dir() and any(path.name not in begun for path in self.path.iterdir()):
            raise UserError(f"{self.path} is not empty; choose another --output")

    def create(self, config: str, operative: str, manifest: Manifest, *, found_none: bool = False) -> None:
        """Start a new run here.

        Args:
            config: what the run was configured with.
            operative: everything in force.
            manifest: what the run says of itself.
            found_none: whether this process has just found that there is no run: one that is here now was started
                by another process. Default False.

        Raises:
            RunInUseError: if another process has started a run here meanwhile.
            UserError: if the folder holds anything already, or cannot be written.
        """
        if found_none and self.config.exists():
            raise RunInUseError(
                f"another process has just started a run in {self.path}; wait until it ends, or stop it, and give the "
                "same command again"
            )
        self.require_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.operative, operative)
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

    def prepare_resume(self, wanted: Callable[[Row], bool], manifest: Manifest) -> None:
        """Go on with the run: with the rows of metrics that are wanted, and the configuration `next_config`.

        Args:
            wanted: whether a row is.
            manifest: what the run says of itself from now on.

        Raises:
            UserError: if the folder cannot be written.
        """
        try:
            self.metrics.keep(wanted)
            manifest.write(self.manifest)
            if self.next_config is not None:
                write_text(self.config, self.next_config)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; make room there") from error

    def count_unreadable(self) -> int:
        """Images that could not be read."""
        return len(self._known_unreadable())

    def _known_unreadable(self) -> set[str]:
        """The lines of unreadable.txt, whatever bytes an editor has put there."""
        if not self.unreadable.is_file():
            return set()
        lines = self.unreadable.read_bytes().decode("utf-8-sig", errors="backslashreplace").split("\n")
        return {line for line in lines if line}

    def add_unreadable(self, problems: Mapping[str, str]) -> list[str]:
        """Note images that could not be read, each once.

        Returns:
            The new ones, a line each, as `printable` has their names.
        """
        found = [" ".join(f"{name}: {reason}".splitlines()) for name, reason in problems.items()]
        new = list(map(printable, found))
        try:
            known = self._known_unreadable()
            new = [line for line in new if line not in known]
            with self.unreadable.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in new)
        except OSError as error:
            warnings.warn(f"{self.unreadable} could not be written: {error}", Notice, stacklevel=2)
        return new

    def saved_config(self) -> str:
        """The configuration that the run was started from.

        Raises:
            UserError: if there is none, or it cannot be read.
        """
        if not self.config.is_file():
            raise UserError(f"{self.path} is not a run: {self.config.name} is missing. Pass the folder of a run")
        return read_text(self.config)

    def check_places(self) -> None:
        """Find out before the work whether what is still to be written here can be.

        Raises:
            UserError: if there is a folder, or something else, where a file belongs, or the reverse.
        """
        check_folder("the run's folder", self.path)
        for path in (self.config, self.operative, self.manifest, self.metrics.path, self.summary, self.unreadable):
            check_file("the run's file", path)
        for path in (self.checkpoints, self.pictures):
            check_folder("the run's folder", path)

    def read_summary(self, *, shown: bool = False) -> dict[str, Any]:
        """The final figures of a complete run.

        Args:
            shown: whether people are to be shown them, rather than programs a few.

        Raises:
            UserError: if they are damaged.
        """
        needed, more = (_COMPARED | _SHOWN, _ALSO) if shown else (_COMPARED, _SHOWN | _ALSO)
        return require_content(read_json(self.summary), self.summary, needed, more)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the final figures; this makes the run complete."""
        write_json(self.summary, summary)
