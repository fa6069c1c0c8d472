"""The published mask policies: each against a direct reading of its rule, and the numbers that follow from it."""

from __future__ import annotations

import math
import random

import pytest
import torch
from scipy import stats
from torch import Tensor

from curriculum.keys import ranks
from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.samplers import (
    Blockwise,
    Bonus,
    Cells,
    FilteredNoise,
    HardestFirst,
    Hint,
    MultiBlock,
    Pool,
    Quotas,
    Random,
    Sampler,
    Stratified,
    Weighted,
    hardest,
)
from curriculum.samplers.blocks import place, rectangles, window_sums
from curriculum.samplers.filtered_noise import blur
from curriculum.schedulers import Ramp
from curriculum.streams import Stream
from curriculum.testing import SamplerConformance

NAN = math.nan
GRID = (14, 14)


class Conformance(SamplerConformance):
    """On fewer cases: there are many policies."""

    grids = ((4, 4), (3, 7), (14, 14))
    mask_ratios = (0.5, 0.9)
    alphas = (0.0, 0.5, 1.0)


class TestPool(Conformance):
    def build(self) -> Sampler:
        return Pool()


class TestBonus(Conformance):
    def build(self) -> Sampler:
        return Bonus()


class TestWeighted(Conformance):
    def build(self) -> Sampler:
        return Weighted()


class TestWeightedProportional(Conformance):
    def build(self) -> Sampler:
        return Weighted(weights="proportional", temperature=0.5)


class TestHint(Conformance):
    def build(self) -> Sampler:
        return Hint(hint=0.1, among=0.3)


class TestCells(Conformance):
    def build(self) -> Sampler:
        return Cells(size=2)


class TestStratified(Conformance):
    def build(self) -> Sampler:
        return Stratified()


class TestBlockwise(Conformance):
    def build(self) -> Sampler:
        return Blockwise(min_patches=4, attempts=12)


class TestMultiBlock(Conformance):
    def build(self) -> Sampler:
        return MultiBlock()


class TestFilteredNoise(Conformance):
    def build(self) -> Sampler:
        return FilteredNoise(color="purple")


class TestFilteredNoiseOfABank(Conformance):
    def build(self) -> Sampler:
        return FilteredNoise(color="green", bank=7)


class TestQuotas(Conformance):
    def build(self) -> Sampler:
        return Quotas(parts=3)


def noise_of(count: int, seed: int = 12) -> Noise:
    return Noise.for_batch(seed=seed, step=34, batch_size=count)


def masks(
    sampler: Sampler,
    scores: list[float] | Tensor | None,
    *,
    alpha: float,
    num_masked: int,
    grid: tuple[int, int],
    count: int = 20_000,
) -> Tensor:
    """Boolean [N, L]."""
    if isinstance(scores, list):
        scores = torch.tensor(scores).expand(count, len(scores))
    return sampler(scores, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise_of(count)).to_bool()


def same_distribution(ours_NL: Tensor, read: list[tuple[int, ...]]) -> float:
    """p-value of the chi-square test that masks and those of a direct reading come from one distribution."""
    codes = (ours_NL.long() << torch.arange(ours_NL.shape[1])).sum(dim=1).tolist()
    others = [sum(1 << patch for patch in mask) for mask in read]
    seen = sorted({*codes, *others})
    table = [[sample.count(code) for code in seen] for sample in (codes, others)]
    common = [column for column in zip(*table, strict=True) if sum(column) >= 20]
    rare = [sum(column) for column in zip(*[c for c in zip(*table, strict=True) if sum(c) < 20], strict=True)]
    columns = [*common, *([tuple(rare)] if rare and sum(rare) else [])]
    return float(stats.chi2_contingency(list(zip(*columns, strict=True))).pvalue)


def test_ranks_are_places_among_the_scored() -> None:
    scores_NL = torch.tensor([[3.0, NAN, -1.0, 7.0], [NAN, NAN, 2.0, NAN], [NAN] * 4])
    found = ranks(scores_NL, noise_of(3).bits(4)).tolist()
    assert found[0][0] == 0.5 and found[0][2] == 0 and found[0][3] == 1 and math.isnan(found[0][1])  # noqa: PT018
    assert found[1][2] == 0.5
    assert all(math.isnan(value) for value in found[2])


# SMA, StructMAE, AMT and AttMask-Hint.


@pytest.mark.parametrize(("alpha", "pool"), [(0.0, 196), (0.5, 172), (0.99, 148), (1.0, 147)])
def test_a_pool_masks_the_hardest_alone(alpha: float, pool: int) -> None:
    scores_NL = noise_of(50).fold(Stream.CUSTOM).uniform(196)
    mask_NL = masks(Pool(), scores_NL, alpha=alpha, num_masked=147, grid=GRID, count=50)
    easy_NL = ~hardest(scores_NL, pool, noise_of(50))
    assert not bool((mask_NL & easy_NL).any())


def test_a_pool_is_drawn_from_uniformly() -> None:
    mask_NL = masks(Pool(), [0.1, 0.5, 0.2, 0.9, 0.8, 0.3], alpha=0.5, num_masked=2, grid=(1, 6))
    # Six patches, pool of 6 - int(4 * 0.5) = 4, the hardest: all six pairs of them as often.
    generator = random.Random(0)
    read = [tuple(generator.sample([1, 3, 4, 5], 2)) for _ in range(20_000)]
    assert same_distribution(mask_NL, read) > 1e-3


def test_the_cosine_pool_begins_with_all_and_ends_with_the_mask() -> None:
    ramp = Ramp(shape="cosine", start=0.0, end=1.0)
    sizes = [196 - int(49 * ramp(step / 10)) for step in range(11)]
    assert sizes[0] == 196 and sizes[-1] == 147 and sizes == sorted(sizes, reverse=True)  # noqa: PT018


def test_a_bonus_lifts_the_hardest() -> None:
    """Against the rule read out: noise + alpha on the M hardest, the highest sums are masked."""
    scores = [0.1, 0.5, 0.2, 0.9, 0.8, 0.3]
    generator = random.Random(1)
    for alpha in (0.0, 0.3, 1.0):
        read = []
        for _ in range(20_000):
            keys = [generator.random() + alpha * (place in (1, 3, 4)) for place in range(6)]
            read.append(tuple(sorted(range(6), key=keys.__getitem__)[-3:]))
        assert same_distribution(masks(Bonus(), scores, alpha=alpha, num_masked=3, grid=(1, 6)), read) > 1e-3


@pytest.mark.parametrize("weights", ["softmax", "proportional"])
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_weighted_draws_one_after_the_other(weights: str, alpha: float, temperature: float) -> None:
    scores = [0.1, 0.5, 2.0, 0.9, 1.4]
    power = alpha / temperature
    share = [math.exp(s * power) if weights == "softmax" else s**power for s in scores]
    generator, read = random.Random(2), []
    for _ in range(20_000):
        left = list(range(5))
        for _ in range(2):
            left.remove(generator.choices(left, [share[patch] for patch in left])[0])
        read.append(tuple(patch for patch in range(5) if patch not in left))
    sampler = Weighted(weights=weights, temperature=temperature)
    assert same_distribution(masks(sampler, scores, alpha=alpha, num_masked=2, grid=(1, 5)), read) > 1e-3


def test_a_temperature_may_be_scheduled() -> None:
    sampler = Weighted(temperature=Ramp(start=2.0, end=0.5))
    assert sampler.at(0.0).temperature == 2.0
    assert sampler.at(1.0).temperature == 0.5
    assert isinstance(sampler.temperature, Ramp)
    assert list(sampler.schedulers()) == ["temperature"]
    with pytest.raises(ValueError, match=r"Weighted\.temperature .* must be positive"):
        Weighted(temperature=Ramp(start=1.0, end=0.0))


def test_a_hint_is_revealed_from_the_very_hardest() -> None:
    """AttMask's setting: L = 196, 10 % the hardest, of which s = 5 % of L stay visible."""
    scores_NL = noise_of(400).fold(Stream.CUSTOM).uniform(196)
    mask_NL = masks(Hint(), scores_NL, alpha=1.0, num_masked=98, grid=GRID, count=400)
    top_NL = hardest(scores_NL, 19, noise_of(400))
    assert (top_NL & ~mask_NL).sum(dim=1).tolist() == [9] * 400  # int(196 * 0.05)
    assert (hardest(scores_NL, 98 + 9, noise_of(400)) & mask_NL).sum(dim=1).tolist() == [98] * 400
    shown_L = (top_NL & ~mask_NL).double().sum(dim=0)
    assert stats.chisquare(shown_L.numpy()).pvalue > 1e-3


# SimMIM and UM-MAE.


def test_simmim_masks_30_of_49_cells() -> None:
    num_masked = count_masked(196, 0.612)
    assert num_masked == 120  # 30 cells of 4 patches
    mask_NL = masks(Cells(size=2), None, alpha=0.0, num_masked=num_masked, grid=GRID, count=500)
    cells = mask_NL.view(-1, 7, 2, 7, 2).sum(dim=(2, 4)).flatten(1)
    assert set(cells.unique().tolist()) == {0, 4}
    assert (cells == 4).sum(dim=1).tolist() == [30] * 500
    assert stats.chisquare((cells == 4).double().sum(dim=0).numpy()).pvalue > 1e-3


def test_the_hardest_cells() -> None:
    scores_NL = noise_of(50).fold(Stream.CUSTOM).uniform(196)
    mask_NL = masks(Cells(size=2), scores_NL, alpha=1.0, num_masked=120, grid=GRID, count=50)
    cells_NC = scores_NL.view(-1, 7, 2, 7, 2).mean(dim=(2, 4)).flatten(1)
    expected_NC = cells_NC >= cells_NC.sort(dim=1, descending=True).values[:, 29:30]
    assert torch.equal(mask_NL.view(-1, 7, 2, 7, 2)[:, :, 0, :, 0].flatten(1), expected_NC)


def test_at_most_one_cell_is_masked_in_part() -> None:
    mask_NL = masks(Cells(size=2, sampler=Random()), None, alpha=0.0, num_masked=118, grid=GRID, count=200)
    cells = mask_NL.view(-1, 7, 2, 7, 2).sum(dim=(2, 4)).flatten(1)
    assert ((cells > 0) & (cells < 4)).sum(dim=1).tolist() == [1] * 200


def test_um_mae_leaves_one_of_each_cell() -> None:
    mask_NL = masks(Stratified(), None, alpha=0.0, num_masked=147, grid=GRID, count=2000)
    cells = mask_NL.view(-1, 7, 2, 7, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert set(cells.sum(dim=3).unique().tolist()) == {3}
    visible = (~cells).double().sum(dim=(0, 1, 2))
    assert stats.chisquare(visible.numpy()).pvalue > 1e-3


def test_um_mae_leaves_the_easiest_of_each_cell() -> None:
    scores_NL = noise_of(50).fold(Stream.CUSTOM).uniform(196)
    mask_NL = masks(Stratified(), scores_NL, alpha=1.0, num_masked=147, grid=GRID, count=50)
    scores = scores_NL.view(-1, 7, 2, 7, 2).permute(0, 1, 3, 2, 4).flatten(3)
    visible = (~mask_NL).view(-1, 7, 2, 7, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(visible, scores == scores.amin(dim=3, keepdim=True))


# BEiT and I-JEPA.


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


def beit(grid: tuple[int, int], target: int, least: int, generator: random.Random) -> set[int]:
    """BEiT's rule, one image and one block after the other."""
    masked: set[int] = set()
    while len(masked) < target:
        for _ in range(10):
            area = generator.uniform(least, target - len(masked))
            aspect = math.exp(generator.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < height < grid[0] and 0 < width < grid[1]):
                continue
            top, left = generator.randint(0, grid[0] - height), generator.randint(0, grid[1] - width)
            block = {row * grid[1] + column for row in range(top, top + height) for column in range(left, left + width)}
            if 0 < len(block - masked) <= target - len(masked):
                masked |= block
                break
        else:
            break
    return masked


def test_blocks_follow_beits_rule() -> None:
    """How many patches the rule masks by itself, and how large the borders of its masks are."""
    generator = random.Random(3)
    read = [beit(GRID, 75, 16, generator) for _ in range(1500)]
    blocks = Blockwise(attempts=100).blocks(None, alpha=0.0, num_masked=75, grid=GRID, noise=noise_of(1500))
    ours = [set(mask.flatten().nonzero().flatten().tolist()) for mask in blocks]
    for measure in (len, lambda mask: sum((patch + 1) % 14 != 0 and patch + 1 in mask for patch in mask)):
        assert stats.ks_2samp([measure(mask) for mask in ours], [measure(mask) for mask in read]).pvalue > 1e-3
    count_L = [sum(patch in mask for mask in ours) for patch in range(196)]
    expected_L = [sum(patch in mask for mask in read) for patch in range(196)]
    assert stats.chi2_contingency([count_L, expected_L]).pvalue > 1e-3


def test_sixty_attempts_are_enough_for_almost_every_image() -> None:
    few, many = (
        Blockwise(attempts=attempts).blocks(None, alpha=0.0, num_masked=147, grid=GRID, noise=noise_of(500))
        for attempts in (60, 150)
    )
    done = [mask.sum(dim=(1, 2)).float().mean() / 147 for mask in (few, many)]
    assert done[1] - done[0] < 0.01


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


def test_i_jepa_predicts_four_blocks_from_a_context() -> None:
    sampler = MultiBlock()
    target, context = sampler.blocks(None, alpha=0.0, grid=GRID, noise=noise_of(300))
    assert int(target.sum(dim=(1, 2)).min()) >= 29  # one block of 15 % is 29.4 patches
    assert int(target.sum(dim=(1, 2)).max()) <= 4 * 0.21 * 196
    assert int(context.sum(dim=(1, 2)).min()) >= 0.8 * 196
    mask_NL = masks(sampler, None, alpha=0.0, num_masked=147, grid=GRID, count=300).view(-1, 14, 14)
    again, around = sampler.blocks(None, alpha=0.0, grid=GRID, noise=noise_of(300))
    for n in range(300):
        assert mask_NL[n][again[n]].all() or not mask_NL[n][~again[n]].any()
        if int((again[n] | ~around[n]).sum()) <= 147:
            assert mask_NL[n][~around[n]].all()


# ColorMAE and SemMAE.


def spectrum(color: str) -> Tensor:
    """Mean power of each frequency's distance from 0, in cycles over 16 patches."""
    field = FilteredNoise(color=color).field((16, 16), noise_of(2000))
    power = torch.fft.fft2(field).abs().square().mean(dim=0)
    frequency = torch.fft.fftfreq(16) * 16
    distance = torch.hypot(frequency.view(-1, 1), frequency.view(1, -1)).round().long()
    return torch.stack([power[distance == ring].mean() for ring in range(9)])


def test_colors_are_bands_of_frequencies() -> None:
    red, green, blue, purple = (spectrum(color) for color in ("red", "green", "blue", "purple"))
    assert bool((red.diff() < 0).all())
    assert bool((blue.diff() > 0).all())
    assert 0 < int(green.argmax()) < 8
    assert 0 < int(purple.argmin()) < 8


def test_the_blur_is_a_gaussian_over_joined_borders() -> None:
    point = torch.zeros(1, 9, 9)
    point[0, 0, 0] = 1.0
    blurred = blur(point, 1.0)[0]
    assert float(blurred.sum()) == pytest.approx(1.0)
    assert float(blurred[0, 1] / blurred[0, 0]) == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert float(blurred[8, 0]) == pytest.approx(float(blurred[1, 0]))


@pytest.mark.parametrize("color", ["red", "green", "blue", "purple"])
def test_no_position_is_preferred(color: str) -> None:
    mask_NL = masks(FilteredNoise(color=color), None, alpha=0.0, num_masked=24, grid=(6, 6), count=4000)
    together = mask_NL.double().sum(dim=0)
    # Masks are not independent over positions; each position by itself is binomial.
    z = (together - 4000 * 24 / 36) / math.sqrt(4000 * 24 / 36 * 12 / 36)
    assert float(z.abs().max()) < 4


def test_a_bank_gives_every_map_shifted_and_mirrored_as_often() -> None:
    """3 maps, 4 x 5 shifts, mirrored or not in either direction: each image's field is one of 240, read one by one."""
    sampler = FilteredNoise(bank=3)
    grid = (4, 5)
    noise = noise_of(24_000)
    maps = sampler.maps(grid, noise)
    read = {}
    for number, whole in enumerate(maps):
        for down in range(4):
            for right in range(5):
                for flips in ((), (0,), (1,), (0, 1)):
                    field = whole.roll((down, right), (0, 1)).flip(flips)
                    read[tuple(field.flatten().tolist())] = (number, down, right, flips)
    assert len(read) == 240
    found = [read[tuple(field.flatten().tolist())] for field in sampler.crops(grid, noise)]
    counts = [found.count(one) for one in read.values()]
    assert sum(counts) == 24_000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_bank_is_made_once_and_of_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    field = FilteredNoise.field

    def counted(self: FilteredNoise, grid: tuple[int, int], noise: Noise) -> Tensor:
        made.append(len(noise.rows_N))
        return field(self, grid, noise)

    monkeypatch.setattr(FilteredNoise, "field", counted)
    sampler, arguments = FilteredNoise(bank=5), {"alpha": 0.0, "num_masked": 12, "grid": (4, 4)}
    first = sampler(None, noise=Noise.for_batch(seed=1, step=0, batch_size=9), **arguments)  # type: ignore[arg-type]
    for step in range(1, 4):
        sampler(None, noise=Noise.for_batch(seed=1, step=step, batch_size=3, first=3), **arguments)  # type: ignore[arg-type]
    assert made == [5]
    maps = sampler.maps((4, 4), Noise.for_batch(seed=1, step=70, batch_size=2))
    assert made == [5]
    # A run that goes on makes the same bank, another seed another.
    resumed = FilteredNoise(bank=5)
    assert torch.equal(resumed.maps((4, 4), Noise.for_batch(seed=1, step=9, batch_size=4, first=8)), maps)
    assert not torch.equal(resumed.maps((4, 4), Noise.for_batch(seed=2, step=9, batch_size=4)), maps)
    again = resumed(None, noise=Noise.for_batch(seed=1, step=0, batch_size=9), **arguments)  # type: ignore[arg-type]
    assert torch.equal(again.masked, first.masked)


def test_masks_of_a_large_bank_are_as_those_of_noise_made_anew() -> None:
    """By how many neighbors are masked together, which tells colors apart."""

    def pairs(sampler: FilteredNoise) -> list[int]:
        mask_NRK = masks(sampler, None, alpha=0.0, num_masked=98, grid=GRID, count=1500).view(-1, 14, 14)
        return (mask_NRK[:, :, 1:] & mask_NRK[:, :, :-1]).sum(dim=(1, 2)).tolist()

    anew = pairs(FilteredNoise(color="green"))
    assert stats.ks_2samp(pairs(FilteredNoise(color="green", bank=20_000)), anew).pvalue > 1e-3
    assert stats.ks_2samp(pairs(FilteredNoise(color="red", bank=20_000)), anew).pvalue < 1e-6
    # And a bank of one map has the same count in every image, but for what the borders cut.
    few = pairs(FilteredNoise(color="green", bank=1))
    assert max(few) - min(few) < max(anew) - min(anew)


@pytest.mark.parametrize("bank", [1, 64])
def test_no_position_is_preferred_by_a_bank(bank: int) -> None:
    mask_NL = masks(FilteredNoise(bank=bank), None, alpha=0.0, num_masked=24, grid=(6, 6), count=4000)
    z = (mask_NL.double().sum(dim=0) - 4000 * 24 / 36) / math.sqrt(4000 * 24 / 36 * 12 / 36)
    assert float(z.abs().max()) < 4


def test_quotas_take_the_same_share_of_every_part() -> None:
    parts = torch.tensor([0.0] * 8 + [1.0] * 16 + [2.0] * 40).expand(300, 64)
    mask_NL = masks(Quotas(parts=3), parts, alpha=0.0, num_masked=48, grid=(8, 8), count=300)
    counts = torch.stack([mask_NL[:, :8].sum(1), mask_NL[:, 8:24].sum(1), mask_NL[:, 24:].sum(1)])
    assert bool(((counts - torch.tensor([[6], [12], [30]])).abs() <= 1).all())


def test_quotas_end_with_whole_parts() -> None:
    parts = torch.arange(64).div(16, rounding_mode="floor").float().expand(300, 64)
    mask_NL = masks(Quotas(parts=4), parts, alpha=1.0, num_masked=32, grid=(8, 8), count=300)
    counts = mask_NL.view(300, 4, 16).sum(dim=2)
    assert set(counts.unique().tolist()) == {0, 16}
    assert stats.chisquare((counts == 16).double().sum(dim=0).numpy()).pvalue > 1e-3


def test_within_a_part_every_patch_is_masked_as_often() -> None:
    parts = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]).expand(6000, 12)
    mask_NL = masks(Quotas(parts=2), parts, alpha=0.5, num_masked=6, grid=(3, 4), count=6000).double().sum(dim=0)
    for part in (0.0, 1.0):
        assert stats.chisquare(mask_NL[parts[0] == part].numpy()).pvalue > 1e-3


# Thrown patches.


def test_thrown_patches_are_neither_seen_nor_reconstructed() -> None:
    keys = noise_of(40).bits(36)
    mask = Mask.from_keys(keys, 18, 9)
    assert mask.thrown is not None
    assert (mask.num_visible, mask.num_masked, mask.thrown.shape[1], mask.num_patches) == (9, 18, 9, 36)
    every = torch.cat([mask.visible, mask.masked, mask.thrown], dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(36).expand(40, 36))
    for index in (mask.visible, mask.masked, mask.thrown):
        assert bool((index.diff(dim=1) > 0).all())
    assert torch.equal(mask.masked, Mask.from_keys(keys, 18).masked)
    assert float(keys.gather(1, mask.thrown).amin(dim=1).sub(keys.gather(1, mask.visible).amax(dim=1)).min()) > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: Weighted(weights="inverse"),
        lambda: Weighted(temperature=0),
        lambda: Hint(hint=0.2, among=0.1),
        lambda: Cells(size=0),
        lambda: Blockwise(min_patches=0),
        lambda: Blockwise(min_aspect=2),
        lambda: Blockwise(attempts=0),
        lambda: MultiBlock(targets=0),
        lambda: MultiBlock(scale=(0.3, 0.2)),
        lambda: FilteredNoise(color="pink"),
        lambda: FilteredNoise(sigma=(2.0, 1.0)),
        lambda: FilteredNoise(bank=-1),
        lambda: Quotas(parts=0),
    ],
)
def test_bad_values_are_named(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\w+\.\w+ = "):
        build()


def test_a_cell_may_be_drawn_by_any_sampler() -> None:
    assert Cells(sampler=Random()).needs_scores(1.0, 100) is False
    assert Cells(sampler=HardestFirst()).needs_scores(1.0, 100) is True


# What a reading found.


def test_unscored_patches_stay_in_the_pool() -> None:
    scores_NL = noise_of(4000).fold(Stream.CUSTOM).uniform(16).masked_fill(torch.arange(16) < 8, NAN)
    mask_NL = masks(Pool(), scores_NL, alpha=1.0, num_masked=12, grid=(4, 4), count=4000)
    assert bool(mask_NL[:, :8].all(dim=0).logical_not().any()) or bool(mask_NL[:, :8].all())
    # The pool is what is left of the 16 without the 4 easiest scored ones: all of it is masked.
    assert torch.equal(mask_NL, ~hardest(-scores_NL, 4, noise_of(4000)))


@pytest.mark.parametrize("sampler", [Blockwise(min_patches=4, attempts=20), MultiBlock()])
def test_blocks_of_an_unscored_image_prefer_no_corner(sampler: Sampler) -> None:
    unscored, random_ = (
        masks(sampler, scores, alpha=alpha, num_masked=98, grid=GRID, count=600).view(-1, 14, 14).float().mean(dim=0)
        for scores, alpha in ((torch.full((600, 196), NAN), 1.0), (None, 0.0))
    )
    corners = [unscored[:4, :4], unscored[:4, 10:], unscored[10:, :4], unscored[10:, 10:]]
    means = [float(corner.mean()) for corner in corners]
    assert max(means) - min(means) < 0.15
    assert float(random_.mean()) == pytest.approx(0.5)


def test_the_visible_may_be_drawn() -> None:
    """AdaMAE: patches are shown one after the other, by weights; polarity has turned the scores round."""
    scores = [0.1, 0.5, 2.0, 0.9, 1.4]
    generator, read = random.Random(4), []
    for _ in range(20_000):
        left = list(range(5))
        for _ in range(2):
            left.remove(generator.choices(left, [math.exp(scores[patch]) for patch in left])[0])
        read.append(tuple(left))
    negated = [-score for score in scores]
    mask_NL = masks(Weighted(draw="visible"), negated, alpha=1.0, num_masked=3, grid=(1, 5))
    assert same_distribution(mask_NL, read) > 1e-3
    with pytest.raises(ValueError, match=r"Weighted\.draw = 'seen' is unknown"):
        Weighted(draw="seen")
