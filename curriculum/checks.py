"""What a curriculum refuses before training: settings that do not go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from curriculum.difficulty.base import DifficultyEstimator
from curriculum.samplers import Sampler
from curriculum.teacher import Teacher
from curriculum.validation import require_in

if TYPE_CHECKING:
    from curriculum.curriculum import Curriculum

POLARITIES = ("hardest", "easiest")


def require_ratios(mask_ratios: list[float], throw_ratio: float, blank_ratio: float) -> None:
    """Refuse shares of the patches that are none.

    Args:
        mask_ratios: every mask ratio of a run.
        throw_ratio: share of the patches that is thrown away.
        blank_ratio: share of the visible patches that is hidden by a mask token.

    Raises:
        ValueError: naming the ratio at fault.
    """
    for ratio in mask_ratios:
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"Curriculum.mask_ratio = {ratio} must lie strictly between 0 and 1")
    if not 0.0 <= throw_ratio < 1.0 - max(mask_ratios):
        raise ValueError(
            f"Curriculum.throw_ratio = {throw_ratio} must be at least 0 and leave something visible beside "
            f"Curriculum.mask_ratio = {max(mask_ratios)}"
        )
    require_in("Curriculum", "[0, 1)", blank_ratio=blank_ratio)


def require_teacher(difficulty: DifficultyEstimator, teacher: Teacher | None) -> None:
    """Refuse a difficulty that asks what the teacher does not have.

    Args:
        difficulty: what asks.
        teacher: what is asked; None for none.

    Raises:
        ValueError: naming what is missing.
    """
    name = type(difficulty).__name__
    for capability in difficulty.needs:
        reason = "there is no teacher" if teacher is None else teacher.unsupported_reason(capability)
        if reason:
            raise ValueError(f"Curriculum.difficulty = {name} needs the teacher's {capability}, but {reason}")


def require_reversible(owner: str, polarity: str, **parts: Sampler | DifficultyEstimator) -> None:
    """Refuse to turn the scores round where a part cannot follow, by its name.

    Args:
        owner: the class whose settings these are.
        polarity: of the scores.
        parts: what gives and takes the scores.

    Raises:
        ValueError: naming both settings.
    """
    for name, part in parts.items():
        if polarity == "easiest" and not part.reversible:
            raise ValueError(
                f"{owner}.polarity = 'easiest' turns the scores round, and {owner}.{name} = {type(part).__name__} "
                "cannot be turned round as it is; set 'hardest'"
            )


def require_steps_without_scores(score_every: int, difficulty: DifficultyEstimator, samplers: list[Sampler]) -> None:
    """Refuse steps without scores where a part needs them in each.

    Args:
        score_every: the difficulty is estimated once in so many steps.
        difficulty: what gives the scores.
        samplers: what takes them.

    Raises:
        ValueError: naming the part.
    """
    if score_every == 1:
        return
    if difficulty.stateful:
        name = type(difficulty).__name__
        raise ValueError(f"Curriculum.score_every = {score_every}, but {name} has to follow every step; set 1")
    for sampler in samplers:
        if sampler.needs_scores(0.0, 1):
            name = type(sampler).__name__
            raise ValueError(f"Curriculum.score_every = {score_every}, but {name} cannot draw without scores; set 1")


def require_counts(curriculum: Curriculum, num_patches: int, grid: tuple[int, int] | None) -> None:
    """Refuse mask ratios at which too few patches are left for some part, or nothing of what a ratio is there for.

    Args:
        curriculum: whose mask ratios these are.
        num_patches: L.
        grid: rows and columns of patches; None where they are not known.

    Raises:
        ValueError: naming the setting at fault.
    """
    if curriculum.reconstruction is not None and curriculum.trained is not None:
        raise ValueError(
            f"Curriculum.difficulty = {type(curriculum.trained).__name__} learns from all masked patches, "
            "and Curriculum.reconstruction has only some of them reconstructed; set it to None, or choose another "
            "difficulty"
        )
    for ratio, masked in zip(curriculum.mask_ratios(), curriculum.counts_masked(num_patches), strict=True):
        curriculum.difficulty.check(num_patches, masked)
        require_drawable(curriculum.sampler, num_patches, masked, grid)
        if curriculum.reconstruction is not None:
            reconstructed = curriculum.reconstruction.count(masked)
            if reconstructed < 1:
                enough = f"it, to {math.ceil(1e4 / masked) / 1e4} or more" if masked > 1 else "Curriculum.mask_ratio"
                raise ValueError(
                    f"PartialReconstruction.share = {curriculum.reconstruction.share} has none of the {masked} masked "
                    f"patches of an image reconstructed; raise {enough}"
                )
            curriculum.difficulty.check_reconstructed(reconstructed)
            require_drawable(curriculum.reconstruction.sampler, num_patches, reconstructed, grid)
        _require_visible(curriculum, num_patches, ratio, curriculum.counts(num_patches, masked).visible)


def require_drawable(sampler: Sampler, num_patches: int, count: int, grid: tuple[int, int] | None) -> None:
    """Refuse a sampler that cannot draw so many patches, on a grid where that is known."""
    if grid is None:
        sampler.check(num_patches, count)
    else:
        sampler.check_grid(grid, count)


def _require_visible(curriculum: Curriculum, num_patches: int, mask_ratio: float, visible: int) -> None:
    if visible < 1:
        raise ValueError(
            f"Curriculum.throw_ratio = {curriculum.throw_ratio} beside Curriculum.mask_ratio = {mask_ratio} leaves "
            f"none of {num_patches} patches visible"
        )
    blanked = curriculum.count_blanked(visible)
    if curriculum.blank_ratio and not 0 < blanked < visible:
        found, change = ("none", "raise it, or set 0") if blanked == 0 else ("all", "lower it")
        raise ValueError(
            f"Curriculum.blank_ratio = {curriculum.blank_ratio} hides {found} of the {visible} patches that are "
            f"visible at Curriculum.mask_ratio = {mask_ratio}; {change}"
        )
