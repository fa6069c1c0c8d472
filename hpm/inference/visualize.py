"""`hpm visualize`: what a model makes of images, now or through training, and its curriculum's timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from curriculum import Batch
from hpm.data import image_files
from hpm.errors import UserError
from hpm.evaluation.last_step import warn_of_training_images
from hpm.inference.alpha import alpha_rows
from hpm.inference.images import read
from hpm.inference.loading import LoadedModel, load_model
from hpm.runs import checkpoint
from hpm.runs.checkpoint import manifest_of
from hpm.runs.run_folder import RunFolder
from hpm.visualization import Stage, draw_sheet, draw_strip, draw_timeline, look
from hpm.visualization.picture import held_out
from hpm.visualization.style import check_name, check_replaceable

MOST_IMAGES, MOST_STAGES = 64, 8


def visualize(
    path: Path,
    console: Console,
    *,
    kind: str = "sheet",
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    images: Path | None = None,
    count: int = 6,
    out: Path | None = None,
) -> Path:
    """Draw a picture of a trained model or of its training.

    Args:
        path: what names a trained model, as `find_model` takes it.
        console: where a person reads.
        kind: "sheet", what the model makes of images; "strip", the same through the run's kept checkpoints;
            "timeline", the curriculum and the losses over the run.
        configs: over what published weights tell.
        bindings: gin bindings over the configuration.
        images: a folder of image files, seen through the run's evaluation crop, `count` of them evenly from the
            first to the last; None for the first validation images.
        count: how many images.
        out: of the PNG, which may replace a picture of before and nothing else; None for sheet.png, strip.png or
            timeline.png in the run's folder, or in this one for a file without a run.

    Raises:
        UserError: where there is no model, no image, or not enough of the run left for the picture.
    """
    if not 1 <= count <= MOST_IMAGES:
        raise UserError(f"--count {count} must be 1 to {MOST_IMAGES} images")
    if out is not None:
        check_name(out)
        check_replaceable(out)
    try:
        if kind == "timeline":
            run = _run_of(path)
            drawn = _timeline(run, out or run.path / "timeline.png")
        else:
            drawn = _draw(path, console, kind, configs, bindings, images, count, out)
    except OSError as error:
        raise UserError(f"the picture could not be written: {error}; choose another --out") from error
    console.print(f"picture: {drawn}")
    return drawn


def _draw(
    path: Path,
    console: Console,
    kind: str,
    configs: Sequence[str],
    bindings: Sequence[str],
    images: Path | None,
    count: int,
    out: Path | None,
) -> Path:
    """A sheet or a strip."""
    loaded = load_model(path, configs, bindings)
    loaded.config.check_bindings()
    for line in loaded.lines:
        console.print(line)
    if out is None:
        out = (Path() if loaded.run is None else loaded.run.path) / f"{kind}.png"
        if loaded.run is None:
            check_replaceable(out)
    check_name(out)
    shown = _held_out(loaded, count) if images is None else _from_folder(console, loaded, images, count)
    if kind == "strip" and loaded.run is not None and "reconstructor" in loaded.untrained:
        raise UserError(f"a strip shows reconstructions, and {loaded.path} holds no reconstructor of this target")
    if kind == "strip":
        return draw_strip(_stages(console, loaded, shown), out)
    panels = look(loaded.context(), shown)
    if panels.curriculum is None:
        _tell_why_no_mask(loaded)
    return draw_sheet(panels, out, name=(loaded.path if loaded.run is None else loaded.run.path).resolve().name)


def _tell_why_no_mask(loaded: LoadedModel) -> None:
    """A difficulty that knows training images alone scores no others, so that no mask follows it."""
    context, folder = loaded.context(), None if loaded.run is None else loaded.run.pictures
    if context.curriculum.ever_needs_scores and context.curriculum.difficulty.knows_training_images_alone:
        kept = f"; {folder} has those of the run" if folder is not None and any(folder.glob("*.png")) else ""
        warn_of_training_images(context, f"difficulty and mask are not drawn{kept}")


def _held_out(loaded: LoadedModel, count: int) -> Batch:
    """The first validation images of the model's own data."""
    try:
        return held_out(loaded.source, loaded.method.student.patch_size, count)
    except UserError as error:
        if loaded.run is not None:
            raise
        raise UserError(f"{error}; images of your own can be shown with --images FOLDER") from error


def _from_folder(console: Console, loaded: LoadedModel, folder: Path, count: int) -> Batch:
    """Readable images of a folder, evenly from the first to the last; for an unreadable one the next."""
    files = list(image_files(folder))
    shown: list[Tensor] = []
    for number in range(min(count, len(files))):
        first, last = (len(files) * place // min(count, len(files)) for place in (number, number + 1))
        for file in files[first:last]:
            images, _, problems = read(loaded.source, [file])
            for problem in problems:
                console.print(f"skipped, unreadable: {problem}", style="yellow")
            if len(images):
                shown.append(images)
                break
    if not shown:
        raise UserError(f"{folder} holds no readable image" if files else f"{folder} holds no images")
    return Batch(torch.cat(shown), loaded.method.student.patch_size)


def _stages(console: Console, loaded: LoadedModel, batch: Batch) -> list[Stage]:
    """The model at the run's checkpoints, the oldest first; at most `MOST_STAGES`, evenly chosen."""
    if loaded.run is None:
        raise UserError(f"{loaded.path} belongs to no run; --strip needs a run's folder and the checkpoints in it")
    folders = checkpoint.list_checkpoints(loaded.run.checkpoints)[::-1]
    if len(folders) < 2:
        raise UserError(
            f"{loaded.run.path} has {len(folders)} checkpoint; --strip needs at least two. A run keeps more with "
            "-b 'Checkpointing.keep_every = N', a multiple of Checkpointing.every"
        )
    if len(folders) > MOST_STAGES:
        console.print(f"{len(folders)} checkpoints: {MOST_STAGES} of them are shown")
        folders = [folders[place * (len(folders) - 1) // (MOST_STAGES - 1)] for place in range(MOST_STAGES)]
    epochs = {row["step"]: row["epoch"] for row in loaded.run.metrics.rows() if row.get("epoch", 0) > 0}
    per_epoch = next((step / epoch for step, epoch in epochs.items()), None)
    stages = []
    for folder in folders:
        try:
            saved = checkpoint.Checkpoint(folder)
        except UserError as error:
            console.print(f"{error}; it is left out", style="yellow")
            continue
        loaded.load(saved)
        step = saved.values["step"]
        title = f"step {step:,}" + (f"\nepoch {step / per_epoch:.3g}" if per_epoch else "")
        stages.append(Stage(title, look(loaded.context(), batch)))
    if len(stages) < 2:
        raise UserError(f"{loaded.run.path} has fewer than two whole checkpoints; --strip needs at least two")
    return stages


def _run_of(path: Path) -> RunFolder:
    """The run that a path is, or that a checkpoint's path lies in."""
    for folder in (path, *path.resolve().parents[1:2]):
        if (folder / "metrics.jsonl").is_file():
            return RunFolder(folder)
    raise UserError(f"{path} has no metrics.jsonl; --timeline needs the folder of a run that has logged some steps")


def _timeline(run: RunFolder, out: Path) -> Path:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in run.metrics.rows():
        kinds.setdefault(row["kind"], []).append(row)
    told = ("epoch", "alpha")  # what a row of training always has
    rows = [
        row
        for row in kinds.get("train", [])
        if all(math.isfinite(row.get(name, math.nan)) for name in told) and min(row["step"], row["epoch"]) > 0
    ]
    if len(rows) < 2:
        raise UserError(f"{run.metrics.path} holds {len(rows)} rows of training; --timeline needs at least two")
    probes = [*kinds.get("probe", []), *kinds.get("final", [])]
    return draw_timeline(rows, manifest_of(run).alpha_share, out, probes, alpha=alpha_rows(run, rows))
