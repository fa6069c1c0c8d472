"""What a complete run still lacks in MLflow, sent from its folder alone."""

from __future__ import annotations

from contextlib import suppress

from hpm.errors import UserError
from hpm.runs.run_folder import RunFolder
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.outbox import TrackingState


def send_rest(run: RunFolder, tracker: MLflowTracker) -> None:
    """Send what MLflow lacks of a complete run: `mlflow.json` in its folder remembers what its entry is made with.

    Args:
        run: the run's folder; one that was never tracked is left alone.
        tracker: of the server that the run was sent to; not started yet.
    """
    with suppress(OSError, UserError):
        known = TrackingState.read(run.path)
        tracker.start(run.path, name=known.name, parameters=known.parameters, tags=known.tags)
        pictures = sorted(run.pictures.glob("*.png"))
        tracker.send(run.metrics.rows(), [run.config, run.operative, run.summary, *pictures])
        tracker.finish("FINISHED")
