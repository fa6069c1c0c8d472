"""The pictures of the documentation's pages "Concepts" and "Is my loss healthy?".

Draws runs that are there; these commands train them, in half an hour on a CPU core:

    for seed in 0 1 2; do hpm pretrain quickstart -b "Trainer.seed = $seed" --output docs-runs/quickstart-$seed; done
    hpm pretrain quickstart curricula/hpm_easy_to_hard --output docs-runs/hpm
    hpm pretrain quickstart curricula/random --output docs-runs/random
    hpm pretrain fashion_mnist --output docs-runs/fashion_mnist
    hpm pretrain stamp_scenes --output docs-runs/stamp_scenes
    python benchmarks/docs_pictures.py docs-runs [--out docs/images]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import hpm
from curriculum import Batch, Constant, Cyclic, HardestFirst, Mask, Noise, Ramp, Random, Scheduler, TrueLoss
from hpm.inference.loading import load_model
from hpm.models.base import in_evaluation_mode
from hpm.models.patches import unpatchify
from hpm.visualization import style

SHOWN = (4, 9, 15)  # of the validation images
SCHEDULES: list[tuple[str, Scheduler]] = [
    ("Ramp(), easy to hard", Ramp()),
    ("Ramp(shape='cosine')", Ramp(shape="cosine")),
    ("Ramp(start=0.5, end=0), hard to easy", Ramp(start=0.5, end=0.0)),
    ("Constant(value=0.5)", Constant(value=0.5)),
    ("Cyclic()", Cyclic()),
]
REFERENCES = {
    "quickstart": (["quickstart-0", "quickstart-1", "quickstart-2"], style.BLUE),
    "quickstart curricula/random": (["random"], style.ORANGE),
    "quickstart curricula/hpm_easy_to_hard": (["hpm"], style.GREEN),
    "fashion_mnist": (["fashion_mnist"], style.DARK),
    "stamp_scenes": (["stamp_scenes"], "#CC79A7"),
}
CURVES = [
    ("reconstruction_loss", "reconstruction loss of the masked patches"),
    ("curriculum/hardness_share", "share of attainable hardness"),
    ("prediction_accuracy", "pairs that the loss predictor orders rightly"),
]


def draw_masking(model: hpm.Model, out: Path) -> None:
    """Image, what the encoder sees of it under a random mask, and what the model makes of that."""
    images = _images(model)
    mask = _random_mask(model, images)
    columns = [
        ("image", model.pixels(images)),
        ("visible to the encoder", _covered(model, images, mask.to_bool(), 0.5)),
        ("reconstruction", model.reconstruct(images, mask)),
    ]
    figure = Figure(figsize=(1.6 * len(columns), 1.6 * len(images) + 0.3), layout=style.side_by_side())
    axes = figure.subplots(len(images), len(columns))
    for place, (title, pixels) in enumerate(columns):
        for row in range(len(images)):
            _show(axes[row, place], pixels[row], title if row == 0 else "")
    _write(figure, out / "masking.png")


def draw_alpha(model: hpm.Model, scores: Tensor, out: Path) -> None:
    """The same images under masks at rising alpha; patches that are masked for their difficulty are blue."""
    images = _images(model)
    alphas = (0.0, 0.25, 0.5, 1.0)
    figure = Figure(figsize=(1.5 * (2 + len(alphas)), 1.5 * len(images) + 0.4), layout=style.side_by_side())
    axes = figure.subplots(len(images), 2 + len(alphas))
    grid = model.masked_model.grid
    for row in range(len(images)):
        _show(axes[row, 0], model.pixels(images)[row], "image" if row == 0 else "")
        style.show_map(axes[row, 1], scores[row], grid)
        style.frameless(axes[row, 1])
    axes[0, 1].set_title("difficulty", fontsize=style.TEXT)
    for place, alpha in enumerate(alphas, start=2):
        mask, hard = _mask_at(model, images, scores, alpha)
        pixels = _covered(model, images, mask & ~hard, 0.5)
        blue = torch.tensor([0.0, 0.447, 0.698]).view(1, 3, 1, 1)
        pixels = torch.where(_spread(model, hard), blue, pixels)
        for row in range(len(images)):
            _show(axes[row, place], pixels[row], f"alpha = {alpha:g}" if row == 0 else "")
    _write(figure, out / "alpha.png")


def draw_schedules(out: Path) -> None:
    """Alpha over training under some schedulers."""
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axis = figure.subplots()
    progress = np.linspace(0, 1, 401)
    for name, scheduler in SCHEDULES:
        axis.plot(progress, [scheduler(float(now)) for now in progress], label=name)
    axis.set_xlabel("progress of training")
    axis.set_ylabel("alpha")
    axis.set_ylim(-0.02, 0.56)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=style.SMALL)
    axis.spines[["top", "right"]].set_visible(False)
    _write(figure, out / "schedules.png")


def draw_hardness_share(out: Path) -> None:
    """The scale of the share of attainable hardness."""
    figure = Figure(figsize=(6.4, 1.7), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 0], color=style.DARK, linewidth=1.5)
    marks = [
        (0.0, "mean loss of all patches\n(what random masks hide): 0 %", style.ORANGE, -12),
        (0.7, "mean loss of the patches that the\ndifficulty calls hardest: here 70 %", style.BLUE, 12),
        (1.0, "mean loss of the truly\nhardest patches: 100 %", style.GREEN, -12),
    ]
    for place, text, color, away in marks:
        axis.plot([place], [0], "o", color=color, markersize=9)
        side = "top" if away < 0 else "bottom"
        axis.annotate(text, (place, 0), (0, away), textcoords="offset points", ha="center", va=side, fontsize=9)
    axis.annotate("", (0.69, -0.35), (0.01, -0.35), arrowprops={"arrowstyle": "<->", "color": style.BLUE})
    axis.annotate("attained extra loss", (0.4, -0.5), ha="center", va="top", fontsize=9)
    axis.set_xlim(-0.2, 1.2)
    axis.set_ylim(-1.8, 1.8)
    axis.axis("off")
    _write(figure, out / "hardness_share.png")


def draw_references(runs: Path, out: Path) -> None:
    """Curves of shipped configs, over the share of each run that is done."""
    figure = Figure(figsize=(7.2, 7.5), layout="constrained")
    for axis, (metric, title) in zip(figure.subplots(len(CURVES), 1), CURVES, strict=True):
        for name, (folders, color) in REFERENCES.items():
            for number, folder in enumerate(folders):
                run = hpm.Run(runs / folder)
                if metric not in run.metric_names():
                    continue
                steps, values = run.history(metric)
                axis.plot(
                    steps / run.history("loss")[0][-1],
                    values,
                    color=color,
                    label=name if number == 0 else None,
                    linewidth=1.2,
                    marker="." if len(steps) < 12 else None,
                )
        axis.set_title(title, fontsize=style.TEXT, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=style.SMALL)
    axis.set_xlabel("share of the run")
    _write(figure, out / "reference_curves.png")


def _images(model: hpm.Model) -> Tensor:
    return model.validation_images(max(SHOWN) + 1)[list(SHOWN)]


def _random_mask(model: hpm.Model, images: Tensor) -> Mask:
    grid = model.masked_model.grid
    masked = model.curriculum.count_masked(grid[0] * grid[1])
    noise = Noise.for_batch(seed=3, step=0, batch_size=len(images))
    return Random()(None, alpha=0.0, num_masked=masked, grid=grid, noise=noise)


@torch.no_grad()
def _true_losses(model: hpm.Model) -> Tensor:
    """[N, L]: the true loss of each patch, which the run's own memory of losses does not know of validation images."""
    loaded = load_model(model.path)
    batch = Batch(_images(model), model.masked_model.patch_size)
    masked = model.curriculum.count_masked(batch.num_patches)
    noise = Noise.for_batch(seed=0, step=0, batch_size=len(batch))
    with in_evaluation_mode(loaded.method.student):
        losses = TrueLoss.covering(batch.num_patches, masked)
        return losses(batch, loaded.context().teacher, num_masked=masked, noise=noise)


def _mask_at(model: hpm.Model, images: Tensor, scores: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Bool [N, L] twice: what is masked at this alpha, and what of that for its difficulty."""
    sampler, grid = HardestFirst(), model.masked_model.grid
    masked = model.curriculum.count_masked(grid[0] * grid[1])
    noise = Noise.for_batch(seed=3, step=0, batch_size=len(images))
    mask = sampler(scores, alpha=alpha, num_masked=masked, grid=grid, noise=noise).to_bool()
    hard = torch.zeros_like(mask)
    hard.scatter_(1, scores.topk(round(alpha * masked), dim=1).indices, True)
    return mask, hard & mask


def _spread(model: hpm.Model, patches: Tensor) -> Tensor:
    """Bool [N, 1, S, S]: the pixels of some patches."""
    size, grid = model.masked_model.patch_size, model.masked_model.grid
    pixels = size * size if isinstance(size, int) else size[0] * size[1]
    return unpatchify(patches.unsqueeze(-1).expand(-1, -1, pixels).float(), size, grid).bool()


def _covered(model: hpm.Model, images: Tensor, patches: Tensor, level: float) -> Tensor:
    return model.pixels(images).masked_fill(_spread(model, patches), level)


def _show(axis: Axes, pixels: Tensor, title: str) -> None:
    style.show_pixels(axis, pixels)
    style.frameless(axis)
    if title:
        axis.set_title(title, fontsize=style.TEXT)


def _write(figure: Figure, path: Path) -> None:
    print(style.save(figure, path))


def main() -> None:
    """Draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    scenes = hpm.load(arguments.runs / "stamp_scenes")
    draw_masking(scenes, arguments.out)
    draw_alpha(scenes, _true_losses(scenes), arguments.out)
    draw_schedules(arguments.out)
    draw_hardness_share(arguments.out)
    draw_references(arguments.runs, arguments.out)


if __name__ == "__main__":
    main()
