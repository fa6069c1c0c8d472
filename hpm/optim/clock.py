"""Clock: where a run stands, in steps and epochs, for everything that is scheduled."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Clock:
    """The optimizer step about to be taken, and how many there are.

    Args:
        step: counted from 0 over the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        epochs: epochs of the run.
    """

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 0."""
        return self.step // self.steps_per_epoch

    @property
    def fractional_epoch(self) -> float:
        """Epochs gone by, with their fraction: what per-iteration learning rates are a function of."""
        return self.step / self.steps_per_epoch

    def at(self, step: int) -> Clock:
        """The same run's clock at another step."""
        return replace(self, step=step)

    def progress(self, per: str) -> float:
        """Progress in (0, 1]: `(epoch + 1) / epochs` as HPM publishes it, or `(step + 1) / total_steps`."""
        return (self.epoch + 1) / self.epochs if per == "epoch" else (self.step + 1) / self.total_steps
