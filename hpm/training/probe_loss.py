"""ProbeLoss: how well the student reconstructs the same images under the same masks, whatever it is trained on.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from curriculum import Mask, Noise, Stream
from curriculum.mask import count_masked
from curriculum.noise import hash_words
from hpm.training.training_images import evenly_spaced, read_crops

if TYPE_CHECKING:
    from hpm.training.trainer import Trainer

_IMAGES = 256  # of all processes together


class _Pass(NamedTuple):
    """One forward pass of this process.

    Args:
        images_NCHW: normalized.
        mask: fixed.
        counted_N: float32, 1, or 0 for images that only make the processes' shares equal.
    """

    images_NCHW: Tensor
    mask: Mask
    counted_N: Tensor


class ProbeLoss:
    """The student's mean reconstruction loss of fixed training images under fixed random masks.

    The loss of training falls when the masks become easier; this one falls when the student learns. It is that of up to
    256 images, evenly spaced in the training split, at crops and under uniform masks that the run's seed decides. As
    many patches are masked as at the mean of the mask ratios that the curriculum goes through, rounded as it rounds.
    The student is in evaluation mode meanwhile. Nothing is drawn from a generator and nothing is kept but the images,
    so that a run that measures it trains as one that does not, and a resumed run and any number of processes measure
    the same.

    Args:
        trainer: whose student it is; its images are read at the first measurement.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._passes: list[_Pass] | None = None

    def measure(self) -> float:
        """Measure now. Every process must call this; it waits for the device."""
        trainer = self._trainer
        if self._passes is None:
            self._passes = self._prepare()
        total = torch.zeros((), device=trainer.device)
        with trainer.runtime.uncompiled():
            for images_NCHW, mask, counted_N in self._passes:
                loss_NM = trainer.method.student_loss(images_NCHW, mask)
                total += (loss_NM.mean(dim=1) * counted_N).sum()
        return float(trainer.processes.sum(total)) / self._count()

    def _count(self) -> int:
        return min(_IMAGES, len(self._trainer.source.train()))

    def _prepare(self) -> list[_Pass]:
        """This process's share of the images, in passes as large as a training step's.

        Sharded processes compute together, so that each takes as many passes: the last image stands in where there are
        too few.
        """
        trainer, count = self._trainer, self._count()
        processes, curriculum = trainer.processes, trainer.method.curriculum
        share = math.ceil(count / processes.world_size)
        rows_N = torch.arange(processes.rank * share, (processes.rank + 1) * share)
        chosen_N = evenly_spaced(count, len(trainer.source.train()))[rows_N.clamp(max=count - 1)]
        images_NCHW = read_crops(trainer, chosen_N, seed=hash_words(trainer.seed, Stream.PROBE_LOSS_CROPS)).images
        counted_N = (rows_N < count).float().to(trainer.device)
        num_patches = trainer.method.student.num_patches
        noise = Noise(hash_words(trainer.seed, Stream.PROBE_LOSS_MASKS), 0, rows_N.to(trainer.device))
        keys_NL = noise.bits(num_patches)
        num_masked = count_masked(num_patches, fmean(curriculum.mask_ratios()), curriculum.rounding)
        counts = curriculum.counts(num_patches, num_masked)
        size = trainer.schedule.micro_batch_size(processes.world_size)
        return [
            _Pass(images, Mask.from_keys(keys, counts.reconstructed, counts.thrown), counted)
            for images, keys, counted in zip(
                images_NCHW.split(size), keys_NL.split(size), counted_N.split(size), strict=True
            )
        ]
