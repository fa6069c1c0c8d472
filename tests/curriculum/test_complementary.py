"""Complementary masks: what the rows of one image see together, and that each alone is a random mask."""

from __future__ import annotations

import pytest
import torch
from draws import Conformance, noise_of
from scipy import stats
from torch import Tensor

from curriculum import Cells, Complementary, HardestFirst, Noise, Random, Sampler

GRID = (4, 4)


class TestComplementary(Conformance):
    def build(self) -> Sampler:
        return Complementary()


class TestComplementaryOfThree(Conformance):
    def build(self) -> Sampler:
        return Complementary(masks=3)


def seen(masks: int, num_masked: int, *, noise: Noise | None = None, sampler: Sampler | None = None) -> Tensor:
    """Whether each patch is visible in each mask of each image, bool [images, masks, patches]."""
    sampler = Complementary(masks=masks) if sampler is None else sampler
    noise = noise_of(1200 * masks) if noise is None else noise
    mask = sampler(None, alpha=0.0, num_masked=num_masked, grid=GRID, noise=noise)
    return ~mask.to_bool().view(-1, masks, GRID[0] * GRID[1])


@pytest.mark.parametrize(("masks", "num_masked"), [(2, 8), (4, 12), (8, 14), (16, 15)])
def test_every_patch_is_seen_exactly_once(masks: int, num_masked: int) -> None:
    assert bool((seen(masks, num_masked).sum(dim=1) == 1).all())


@pytest.mark.parametrize(("masks", "num_masked"), [(2, 9), (2, 15), (3, 12), (5, 13)])
def test_masks_that_see_less_than_the_image_see_different_patches(masks: int, num_masked: int) -> None:
    times = seen(masks, num_masked).sum(dim=1)
    assert int(times.max()) == 1
    assert (times.sum(dim=1) == masks * (16 - num_masked)).all()


@pytest.mark.parametrize(("masks", "num_masked"), [(2, 4), (3, 8), (4, 3), (7, 13)])
def test_masks_that_see_more_than_the_image_see_its_patches_about_as_often(masks: int, num_masked: int) -> None:
    """The order is gone through again from its beginning."""
    times = seen(masks, num_masked).sum(dim=1)
    each, more = divmod(masks * (16 - num_masked), 16)
    assert ((times == each) | (times == each + 1)).all()
    assert ((times == each + 1).sum(dim=1) == more).all()


@pytest.mark.parametrize("masks", [2, 4])
def test_each_mask_alone_is_uniform(masks: int) -> None:
    """Sets of two visible patches of four, which are six, are equally frequent in every row."""
    visible = ~Complementary(masks=masks)(None, alpha=0.0, num_masked=2, grid=(2, 2), noise=noise_of(6000)).to_bool()
    codes = (visible * torch.tensor([1, 2, 4, 8])).sum(dim=1).view(-1, masks)
    for row in range(masks):
        counts = codes[:, row].bincount()
        assert len(counts[counts > 0]) == 6
        assert stats.chisquare(counts[counts > 0].tolist()).pvalue > 1e-3


def test_images_have_orders_of_their_own() -> None:
    """Whether two patches are seen together says nothing of the next image."""
    first_KL = seen(2, 8)[:, 0]
    together = (first_KL[:, 0] == first_KL[:, 1]).long()
    table = torch.zeros(2, 2).index_put((together[:-1], together[1:]), torch.ones(1), accumulate=True)
    assert stats.chi2_contingency(table.tolist()).pvalue > 1e-3


@pytest.mark.parametrize("masks", [2, 3, 4])
def test_masks_do_not_depend_on_how_a_batch_is_divided(masks: int) -> None:
    """Rows are addressed by their places in the whole batch, also where a part begins within an image's."""
    whole = seen(masks, 8, noise=noise_of(5 * masks)).flatten(0, 1)
    for size in (1, masks, 2 * masks + 1):
        parts = [
            Complementary(masks=masks)(
                None, alpha=0.0, num_masked=8, grid=GRID, noise=Noise(12, 34, torch.arange(5 * masks)[first:][:size])
            )
            for first in range(0, 5 * masks, size)
        ]
        assert torch.equal(~torch.cat([part.to_bool() for part in parts]), whole)


def test_a_single_mask_is_maes() -> None:
    drawn = [
        sampler(None, alpha=0.3, num_masked=12, grid=GRID, noise=noise_of(50)).to_bool()
        for sampler in (Complementary(masks=1), Random())
    ]
    assert torch.equal(*drawn)


def test_cells_can_be_complementary() -> None:
    cells = Cells(size=2, sampler=Complementary())
    visible = seen(2, 8, sampler=cells)
    assert bool((visible.sum(dim=1) == 1).all())
    of_cells = visible.view(-1, 2, 2, 2, 2, 2).transpose(3, 4).flatten(4)
    assert torch.equal(of_cells.all(dim=-1), of_cells.any(dim=-1))


@pytest.mark.parametrize("sampler", [Complementary(masks=4), Cells(sampler=Complementary(masks=4))])
def test_another_number_of_masks_than_the_runs_is_refused(sampler: Sampler) -> None:
    sampler.check_masks_per_image(4)
    for given in (1, 2, 8):
        with pytest.raises(ValueError, match=rf"Complementary\.masks = 4 .* Schedule\.masks_per_image = {given} "):
            sampler.check_masks_per_image(given)
    Cells(sampler=HardestFirst()).check_masks_per_image(3)


def test_a_number_of_masks_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Complementary\.masks = 0 must lie in \[1, 1000\]"):
        Complementary(masks=0)
