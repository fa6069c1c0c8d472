"""The masks of every shipped curriculum on the same images, at the start, in the middle and at the end of training.

Trains the quickstart's model under each for `--steps` steps and draws the masks at three points: a picture with one
row for each curriculum.

    python benchmarks/policy_pictures.py [--steps 300] [--out docs/images/policies.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from curriculum import Batch, Noise
from hpm.config import configs_folder, parse_config
from hpm.models.patches import unpatchify
from hpm.optim.clock import Clock
from hpm.visualization import style

IMAGES = (3, 11)  # of the test images
SETTINGS = [
    "Monitoring.evaluations = []",
    "Monitoring.probes = []",
    "Monitoring.probe_every = 0",
    "MLflowTracker.enabled = False",
    "Runtime.device = 'cpu'",
    "Runtime.precision = 'fp32'",
    "DigitScenes.img_size = 40",
    "MaskedAutoencoder.img_size = 40",
]
# The run has fewer epochs than those between two refreshes of AMT.
FITTED = {"amt": ["Cached.every = 1", "Cached.start = 1"]}


def snapshots(name: str, steps: int) -> list[Tensor]:
    """[K, C, S, S] at the start, in the middle and at the end: the images with what is masked in gray."""
    epochs = 4
    fitted = [*FITTED.get(name, []), f"Schedule.epochs = {epochs}", f"DigitScenes.train_size = {64 * steps // epochs}"]
    trainer = parse_config(["quickstart", f"curricula/{name}"], [*SETTINGS, *fitted]).build()
    step = trainer.build_step()
    total = trainer.clock.total_steps
    seen = []
    for number in range(total):
        if number in (0, total // 2, total - 1):
            seen.append(_look(trainer, step.method, number / max(1, total - 1)))
        epoch, place = divmod(number, trainer.clock.steps_per_epoch)
        if place == 0:
            batches = trainer.loader.epoch(epoch)
        step(next(batches), **trainer.step_arguments(Clock(number, trainer.clock.steps_per_epoch, epochs)))
    return seen


@torch.no_grad()
def _look(trainer, method, progress: float) -> Tensor:  # type: ignore[no-untyped-def]
    source = trainer.source
    batch = Batch(source.load(source.test(), torch.tensor(IMAGES)), method.student.patch_size)
    mask = method.curriculum.draw(batch, method.teacher, progress, Noise(0, 7, torch.tensor(IMAGES)))
    pixels = source.denormalize(batch.images)
    size = method.student.patch_pixels

    def gray_where(index: Tensor, level: float) -> None:
        hidden = torch.zeros(len(batch), batch.num_patches, dtype=torch.bool).scatter_(1, index, True)
        whole = unpatchify(hidden.unsqueeze(-1).expand(-1, -1, size).float(), batch.patch_size, batch.grid).bool()
        pixels.masked_fill_(whole, level)

    gray_where(mask.masked, 0.5)
    if mask.thrown is not None:
        gray_where(mask.thrown, 1.0)
    return pixels


def main() -> None:
    """Train, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("docs/images/policies.png"))
    options = parser.parse_args()
    style.check_name(options.out)
    torch.set_num_threads(1)
    names = sorted(path.stem for path in (configs_folder() / "curricula").glob("*.gin"))
    names = ["random", *(name for name in names if name != "random")]
    moments = ("start", "middle", "end")
    half = -(-len(names) // 2)
    columns = len(IMAGES) * len(moments)
    figure = Figure(figsize=(13, 0.95 * half), layout=style.side_by_side())
    axes = figure.subplots(half, 2 * columns + 1, gridspec_kw={"width_ratios": [1] * columns + [1.5] + [1] * columns})
    for axis in axes.flat:
        style.frameless(axis)
    for place, name in enumerate(names):
        side, row = divmod(place, half)
        for moment, pixels in enumerate(snapshots(name, options.steps)):
            for number in range(len(IMAGES)):
                column = side * (columns + 1) + number * len(moments) + moment
                style.show_pixels(axes[row, column], pixels[number])
                if row == 0:
                    axes[row, column].set_title(moments[moment], fontsize=style.SMALL, color=style.DARK)
        first = axes[row, side * (columns + 1)]
        first.set_ylabel(name, fontsize=style.SMALL, rotation=0, ha="right", va="center", color=style.DARK)
        print(name, flush=True)
    style.save(figure, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
