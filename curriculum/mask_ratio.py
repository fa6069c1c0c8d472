"""UniformRatio: a mask ratio that chance decides."""

from __future__ import annotations

from curriculum.noise import Noise, hash_words

_STREAM = 1002  # samplers have streams of their own, of small numbers


class UniformRatio:
    """A mask ratio that is drawn anew in each step, uniformly between two bounds: AttMask's (arXiv 2203.12719).

    It is the same for all images of a step, in every process, and addressed by (seed, step): a resumed run draws the
    same. Each number of patches is another shape to a compiled model, of which PyTorch compiles 8 and then no more: so
    the ratio is the middle of one of `levels` equal parts of the range, all as likely. AttMask draws any.

    Args:
        low: the least ratio, above 0. Published: 0.1.
        high: the greatest, below 1. Published: 0.5.
        levels: how many ratios there are, at least 2. Default 8: 0.125, 0.175, ..., 0.475 of 0.1 to 0.5.

    Attributes:
        values: the ratios, ascending.
    """

    def __init__(self, *, low: float = 0.1, high: float = 0.5, levels: int = 8) -> None:
        if not 0.0 < low < high < 1.0:
            raise ValueError(f"UniformRatio.low = {low} and UniformRatio.high = {high} must satisfy 0 < low < high < 1")
        if levels < 2:
            raise ValueError(f"UniformRatio.levels = {levels} must be at least 2; a number stays where it is")
        self.low = float(low)
        self.high = float(high)
        self.levels = levels
        self.values = tuple(low + (high - low) * (level + 0.5) / levels for level in range(levels))

    @property
    def mean(self) -> float:
        """What is drawn on average."""
        return (self.low + self.high) / 2

    def draw(self, noise: Noise) -> float:
        """The ratio of the noise's step; its rows do not matter."""
        return self.values[hash_words(noise.seed, noise.step, _STREAM) % self.levels]
