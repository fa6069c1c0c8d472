"""ColorMAE's colored noise, drawn anew or from a bank."""

from __future__ import annotations

import math

import pytest
import torch
from draws import GRID, Conformance, masks, noise_of
from scipy import stats
from torch import Tensor

from curriculum.noise import Noise
from curriculum.samplers import (
    FilteredNoise,
    Sampler,
)
from curriculum.samplers.filtered_noise import blur


class TestFilteredNoise(Conformance):
    def build(self) -> Sampler:
        return FilteredNoise(color="purple")


class TestFilteredNoiseOfABank(Conformance):
    def build(self) -> Sampler:
        return FilteredNoise(color="green", bank=7)


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
