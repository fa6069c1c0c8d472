"""RunRecorder: what a run writes into its folder, and hands over to its tracker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.sizes import pair
from hpm.errors import TrainingError
from hpm.runs.checkpoint import manifest_of
from hpm.runs.manifest import Manifest
from hpm.runs.run_folder import RunFolder
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.version import source_version
from hpm.tracking import Tracker
from hpm.tracking.datasets import IMAGE_SIZE
from hpm.tracking.note import NOTE, note_of, origin_tags

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer


def tags_of(trainer: Trainer, folder: RunFolder) -> dict[str, str]:
    """What a tracker may find a run by.

    Args:
        trainer: whose run it is.
        folder: the run's.
    """
    model = trainer.method.student
    manifest = manifest_of(folder, told=False)
    note = note_of(manifest.description, command=manifest.command)
    return {
        **origin_tags("hpm pretrain"),
        **({NOTE: note} if note else {}),
        IMAGE_SIZE: " x ".join(map(str, (*pair(model.img_size), model.in_chans))),
        "curriculum": " / ".join(trainer.method.curriculum.component_names()),
        "seed": str(trainer.seed),
        "data": type(trainer.source).__name__,
        "device": str(trainer.device),
        "precision": trainer.precision,
        "processes": str(trainer.processes.world_size),
        "folder": str(folder.path.resolve()),
        "commit": source_version(),
    }


class RunRecorder:
    """Keeps the records of a run: metrics, pictures, unreadable images, summary.

    The tracker gets what the newest checkpoint on disk covers, and so never sees a step that a resumed run takes again.

    Args:
        folder: the run's.
        tracker: gets a copy.
        processes: that train together; the main one writes.
    """

    def __init__(self, folder: RunFolder, tracker: Tracker, processes: DistributedContext) -> None:
        self.folder = folder
        self.tracker = tracker
        self._processes = processes
        self._pictures: list[tuple[int, Path]] = []
        self._published = -1
        self._unreadable = 0

    def start(self) -> None:
        """Hand over the configuration, and the metrics of a run that goes on."""
        if self._processes.is_main:
            self.tracker.send(self.folder.metrics.rows_until(), [self.folder.config, self.folder.operative])

    def resume(self, step: int, manifest: Manifest) -> None:
        """Drop the metrics of steps that will be taken again; in the main process.

        Args:
            step: taken at the checkpoint that the run goes on from.
            manifest: what the run says of itself from now on.
        """
        self.folder.prepare_resume(lambda row: row["step"] <= step and row["kind"] != "final", manifest)
        self._pictures = [(0, path) for path in sorted(self.folder.pictures.glob("*.png"))]

    def add_picture(self, step: int, path: Path) -> None:
        """A picture was drawn after so many steps."""
        self._pictures.append((step, path))

    def publish(self, written: int) -> None:
        """Hand over what a checkpoint covers.

        Args:
            written: steps taken at the newest checkpoint that is on disk, -1 before there is one.
        """
        if not self._processes.is_main or written <= self._published:
            return
        self._published = written
        files = [path for step, path in self._pictures if step <= written]
        self._pictures = [(step, path) for step, path in self._pictures if step > written]
        self.tracker.send(self.folder.metrics.rows_until(written), files)

    def new_unreadable(self, count: int, unreadable: dict[str, str]) -> list[str]:
        """Note images that could not be read since the last call, those of all processes.

        Args:
            count: of all processes together; the same in every process, which all must call.
            unreadable: this process's, by name, and why.

        Returns:
            The new ones, a line each; none in all processes but the main one.
        """
        if count <= self._unreadable:
            return []
        self._unreadable = count
        found = {name: reason for theirs in self._processes.gather(unreadable) for name, reason in theirs.items()}
        return self.folder.add_unreadable(found) if self._processes.is_main else []

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the final figures, which make the run complete, and hand over everything; in the main process.

        Raises:
            TrainingError: if the disk refuses it.
        """
        try:
            self.folder.metrics.flush()
            self.folder.write_summary(summary)
        except OSError as error:
            raise TrainingError(
                f"{self.folder.summary} could not be written: {error}; make room and evaluate again with --resume "
                f"--output {self.folder.path}"
            ) from error
        self.publish(summary["steps"])
        self.tracker.send(self.folder.metrics.rows_until(), [self.folder.summary])
