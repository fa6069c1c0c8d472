"""The picture of a run in progress; `hpm.visualization` has others, and `hpm visualize` draws them all."""

from __future__ import annotations

from pathlib import Path

import torch

from curriculum import Batch
from curriculum.sizes import Size
from hpm.data import ImageSource
from hpm.evaluation.base import EvaluationContext
from hpm.visualization.panels import look
from hpm.visualization.sheet import draw_sheet


def picture(context: EvaluationContext, path: Path, *, images: int = 6, name: str = "") -> Path:
    """Draw some images, one a row, and write a PNG; see `draw_sheet`.

    Where a run is at hand these are training images, cropped as it crops them, since a difficulty that keeps something
    of each image knows only these; else the first held-out images.
    """
    if context.training_batches is not None:
        batch = next(iter(context.training_batches(images)))
    else:
        batch = held_out(context.source, context.model.patch_size, images)
    return draw_sheet(look(context, batch), path, name=name)


def held_out(source: ImageSource, patch_size: Size, count: int) -> Batch:
    """The first validation images, or training images where there are none, normalized."""
    split = source.validation() if source.has_validation else source.train()
    return Batch(source.load(split, torch.arange(min(count, len(split)))), patch_size)
