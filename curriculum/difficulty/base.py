"""The interface of a difficulty estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.noise import Noise
from curriculum.schedulers.scheduled import Scheduled
from curriculum.teacher import Teacher


@dataclass(frozen=True)
class TrainingContext:
    """The training run that an estimator is part of.

    Args:
        num_images: size of the training split; `Batch.indices` are below it.
        steps_per_epoch: optimizer steps in which every image comes once.
        in_chans: channels of the images.
        patch_size: side of a patch in pixels.
        grid: rows and columns of patches.
        device: the device of the images.
        seed: the run's seed.
    """

    num_images: int
    steps_per_epoch: int
    in_chans: int
    patch_size: int
    grid: tuple[int, int]
    device: torch.device
    seed: int


class DifficultyEstimator(Scheduled, ABC):
    """Scores every patch of every image, higher = harder.

    Attributes:
        needs: the methods of `Teacher` it calls, so that an estimator that asks for what the teacher does not have is
            refused before training starts.
        reversible: whether negated scores mean the opposite difficulty, as `Curriculum.polarity` needs.
        num_parts: how many parts of the image the scores number, where they are not difficulties but the numbers of
            parts that patches belong to; else None.
        stateful: whether it keeps tensors from one batch to the next.
        module: these tensors, as parameters and buffers, from `prepare` on: what a checkpoint has to hold.
    """

    needs: tuple[str, ...] = ()
    reversible: bool = True
    num_parts: int | None = None
    stateful: bool = False
    module: nn.Module | None = None

    @abstractmethod
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        """Score a batch.

        Args:
            batch: N images with L patches each, and where they come from.
            teacher: what may be asked about them; None only where `needs` is empty.
            num_masked: M, how many patches of each image will be masked.
            noise: this batch's randomness, independent of the sampler's. An estimator that draws for several
                purposes folds a `Stream` for each into it.

        Returns:
            Float [N, L]. NaN means not scored: the patch is counted neither hard nor easy.
        """

    def check(self, num_patches: int, num_masked: int) -> None:
        """Find out before training whether L patches with M masked can be scored.

        Raises:
            ValueError: where they cannot.
        """

    def prepare(self, context: TrainingContext) -> None:
        """Make what is kept between batches; called once, before training starts or is resumed."""
