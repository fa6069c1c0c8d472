"""The share of attainable hardness: read again in plain loops, golden numbers, and what must hold for any input."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curriculum import Batch
from curriculum.hardness import (
    BLANK_VARIANCE,
    attainable_extra_loss,
    extra_loss,
    hardness_share,
    not_blank,
    position_scores,
)
from curriculum.testing import refuse_host_sync, tiny_batch

NAN = math.nan
SIZES = {"num_images": st.integers(1, 6), "num_patches": st.integers(2, 30), "seed": st.integers(0, 1000)}


def uniform(num_images: int, num_patches: int, *, seed: int) -> Tensor:
    return torch.rand(num_images, num_patches, generator=torch.Generator().manual_seed(seed))


def messy_scores(num_images: int, num_patches: int, *, levels: int, seed: int) -> Tensor:
    """With ties, infinite ones, and some that are missing."""
    values, place = uniform(2 * num_images, num_patches, seed=seed).chunk(2)
    scores = (values * levels).floor()
    scores = scores.masked_fill(place < 0.3, NAN).masked_fill(place > 0.95, math.inf)
    return scores.masked_fill((place > 0.9) & (place <= 0.95), -math.inf)


# In plain loops, one image at a time.


def read_extra(scores: list[float], losses: list[float], k: int, among: list[bool]) -> float:
    """Patches in groups of equal scores, the hardest group first; of the last one as many as there is room for."""
    patches = [patch for patch in range(len(scores)) if among[patch]]
    chosen = max(1, round(k * len(patches) / len(scores)))
    if chosen >= len(patches):
        return NAN
    groups: dict[tuple[bool, float], list[float]] = {}
    for patch in patches:
        scored = not math.isnan(scores[patch])
        groups.setdefault((scored, scores[patch] if scored else 0.0), []).append(losses[patch])
    total, room = 0.0, chosen
    for key in sorted(groups, reverse=True):
        taken = min(room, len(groups[key]))
        total += taken * statistics.fmean(groups[key])
        room -= taken
    return total / chosen - statistics.fmean(losses[patch] for patch in patches)


def read_share(scores: Tensor, one: Tensor, other: Tensor, k: int, among: Tensor) -> float:
    """A ratio of two means over the images that have something to choose."""
    found, attainable = [], []
    for score, a, b, chosen in zip(scores.tolist(), one.tolist(), other.tolist(), among.tolist(), strict=True):
        own = [read_extra(score, a, k, chosen), read_extra(score, b, k, chosen)]
        best = [read_extra(a, b, k, chosen), read_extra(b, a, k, chosen)]
        if not math.isnan(own[0]):
            found.append(statistics.fmean(own))
            attainable.append(statistics.fmean(best))
    return statistics.fmean(found) / statistics.fmean(attainable) if found else NAN


@settings(deadline=None, derandomize=True, max_examples=150)
@given(levels=st.integers(1, 40), blank=st.sampled_from([0.0, 0.5, 0.9]), data=st.data(), **SIZES)
def test_the_same_in_loops(
    num_images: int, num_patches: int, seed: int, levels: int, blank: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, num_patches))
    scores = messy_scores(num_images, num_patches, levels=levels, seed=seed)
    one, other, chance = (uniform(num_images, num_patches, seed=seed + number) for number in (1, 2, 3))
    among = chance >= blank
    expected = [
        read_extra(*row, k, chosen) for *row, chosen in zip(scores.tolist(), one.tolist(), among.tolist(), strict=True)
    ]
    assert extra_loss(scores, one, k, among).tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    if blank == 0:
        assert extra_loss(scores, one, k).tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    share = read_share(scores, one, other, k, among)
    assert hardness_share(scores, one, other, k, among).item() == pytest.approx(share, rel=1e-9, nan_ok=True)


# Golden numbers: losses 1, 2, 3, 6, whose mean is 3; the two highest have 4.5.


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0, 1, 2, 3], 1.5),
        ([3, 2, 1, 0], -1.5),
        ([5, 5, 5, 5], 0.0),
        ([NAN, NAN, NAN, NAN], 0.0),
        ([0, 1, 1, 1], 11 / 3 - 3),  # two of three at random
        ([0, 0, 0, 9], (6 + 2) / 2 - 3),  # the first, and one of the three others
        ([NAN, NAN, NAN, -9], (6 + 2) / 2 - 3),  # a score below all others is above none at all
        ([NAN, -math.inf, NAN, -math.inf], 4 - 3),
        ([math.inf, 0, 0, math.inf], 3.5 - 3),
    ],
)
def test_extra_loss(scores: list[float], expected: float) -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    found = extra_loss(torch.tensor([scores], dtype=torch.float32), losses, 2).item()
    assert found == pytest.approx(expected)
    assert (found == 0) == (expected == 0)


def test_a_ratio_of_means_counts_images_by_what_is_attainable() -> None:
    losses = torch.tensor([[0.0, 1.0], [0.0, 9.0]])
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # wrong by 0.5, right by 4.5
    assert hardness_share(scores, losses, losses, 1).item() == pytest.approx((-0.5 + 4.5) / (0.5 + 4.5))


def test_images_without_a_choice_are_left_out() -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0, 6.0]]).expand(4, -1)
    among = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 1]]).bool()
    assert extra_loss(losses, losses, 2, among).tolist() == pytest.approx([NAN, NAN, 2.5, 4.5 - 11 / 3], nan_ok=True)
    assert hardness_share(losses, losses, losses, 2, among).item() == 1
    assert math.isnan(hardness_share(losses[:2], losses[:2], losses[:2], 2, among[:2]).item())


@pytest.mark.parametrize("k", [0, -1, 5])
def test_as_many_as_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} must lie between 1 and the 4 patches"):
        extra_loss(torch.zeros(2, 4), torch.zeros(2, 4), k)


# What must hold for any input.


@settings(deadline=None, derandomize=True, max_examples=80)
@given(data=st.data(), **SIZES)
def test_the_truth_constants_and_the_truth_reversed(
    num_images: int, num_patches: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, num_patches - 1))
    one, other = (uniform(num_images, num_patches, seed=seed + number) for number in range(2))
    assert hardness_share(one, one, one, k).item() == 1
    assert hardness_share(-one, one, one, k).item() < 0
    for constant in (0.0, 7.3, NAN):
        scores = torch.full_like(one, constant)
        assert extra_loss(scores, one, k).tolist() == [0.0] * num_images
        assert hardness_share(scores, one, other, k).item() == 0


@settings(deadline=None, derandomize=True, max_examples=80)
@given(levels=st.integers(1, 40), data=st.data(), **SIZES)
def test_scores_count_by_their_order_alone(
    num_images: int, num_patches: int, seed: int, levels: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, num_patches))
    scores = messy_scores(num_images, num_patches, levels=levels, seed=seed)
    losses = uniform(num_images, num_patches, seed=seed + 1)
    among = uniform(num_images, num_patches, seed=seed + 2) > 0.2
    value = extra_loss(scores, losses, k, among)
    torch.testing.assert_close(extra_loss(3 * scores - 8, losses, k, among), value, equal_nan=True)
    torch.testing.assert_close(extra_loss(scores.atan(), losses, k, among), value, equal_nan=True)
    torch.testing.assert_close(extra_loss(scores, 2 * losses + 1, k, among), 2 * value, equal_nan=True)
    order = torch.randperm(num_patches, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        extra_loss(scores[:, order], losses[:, order], k, among[:, order]), value, equal_nan=True
    )
    # What is left out may be anything.
    other = torch.where(among, scores, 99.0), torch.where(among, losses, NAN)
    torch.testing.assert_close(extra_loss(*other, k, among), value, equal_nan=True)


def test_noise_alone_is_not_attainable() -> None:
    """Where all patches are equally hard, the largest of a measurement are no harder in another one."""
    one, other = (uniform(4000, 16, seed=seed) for seed in (0, 1))
    assert extra_loss(one, one, 4).mean().item() > 0.3  # what one measurement alone would claim
    assert attainable_extra_loss(one, other, 4).mean().item() == pytest.approx(0, abs=0.01)  # 0.0016 is its deviation


def test_nothing_waits_for_the_device() -> None:
    scores, losses = messy_scores(4, 9, levels=5, seed=0), uniform(4, 9, seed=1)
    with refuse_host_sync():
        hardness_share(scores, losses, losses.flip(1), 3, losses > 0.2)
        position_scores(losses)
        not_blank(tiny_batch())


# Controls and blank patches.


def test_position_scores_leave_out_the_image_itself() -> None:
    losses = uniform(5, 3, seed=0)
    scores = position_scores(losses)
    for image in range(5):
        for patch in range(3):
            others = [losses[other, patch].item() for other in range(5) if other != image]
            assert scores[image, patch].item() == pytest.approx(statistics.fmean(others))
    assert position_scores(losses[:1]).isnan().all()


@pytest.mark.parametrize("channels", [1, 3])
def test_blank_patches(channels: int) -> None:
    """Against the variance of each patch by itself, on images of patches of every contrast."""
    batch = tiny_batch(num_images=6, channels=channels, grid=(3, 5))
    contrast = torch.logspace(-4, 0, 6).view(-1, 1, 1, 1)
    batch = Batch(batch.images * contrast, 4)
    found = not_blank(batch)
    assert 0 < found.sum() < found.numel()
    for image in range(6):
        for patch in range(15):
            top, left = 4 * (patch // 5), 4 * (patch % 5)
            pixels = batch.images[image, :, top : top + 4, left : left + 4].flatten(1).tolist()
            variance = statistics.fmean(statistics.pvariance(channel) for channel in pixels)
            assert bool(found[image, patch]) == (variance > BLANK_VARIANCE)


def test_a_patch_of_one_color_is_blank() -> None:
    colors = torch.tensor([2.0, -1.0, 0.3]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert not not_blank(Batch(colors.contiguous(), 4)).any()
