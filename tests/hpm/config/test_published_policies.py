"""The shipped curricula have the numbers that were published, at 14 x 14 patches of 16 pixels."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import scipy.stats
import torch

from curriculum import Attention, Batch, Bonus, Cached, Curriculum, HardestFirst, Hint, Noise, UniformRatio
from curriculum.difficulty.hierarchy import Hierarchy
from hpm.config import parse_config

PATCHES = 196


def curriculum(tiny: Path, name: str) -> Curriculum:
    needed = {"um_mae": ["MaskedAutoencoder.blank_token = True"], "capi": ["IMG_SIZE = 32"]}
    return parse_config([str(tiny), f"curricula/{name}"], needed.get(name, [])).build().method.curriculum


@pytest.mark.parametrize(
    ("name", "reconstructed", "thrown", "blanked"),
    [
        ("random", 147, 0, 0),
        ("hpm_easy_to_hard", 147, 0, 0),
        ("structmae", 147, 0, 0),
        ("amt", 88, 78, 0),  # 30 are visible
        ("um_mae", 147, 0, 13),
        ("cross_mae", 49, 98, 0),
        ("capi", 6, 121, 0),  # 127 are masked
        ("simmim", 120, 0, 0),  # 30 of 49 cells of four patches
    ],
)
def test_as_many_patches_are_masked_as_published(
    tiny: Path, name: str, reconstructed: int, thrown: int, blanked: int
) -> None:
    built = curriculum(tiny, name)
    visible = PATCHES - reconstructed - thrown
    assert built.counts(PATCHES, built.count_masked(PATCHES)) == (visible, reconstructed, thrown)
    assert built.count_blanked(visible) == blanked


def test_pixio_shows_4_of_16_whole_cells(tiny: Path) -> None:
    """Of 16 x 16 patches, `int(16 * 0.25)` cells of 4 x 4 are visible, any of them as often."""
    noise = Noise.for_batch(seed=1, step=0, batch_size=400)
    mask = curriculum(tiny, "pixio").draw(Batch(torch.zeros(400, 1, 32, 32), 2), None, 0.5, noise)
    visible_NC = 16 - mask.to_bool().view(-1, 4, 4, 4, 4).sum(dim=(2, 4)).flatten(1)
    assert set(visible_NC.unique().tolist()) == {0, 16}
    assert (visible_NC == 16).sum(dim=1).unique().tolist() == [4]
    assert scipy.stats.chisquare((visible_NC == 16).double().sum(dim=0).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["attmask_high", "attmask_hint", "attmask_low"])
def test_attmask_rounds_the_masked_down(tiny: Path, name: str) -> None:
    built = curriculum(tiny, name)
    assert isinstance(built.mask_ratio, UniformRatio)
    assert (built.mask_ratio.low, built.mask_ratio.high) == (0.1, 0.5)
    assert built.counts_masked(PATCHES) == [int(PATCHES * ratio) for ratio in built.mask_ratios()]
    assert isinstance(built.difficulty, Attention)
    assert not built.difficulty.normalize
    assert built.alpha(0.0) == built.alpha(1.0) == 1.0
    assert built.polarity == ("easiest" if name == "attmask_low" else "hardest")
    if name == "attmask_hint":
        assert isinstance(built.sampler, Hint)
        shown = [
            built.sampler.count_revealed(PATCHES, Noise.for_batch(seed=1, step=s, batch_size=1)) for s in range(500)
        ]
        assert (min(shown), max(shown)) == (1, 9)  # int(0.1 * r * 196), r from 0.1 to 0.5
    else:
        assert isinstance(built.sampler, HardestFirst)


def test_amt_normalizes_heads_and_starts_in_epoch_41(tiny: Path) -> None:
    difficulty = curriculum(tiny, "amt").difficulty
    assert isinstance(difficulty, Cached)
    (attention,) = difficulty.estimators
    assert isinstance(attention, Attention)
    assert attention.normalize
    assert [epoch for epoch in range(200) if difficulty.asks(epoch, 1)] == [41, 81, 121, 161]  # one step an epoch


def test_structmae_favors_as_many_as_published(tiny: Path) -> None:
    """`ceil(0.75 * sqrt(t) * 196)` of 196 patches."""
    built = curriculum(tiny, "structmae")
    assert isinstance(built.sampler, Bonus)
    assert 0.25 <= built.sampler.bonus <= 0.85
    for time in (0.0, 0.01, 0.1, 0.37, 0.9, 1.0):
        assert math.ceil(147 * built.alpha(time)) == math.ceil(0.75 * math.sqrt(time) * PATCHES)


def test_semmae_goes_by_the_square_of_time(tiny: Path) -> None:
    built = curriculum(tiny, "semmae")
    assert [built.alpha(time) for time in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.0625, 0.25, 1.0]


def test_self_guided_mae_masks_at_random_in_40_of_400_epochs(tiny: Path) -> None:
    built = curriculum(tiny, "self_guided")
    assert [built.alpha((epoch + 1) / 400) for epoch in range(400)] == [0.0] * 40 + [1.0] * 360
    assert isinstance(built.sampler, Hint)
    shown = {built.sampler.count_revealed(PATCHES, Noise.for_batch(seed=1, step=s, batch_size=1)) for s in range(50)}
    assert shown == {9}


def test_the_evolved_hierarchy_has_ever_fewer_parts_and_masks_them_whole(tiny: Path) -> None:
    built = curriculum(tiny, "evolved_hierarchy")
    depths = []
    for epoch in range(400):
        difficulty = built.difficulty.at((epoch + 1) / 400)
        assert isinstance(difficulty, Hierarchy)
        depths.append(difficulty.depth)
        assert built.alpha((epoch + 1) / 400) == 1.0
    assert depths == sorted(depths, reverse=True)
    assert [round(2**depth) for depth in (depths[0], depths[199], depths[-1])] == [127, 32, 8]
