"""Mask ratios: which share of the patches is masked, decided by time or by chance."""

from __future__ import annotations

from abc import ABC, abstractmethod

from curriculum.noise import Noise, hash_words
from curriculum.schedulers import Scalar, Scheduled, Scheduler, values_of
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_in, require_instance


class MaskRatio(Scheduled, ABC):
    """The masked share of the patches, in (0, 1), in every step of training.

    Attributes:
        groups: how many ratios a step has, each for an equal group of its images.
    """

    groups: int = 1

    @property
    @abstractmethod
    def values(self) -> tuple[float, ...]:
        """Every ratio that time or chance brings, as far as they alone decide: in order of time, or ascending."""

    @abstractmethod
    def mean(self, progress: float = 1.0) -> float:
        """Return the mean ratio of the steps at `progress`, in [0, 1]. Default: at the end of training."""

    def draw(self, noise: Noise, progress: float = 1.0) -> float:
        """Return the ratio of a step, which is the mean ratio unless chance decides it.

        Args:
            noise: the step's randomness; its rows do not matter, but, where there are several groups, which part of the
                batch they are.
            progress: how far training has come, in [0, 1]. Default 1, the end.
        """
        return self.mean(progress)

    def check_parts(self, parts: int) -> None:
        """Find out before training whether a step that is computed in so many equal parts can have its ratios.

        Raises:
            ValueError: if a part would have several.
        """

    def without_chance(self) -> MaskRatio:
        """Return a mask ratio that is the mean one in every step, for measurements that one draw must not decide."""
        return self

    @abstractmethod
    def describe(self) -> str:
        """Describe the ratio in a few characters, e.g. "0.50 -> 0.90"."""


class ScheduledRatio(MaskRatio):
    """A mask ratio that time decides.

    Args:
        ratio: a number in (0, 1), or a scheduler of it.
    """

    def __init__(self, ratio: Scalar) -> None:
        require_instance("Curriculum", float | int | Scheduler, mask_ratio=ratio)
        self.ratio = ratio

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(values_of(self.ratio))

    def mean(self, progress: float = 1.0) -> float:
        return self.ratio(progress) if isinstance(self.ratio, Scheduler) else self.ratio

    def describe(self) -> str:
        if not isinstance(self.ratio, Scheduler):
            return f"{self.ratio}"
        return f"{self.values[0]:.2f} -> {self.values[-1]:.2f}"


class UniformRatio(MaskRatio):
    """A mask ratio that is drawn anew in each step, uniformly between two bounds: AttMask's (arXiv 2203.12719).

    It is the same for all images of a step, in every process, and a hash of (seed, step): a resumed run draws the same.
    Each number of patches is another shape to a compiled model, of which PyTorch compiles 8 and then no more: so the
    ratio is the middle of one of `levels` equal parts of the range, all equally likely. AttMask draws any ratio.

    A ratio for each image would take masks of several shapes. What there can be are `groups`: the rows of a step's
    whole batch are cut into as many, one after the other, each with a ratio of its own. The range is shared out, so
    that a step sees small and large ratios alike and steps cost much the same: a group draws from a part of the range
    with `levels / groups` of its ratios, and which part it has goes round at random, so that over time it draws as the
    only one would. What is computed at a time must be of one group: the number of processes times the micro-batches of
    each is a multiple of `groups`, and the ratios do not depend on which. An image counts the same in all losses,
    however many of its patches are masked.

    Args:
        low: the lower bound, above 0. Default 0.1, as published.
        high: the upper bound, below 1. Default 0.5, as published.
        levels: the number of ratios, at least 2. Default 8: 0.125, 0.175, ..., 0.475 of 0.1 to 0.5.
        groups: how many groups of a step's images have a ratio of their own; divides `levels`. Default 1.
    """

    def __init__(self, *, low: float = 0.1, high: float = 0.5, levels: int = 8, groups: int = 1) -> None:
        if not 0.0 < low < high < 1.0:
            raise ValueError(f"UniformRatio.low = {low} and UniformRatio.high = {high} must satisfy 0 < low < high < 1")
        require_in("UniformRatio", "[2, 100000]", levels=levels)
        require_at_least("UniformRatio", 1, groups=groups)
        if levels % groups:
            raise ValueError(f"UniformRatio.levels = {levels} must be a multiple of UniformRatio.groups = {groups}")
        self.low = float(low)
        self.high = float(high)
        self.levels = levels
        self.groups = groups
        self._values = tuple(low + (high - low) * (level + 0.5) / levels for level in range(levels))

    @property
    def values(self) -> tuple[float, ...]:
        return self._values

    def mean(self, progress: float = 1.0) -> float:
        return (self.low + self.high) / 2

    def draw(self, noise: Noise, progress: float = 1.0) -> float:
        if self.groups == 1:
            return self._values[hash_words(noise.seed, noise.step, Stream.MASK_RATIO) % self.levels]
        part, parts = noise.part
        self.check_parts(parts)
        group, each = part * self.groups // parts, self.levels // self.groups
        turn = hash_words(noise.seed, noise.step, Stream.MASK_RATIO_TURN)
        within = hash_words(noise.seed, noise.step, Stream.MASK_RATIO, group)
        return self._values[(group + turn) % self.groups * each + within % each]

    def check_parts(self, parts: int) -> None:
        if parts % self.groups:
            raise ValueError(
                f"UniformRatio.groups = {self.groups} needs a step that is computed in {self.groups} parts or a "
                f"multiple, each of one ratio, and here the parts are {parts}: choose Schedule.accumulate so that, "
                "times the number of processes, it is a multiple, or set UniformRatio.groups = 1"
            )

    def without_chance(self) -> MaskRatio:
        return ScheduledRatio(self.mean())

    def describe(self) -> str:
        several = f" in {self.groups} groups" if self.groups > 1 else ""
        return f"{self.values[0]:.2f} to {self.values[-1]:.2f}{several}"


def as_mask_ratio(ratio: Scalar | MaskRatio) -> MaskRatio:
    """Make a mask ratio of a number or a scheduler; a mask ratio stays itself."""
    return ratio if isinstance(ratio, MaskRatio) else ScheduledRatio(ratio)
