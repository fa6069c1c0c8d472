"""The picture of a run in progress; `hpm.visualization` has others, and `hpm visualize` draws them all."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hpm.data import ImageSource
from hpm.evaluation.base import EvaluationContext
from hpm.visualization import draw_sheet, look


def picture(context: EvaluationContext, path: Path, *, images: int = 6) -> Path:
    """Draw the first validation images, one a row, and write a PNG.

    Columns: the image; what the encoder sees of it under a random mask at the training ratio; the student's
    reconstruction, visible patches as they are; the teacher's predicted loss of the full image, where there is a
    loss predictor; its true loss, measured by probe passes that together mask every patch; its attention. Maps run
    from an image's lowest patch (dark) to its highest (bright): colors compare within a map, not between maps.
    """
    return draw_sheet(look(context, held_out(context.source, images)), path)


def held_out(source: ImageSource, count: int) -> Tensor:
    """The first validation images, or training images where there are none: normalized [N, C, S, S]."""
    split = source.validation() if source.has_validation else source.train()
    return source.load(split, torch.arange(min(count, len(split))))
