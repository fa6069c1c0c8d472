"""CAPI's one visible block, against a direct reading of its rule."""

from __future__ import annotations

import math
import random

import pytest
import torch
from draws import Conformance, masks, noise_of, same_distribution
from scipy import stats

from curriculum.samplers import InverseBlock, Sampler


class TestInverseBlock(Conformance):
    def build(self) -> Sampler:
        return InverseBlock()


def capi(grid: tuple[int, int], masked: int, generator: random.Random) -> tuple[int, ...]:
    """CAPI's rule for one image: a block with a random place, cut to its count of patches, then rolled."""
    rows, columns = grid
    count = rows * columns - masked
    low = max(math.log(0.5), math.log(count / columns**2))
    high = min(math.log(2), math.log(rows**2 / (count + 1e-5)))
    aspect = math.exp(generator.uniform(low, high))
    height, width = math.ceil(math.sqrt(count * aspect)), math.ceil(math.sqrt(count / aspect))
    top, left = generator.randint(0, rows - height), generator.randint(0, columns - width)
    block = [row * columns + column for row in range(top, top + height) for column in range(left, left + width)]
    down, right = generator.randint(0, rows - 1), generator.randint(0, columns - 1)
    visible = {
        (patch // columns + down) % rows * columns + (patch % columns + right) % columns
        for patch in sorted(block)[:count]
    }
    return tuple(patch for patch in range(rows * columns) if patch not in visible)


@pytest.mark.parametrize(("grid", "masked"), [((4, 4), 10), ((3, 5), 9), ((4, 4), 15), ((4, 4), 3)])
def test_masks_are_distributed_as_capis(grid: tuple[int, int], masked: int) -> None:
    generator = random.Random(5)
    read = [capi(grid, masked, generator) for _ in range(20_000)]
    ours = masks(InverseBlock(), None, alpha=0.0, num_masked=masked, grid=grid)
    assert same_distribution(ours, read) > 1e-3


def test_shapes_and_places_on_a_grid_as_published() -> None:
    """256 patches of which 90 are visible: how wide the blocks are, and that every patch is visible as often."""
    generator = random.Random(6)
    read = [set(range(256)) - set(capi((16, 16), 166, generator)) for _ in range(4000)]
    ours = InverseBlock().visible(None, alpha=0.0, num_masked=166, grid=(16, 16), noise=noise_of(4000))
    assert (ours.sum(dim=(1, 2)) == 90).all()
    widths = [ours.any(dim=1).sum(dim=1).tolist(), [len({patch % 16 for patch in visible}) for visible in read]]
    assert stats.ks_2samp(*widths).pvalue > 1e-3
    count_L = ours.flatten(1).sum(dim=0).tolist()
    assert stats.chisquare(count_L).pvalue > 1e-3


@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (2, 12)])
@pytest.mark.parametrize("count", [1, 7, 9])
def test_the_visible_block_that_follows_is_the_easiest_of_its_shape(grid: tuple[int, int], count: int) -> None:
    """Against every place that a block of the same shape has on the torus."""
    scores_NL = noise_of(20, seed=3).uniform(grid[0] * grid[1])
    found = InverseBlock().visible(
        scores_NL, alpha=1.0, num_masked=scores_NL.shape[1] - count, grid=grid, noise=noise_of(20)
    )
    ranks_NRK = scores_NL.argsort(dim=1).argsort(dim=1).view(-1, *grid)
    for visible_RK, rank_RK in zip(found, ranks_NRK, strict=True):
        sums = [
            int(rank_RK[visible_RK.roll((down, right), (0, 1))].sum())
            for down in range(grid[0])
            for right in range(grid[1])
        ]
        assert int(rank_RK[visible_RK].sum()) == min(sums)


def test_a_share_alpha_of_the_blocks_follows() -> None:
    scores = torch.ones(14, 14)
    scores[4:11, 2:9] = 0.0
    easy = scores.flatten() == 0
    shares = [
        float(
            (~masks(InverseBlock(), scores.flatten().tolist(), alpha=alpha, num_masked=147, grid=(14, 14), count=4000))[
                :, easy
            ]
            .float()
            .mean()
        )
        for alpha in (0.0, 0.5, 1.0)
    ]
    assert shares[0] == pytest.approx(0.25, abs=0.02)
    assert shares[2] > 0.8
    assert shares[1] == pytest.approx((shares[0] + shares[2]) / 2, abs=0.03)
