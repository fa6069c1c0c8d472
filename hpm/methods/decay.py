"""How fast the teacher, an exponential moving average of the student, forgets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

from curriculum.validation import require_at_least, require_in
from hpm.optim.clock import Clock


class Decay(ABC):
    """How much of the teacher stays at each step."""

    @abstractmethod
    def __call__(self, clock: Clock) -> float:
        """Decay in [0, 1): the teacher becomes decay * teacher + (1 - decay) * student."""

    def horizon(self, clock: Clock) -> float:
        """Steps that the average reaches back over at this clock: 1 / (1 - decay)."""
        return 1 / (1 - self(clock))


class HorizonDecay(Decay):
    """A constant decay that suits the run's length: the average reaches back over `fraction` of its steps.

    Args:
        fraction: averaging horizon, 1 / (1 - decay) steps, as a share of all steps; in (0, 1].
    """

    def __init__(self, *, fraction: float = 0.05) -> None:
        require_in("HorizonDecay", "(0, 1]", fraction=fraction)
        self.fraction = float(fraction)

    def __call__(self, clock: Clock) -> float:
        return 1 - 1 / max(1.0, self.fraction * clock.total_steps)


class RampDecay(Decay):
    """`start + min(epoch, epochs) / epochs * (end - start)`, in absolute epochs: HPM's published ramp.

    Made for ImageNet's 5,000 steps an epoch. On a run of a few hundred steps the teacher would keep most of its
    random start.

    Args:
        start: decay in the first epoch.
        end: decay from epoch `epochs` on.
        epochs: length of the ramp.
    """

    def __init__(self, *, start: float = 0.999, end: float = 0.9999, epochs: int = 100) -> None:
        require_in("RampDecay", "[0, 1)", start=start, end=end)
        require_at_least("RampDecay", 1, epochs=epochs)
        self.start = float(start)
        self.end = float(end)
        self.epochs = epochs

    def __call__(self, clock: Clock) -> float:
        return self.start + min(clock.epoch, self.epochs) / self.epochs * (self.end - self.start)


class PiecewiseDecay(Decay):
    """Linear between given points, in absolute epochs, and constant after the last: BootMAE's (arXiv 2207.07116).

    Defaults: those of its published code for ViT-B. Made for ImageNet, as `RampDecay` is.

    Args:
        epochs: of the points, rising, the first 0.
        decays: as many, in [0, 1).
    """

    def __init__(
        self, *, epochs: Sequence[int] = (0, 100, 400), decays: Sequence[float] = (0.999, 0.9999, 0.99999)
    ) -> None:
        if len(epochs) != len(decays) or not epochs or epochs[0] != 0 or any(a >= b for a, b in pairwise(epochs)):
            raise ValueError(
                f"PiecewiseDecay.epochs = {tuple(epochs)} must rise from 0, and be as many as "
                f"PiecewiseDecay.decays = {tuple(decays)}"
            )
        for decay in decays:
            require_in("PiecewiseDecay", "[0, 1)", decays=decay)
        self.epochs = tuple(epochs)
        self.decays = tuple(map(float, decays))

    def __call__(self, clock: Clock) -> float:
        for (begin, end), (low, high) in zip(pairwise(self.epochs), pairwise(self.decays), strict=True):
            if clock.epoch < end:
                return low + (clock.epoch - begin) / (end - begin) * (high - low)
        return self.decays[-1]
