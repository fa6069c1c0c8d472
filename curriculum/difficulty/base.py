"""The interface of a difficulty estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.schedulers.scheduled import Scheduled
from curriculum.sizes import Size
from curriculum.teacher import Teacher


@dataclass(frozen=True)
class TrainingContext:
    """The training run that an estimator is part of.

    Args:
        num_images: size of the training split; `Batch.indices` are below it.
        steps_per_epoch: optimizer steps in which every image comes once, in all its masks.
        in_chans: channels of the images.
        patch_size: of a patch in pixels, the side of a square or (height, width).
        grid: rows and columns of patches; of the largest images, where some steps see smaller ones.
        device: the device of the images.
        seed: the run's seed.
        object_shares: gives the object's share of each patch's pixels, float32 [N, L], of a batch of training images.
            Default None, where the data do not know which pixels are the object.
        masks_per_image: how many rows of a batch that is trained on belong to each image, one after the other, with
            the same crop and other masks. Default 1.
    """

    num_images: int
    steps_per_epoch: int
    in_chans: int
    patch_size: Size
    grid: tuple[int, int]
    device: torch.device
    seed: int
    object_shares: Callable[[Batch], Tensor] | None = None
    masks_per_image: int = 1


@dataclass(frozen=True)
class StepOutcome:
    """What a training step found out about a batch, or about one of its micro-batches.

    Args:
        step: the number of the step.
        batch: N images.
        mask: what was masked.
        scores_NL: the difficulty's scores, as it returned them; None where it was not asked.
        true_NM: the reconstruction loss of each masked patch, without a graph.
        predicted_NM: what the student's loss predictor gave for them, without a graph; None where it has none.
    """

    step: int
    batch: Batch
    mask: Mask
    scores_NL: Tensor | None
    true_NM: Tensor
    predicted_NM: Tensor | None


class DifficultyEstimator(Scheduled, ABC):
    """Scores every patch of every image, higher = harder.

    Scoring changes nothing that is kept and asks no other process, so that evaluations may ask about any images at any
    time, in one process alone; what is kept changes only in `remember`.

    Attributes:
        needs: the methods of `Teacher` it calls, so that an estimator that asks for what the teacher does not have is
            refused before training starts.
        reversible: whether negated scores mean the opposite difficulty, as `Curriculum.polarity` needs.
        num_parts: how many parts of the image the scores number, where they are not difficulties but the numbers of
            parts that patches belong to; else None.
        first_scored_epoch: the first epoch in which images are scored, counted from 0: 1 where an image must have been
            trained on once. Until then masks follow no scores.
        stateful: whether it keeps tensors from one batch to the next.
        outermost: whether it must be `Curriculum.difficulty` itself and not a part of another estimator, because it
            is trained, or keeps its own scores.
        needs_predictions: whether `remember` takes the predicted losses, for which the model must have a predictor.
        needs_objects: whether it needs `TrainingContext.object_shares`, so that data that do not know which pixels are
            the object are refused before training starts.
        module: these tensors, as parameters and buffers, from `prepare` on: what a checkpoint has to hold.
    """

    needs: tuple[str, ...] = ()
    reversible: bool = True
    num_parts: int | None = None
    first_scored_epoch: int = 0
    stateful: bool = False
    outermost: bool = False
    needs_predictions: bool = False
    needs_objects: bool = False
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

    def check_reconstructed(self, reconstructed: int) -> None:
        """Find out before training whether the losses of so many patches of an image say what is asked of them.

        Raises:
            ValueError: where they do not.
        """

    def prepare(self, context: TrainingContext) -> None:
        """Make what is kept between batches; called once, before training starts or is resumed."""

    def remember(self, outcome: StepOutcome) -> None:
        """Learn from a batch that was trained on; called once for each, by every process, without a graph.

        What is kept lies in `module`, and is changed in place. It may not depend on how a step's images are divided
        among processes and micro-batches, save for the order in which numbers are added.
        """

    def asks(self, step: int, steps_per_epoch: int) -> bool:
        """Say whether scoring in a step computes anything, rather than recalling it; for counting what a run costs."""
        return True

    @property
    def needs_one_grid(self) -> bool:
        """Whether all images must have the grid that it was prepared for; by default where it keeps tensors."""
        return self.stateful

    @property
    def knows_training_images_alone(self) -> bool:
        """Whether scores depend on what is known of single training images, so that others are scored otherwise."""
        return self.needs_objects or self.remembers_images

    @property
    def remembers_images(self) -> bool:
        """Whether something is kept of every training image, so that a run cannot go on over others."""
        return self.kept_bytes(1, 1) > 0

    def kept_bytes(self, num_images: int, num_patches: int) -> int:
        """Return the bytes that are kept of I images of L patches, on the device and in every checkpoint.

        What does not grow with the number of images does not count.
        """
        return 0
