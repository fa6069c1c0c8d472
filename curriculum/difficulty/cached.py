"""Cached: the scores that another estimator gave an image before.

Shape suffixes: N images of a batch, I images of the data set, L patches, R rows and K columns of patches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, TrainingContext
from curriculum.difficulty.combined import Combination
from curriculum.noise import Noise
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least, require_choice

PERIODS = ("epoch", "step")
_KEPT = ("scores", "scale", "boxes", "flips")


class _Known(NamedTuple):
    """What is kept of the images of a batch.

    Args:
        scores_NL: float16, the scores of the crop as it was seen, relative to the scale.
        scale_N: float32, a power of two that exceeds the image's largest score: small whole numbers stay exact.
        boxes_N4: float32, that crop as (left, top, width, height) in pixels of the stored image.
        flips_N: bool, whether that crop was mirrored.
    """

    scores_NL: Tensor
    scale_N: Tensor
    boxes_N4: Tensor
    flips_N: Tensor


class Cached(Combination):
    """Runs another estimator now and then; between, each image keeps its last scores, moved to its present crop.

    Scores are kept for every image of the training split, with the crop that they belong to. Another crop takes them
    from the patches that lie under its patches' centers. What the old crop did not show is not scored, nor are images
    that the estimator has never seen. AMT (arXiv 2211.15362) runs it in one epoch of 40: `every = 40, start = 41`. It
    runs only where alpha makes the sampler need scores: `start` should not be earlier than that.

    It takes I * L half-precision numbers of memory on the device, and in the checkpoint. Processes exchange their
    scores, so that masks do not depend on the number of processes.

    Args:
        estimator: the estimator whose scores are kept.
        every: how many epochs or steps lie between two in which the estimator runs. Default 40.
        period: "epoch", in which every image is scored, or "step", in which one batch is. Default "epoch".
        start: the first epoch or step in which it may run; nothing is scored before. Default 0.
    """

    stateful = True

    def __init__(
        self, *, estimator: DifficultyEstimator, every: int = 40, period: str = "epoch", start: int = 0
    ) -> None:
        super().__init__(estimators=[estimator])
        require_at_least("Cached", 1, every=every)
        require_choice("Cached", PERIODS, period=period)
        require_at_least("Cached", 0, start=start)
        self.every = every
        self.period = period
        self.start = start
        self._steps_per_epoch = 1

    def prepare(self, context: TrainingContext) -> None:
        """Make room for the scores of every image of the training split."""
        super().prepare(context)
        self._steps_per_epoch = context.steps_per_epoch
        count, num_patches = context.num_images, context.grid[0] * context.grid[1]
        self.module = nn.Module()
        for name, kept in (
            ("scores", torch.full((count, num_patches), float("nan"), dtype=torch.float16)),
            ("scale", torch.ones(count)),
            ("boxes", torch.ones(count, 4)),
            ("flips", torch.zeros(count, dtype=torch.bool)),
        ):
            self.module.register_buffer(name, kept.to(context.device))

    def asks(self, step: int) -> bool:
        """Say whether the estimator runs in a step."""
        now = step // self._steps_per_epoch if self.period == "epoch" else step
        return now >= self.start and (now - self.start) % self.every == 0

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        # Images outside a training run have nothing kept for them.
        if self.module is None or batch.indices is None:
            return self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        if self.asks(noise.step):
            scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
            self._keep(batch.indices, self._known_from(batch, scores_NL))
            return scores_NL
        return self._moved(self._known(batch.indices), batch)

    def _known_from(self, batch: Batch, scores_NL: Tensor) -> _Known:
        """Pack the scores of a batch as they are kept."""
        scores_NL = scores_NL.float()
        _, exponent_N = torch.frexp(scores_NL.abs().nan_to_num(0.0).amax(dim=1))
        scale_N = torch.ldexp(torch.ones_like(exponent_N, dtype=torch.float32), exponent_N)
        return _Known((scores_NL / scale_N.unsqueeze(1)).half(), scale_N, _boxes(batch), _flips(batch))

    def _keep(self, indices_N: Tensor, known: _Known) -> None:
        """Keep the scores that all processes have found."""
        assert self.module is not None
        indices_N = _of_all(indices_N)
        for name, values in zip(_KEPT, known, strict=True):
            self.module.get_buffer(name).index_copy_(0, indices_N, _of_all(values))

    def _known(self, indices_N: Tensor) -> _Known:
        assert self.module is not None
        return _Known(*(self.module.get_buffer(name).index_select(0, indices_N) for name in _KEPT))

    @staticmethod
    def _moved(known: _Known, batch: Batch) -> Tensor:
        """Return the kept scores of the places where the patches of the present crops lie, [N, L]."""
        boxes_N4, flips_N = _boxes(batch), _flips(batch)
        rows, columns = batch.grid
        device = known.scores_NL.device
        x_K = (torch.arange(columns, device=device) + 0.5) / columns
        y_R = (torch.arange(rows, device=device) + 0.5) / rows
        # Patch centers in the image, then in the crop that was scored, from 0 to 1.
        x_NK = torch.where(flips_N.unsqueeze(1), 1 - x_K, x_K) * boxes_N4[:, 2:3] + boxes_N4[:, 0:1]
        y_NR = y_R * boxes_N4[:, 3:4] + boxes_N4[:, 1:2]
        x_NK = (x_NK - known.boxes_N4[:, 0:1]) / known.boxes_N4[:, 2:3]
        y_NR = (y_NR - known.boxes_N4[:, 1:2]) / known.boxes_N4[:, 3:4]
        x_NK = torch.where(known.flips_N.unsqueeze(1), 1 - x_NK, x_NK)
        outside_NRK = ((x_NK < 0) | (x_NK > 1)).unsqueeze(1) | ((y_NR < 0) | (y_NR > 1)).unsqueeze(2)
        column_NK = (x_NK * columns).long().clamp(0, columns - 1)
        row_NR = (y_NR * rows).long().clamp(0, rows - 1)
        index_NL = (row_NR.unsqueeze(2) * columns + column_NK.unsqueeze(1)).flatten(1)
        scores_NL = known.scores_NL.float().gather(1, index_NL) * known.scale_N.unsqueeze(1)
        return scores_NL.masked_fill_(outside_NRK.flatten(1), float("nan"))


def _boxes(batch: Batch) -> Tensor:
    """Return the crops, float32 [N, 4]; where there are none, a box that is always the same."""
    return batch.images.new_ones(len(batch), 4) if batch.boxes is None else batch.boxes.float()


def _flips(batch: Batch) -> Tensor:
    """Return whether each crop is mirrored, bool [N]."""
    if batch.flips is not None:
        return batch.flips
    return torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)


def _of_all(values: Tensor) -> Tensor:
    """Concatenate the values [N, ...] of every process in the order of their ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    gathered = values.new_empty(len(values) * dist.get_world_size(), *values.shape[1:])
    dist.all_gather_into_tensor(gathered, values.contiguous())
    return gathered
