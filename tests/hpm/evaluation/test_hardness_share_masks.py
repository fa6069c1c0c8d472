"""How hard the masks of a curriculum are, and how much of the object they hide."""

from __future__ import annotations

import pytest
import torch
from hardness_cases import MASK, OBJECT_MASKED, SHARE, Inner, Left, in_run, read_losses, under

from curriculum import (
    Batch,
    Constant,
    DifficultyEstimator,
    TrueLoss,
    Uniform,
)
from curriculum.hardness import extra_loss
from hpm.evaluation import EvaluationContext, HardnessShare


def test_how_much_of_the_object_is_masked(context: EvaluationContext) -> None:
    """By hand from the masks that the curriculum draws, and against what chance hides."""
    source, inner = context.source, [5, 6, 9, 10]
    masks_NSS = source.object_masks(source.train(), torch.arange(60))
    shares_NL = torch.nn.functional.avg_pool2d(masks_NSS.float(), 4).flatten(1)
    inner_N = shares_NL[:, inner].sum(dim=1) / shares_NL.sum(dim=1)
    for difficulty, alpha, expected_N in (
        (Inner(), 1.0, inner_N + (1 - inner_N) * 4 / 12),  # 8 of 16 are masked: these 4, and 4 others by chance
        (Inner(), 0.0, torch.tensor(0.5)),
        (Uniform(), 1.0, torch.tensor(0.5)),
    ):
        masked = in_run(under(context, difficulty, scheduler=Constant(value=alpha), mask_ratio=0.5))
        found = HardnessShare(images=60)(masked)[OBJECT_MASKED]
        assert found == pytest.approx(float(expected_N.mean()), abs=0.03)
    easiest = in_run(under(context, Inner(), scheduler=Constant(value=1.0), mask_ratio=0.5, polarity="easiest"))
    assert HardnessShare(images=60)(easiest)[OBJECT_MASKED] == pytest.approx(
        float(((1 - inner_N) * 8 / 12).mean()), abs=0.03
    )


@pytest.mark.parametrize(
    ("box", "flip", "columns"),
    [
        ((0.0, 0.0, 16.0, 16.0), False, (0, 8)),
        ((0.0, 0.0, 16.0, 16.0), True, (8, 16)),
        ((8.0, 0.0, 8.0, 16.0), False, (8, 12)),
        ((0.0, 0.0, 8.0, 16.0), True, (4, 8)),
    ],
)
def test_the_object_is_where_the_crop_shows_it(
    context: EvaluationContext, box: tuple[float, ...], flip: bool, columns: tuple[int, int]
) -> None:
    """Half of the patches are masked, which are the left half of the crop: these columns of the scene."""
    shown_NSS = context.source.object_masks(context.source.train(), torch.arange(60)).float()
    crop_N = shown_NSS[:, :, int(box[0]) : int(box[0] + box[2])].sum(dim=(1, 2))
    left_N = shown_NSS[:, :, columns[0] : columns[1]].sum(dim=(1, 2))
    left = under(context, Left(), scheduler=Constant(value=1.0), mask_ratio=0.5)
    found = HardnessShare(images=60)(in_run(left, box, flip=flip))[OBJECT_MASKED]
    assert found == pytest.approx(float((left_N / crop_N).nanmean()), abs=0.02)


@torch.no_grad()
def test_how_hard_the_masks_are_by_hand(context: EvaluationContext) -> None:
    """The left half is masked: its loss beside that of the truly hardest half, chosen by one measurement of two."""
    left = in_run(under(context, Left(), scheduler=Constant(value=1.0), mask_ratio=0.5))
    found = HardnessShare(images=60, masks=4)(left)
    assert left.training_batches is not None
    batch = Batch(torch.cat([part.images for part in left.training_batches(60)]), 4)
    one, other = (read_losses(left, batch, half, 4, visible=8) for half in range(2))
    hidden = torch.arange(16) % 4 < 2
    extra = ((one + other) / 2)[:, hidden].mean() - (one + other).mean() / 2
    best = (extra_loss(one, other, 8) + extra_loss(other, one, 8)).mean() / 2
    assert found[MASK] == pytest.approx(float(extra / best), rel=1e-4)


def test_masks_are_as_hard_as_alpha_lets_them(context: EvaluationContext) -> None:
    def shares(alpha: float, difficulty: DifficultyEstimator) -> dict[str, float]:
        return HardnessShare(images=200)(
            in_run(under(context, difficulty, scheduler=Constant(value=alpha), mask_ratio=0.5))
        )

    none, half, all_ = (shares(alpha, TrueLoss(probes=2)) for alpha in (0.0, 0.5, 1.0))
    assert none[SHARE] == half[SHARE] == all_[SHARE]
    assert abs(none[MASK]) < 0.1
    assert none[MASK] + 0.2 < half[MASK] < all_[MASK] - 0.2
    assert all_[MASK] > 0.7
    assert abs(shares(1.0, Uniform())[MASK]) < 0.1


def test_masks_are_those_of_a_step_that_asks_for_scores(context: EvaluationContext) -> None:
    """Step 3, of which the curriculum asks for scores in every fourth alone."""
    found = []
    for every in (1, 4):
        left = under(context, Left(), scheduler=Constant(value=1.0), mask_ratio=0.5, score_every=every)
        found.append(HardnessShare(images=60)(in_run(left))[OBJECT_MASKED])
    assert found[0] == found[1]
