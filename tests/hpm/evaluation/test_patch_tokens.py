"""Tokens of patches and the pixels that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from annotated import mosaics
from hypothesis import given, settings
from hypothesis import strategies as st

from hpm.data import IGNORED
from hpm.evaluation import EvaluationContext
from hpm.evaluation.dense.patch_tokens import cells_of, class_shares, maps_from, patch_pixels, patch_tokens, token_grid
from hpm.models.patches import patchify

CPU = torch.device("cpu")
sides = st.integers(1, 5)
some = settings(max_examples=40, deadline=None, derandomize=True)


@some
@given(sides, sides, sides, sides, st.integers(1, 3))
def test_maps_are_put_together_as_they_were_cut(rows: int, columns: int, height: int, width: int, count: int) -> None:
    maps_NSS = torch.arange(count * rows * height * columns * width).view(count, rows * height, columns * width)
    cells_NTQ = cells_of(maps_NSS, (rows, columns))
    assert cells_NTQ.shape == (count, rows * columns, height * width)
    assert torch.equal(maps_from(cells_NTQ, (rows, columns), (rows * height, columns * width)), maps_NSS)


def test_a_cell_holds_the_pixels_of_its_patch() -> None:
    maps_NSS = torch.arange(2 * 6 * 8).view(2, 6, 8)
    patches_NTQ = patchify(maps_NSS.unsqueeze(1).float(), (3, 2))  # as the model cuts images
    assert torch.equal(cells_of(maps_NSS, (2, 4)).float(), patches_NTQ)
    assert cells_of(maps_NSS, (2, 4))[0, 5].tolist() == [26, 27, 34, 35, 42, 43]  # second row of cells, second of it


@some
@given(st.lists(st.lists(st.integers(IGNORED, 4), min_size=6, max_size=6), min_size=1, max_size=8))
def test_shares_are_counts_over_all_pixels(cells: list[list[int]]) -> None:
    shares_KC = class_shares(torch.tensor(cells, dtype=torch.int16), 5)
    counted = [[np.mean(np.array(cell) == label) for label in range(5)] for cell in cells]
    np.testing.assert_allclose(shares_KC.numpy(), counted, atol=1e-6)


def test_shares_of_more_cells_than_are_counted_at_a_time() -> None:
    cells_KQ = torch.randint(IGNORED, 3, (40_000, 2), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    expected = torch.stack([(cells_KQ == label).float().mean(dim=1) for label in range(3)], dim=1)
    assert torch.equal(class_shares(cells_KQ, 3), expected)


@pytest.mark.parametrize(
    ("tokens", "grid", "expected"),
    [
        (196, (14, 14), (14, 14)),
        (12, (2, 6), (2, 6)),
        (32, (4, 8), (4, 8)),  # of a square image: patches need not be square
        (49, (14, 14), (7, 7)),  # each for four patches
        (3, (2, 6), (1, 3)),
        (8, (8, 4), (4, 2)),
    ],
)
def test_the_grid_of_tokens(tokens: int, grid: tuple[int, int], expected: tuple[int, int]) -> None:
    assert token_grid(tokens, grid) == expected


def test_tokens_of_images_are_the_encoders_without_the_class_token(context: EvaluationContext) -> None:
    source = mosaics()
    indices_N = torch.tensor([11, 0, 5])
    tokens_NTD = patch_tokens(context.model.encoder, source, source.test(), indices_N, device=CPU)
    torch.testing.assert_close(tokens_NTD, context.model.features(source.load(source.test(), indices_N)).detach())
    none_NTD = patch_tokens(context.model.encoder, source, source.test(), indices_N[:0], device=CPU)
    assert none_NTD.shape == (0, *tokens_NTD.shape[1:])  # of a process that has no share


def test_pixels_of_cells_are_the_images_patches(context: EvaluationContext) -> None:
    source = mosaics(size=(8, 24), cell=4)
    indices_N = torch.tensor([3, 9])
    pixels_NTD = patch_pixels(source, source.validation(), indices_N, (2, 6))
    assert torch.equal(pixels_NTD, patchify(source.load(source.validation(), indices_N), 4))
