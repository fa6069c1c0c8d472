"""Whether a run has diverged: too many steps in a row were skipped, or weights are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpm.errors import TrainingError
from hpm.runtime.finite import not_finite, subject
from hpm.training.metrics import Interval
from hpm.training.state import weights_of
from hpm.training.step import TrainingStep

_SKIPPED_AT_END = 2  # steps in a row, or half of all, at the end of a run that has diverged, however short it is


def usual_remedy(precision: str, clip_grad: float | None) -> str:
    """What helps against most divergences, without what is so already.

    Args:
        precision: what the run computes in, "bf16", "fp16", "tf32" or "fp32".
        clip_grad: `Optimization.clip_grad`; None where gradients are not clipped.
    """
    advice = ["Lower Schedule.blr", "lengthen Schedule.warmup_epochs"]
    if clip_grad is None:
        advice.append("set Optimization.clip_grad = 1.0")
    if precision != "fp32":
        advice.append("set Runtime.precision = 'fp32'")
    return f"{', '.join(advice[:-1])} or {advice[-1]}"


@dataclass(frozen=True)
class Divergence:
    """How a run has diverged.

    Args:
        fault: what is wrong, and since when.
        remedy: what to change; None where nothing is known but what helps against most divergences.
    """

    fault: str
    remedy: str | None = None

    def error(self, checkpoint: Path | None, usual: str) -> TrainingError:
        """What ends the run.

        Args:
            checkpoint: the newest, None where there is none. It is good: weights that are not finite are never saved.
            usual: what helps against most divergences, see `usual_remedy`.
        """
        good = "there is no checkpoint yet" if checkpoint is None else f"the last good checkpoint is {checkpoint}"
        return TrainingError(f"{self.fault}; {good}. {self.remedy or usual}")


def skipped_too_many(interval: Interval, *, done: int, last: bool, limit: int, fp16: bool) -> Divergence | None:
    """Whether a run has diverged by the steps that it skipped.

    Args:
        interval: the last one.
        done: steps so far.
        last: whether these are all.
        limit: `Optimization.max_skipped`.
        fp16: whether gradients are scaled, and the first steps are skipped until their scale is found.
    """
    at_end = interval.skipped_at_end
    if interval.skipped_in_a_row >= limit:
        return Divergence(
            f"the gradient is not finite: {interval.skipped_in_a_row} steps in a row were skipped, up to step {done}, "
            f"and Optimization.max_skipped = {limit}"
        )
    if not last or (at_end < _SKIPPED_AT_END and 2 * at_end < done):
        return None
    fault = f"the gradient is not finite: the last {at_end} of {done} steps were skipped"
    if fp16 and at_end == done:
        return Divergence(
            f"{fault}, and fp16 has not found the scale of its gradients",
            "Train for more steps, or set Runtime.precision = 'fp32'",
        )
    return Divergence(fault)


def weights_not_finite(step: TrainingStep, *, done: int) -> Divergence | None:
    """Whether a run has diverged by its weights, those of any process; every process must call this.

    A step whose gradient is finite makes them infinite where the learning rate is far too high. This waits for the
    device, and reads each weight once.

    Args:
        step: takes the steps.
        done: steps so far.
    """
    broken = next(filter(None, step.processes.gather(not_finite(weights_of(step)))), [])
    if not broken:
        return None
    fault = f"the weights are not finite after step {done}: {subject(broken)} infinite or NaN"
    trained = step.method.curriculum.trained
    if trained is not None and broken[0].startswith("curriculum."):
        return Divergence(fault, f"Lower {type(trained).__name__}.lr")
    if step.method.target.trained and broken[0].startswith("target."):
        return Divergence(fault, f"Lower {type(step.method.target).__name__}.lr_scale")
    return Divergence(fault)
