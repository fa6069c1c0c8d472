"""Curriculum: scheduler + difficulty + sampler + mask ratio -> Mask."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

from torch import Tensor

from curriculum.batch import Batch
from curriculum.checks import (
    POLARITIES,
    require_counts,
    require_ratios,
    require_reversible,
    require_steps_without_scores,
    require_teacher,
)
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.trained import TrainedDifficulty
from curriculum.keys import largest, random_keys
from curriculum.mask import ROUNDINGS, Counts, Mask, count_masked, round_share
from curriculum.mask_ratio import MaskRatio, as_mask_ratio
from curriculum.noise import Noise
from curriculum.partial_reconstruction import PartialReconstruction
from curriculum.samplers import Random, Sampler
from curriculum.schedulers import Feedback, Scalar, Scheduled, Scheduler
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least, require_choice, require_instance


class Curriculum(Scheduled):
    """Decides what is masked: a difficulty, how much of it to follow now, and a sampler that turns both into a mask.

    Args:
        scheduler: progress -> alpha, how much of the mask follows the difficulty, in [0, 1].
        difficulty: images and teacher -> scores, higher = harder.
        sampler: scores and alpha -> mask.
        mask_ratio: masked share of the patches, in (0, 1), a scheduler of it, or a `MaskRatio` such as `UniformRatio`,
            which is drawn anew in each step. Each number of patches is another shape to a compiled model: let it move
            in few steps (`Stepped`). Default 0.75.
        rounding: which count is rounded down, the other being the rest. "visible": `int(L * (1 - mask_ratio))` patches
            stay visible, as in MAE and HPM; "masked": `int(L * mask_ratio)` are masked, as in AttMask and AMT.
            Default "visible".
        polarity: "hardest", the default, masks the patches with the highest difficulty, "easiest" the lowest.
        throw_ratio: share of the patches that is thrown away, `int(L * throw_ratio)`: neither seen nor reconstructed
            (AMT, arXiv 2211.15362). They are the sampler's next choice after the mask. Default 0.
        reconstruction: which of the masked patches are reconstructed; the others are thrown away. Default None, all.
        blank_ratio: share of the visible patches, drawn at random, whose content is hidden from the encoder by a mask
            token: UM-MAE's secondary masking (arXiv 2205.10063). `rounding` counts here too: `int(V * (1 -
            blank_ratio))` keep their content, or `int(V * blank_ratio)` lose it. Published: 0.25, of 49 visible patches
            13. The model needs that token: `MaskedAutoencoder.blank_token = True`. Default 0, none.
        score_every: the difficulty is estimated once in so many steps, other masks follow no scores. Default 1.

    Attributes:
        mask_ratio: the mask ratio as a `MaskRatio`.
        scores: the difficulty of the last batch drawn, [N, L], or None where it was not estimated.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        difficulty: DifficultyEstimator,
        sampler: Sampler,
        mask_ratio: Scalar | MaskRatio = 0.75,
        rounding: str = "visible",
        polarity: str = "hardest",
        throw_ratio: float = 0.0,
        reconstruction: PartialReconstruction | None = None,
        blank_ratio: float = 0.0,
        score_every: int = 1,
    ) -> None:
        require_instance("Curriculum", Scheduler, scheduler=scheduler)
        require_instance("Curriculum", DifficultyEstimator, difficulty=difficulty)
        require_instance("Curriculum", Sampler, sampler=sampler)
        require_instance("Curriculum", PartialReconstruction | None, reconstruction=reconstruction)
        self.mask_ratio = as_mask_ratio(mask_ratio)
        require_ratios(self.mask_ratios(), throw_ratio, blank_ratio)
        require_choice("Curriculum", ROUNDINGS, rounding=rounding)
        require_choice("Curriculum", POLARITIES, polarity=polarity)
        require_reversible("Curriculum", polarity, sampler=sampler, difficulty=difficulty)
        require_at_least("Curriculum", 1, score_every=score_every)
        self.scheduler = scheduler
        self.difficulty = difficulty
        self.sampler = sampler
        self.reconstruction = reconstruction
        self.rounding = rounding
        self.polarity = polarity
        self.score_every = score_every
        self.throw_ratio = float(throw_ratio)
        self.blank_ratio = float(blank_ratio)
        self.scores: Tensor | None = None
        require_steps_without_scores(score_every, difficulty, self.samplers)
        # A schedule that leaves its bounds in time is found now, not in the middle of a run.
        for percent in range(101):
            self.alpha(percent / 100)

    def alpha(self, progress: float) -> float:
        """Return the scheduler's value at `progress`.

        Raises:
            ValueError: if it is outside [0, 1].
        """
        alpha = self.scheduler(progress)
        if not 0.0 <= alpha <= 1.0:
            name = type(self.scheduler).__name__
            raise ValueError(f"{name} gives alpha = {alpha} at progress {progress}; it must stay in [0, 1]")
        return alpha

    def component_names(self) -> list[str]:
        """Return the class names of its parts, and "easiest" where that is the polarity."""
        parts = (self.scheduler, self.difficulty, self.sampler, self.reconstruction)
        names = [type(part).__name__ for part in parts if part is not None]
        return names if self.polarity == "hardest" else [*names, self.polarity]

    @property
    def alpha_share(self) -> Literal["hard", "easy"] | None:
        """The patches that alpha is the share of: the masked patches that are "hard", or "easy" by polarity.

        None where alpha is not a share of the mask but controls the sampler otherwise.
        """
        if not self.sampler.alpha_is_share:
            return None
        return "hard" if self.polarity == "hardest" else "easy"

    def mask_ratios(self) -> list[float]:
        """Return every mask ratio that time or chance brings, as far as they alone decide."""
        return list(self.mask_ratio.values)

    def count_masked(self, num_patches: int, progress: float = 1.0, noise: Noise | None = None) -> int:
        """Return M, the number of masked patches.

        Args:
            num_patches: L.
            progress: how far training has come, in [0, 1]. Default 1, the end.
            noise: the randomness of the step, which decides where chance does. Default None, for the mean ratio, which
                is what a step costs on average: single steps mask fewer or more.
        """
        ratio = self.mask_ratio
        now = ratio.mean(progress) if noise is None else ratio.draw(noise, progress)
        return count_masked(num_patches, now, self.rounding)

    def counts_masked(self, num_patches: int) -> list[int]:
        """Return M at each of `mask_ratios`, in their order."""
        return [count_masked(num_patches, ratio, self.rounding) for ratio in self.mask_ratios()]

    def counts(self, num_patches: int, num_masked: int) -> Counts:
        """Return how many of L patches are visible, reconstructed and thrown away where M are masked."""
        thrown = int(num_patches * self.throw_ratio)
        reconstructed = num_masked if self.reconstruction is None else self.reconstruction.count(num_masked)
        return Counts(num_patches - num_masked - thrown, reconstructed, num_masked - reconstructed + thrown)

    def count_blanked(self, num_visible: int) -> int:
        """Return how many of V visible patches are hidden by a mask token."""
        return round_share(num_visible, self.blank_ratio, self.rounding)

    @property
    def ever_needs_scores(self) -> bool:
        """Whether masks depend on the difficulty at some alpha; where not, the difficulty decides nothing."""
        return any(sampler.ever_needs_scores for sampler in self.samplers)

    @property
    def samplers(self) -> list[Sampler]:
        """What draws the mask, and what draws the part of it that is reconstructed."""
        return [self.sampler] if self.reconstruction is None else [self.sampler, self.reconstruction.sampler]

    def needs_scores_at(self, progress: float, num_patches: int) -> bool:
        """Say whether drawing at this progress runs the difficulty estimator, at the mean mask ratio."""
        num_masked = self.count_masked(num_patches, progress)
        return self.sampler.needs_scores(self.alpha(progress), num_masked) or (
            self.reconstruction is not None and self.reconstruction.at(progress).needs_scores(num_masked)
        )

    def check(self, teacher: Teacher | None, num_patches: int, grid: tuple[int, int] | None = None) -> None:
        """Find out before training whether this curriculum can run, on a grid of patches where that is known.

        Raises:
            ValueError: if the ratios leave no patch visible or masked, the sampler cannot use the difficulty, or the
                difficulty needs what the teacher does not have.
        """
        require_counts(self, num_patches, grid)
        for sampler in self.samplers:
            sampler.check_difficulty(self.difficulty)
        require_teacher(self.difficulty, teacher)

    def prepare(self, context: TrainingContext) -> None:
        """Prepare the difficulty for a training run; called once, before the first draw."""
        self.difficulty.prepare(context)

    @property
    def trained(self) -> TrainedDifficulty | None:
        """The difficulty where it is trained beside the model, else None."""
        return self.difficulty if isinstance(self.difficulty, TrainedDifficulty) else None

    def draw(self, batch: Batch, teacher: Teacher | None, progress: float, noise: Noise) -> Mask:
        """Draw a mask for every image of a batch.

        Where alpha masks no hard patch the difficulty is not estimated and the teacher is not run.

        Args:
            batch: N images.
            teacher: the teacher that the difficulty estimator asks; None where it asks nothing.
            progress: how far training has come, in [0, 1].
            noise: this batch's randomness, one row for each image, on the images' device.
        """
        follows = noise.step % self.score_every == 0
        alpha = self.alpha(progress) if follows else 0.0
        num_masked = self.count_masked(batch.num_patches, progress, noise)
        difficulty, sampler = self.difficulty.at(progress), self.sampler.at(progress)
        part = None if self.reconstruction is None else self.reconstruction.at(progress)
        asks = sampler.needs_scores(alpha, num_masked)
        part_asks = part is not None and follows and part.needs_scores(num_masked)
        self.scores = None
        if asks or part_asks:
            self.scores = difficulty(batch, teacher, num_masked=num_masked, noise=noise.fold(Stream.DIFFICULTY))
        priority_NL = self.scores if self.scores is None or self.polarity == "hardest" else -self.scores
        mask = sampler(
            priority_NL if asks else None,
            alpha=alpha,
            num_masked=num_masked,
            grid=batch.grid,
            noise=noise,
            num_thrown=int(batch.num_patches * self.throw_ratio),
        )
        if part is not None:
            mask = part(mask, self.scores if part_asks else None, grid=batch.grid, noise=noise)
        if not self.blank_ratio:
            return mask
        chance_NV = random_keys(noise.fold(Stream.BLANKS).bits(mask.num_visible))
        return replace(mask, blanked=largest(chance_NV, self.count_blanked(mask.num_visible)))

    def for_measuring(self) -> Curriculum:
        """Return a copy that draws at the mean mask ratio, so that drawing leaves this one's `scores` as they are."""
        curriculum = copy.copy(self)
        curriculum.mask_ratio = self.mask_ratio.without_chance()
        return curriculum

    def with_random_masks(self) -> Curriculum:
        """Return a copy whose masks are uniform: under equal noise the same as this one's where these are."""
        curriculum = self.for_measuring()
        curriculum.sampler = Random()
        if self.reconstruction is not None:
            curriculum.reconstruction = PartialReconstruction(share=self.reconstruction.share)
        return curriculum

    def remember(self, batch: Batch, mask: Mask, *, true_NM: Tensor, predicted_NM: Tensor | None, noise: Noise) -> None:
        """Tell the difficulty what a training step measured, after `draw` with the same batch and noise.

        Args:
            batch: the images.
            mask: the mask that was drawn for them.
            true_NM: the reconstruction loss of each masked patch, without a graph.
            predicted_NM: the student's prediction of it, without a graph; None where there is no loss predictor.
            noise: the noise that `draw` was given.
        """
        self.difficulty.remember(
            StepOutcome(
                step=noise.step,
                batch=batch,
                mask=mask,
                scores_NL=self.scores,
                true_NM=true_NM,
                predicted_NM=predicted_NM,
            )
        )

    def masker_loss(self, batch: Batch, mask: Mask, true_NM: Tensor, progress: float, noise: Noise) -> Tensor:
        """Compute what a trained difficulty minimizes, after `draw` with the same arguments.

        Args:
            batch: the images.
            mask: the mask that was drawn for them.
            true_NM: the reconstruction loss of each masked patch.
            progress: the progress that `draw` was given.
            noise: the noise that `draw` was given.
        """
        assert self.trained is not None
        return self.trained.at(progress).loss(batch, mask, true_NM.detach(), noise.fold(Stream.DIFFICULTY))

    def observe(self, feedback: Feedback) -> None:
        """Give the schedulers the metrics of the last interval, reduced over processes; at fixed global steps."""
        for scheduler in {id(scheduler): scheduler for scheduler in self.schedulers().values()}.values():
            scheduler.observe(feedback)
