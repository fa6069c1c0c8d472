"""What a curriculum makes of some images: which patches it calls hard, and which it masks.

Shape suffixes: N images, C channels, S S height and width, L patches, T thrown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib.colors import to_rgb
from torch import Tensor

from curriculum import Batch, Curriculum, Noise
from curriculum.noise import hash_words
from curriculum.samplers import count_hard, hardest
from curriculum.sizes import pair
from curriculum.streams import Stream
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.last_step import last_step, polarity_of_masks, priorities
from hpm.models.patches import unpatchify
from hpm.visualization import style

MASKED = 0.5  # gray
_HARD = to_rgb(style.BLUE)  # as in the timeline
_THROWN = 1.0  # white


@dataclass(frozen=True)
class CurriculumPanels:
    """The columns that a curriculum adds to a picture.

    Args:
        difficulty: what is masked first, floating point [N, L]; NaN is not scored. None where the scores are numbers of
            parts, or the same everywhere.
        turned: whether the lowest difficulty is what is masked first, and `difficulty` therefore has the other sign.
        masked: the images, float [N, 3, S, S] in [0, 1], with the masked patches covered. Where alpha is a share of the
            mask, those that are masked for their difficulty are blue. The others are gray, thrown ones are white.
        captions: how much of the mask follows the difficulty, and what else the colors mean; a sentence each.
    """

    difficulty: Tensor | None
    turned: bool
    masked: Tensor
    captions: tuple[str, ...]


def look_at_curriculum(context: EvaluationContext, batch: Batch, pixels_NCSS: Tensor) -> CurriculumPanels | None:
    """Ask a curriculum about images, as in the last step in which its difficulty was asked.

    The mask has the mean mask ratio where chance decides it. The difficulty is that of this very mask.

    Args:
        context: whose curriculum is asked, and keeps nothing of it.
        batch: N images.
        pixels_NCSS: the same in [0, 1].

    Returns:
        None where masks follow nothing: the sampler never asks for scores, nothing is scored, or the teacher cannot
        answer, or could but by components that nobody has trained.
    """
    curriculum = context.curriculum.for_measuring()
    if not context.can_answer(context.teacher, curriculum.difficulty.needs):
        return None
    now = last_step(context)
    now = now._replace(step=now.step - now.step % curriculum.score_every)
    rows_N = torch.arange(len(batch)) if batch.indices is None else batch.indices
    noise = Noise(hash_words(context.seed, Stream.PICTURE_MASKS), now.step, rows_N.to(context.device))
    mask = curriculum.draw(batch, context.teacher, now.progress, noise)
    num_masked, scores_NL = curriculum.count_masked(batch.num_patches, now.progress), curriculum.scores
    polarity = polarity_of_masks(curriculum, now, num_masked)
    if scores_NL is None:  # Alpha masks nothing for its difficulty as yet, if it ever does.
        scores_NL = priorities(context, batch, now, num_masked, noise.fold(Stream.PICTURE_SCORES))
    elif polarity == "easiest":
        scores_NL = -scores_NL
    if scores_NL is None or bool(scores_NL.isnan().all()):
        return None
    alpha = curriculum.alpha(now.progress)
    masked = cover(_rgb(pixels_NCSS), mask.to_bool(), batch, MASKED)
    if curriculum.alpha_share is not None:
        # The sampler's own choice, ties included: its noise is this.
        hard_NL = hardest(scores_NL, count_hard(alpha, num_masked), noise)
        masked = cover(masked, hard_NL & mask.to_bool(), batch, *_HARD)
    if mask.thrown is not None:
        masked = cover(masked, torch.zeros_like(mask.to_bool()).scatter_(1, mask.thrown, True), batch, _THROWN)
    shown = curriculum.difficulty.num_parts is None and _differs(scores_NL)
    captions = [_caption(curriculum, alpha, num_masked)]
    if mask.thrown is not None:
        captions.append("White patches are thrown away: neither seen nor reconstructed.")
    if shown and bool(scores_NL.isnan().any()):
        captions.append("Light gray patches are not scored.")
    return CurriculumPanels(
        difficulty=scores_NL if shown else None,
        turned=polarity == "easiest",
        masked=masked,
        captions=tuple(captions),
    )


def cover(pixels_NCSS: Tensor, covered_NL: Tensor, batch: Batch, *color: float) -> Tensor:
    """The images with some patches in one color.

    Args:
        pixels_NCSS: float, in [0, 1].
        covered_NL: bool, the patches.
        batch: the images, which says how they are divided.
        color: its channels, from 0 to 1; a single one for all channels.
    """
    whole = covered_NL.unsqueeze(-1).expand(-1, -1, math.prod(pair(batch.patch_size))).float()
    hidden_N1SS = unpatchify(whole, batch.patch_size, batch.grid).bool()
    return torch.where(hidden_N1SS, pixels_NCSS.new_tensor(color).view(1, -1, 1, 1), pixels_NCSS)


def _rgb(pixels_NCSS: Tensor) -> Tensor:
    """In three channels, as `style.show_pixels` shows them."""
    return pixels_NCSS[:, :1].expand(-1, 3, -1, -1) if pixels_NCSS.shape[1] < 3 else pixels_NCSS[:, :3]


def _differs(scores_NL: Tensor) -> bool:
    """Whether some image's scores are not all the same."""
    unscored_NL = scores_NL.isnan()
    highest_N = scores_NL.masked_fill(unscored_NL, -torch.inf).amax(dim=1)
    return bool((highest_N > scores_NL.masked_fill(unscored_NL, torch.inf).amin(dim=1)).any())


def _caption(curriculum: Curriculum, alpha: float, num_masked: int) -> str:
    if not curriculum.sampler.ever_needs_scores:
        return "Curriculum's mask: follows no difficulty; what of it is reconstructed (gray) may follow it."
    every, share = curriculum.score_every, curriculum.alpha_share
    when = f"alpha {alpha:.2f}" + (f" in one of {every} steps" if every > 1 else "")
    if share is None:
        followed = "the difficulty" if curriculum.difficulty.num_parts is None else "the parts of the image"
        return f"Curriculum's mask: follows {followed} at {when}, from 0 (not at all) to 1 (as closely as it can)."
    count, kind = count_hard(alpha, num_masked), "hardest" if share == "hard" else "easiest"
    told = f"{count} of {num_masked} masked patches are the {kind} ({'blue, ' if count else ''}{when})"
    return f"Curriculum's mask: {told}{', the others are random (gray)' if count < num_masked else ''}."
