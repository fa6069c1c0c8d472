"""The images of an epoch: exactly addressed, as often as their weights say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum import Noise, Stream
from curriculum.images import TURN, draw_epoch
from curriculum.noise import hash_words


def plain(images: int, seed: int, epoch: int) -> list[int]:
    """The images of an epoch in the order of their hashes, one by one."""
    seed = hash_words(seed, Stream.LOADER_ORDER)
    return sorted(range(images), key=lambda image: int(Noise(seed, epoch, torch.tensor([image])).bits(1)))


def read(weights: list[float], seed: int, epoch: int) -> list[int]:
    """Systematic sampling read from its definition, one point at a time, in exact enough numbers."""
    images = len(weights)
    order = plain(images, seed, epoch)
    offset = (hash_words(seed, Stream.IMAGE_DRAWS, epoch) % 2**32 + 0.5) / 2**32
    total, ends = math.fsum(weights), []
    for place in range(images):
        ends.append(math.fsum(weights[image] for image in order[: place + 1]) / total * images)
    addresses = []
    for point in range(images):
        place = next(place for place, end in enumerate(ends) if point + offset < end or place == images - 1)
        turn = sum(address % TURN == order[place] for address in addresses)
        addresses.append(order[place] + turn * TURN)
    key = hash_words(seed, Stream.LOADER_ORDER)
    return sorted(addresses, key=lambda address: int(Noise(key, epoch, torch.tensor([address])).bits(1)))


@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_is_drawn_as_systematic_sampling_is_defined(seed: int) -> None:
    weights = torch.rand(23, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    weights[seed] = 0.0
    assert draw_epoch(weights, 23, seed=seed, epoch=seed + 1).tolist() == read(weights.tolist(), seed, seed + 1)


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e9])
def test_equal_weights_show_every_image_once_in_the_order_without_weights(weight: float) -> None:
    without = draw_epoch(None, 50, seed=3, epoch=2)
    assert without.tolist() == plain(50, 3, 2)
    assert torch.equal(draw_epoch(torch.full((50,), weight, dtype=torch.float64), 50, seed=3, epoch=2), without)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=60).filter(lambda w: max(w) > 1e-3),
    epoch=st.integers(0, 1000),
)
def test_every_image_is_shown_as_often_as_its_weight_says_rounded_down_or_up(weights: list[float], epoch: int) -> None:
    images = len(weights)
    drawn = draw_epoch(torch.tensor(weights, dtype=torch.float64), images, seed=1, epoch=epoch)
    assert len(drawn) == images
    assert len(set(drawn.tolist())) == images  # no image has a turn twice
    times = torch.bincount(drawn % TURN, minlength=images).tolist()
    for image, weight in enumerate(weights):
        expected = weight / math.fsum(weights) * images
        assert math.floor(expected - 1e-6) <= times[image] <= math.ceil(expected + 1e-6)
        turns = sorted(address // TURN for address in drawn.tolist() if address % TURN == image)
        assert turns == list(range(times[image]))


def test_over_many_epochs_an_image_is_shown_in_proportion_to_its_weight() -> None:
    weights = torch.tensor([0.5, 1.0, 1.5, 0.25, 1.75], dtype=torch.float64)
    times = sum(
        torch.bincount(draw_epoch(weights, 5, seed=0, epoch=epoch) % TURN, minlength=5) for epoch in range(4000)
    )
    torch.testing.assert_close(times / 4000, weights, rtol=0, atol=0.04, check_dtype=False)


def test_another_epoch_draws_others() -> None:
    weights = torch.linspace(0, 2, 40, dtype=torch.float64)
    drawn = [set((draw_epoch(weights, 40, seed=0, epoch=epoch) % TURN).tolist()) for epoch in range(4)]
    assert len({frozenset(images) for images in drawn}) == 4
