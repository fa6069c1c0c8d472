"""Cached: what another estimator said about an image before.

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

PERIODS = ("epoch", "step")
_KEPT = ("scores", "scale", "boxes", "flips")


class _Known(NamedTuple):
    """What is kept of the images of a batch.

    Args:
        scores_NL: float16, of the crop as it was seen, relative to the scale.
        scale_N: a power of two, more than the image's largest score: small whole numbers stay exact.
        boxes_N4: that crop, as (left, top, width, height) in pixels of the stored image.
        flips_N: whether it was mirrored.
    """

    scores_NL: Tensor
    scale_N: Tensor
    boxes_N4: Tensor
    flips_N: Tensor


class Cached(Combination):
    """Another estimator, asked now and then; between, each image has the scores it had, moved to its present crop.

    Scores are kept for every image of the training split with the crop that they were of. Another crop takes them
    from the patches that lie under its patches' centers; what the old crop did not show is not scored, as are images
    that have never been asked about. AMT (arXiv 2211.15362) asks in one epoch of 40: `every = 40, start = 40`.
    It is asked only where alpha makes the sampler want scores: let `start` be no earlier.

    Memory: I * L half-precision numbers on the device, in the checkpoint too. Processes tell each other their scores,
    so that masks do not depend on their number.

    Args:
        estimator: which.
        every: it is asked in every `every`-th epoch, or step.
        period: "epoch", in which every image is asked about, or "step", in which one batch is.
        start: the first epoch or step in which it may be asked; nothing is scored before.
    """

    stateful = True

    def __init__(
        self, *, estimator: DifficultyEstimator, every: int = 40, period: str = "epoch", start: int = 0
    ) -> None:
        super().__init__(estimators=[estimator])
        if every < 1:
            raise ValueError(f"Cached.every = {every} must be at least 1")
        if period not in PERIODS:
            raise ValueError(f"Cached.period = {period!r} is unknown; choose {' or '.join(PERIODS)}")
        if start < 0:
            raise ValueError(f"Cached.start = {start} must be at least 0")
        self.every = every
        self.period = period
        self.start = start
        self._steps_per_epoch = 1

    def prepare(self, setting: TrainingContext) -> None:
        """Make room for every image of the training split."""
        super().prepare(setting)
        self._steps_per_epoch = setting.steps_per_epoch
        count, num_patches = setting.num_images, setting.grid[0] * setting.grid[1]
        self.module = nn.Module()
        for name, kept in (
            ("scores", torch.full((count, num_patches), float("nan"), dtype=torch.float16)),
            ("scale", torch.ones(count)),
            ("boxes", torch.ones(count, 4)),
            ("flips", torch.zeros(count, dtype=torch.bool)),
        ):
            self.module.register_buffer(name, kept.to(setting.device))

    def asks(self, step: int) -> bool:
        """Whether the estimator is asked in a step."""
        now = step // self._steps_per_epoch if self.period == "epoch" else step
        return now >= self.start and (now - self.start) % self.every == 0

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        if self.module is None or batch.indices is None:  # images of no training run: there is nothing to keep
            return self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        if self.asks(noise.step):
            scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
            self._keep(batch.indices, self._told(batch, scores_NL))
            return scores_NL
        return self._moved(self._known(batch.indices), batch)

    def _told(self, batch: Batch, scores_NL: Tensor) -> _Known:
        scores_NL = scores_NL.float()
        _, exponent_N = torch.frexp(scores_NL.abs().nan_to_num(0.0).amax(dim=1))
        scale_N = torch.ldexp(torch.ones_like(exponent_N, dtype=torch.float32), exponent_N)
        return _Known((scores_NL / scale_N.unsqueeze(1)).half(), scale_N, _boxes(batch), _flips(batch))

    def _keep(self, indices_N: Tensor, told: _Known) -> None:
        """The scores of all processes."""
        assert self.module is not None
        indices_N = _of_all(indices_N)
        for name, values in zip(_KEPT, told, strict=True):
            self.module.get_buffer(name).index_copy_(0, indices_N, _of_all(values))

    def _known(self, indices_N: Tensor) -> _Known:
        assert self.module is not None
        return _Known(*(self.module.get_buffer(name).index_select(0, indices_N) for name in _KEPT))

    @staticmethod
    def _moved(known: _Known, batch: Batch) -> Tensor:
        """[N, L]: what was known of the places where the patches of the present crops lie."""
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
    """Float32 [N, 4]; any box, always the same, where there are no crops."""
    return batch.images.new_ones(len(batch), 4) if batch.boxes is None else batch.boxes.float()


def _flips(batch: Batch) -> Tensor:
    """Boolean [N]."""
    if batch.flips is not None:
        return batch.flips
    return torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)


def _of_all(values: Tensor) -> Tensor:
    """[N, ...] of every process, by rank; of this one where it is alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    gathered = values.new_empty(len(values) * dist.get_world_size(), *values.shape[1:])
    dist.all_gather_into_tensor(gathered, values.contiguous())
    return gathered
