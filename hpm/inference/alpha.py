"""Alpha over a run's steps as its schedules have it, between the steps that were logged too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from curriculum import PartialReconstruction, Scheduler
from hpm.config import make_importable, parse_config
from hpm.errors import UserError
from hpm.optim.clock import Clock
from hpm.optim.schedule import Schedule
from hpm.runs.checkpoint import manifest_of
from hpm.runs.metrics_file import Row
from hpm.runs.run_folder import RunFolder

_POINTS = 2000  # of a curve: more than a picture has columns


def alpha_rows(run: RunFolder, rows: Sequence[Row]) -> list[Row]:
    """Rows with `step`, `epoch` and `alpha` up to the last that was logged, and with `reconstruction_alpha` where
    `PartialReconstruction.alpha` decides something.

    Where progress alone decides both they come from the schedules, evenly spaced; where feedback does, or the run's
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
        scheduler, part, per, epochs = _schedules(run)
    except UserError:
        return logged
    moving = [scheduler, *({} if part is None else part.schedulers()).values()]
    if any(one.watches for one in moving):
        return logged
    last = logged[-1]
    per_epoch = round(last["step"] / last["epoch"])
    clock = Clock(0, max(1, per_epoch), epochs)
    every = -(-last["step"] // _POINTS)
    steps = range(last["step"] - 1, -1, -max(1, every))
    return [_row(clock.at(step), clock.at(step).progress(per), scheduler, part) for step in reversed(steps)]


def _row(clock: Clock, progress: float, scheduler: Scheduler, part: PartialReconstruction | None) -> Row:
    done = clock.step + 1
    row: Row = {"kind": "train", "step": done, "epoch": done / clock.steps_per_epoch, "alpha": scheduler(progress)}
    of_part = None if part is None else part.alpha_at(progress)
    return row if of_part is None else row | {"reconstruction_alpha": of_part}


def _schedules(run: RunFolder) -> tuple[Scheduler, PartialReconstruction | None, str, int]:
    """A run's scheduler, what is reconstructed, what its progress is counted in, and its epochs."""
    run.saved_config()  # a clear error where there is none
    make_importable(manifest_of(run, told=False).plugins)
    config = parse_config([str(run.config)])
    scheduler = config.parameter("Curriculum", "scheduler")
    if not isinstance(scheduler, Scheduler):
        raise UserError(f"{run.config}: Curriculum.scheduler is no Scheduler")
    part = config.parameter("Curriculum", "reconstruction")
    if not isinstance(part, PartialReconstruction | None):
        raise UserError(f"{run.config}: Curriculum.reconstruction is no PartialReconstruction")
    schedule: Schedule = config.parameter("Trainer", "schedule") or Schedule()
    return scheduler, part, config.parameter("Trainer", "progress_per"), schedule.epochs
