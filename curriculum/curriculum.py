"""Curriculum: scheduler + difficulty + sampler + mask ratio -> Mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.samplers import Sampler
from curriculum.schedulers import Feedback, Scheduler
from curriculum.teacher import Teacher

_DIFFICULTY_STREAM = 1  # an estimator's noise is independent of the sampler's


def _require(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        got = f"the class {value.__name__}; call it" if isinstance(value, type) else type(value).__name__
        raise ValueError(f"Curriculum.{name} must be a {kind.__name__}, got {got}")


class Curriculum:
    """What to mask, how much of that advice to follow now, and how to turn both into a mask.

    Args:
        scheduler: progress -> alpha, the share of the mask that follows the difficulty, in [0, 1].
        difficulty: images and teacher -> scores, higher = harder.
        sampler: scores and alpha -> mask.
        mask_ratio: masked share of the patches, in (0, 1); `L - int(L * (1 - mask_ratio))` patches are masked.
        score_every: the difficulty is estimated in every `score_every`-th step only, the masks of the steps between
            are random: cheaper, and less of a curriculum. Default 1, every step.

    Attributes:
        scores: the difficulty of the last batch drawn, [N, L], or None where it was not asked for.
    """

    def __init__(
        self, *, scheduler: Scheduler, difficulty: DifficultyEstimator, sampler: Sampler, mask_ratio: float = 0.75,
        score_every: int = 1,
    ) -> None:  # fmt: skip
        _require("scheduler", scheduler, Scheduler)
        _require("difficulty", difficulty, DifficultyEstimator)
        _require("sampler", sampler, Sampler)
        if not 0.0 < mask_ratio < 1.0:
            raise ValueError(f"Curriculum.mask_ratio = {mask_ratio} must lie strictly between 0 and 1")
        if score_every < 1:
            raise ValueError(f"Curriculum.score_every = {score_every} must be at least 1, which is every step")
        if score_every > 1 and sampler.needs_scores(0.0, 1):
            name = type(sampler).__name__
            raise ValueError(f"Curriculum.score_every = {score_every}, but {name} cannot draw without scores; set 1")
        self.scheduler, self.difficulty, self.sampler = scheduler, difficulty, sampler
        self.mask_ratio, self.score_every = float(mask_ratio), score_every
        self.scores: Tensor | None = None
        # Bounds that time alone can break are found now, not in the middle of a run.
        for percent in range(101):
            self.alpha(percent / 100)

    def alpha(self, progress: float) -> float:
        """The scheduler's value, checked.

        Raises:
            ValueError: outside [0, 1].
        """
        alpha = self.scheduler(progress)
        if not 0.0 <= alpha <= 1.0:
            name = type(self.scheduler).__name__
            raise ValueError(f"{name} gives alpha = {alpha} at progress {progress}; it must stay in [0, 1]")
        return alpha

    def asks_teacher(self, progress: float, num_patches: int) -> bool:
        """Whether drawing at this progress runs the difficulty estimator."""
        return self.sampler.needs_scores(self.alpha(progress), count_masked(num_patches, self.mask_ratio))

    def check(self, teacher: Teacher | None, num_patches: int) -> None:
        """Find out before training whether this curriculum can run.

        Raises:
            ValueError: where the ratio leaves no patch visible or masked, or the difficulty needs what the teacher
                does not have.
        """
        self.difficulty.check(num_patches, count_masked(num_patches, self.mask_ratio))
        name = type(self.difficulty).__name__
        for capability in self.difficulty.needs:
            reason = "there is no teacher" if teacher is None else teacher.cannot(capability)
            if reason:
                raise ValueError(f"Curriculum.difficulty = {name} needs the teacher's {capability}, but {reason}")

    def draw(self, batch: Batch, teacher: Teacher | None, progress: float, noise: Noise) -> Mask:
        """Draw a mask for every image of a batch.

        Where alpha masks no hard patch the difficulty is not estimated and the teacher is not run.

        Args:
            batch: N images.
            teacher: what the difficulty estimator asks; None where it asks nothing.
            progress: how far training has come, in [0, 1].
            noise: this batch's randomness, one row for each image, on the images' device.
        """
        alpha = self.alpha(progress) if noise.step % self.score_every == 0 else 0.0
        num_masked = count_masked(batch.num_patches, self.mask_ratio)
        self.scores = None
        if self.sampler.needs_scores(alpha, num_masked):
            self.scores = self.difficulty(batch, teacher, num_masked=num_masked, noise=noise.fold(_DIFFICULTY_STREAM))
        return self.sampler(self.scores, alpha=alpha, num_masked=num_masked, grid=batch.grid, noise=noise)

    def observe(self, feedback: Feedback) -> None:
        """Tell the scheduler what the last interval achieved; at fixed global steps, with reduced metrics."""
        self.scheduler.observe(feedback)

    def state_dict(self) -> dict[str, Any]:
        """What has to survive a restart."""
        return {"scheduler": self.scheduler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.scheduler.load_state_dict(state["scheduler"])
