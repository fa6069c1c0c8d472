"""The picture of a run: images, masks, reconstructions, predicted and true loss, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from curriculum import Batch, Noise, Random, TrueLoss, count_masked
from hpm.data import ImageSource, Split
from hpm.errors import UserError
from hpm.evaluation.base import Subject
from hpm.patches import patchify, unpatchify

_CELL_INCHES = 1.5
_GRAY = 0.5


@torch.no_grad()
def picture(subject: Subject, path: Path, *, images: int = 6) -> Path:
    """Draw the first test images, one a row, and write a PNG.

    Columns: the image; what the encoder sees of it under a random mask at the training ratio; the student's
    reconstruction, visible patches as they are; the teacher's predicted loss of the full image, where there is a
    loss predictor; its true loss, measured by probe passes that together mask every patch. Loss maps run from
    an image's easiest patch (dark) to its hardest (bright): ranks compare within a row, not between rows.
    """
    source, split, model = subject.source, _shown_split(subject.source), subject.model
    indices = torch.arange(min(images, len(split)))
    batch = Batch(source.load(split, indices).to(subject.device), model.patch_size)
    noise = Noise(subject.seed, 0, indices.to(subject.device))
    num_masked = count_masked(batch.num_patches, subject.curriculum.mask_ratio)
    mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
    patches = patchify(batch.images, model.patch_size)
    restored = subject.target.restore(model.reconstruct(batch.images, mask), batch.images, mask, model.patch_size)
    reconstruction = mask.scatter(mask.gather_visible(patches), restored.to(patches.dtype))
    pixels = source.denormalize(batch.images)
    hidden = unpatchify(mask.to_bool().unsqueeze(-1).expand_as(patches).float(), model.patch_size, batch.grid).bool()
    columns: list[tuple[str, Tensor]] = [
        ("image", pixels),
        (f"seen ({1 - num_masked / batch.num_patches:.0%})", pixels.masked_fill(hidden, _GRAY)),
        ("reconstruction", source.denormalize(unpatchify(reconstruction, model.patch_size, batch.grid))),
    ]
    if model.loss_predictor is not None:
        columns.append(("predicted loss", subject.teacher.predicted_loss(batch.images)))
    true_loss = TrueLoss.covering(batch.num_patches, num_masked)
    true_NL = true_loss(batch, subject.teacher, num_masked=num_masked, noise=noise)
    columns.append(("true loss", true_NL))
    _draw(columns, batch.grid, path)
    return path


def _shown_split(source: ImageSource) -> Split:
    """Held-out images where there are any."""
    try:
        return source.test()
    except UserError:
        return source.train()


def _draw(columns: list[tuple[str, Tensor]], grid: tuple[int, int], path: Path) -> None:
    rows = len(columns[0][1])
    figure = Figure(figsize=(_CELL_INCHES * len(columns) + 0.7, _CELL_INCHES * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, values) in enumerate(columns):
        for row in range(rows):
            axis = axes[row][column]
            axis.set_axis_off()
            if values.ndim == 2:
                shown = axis.imshow(values[row].reshape(grid).cpu().numpy(), cmap="viridis", interpolation="nearest")
            else:
                axis.imshow(_as_image(values[row]), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
        axes[0][column].set_title(title, fontsize=12)
    bar = figure.colorbar(shown, ax=axes[:, -1].tolist(), location="right", shrink=0.6, ticks=[])
    bar.set_label("easiest patch of the image to hardest", fontsize=10)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=120)


def _as_image(pixels: Tensor) -> np.ndarray:
    """[C, S, S] -> what imshow wants: [S, S], the first channel, where there are fewer than three, else [S, S, 3]."""
    return pixels[0].cpu().numpy() if len(pixels) < 3 else pixels[:3].permute(1, 2, 0).cpu().numpy()
