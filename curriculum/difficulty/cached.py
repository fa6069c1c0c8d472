"""Cached: the scores that another estimator gave an image before.

Shape suffixes: N images of a batch, I images of the data set, L patches.
"""

from __future__ import annotations

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.combined import Combination
from curriculum.difficulty.score_memory import ScoreMemory
from curriculum.noise import Noise
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least, require_choice

PERIODS = ("epoch", "step")


class Cached(Combination):
    """Runs another estimator now and then; between, each image keeps its last scores, moved to its present crop.

    Scores are kept for every image of the training split, with the crop that they belong to; see `ScoreMemory`. Images
    that the estimator has never seen are not scored. AMT (arXiv 2211.15362) runs it in one epoch of 40: `every = 40,
    start = 41`. It runs only where alpha makes the sampler need scores: `start` should not be earlier than that.

    It takes I * L half-precision numbers of memory on the device, and in the checkpoint. Processes exchange their
    scores, so that masks do not depend on the number of processes.

    Args:
        estimator: the estimator whose scores are kept.
        every: how many epochs or steps lie between two in which the estimator runs. Default 40.
        period: "epoch", in which every image is scored, or "step", in which one batch is. Default "epoch".
        start: the first epoch or step in which it may run; nothing is scored before. Default 0.
    """

    outermost = True
    passes_scores_on = True

    def __init__(
        self, *, estimator: DifficultyEstimator, every: int = 40, period: str = "epoch", start: int = 0
    ) -> None:
        super().__init__(estimators=[estimator])
        if estimator.stateful:
            raise ValueError(
                f"Cached.estimator = {type(estimator).__name__} keeps scores of its own; make that one "
                "Curriculum.difficulty itself"
            )
        require_at_least("Cached", 1, every=every)
        require_choice("Cached", PERIODS, period=period)
        require_at_least("Cached", 0, start=start)
        self.stateful = True
        self.first_scored_epoch = start if period == "epoch" else 0
        self.every = every
        self.period = period
        self.start = start
        self._steps_per_epoch = 1

    def prepare(self, context: TrainingContext) -> None:
        """Make room for the scores of every image of the training split."""
        super().prepare(context)
        self._steps_per_epoch = context.steps_per_epoch
        self.module = ScoreMemory(context)

    @property
    def needs_one_grid(self) -> bool:
        """Scores are kept by where they are in the image."""
        return any(estimator.needs_one_grid for estimator in self.estimators)

    def kept_bytes(self, num_images: int, num_patches: int) -> int:
        """Return the bytes of the scores of I images."""
        return ScoreMemory.bytes_for(num_images, num_patches)

    def asks(self, step: int, steps_per_epoch: int) -> bool:
        """Say whether the estimator runs in a step."""
        now = step // steps_per_epoch if self.period == "epoch" else step
        return now >= self.start and (now - self.start) % self.every == 0

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        # Images outside a training run have nothing kept for them.
        if self.module is None or batch.indices is None or self.asks(noise.step, self._steps_per_epoch):
            return self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        assert isinstance(self.module, ScoreMemory)
        return self.module.recall(batch)

    def remember(self, outcome: StepOutcome) -> None:
        """Keep the scores that the estimator gave in this step, if it ran."""
        if self.module is None or outcome.batch.indices is None or outcome.scores_NL is None:
            return
        assert isinstance(self.module, ScoreMemory)
        if self.asks(outcome.step, self._steps_per_epoch):
            self.module.keep(outcome.batch, outcome.scores_NL)
