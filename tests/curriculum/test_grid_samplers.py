"""SimMIM's and UM-MAE's cells."""

from __future__ import annotations

import torch
from draws import GRID, Conformance, masks, noise_of
from scipy import stats

from curriculum.mask import count_masked
from curriculum.samplers import (
    Cells,
    HardestFirst,
    Random,
    Sampler,
    Stratified,
)
from curriculum.streams import Stream


class TestCells(Conformance):
    def build(self) -> Sampler:
        return Cells(size=2)


class TestStratified(Conformance):
    def build(self) -> Sampler:
        return Stratified()


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


def test_a_cell_may_be_drawn_by_any_sampler() -> None:
    assert Cells(sampler=Random()).needs_scores(1.0, 100) is False
    assert Cells(sampler=HardestFirst()).needs_scores(1.0, 100) is True


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
