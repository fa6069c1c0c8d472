"""What a run says of itself: a few lines before it starts, a table when it is done."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curriculum import PartialReconstruction
from curriculum.sizes import spell_size
from hpm.data import TEST, VALIDATION
from hpm.metrics import Unit, find_metric, metric_on, split_of
from hpm.runs.run_folder import RunFolder
from hpm.runtime.console import print_table
from hpm.training.trainer import Trainer


def describe(trainer: Trainer) -> str:
    """What is about to be trained."""
    curriculum = trainer.method.curriculum
    model = trainer.method.student
    clock = trainer.clock
    first, last = curriculum.alpha(clock.progress(trainer.progress_per)), curriculum.alpha(1.0)
    size = sum(parameter.numel() for parameter in model.parameters())
    many = "" if trainer.processes.world_size == 1 else f"{trainer.processes.world_size} processes, "
    schedule = trainer.schedule
    masks = f" in {schedule.masks_per_image} masks each" if schedule.masks_per_image > 1 else ""
    sizes = f" of {trainer.image_sizes.describe()} px" if trainer.image_sizes.has_others else ""
    unused = (first or last) and not curriculum.sampler.ever_needs_scores
    ignored = f" ({type(curriculum.sampler).__name__} asks for no scores)" if unused else ""
    part = curriculum.reconstruction
    images = trainer.method.image_curriculum
    chosen = "" if images is None else f"images: {', '.join(images.component_names())}\n"
    supervision = trainer.method.supervision
    chosen += "" if supervision is None else f"labels: {supervision.describe()}\n"
    partly = "" if part is None else f", {part.share:.2g} of the masked patches reconstructed{_chosen(trainer, part)}"
    return (
        f"curriculum: {', '.join(curriculum.component_names())}; alpha {first:.2f} -> {last:.2f}{ignored}, "
        f"mask ratio {curriculum.mask_ratio.describe()}{partly}\n{chosen}"
        f"model: {size / 1e6:.1f} M parameters, {spell_size(model.img_size)} px in {model.num_patches} "
        f"patches of {spell_size(model.patch_size)} px\n"
        f"data: {trainer.source.describe()}\n"
        f"training: {clock.epochs} epochs of {clock.steps_per_epoch} steps of {schedule.loaded_per_step} "
        f"images{masks}{sizes}, on {many}{trainer.device} in {trainer.precision}"
    )


def _chosen(trainer: Trainer, part: PartialReconstruction) -> str:
    """What chooses among the masked patches those that are reconstructed; nothing where chance alone does."""
    first, last = part.alpha_at(trainer.clock.progress(trainer.progress_per)), part.alpha_at(1.0)
    return "" if first is None else f" ({type(part.sampler).__name__}, alpha {first:.2f} -> {last:.2f})"


# What to compare a run with: a config, and what it changes.
_RANDOM = ("curricula/random", "MAE's random masks")
_OTHER_THAN_RANDOM = ("curricula/hpm_memory", "what was hard to reconstruct masked first")

_HARDNESS_SHARE = "curriculum/hardness_share"

_ROWS = {
    "classifier": "the run's own classifier",
    "low_shot": "low-shot fine-tuning",
    "finetune": "fine-tuning",
    "linear": "linear probe",
    "linear_mae": "linear probe, MAE's",
    "ridge": "ridge probe",
    "knn": "k-NN on frozen features",
}
_IOU_ROWS = {
    "segmentation_finetune": "fine-tuning",
    "segmentation/linear": "linear on patch tokens",
    "segmentation/knn": "k-NN on patch tokens",
}
_COLUMNS = {
    "pre-trained": ("pretrained",),
    "not pre-trained": ("scratch", "initialization"),
    "raw pixels": ("raw_pixels",),
}


def show_summary(
    console: Console, folder: RunFolder, summary: Mapping[str, Any], *, curriculum: Sequence[str] = ()
) -> None:
    """Print the final figures, where things are, and what to try next.

    Args:
        console: where a person reads.
        folder: the run's.
        summary: the final figures.
        curriculum: the names of the curriculum's parts.
    """
    metrics = summary["metrics"]
    # Test figures are the ones to report; where there are no test images, an evaluation gives the others alone.
    split = TEST if any(_is_test_figure(name) for name in metrics) else VALIDATION
    equal, teacher, student = (
        metrics.get(metric_on(split, name))
        for name in ("low_shot/scratch_equal_compute", "agreement/teacher", "agreement/student")
    )
    console.print()
    for title, rows in ((f"{split} accuracy", _ROWS), (f"{split} mIoU", _IOU_ROWS)):
        table = _beside_baselines(title, rows, metrics, split)
        if table.row_count:
            print_table(console, table)
    if equal is not None:
        console.print(
            f"not pre-trained, with the computation of pre-training and fine-tuning together: {equal:.1%}",
        )
    if teacher is not None and student is not None:
        console.print(
            f"predicted against true loss (Spearman, {split} images): teacher {teacher:.2f}, student {student:.2f}",
        )
    for line in (_hardness(metrics), _objects(metrics, split)):
        if line is not None:
            console.print(line)
    if (boxes := metrics.get(metric_on(split, "detection/pretrained/box_ap"))) is not None:
        masks = metrics[metric_on(split, "detection/pretrained/mask_ap")]
        console.print(f"detection, COCO's AP: boxes {boxes:.1%}, masks {masks:.1%} ({split} images)")
    if (rank := metrics.get("rankme/pretrained")) is not None:
        console.print(f"effective rank of the features (RankMe, training images): {rank:.1f}")
    if (rank := metrics.get("lidar/pretrained")) is not None:
        console.print(f"effective rank of what tells images apart (LiDAR, training images): {rank:.1f}")
    seconds, masks = summary["training_seconds"], summary.get("masks_per_image", 1)  # which a run of before lacks
    counted = f", each counted in its {masks} masks," if masks > 1 else ""
    console.print(
        f"{summary['images']:,} images{counted} in {seconds:,.0f} s "
        f"({summary['images'] / max(seconds, 1e-9):,.0f} images/s), "
        f"evaluated in {summary['evaluation_seconds']:,.0f} s",
    )
    if skipped := summary.get("skipped_steps"):
        console.print(
            f"{skipped:,} of {summary['steps']:,} steps were skipped: their gradient was not finite", style="yellow"
        )
    console.print(f"picture:  {folder.pictures / Path(summary['picture']).name}")  # also of a run that was moved
    console.print(f"metrics:  {folder.metrics.path} and {folder.summary}")
    hint = summary.get("tracking_problem") or _mlflow_hint(summary["tracking"])
    console.print(f"MLflow:   {hint}")
    other, what = _OTHER_THAN_RANDOM if "Random" in curriculum else _RANDOM
    again = f"{_command('hpm')} pretrain {shlex.quote(str(folder.config))} {other}"
    console.print(Text.assemble(f"next:     {again}   ", (f"# the same with {what}", "dim")))


def _is_test_figure(name: str) -> bool:
    declared = find_metric(name)
    if declared is None or declared.unit is Unit.SETTING or declared.of_training_images:
        return False
    return split_of(name) == TEST


def _hardness(metrics: Mapping[str, float]) -> str | None:
    """What the curriculum's difficulty is worth, beside what needs no model; None where it was not measured."""
    share, position, edges = (metrics.get(f"{_HARDNESS_SHARE}{control}") for control in ("", "_position", "_edges"))
    if share is None or position is None or edges is None:
        return None
    free = {"position alone": position, "edges": edges, "the object": metrics.get(f"{_HARDNESS_SHARE}_object")}
    controls = ", ".join(f"{name} {round(100 * value)}%" for name, value in free.items() if value is not None)
    own = f"{round(100 * abs(share))}%"
    if share == 0:
        what = "the curriculum calls no patch harder than another: 0%"
    elif share > 0:
        what = f"the patches that the curriculum would mask first have {own}"
    else:
        what = f"the patches that the curriculum would mask first are easier than the average, by {own}"
    masks = metrics.get(f"{_HARDNESS_SHARE}_mask")
    whole = "" if masks is None or share == 0 else f"; all masked patches have {round(100 * masks)}%"
    return f"hardness: {what} of the attainable extra loss ({controls}){whole}"


def _objects(metrics: Mapping[str, float], split: str) -> str | None:
    """How well losses find the object, beside what needs no model; None where it was not measured."""
    names = {
        "unsupervised_segmentation/{}/iou": "cover the object with an IoU of",
        "localization/{}/auroc": "find the object's patches with an AUROC of",
    }
    for pattern, what in names.items():
        own = {
            scores: metrics.get(metric_on(split, pattern.format(scores)))
            for scores in ("student/true_loss", "edge_density", "center", "random")
        }
        loss, *controls = own.values()
        if loss is not None:
            told = zip(("edges", "the center", "chance"), controls, strict=True)
            beside = ", ".join(f"{name} {value:.3f}" for name, value in told if value is not None)
            return f"objects: the student's true losses {what} {loss:.3f} ({beside}; {split} images)"
    return None


def _beside_baselines(title: str, rows: Mapping[str, str], metrics: Mapping[str, float], split: str) -> Table:
    """What the evaluations found on a split, a row each, by how its metrics begin."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("", *_COLUMNS):
        table.add_column(column, justify="right" if column else "left")
    for protocol, label in rows.items():
        values = [
            next((metrics[name] for name in names if name in metrics), None)
            for names in ([metric_on(split, f"{protocol}/{name}") for name in column] for column in _COLUMNS.values())
        ]
        if values[0] is not None:
            table.add_row(label, *("" if value is None else f"{value:.1%}" for value in values))
    return table


def _command(name: str) -> str:
    """How a person calls a command of this environment: by its name, or by its path where it is not activated."""
    beside = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not beside.exists() or (found and Path(found) == beside):
        return name
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)


def _mlflow_hint(tracking: str) -> str:
    """How a person looks at the run in MLflow."""
    if tracking == "off":
        return "off"
    if tracking.startswith(("http://", "https://")):
        return f"open {tracking}"
    return f"{_command('mlflow')} ui --backend-store-uri {shlex.quote(tracking)}   then open http://127.0.0.1:5000"
