"""BEiT's and I-JEPA's blocks, against a direct reading of their rules."""

from __future__ import annotations

import math
import random

import pytest
import torch
from draws import GRID, NAN, Conformance, masks, noise_of
from scipy import stats

from curriculum.noise import Noise
from curriculum.samplers import (
    Blockwise,
    MultiBlock,
    Sampler,
)
from curriculum.samplers.windows import place, rectangles, window_sums


class TestBlockwise(Conformance):
    def build(self) -> Sampler:
        return Blockwise(min_patches=4, attempts=12)


class TestMultiBlock(Conformance):
    def build(self) -> Sampler:
        return MultiBlock()


def test_window_sums_are_sums_over_windows() -> None:
    values = noise_of(3).uniform(5 * 7).view(3, 5, 7)
    height, width = torch.tensor([2, 5, 1]), torch.tensor([3, 1, 7])
    sums = window_sums(values, height, width)
    for n in range(3):
        for row in range(5):
            for column in range(7):
                bottom, right = row + int(height[n]), column + int(width[n])
                fits = bottom <= 5 and right <= 7
                expected = float(values[n, row:bottom, column:right].sum()) if fits else -math.inf
                assert float(sums[n, row, column]) == pytest.approx(expected, abs=1e-5)


def test_a_window_that_follows_lies_over_the_hardest() -> None:
    scores = torch.zeros(2, 6, 6)
    scores[0, 2:4, 3:5], scores[1, 0, 0] = 1.0, 1.0
    size = torch.full((2,), 2)
    top, left = place(scores, (6, 6), size, size, torch.full((2, 3), 0.4), 1.0)
    assert (top.tolist(), left.tolist()) == ([2, 0], [3, 0])
    assert rectangles((6, 6), top, left, size, size)[0, 2:4, 3:5].all()
    top, left = place(scores, (6, 6), size, size, torch.full((2, 3), 0.4), 0.4)  # 0.4 is not less than alpha
    assert (top.tolist(), left.tolist()) == ([2, 2], [2, 2])


def beit(
    grid: tuple[int, int], target: int, least: int, generator: random.Random, largest: int | None = None
) -> set[int]:
    """BEiT's rule, one image and one block after the other."""
    masked: set[int] = set()
    while len(masked) < target:
        for _ in range(10):
            most = min(target - len(masked), largest or target)
            area = generator.uniform(least, most)
            aspect = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < height < grid[0] and 0 < width < grid[1]):
                continue
            top, left = generator.randint(0, grid[0] - height), generator.randint(0, grid[1] - width)
            block = {row * grid[1] + column for row in range(top, top + height) for column in range(left, left + width)}
            if 0 < len(block - masked) <= most:
                masked |= block
                break
        else:
            break
    return masked


@pytest.mark.parametrize(
    ("sampler", "masked", "in_blocks", "largest"),
    [(Blockwise(attempts=100), 75, 75, None), (Blockwise(attempts=100, max_patches=60, share=0.8164), 147, 120, 60)],
    ids=["BEiT", "BootMAE"],
)
def test_blocks_follow_beits_rule(sampler: Blockwise, masked: int, in_blocks: int, largest: int | None) -> None:
    """How many patches the rule masks by itself, and how large the borders of its masks are."""
    generator = random.Random(3)
    read = [beit(GRID, in_blocks, 16, generator, largest) for _ in range(1500)]
    blocks = sampler.blocks(None, alpha=0.0, num_masked=masked, grid=GRID, noise=noise_of(1500))
    ours = [set(mask.flatten().nonzero().flatten().tolist()) for mask in blocks]
    for measure in (len, lambda mask: sum((patch + 1) % 14 != 0 and patch + 1 in mask for patch in mask)):
        assert stats.ks_2samp([measure(mask) for mask in ours], [measure(mask) for mask in read]).pvalue > 1e-3
    count_L = [sum(patch in mask for mask in ours) for patch in range(196)]
    expected_L = [sum(patch in mask for mask in read) for patch in range(196)]
    assert stats.chi2_contingency([count_L, expected_L]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("grid", "masked", "least"),
    [((14, 14), 98, 16), ((8, 8), 32, 5), ((7, 7), 24, 4), ((2, 3), 3, 1), ((8, 8), 2, 2)],
)
def test_the_smallest_block_is_a_share_of_the_image_and_no_larger_than_the_mask(
    grid: tuple[int, int], masked: int, least: int
) -> None:
    own, given = (
        sampler.blocks(None, alpha=0.0, num_masked=masked, grid=grid, noise=noise_of(50))
        for sampler in (Blockwise(), Blockwise(min_patches=least))
    )
    assert torch.equal(own, given)


def test_thirty_attempts_are_enough_for_almost_every_image() -> None:
    few, many = (
        Blockwise(attempts=attempts).blocks(None, alpha=0.0, num_masked=147, grid=GRID, noise=noise_of(500))
        for attempts in (30, 150)
    )
    done = [mask.sum(dim=(1, 2)).float().mean() / 147 for mask in (few, many)]
    assert done[1] - done[0] < 0.002


def test_blocks_seek_the_hardest() -> None:
    scores = torch.zeros(1, 14, 14)
    scores[0, 3:9, 3:9] = 1.0
    scores_NL = scores.flatten(1).expand(200, 196)
    follow, ignore = (
        masks(Blockwise(), scores_NL, alpha=alpha, num_masked=75, grid=GRID, count=200)[:, scores_NL[0] > 0]
        for alpha in (1.0, 0.0)
    )
    assert float(follow.float().mean()) > 0.9
    assert float(ignore.float().mean()) < 0.7  # the middle of an image is masked more often anyway


def test_a_window_may_be_kept_from_the_last_place() -> None:
    """As where a corner is drawn by `randint(0, length - side)`, whose end is exclusive."""
    size = torch.tensor([2, 4, 6])
    uniform = torch.full((3, 3), 1 - 2**-24)
    top, left = place(None, (6, 7), size, size, uniform, 0.0)
    assert (top.tolist(), left.tolist()) == ([4, 2, 0], [5, 3, 1])
    top, left = place(None, (6, 7), size, size, uniform, 0.0, last=False)
    assert (top.tolist(), left.tolist()) == ([3, 1, 0], [4, 2, 0])


Block = tuple[int, int, int, int]  # top, left, height, width


def i_jepa(
    grid: tuple[int, int], context_scale: tuple[float, float], generator: random.Random, targets: int = 4
) -> tuple[list[Block], Block]:
    """I-JEPA's rule for one image that has a batch of its own: its target blocks and its context block."""

    def size(scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
        uniform = generator.random()
        area = int(grid[0] * grid[1] * (scale[0] + uniform * (scale[1] - scale[0])))
        ratio = aspect[0] + uniform * (aspect[1] - aspect[0])
        return min(round(math.sqrt(area * ratio)), grid[0] - 1), min(round(math.sqrt(area / ratio)), grid[1] - 1)

    def placed(height: int, width: int) -> Block:
        return generator.randrange(grid[0] - height), generator.randrange(grid[1] - width), height, width

    of_target, of_context = size((0.15, 0.2), (0.75, 1.5)), size(context_scale, (1.0, 1.0))
    return [placed(*of_target) for _ in range(targets)], placed(*of_context)


def block_of(mask_RK: torch.Tensor) -> Block:
    """The block that a mask of one block shows."""
    row, column = mask_RK.nonzero().amin(dim=0).tolist()
    height, width = int(mask_RK.any(dim=1).sum()), int(mask_RK.any(dim=0).sum())
    assert int(mask_RK.sum()) == height * width
    return row, column, height, width


def same_counts(ours: list[object], read: list[object]) -> float:
    """p-value of the chi-square test that both come from one distribution."""
    kinds = sorted(set(ours) | set(read), key=repr)
    table = [
        [sample.count(kind) for kind in kinds if ours.count(kind) + read.count(kind) >= 10] for sample in (ours, read)
    ]
    return float(stats.chi2_contingency(table).pvalue)


@pytest.mark.parametrize(("grid", "context_scale"), [(GRID, (0.85, 1.0)), ((20, 16), (0.4, 0.7))])
def test_i_jepas_blocks_follow_its_rule(grid: tuple[int, int], context_scale: tuple[float, float]) -> None:
    """Sizes and places, over many steps."""
    generator = random.Random(7)
    read = [i_jepa(grid, context_scale, generator, targets=1) for _ in range(3000)]
    sampler, ours = MultiBlock(targets=1, context_scale=context_scale), []
    for step in range(3000):
        noise = Noise.for_batch(seed=3, step=step, batch_size=1)
        target, context = sampler.blocks(None, alpha=0.0, grid=grid, noise=noise)
        ours.append(([block_of(target[0])], block_of(context[0])))
    if grid == GRID:
        assert {context for _, context in ours} == {context for _, context in read} == {(0, 0, 13, 13)}
    for part in (slice(0, 2), slice(2, 4)):
        assert same_counts([target[part] for (target,), _ in ours], [target[part] for (target,), _ in read]) > 1e-3
        if grid != GRID:
            assert same_counts([context[part] for _, context in ours], [context[part] for _, context in read]) > 1e-3


def test_i_jepas_four_targets_cover_as_much_as_published() -> None:
    generator = random.Random(8)
    read = []
    for _ in range(1500):
        blocks, _ = i_jepa(GRID, (0.85, 1.0), generator)
        cells = {
            (row, column)
            for top, left, h, w in blocks
            for row in range(top, top + h)
            for column in range(left, left + w)
        }
        read.append(len(cells))
    ours = []
    for step in range(1500):
        noise = Noise.for_batch(seed=4, step=step, batch_size=1)
        ours.append(int(MultiBlock().blocks(None, alpha=0.0, grid=GRID, noise=noise)[0].sum()))
    assert stats.ks_2samp(ours, read).pvalue > 1e-3


def test_i_jepa_masks_targets_then_what_is_outside_the_context() -> None:
    sampler = MultiBlock()
    mask_NL = masks(sampler, None, alpha=0.0, num_masked=147, grid=GRID, count=300).view(-1, 14, 14)
    again, around = sampler.blocks(None, alpha=0.0, grid=GRID, noise=noise_of(300))
    for n in range(300):
        assert mask_NL[n][again[n]].all() or not mask_NL[n][~again[n]].any()
        if int((again[n] | ~around[n]).sum()) <= 147:
            assert mask_NL[n][~around[n]].all()


@pytest.mark.parametrize("sampler", [Blockwise(min_patches=4, attempts=20), MultiBlock()])
def test_blocks_of_an_unscored_image_prefer_no_corner(sampler: Blockwise | MultiBlock) -> None:
    masked, noise, unscored_NL = {"num_masked": 98}, noise_of(600), torch.full((600, 196), NAN)
    if isinstance(sampler, Blockwise):
        blocks = sampler.blocks(unscored_NL, alpha=1.0, grid=GRID, noise=noise, **masked)
    else:
        blocks, _ = sampler.blocks(unscored_NL, alpha=1.0, grid=GRID, noise=noise)
    unscored, random_ = blocks.float().mean(dim=0), masks(sampler, None, alpha=0.0, grid=GRID, count=600, **masked)
    corners = [unscored[:4, :4], unscored[:4, 10:], unscored[10:, :4], unscored[10:, 10:]]
    means = [float(corner.mean()) for corner in corners]
    assert max(means) - min(means) < 0.15
    assert float(random_.float().mean()) == pytest.approx(0.5)
