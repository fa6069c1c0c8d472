"""Alpha over a run's steps as its schedule has it, between the steps that were logged too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from curriculum import Scheduler
from hpm.config import make_importable, parse_config
from hpm.errors import UserError
from hpm.optim.clock import Clock
from hpm.optim.schedule import Schedule
from hpm.runs.checkpoint import manifest_of
from hpm.runs.metrics_file import Row
from hpm.runs.run_folder import RunFolder

_POINTS = 2000  # of a curve: more than a picture has columns


def alpha_rows(run: RunFolder, rows: Sequence[Row]) -> list[Row]:
    """Rows with `step`, `epoch` and `alpha` up to the last that was logged.

    Where progress alone decides alpha they come from the schedule, evenly spaced; where feedback does, or the run's
    configuration cannot be read any more, they are those that were logged.

    Args:
        run: the run's folder.
        rows: its rows of training.
    """
    logged = [
        row
        for row in rows
        if row["kind"] == "train" and "alpha" in row
        # A row that somebody wrote may have an epoch of next to nothing.
        if row.get("epoch", 0) > 0 and math.isfinite(row["step"] / row["epoch"])
    ]
    if not logged:
        return []
    try:
        scheduler, per, epochs = _schedule(run)
    except UserError:
        return logged
    if scheduler.watches:
        return logged
    last = logged[-1]
    per_epoch = round(last["step"] / last["epoch"])
    clock = Clock(0, max(1, per_epoch), epochs)
    every = -(-last["step"] // _POINTS)
    steps = range(last["step"] - 1, -1, -max(1, every))
    return [
        {
            "kind": "train",
            "step": step + 1,
            "epoch": (step + 1) / clock.steps_per_epoch,
            "alpha": scheduler(clock.at(step).progress(per)),
        }
        for step in reversed(steps)
    ]


def _schedule(run: RunFolder) -> tuple[Scheduler, str, int]:
    """A run's scheduler, what its progress is counted in, and its epochs."""
    run.saved_config()  # a clear error where there is none
    make_importable(manifest_of(run, told=False).plugins)
    config = parse_config([str(run.config)])
    scheduler = config.parameter("Curriculum", "scheduler")
    if not isinstance(scheduler, Scheduler):
        raise UserError(f"{run.config}: Curriculum.scheduler is no Scheduler")
    schedule: Schedule = config.parameter("Trainer", "schedule") or Schedule()
    return scheduler, config.parameter("Trainer", "progress_per"), schedule.epochs
