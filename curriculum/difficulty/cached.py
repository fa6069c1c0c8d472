"""Cached: what another estimator said about an image before.

Shape suffixes: N images of a batch, I images of the data set, L patches, R rows and K columns of patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, Setting
from curriculum.difficulty.combined import Combination
from curriculum.noise import Noise
from curriculum.teacher import Teacher

PERIODS = ("epoch", "step")


@dataclass(frozen=True)
class _Known:
    """What is kept of the images of a batch.

    Args:
        scores_NL: of the crop, as it was seen.
        boxes_N4: that crop, as (left, top, width, height) in pixels of the stored image.
        flips_N: whether it was mirrored.
    """

    scores_NL: Tensor
    boxes_N4: Tensor
    flips_N: Tensor


class Cached(Combination):
    """Another estimator, asked now and then; between, each image has the scores it had, moved to its present crop.

    Scores are kept for every image of the training split with the crop that they were of. Another crop takes them
    from the patches that lie under its patches' centers; what the old crop did not show is not scored, as are images
    that have never been asked about. AMT (arXiv 2211.15362) asks in one epoch of 40: `every = 40, start = 40`.

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
    ) -> None:  # fmt: skip
        super().__init__(estimators=[estimator])
        if every < 1:
            raise ValueError(f"Cached.every = {every} must be at least 1")
        if period not in PERIODS:
            raise ValueError(f"Cached.period = {period!r} is unknown; choose {' or '.join(PERIODS)}")
        if start < 0:
            raise ValueError(f"Cached.start = {start} must be at least 0")
        self.every, self.period, self.start = every, period, start
        self._steps_per_epoch = 1

    def prepare(self, setting: Setting) -> None:
        """Make room for every image of the training split."""
        super().prepare(setting)
        self._steps_per_epoch = setting.steps_per_epoch
        count, num_patches = setting.num_images, setting.grid[0] * setting.grid[1]
        self.module = nn.Module()
        for name, kept in (
            ("scores", torch.full((count, num_patches), float("nan"), dtype=torch.float16)),
            ("boxes", torch.ones(count, 4)), ("flips", torch.zeros(count, dtype=torch.bool)),
        ):  # fmt: skip
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
        n, device = len(batch), scores_NL.device
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(n, 4)
        return _Known(
            _to_half(scores_NL), whole if batch.boxes is None else batch.boxes.float(),
            torch.zeros(n, dtype=torch.bool, device=device) if batch.flips is None else batch.flips,
        )  # fmt: skip

    def _keep(self, indices_N: Tensor, told: _Known) -> None:
        """The scores of all processes."""
        assert self.module is not None
        indices_N = _of_all(indices_N)
        for name, values in (("scores", told.scores_NL), ("boxes", told.boxes_N4), ("flips", told.flips_N)):
            self.module.get_buffer(name).index_copy_(0, indices_N, _of_all(values))

    def _known(self, indices_N: Tensor) -> _Known:
        assert self.module is not None
        kept = (self.module.get_buffer(name).index_select(0, indices_N) for name in ("scores", "boxes", "flips"))
        return _Known(*kept)

    @staticmethod
    def _moved(known: _Known, batch: Batch) -> Tensor:
        """[N, L]: what was known of the places where the patches of the present crops lie."""
        now = replace(known) if batch.boxes is None else _Known(known.scores_NL, batch.boxes.float(), _flips(batch))
        rows, columns = batch.grid
        device = known.scores_NL.device
        x_K = (torch.arange(columns, device=device) + 0.5) / columns
        y_R = (torch.arange(rows, device=device) + 0.5) / rows
        # Patch centers in the image, then in the crop that was scored, from 0 to 1.
        x_NK = torch.where(now.flips_N.unsqueeze(1), 1 - x_K, x_K) * now.boxes_N4[:, 2:3] + now.boxes_N4[:, 0:1]
        y_NR = y_R * now.boxes_N4[:, 3:4] + now.boxes_N4[:, 1:2]
        x_NK = (x_NK - known.boxes_N4[:, 0:1]) / known.boxes_N4[:, 2:3]
        y_NR = (y_NR - known.boxes_N4[:, 1:2]) / known.boxes_N4[:, 3:4]
        x_NK = torch.where(known.flips_N.unsqueeze(1), 1 - x_NK, x_NK)
        outside_NRK = ((x_NK < 0) | (x_NK > 1)).unsqueeze(1) | ((y_NR < 0) | (y_NR > 1)).unsqueeze(2)
        column_NK = (x_NK * columns).long().clamp(0, columns - 1)
        row_NR = (y_NR * rows).long().clamp(0, rows - 1)
        index_NL = (row_NR.unsqueeze(2) * columns + column_NK.unsqueeze(1)).flatten(1)
        return known.scores_NL.float().gather(1, index_NL).masked_fill(outside_NRK.flatten(1), float("nan"))


def _flips(batch: Batch) -> Tensor:
    assert batch.boxes is not None
    return torch.zeros(len(batch), dtype=torch.bool, device=batch.boxes.device) if batch.flips is None else batch.flips


def _to_half(scores_NL: Tensor) -> Tensor:
    """Relative to the image's largest, which keeps order, sign and proportions, and fits half precision."""
    largest_N1 = scores_NL.float().abs().nan_to_num(0.0).amax(dim=1, keepdim=True)
    return (scores_NL.float() / largest_N1.clamp(min=torch.finfo(torch.float32).tiny)).half()


def _of_all(values: Tensor) -> Tensor:
    """[N, ...] of every process, by rank; of this one where it is alone."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    gathered = values.new_empty(len(values) * dist.get_world_size(), *values.shape[1:])
    dist.all_gather_into_tensor(gathered, values.contiguous())
    return gathered
