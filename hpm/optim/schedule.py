"""Schedule: how long and how fast something is trained, as MAE and HPM train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from curriculum.validation import require_at_least
from hpm.optim.clock import Clock


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Epochs, batches and the learning rate. The names of MAE's options mean what they mean there.

    Args:
        epochs: passes over the training images.
        batch_size: images of a step, over all processes and micro-batches, an image counting once for each of its
            masks; an incomplete last batch is dropped.
        accumulate: micro-batches into which each process cuts its share of a batch, one after the other.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`.
        min_lr: learning rate at the end of the cosine.
        warmup_epochs: epochs of linear warm-up, fractions allowed.
        masks_per_image: how many masks each image of a batch is given. An image is loaded and cropped once, and stands
            in as many rows of the batch, one after the other. In an epoch every image comes once, in all its masks.

    Raises:
        ValueError: naming the setting at fault.
    """

    owner: ClassVar[str] = "Schedule"  # whose settings these are, for errors
    resume_rounding: ClassVar[frozenset[str]] = frozenset({"accumulate"})

    epochs: int = 200
    batch_size: int = 256
    accumulate: int = 1
    blr: float = 1.5e-4
    min_lr: float = 0.0
    warmup_epochs: float = 40
    masks_per_image: int = 1

    def __post_init__(self) -> None:
        owner = self.owner
        require_at_least(owner, 1, epochs=self.epochs, batch_size=self.batch_size, accumulate=self.accumulate)
        require_at_least(owner, 1, masks_per_image=self.masks_per_image)
        require_at_least(owner, 0, blr=self.blr, min_lr=self.min_lr)
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"{owner}.warmup_epochs = {self.warmup_epochs} must lie in [0, {owner}.epochs = {self.epochs})"
            )
        if not math.isfinite(self.lr * self.epochs):  # which the warm-up comes near
            raise ValueError(
                f"{owner}.blr = {self.blr} is too large: the learning rate, {owner}.blr * {owner}.batch_size / 256, "
                "would be infinite"
            )
        if self.min_lr > self.lr:
            raise ValueError(
                f"{owner}.min_lr = {self.min_lr} must be at most the peak, {owner}.blr * {owner}.batch_size / 256 = "
                f"{self.lr:g}"
            )
        if self.batch_size % (self.accumulate * self.masks_per_image):
            raise ValueError(f"{owner}.batch_size = {self.batch_size} must be divisible by {self._parts}")

    @property
    def _parts(self) -> str:
        """What a process's share of a batch is cut into, for errors."""
        cut = f"{self.owner}.accumulate = {self.accumulate}"
        return cut + (f" times {self.owner}.masks_per_image = {self.masks_per_image}" * (self.masks_per_image > 1))

    @property
    def loaded_per_step(self) -> int:
        """Images that are loaded for a step, each counted once."""
        return self.batch_size // self.masks_per_image

    @property
    def lr(self) -> float:
        """The peak learning rate, by the effective batch: `blr * batch_size / 256`."""
        return self.blr * self.batch_size / 256

    def learning_rate(self, clock: Clock) -> float:
        """Linear warm-up, then half a cosine to `min_lr`, at every iteration.

        With e the fractional epoch, W the warm-up and T the run: `lr * e / W` for e < W, else
        `min_lr + (lr - min_lr) * (1 + cos(pi * (e - W) / (T - W))) / 2`.
        """
        e = clock.fractional_epoch
        if e < self.warmup_epochs:
            return self.lr * e / self.warmup_epochs
        angle = math.pi * (e - self.warmup_epochs) / (clock.epochs - self.warmup_epochs)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(angle))

    def clock(self, images: int) -> Clock:
        """The run's clock at its start.

        Args:
            images: of the training set.

        Raises:
            ValueError: if these are fewer than a batch.
        """
        if self.loaded_per_step > images:
            times = f" times {self.owner}.masks_per_image = {self.masks_per_image}" * (self.masks_per_image > 1)
            raise ValueError(
                f"{self.owner}.batch_size = {self.batch_size} must be 1 to {images * self.masks_per_image}, the number "
                f"of training images{times}"
            )
        return Clock(0, images // self.loaded_per_step, self.epochs)

    def micro_batch_size(self, world_size: int) -> int:
        """Images that a process computes at a time, an image counting once for each of its masks.

        Args:
            world_size: processes that share a batch.

        Raises:
            ValueError: where they cannot share it evenly, or would have to share an image.
        """
        parts = self.accumulate * world_size
        if self.batch_size % (parts * self.masks_per_image):
            raise ValueError(
                f"{self.owner}.batch_size = {self.batch_size} must be divisible by {self._parts} times the number of "
                f"processes, {world_size}"
            )
        return self.batch_size // parts
