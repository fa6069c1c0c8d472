"""Visible patches whose content is hidden: UM-MAE's secondary masking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from curricula import noise_for
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    Random,
    Sampler,
    Stratified,
    Stream,
    Uniform,
)
from curriculum.keys import random_keys
from curriculum.testing import tiny_batch


def blanking(blank_ratio: float, sampler: Sampler | None = None, **arguments: Any) -> Curriculum:
    return Curriculum(
        scheduler=Constant(value=0.0),
        difficulty=Uniform(),
        sampler=sampler or Random(),
        blank_ratio=blank_ratio,
        **arguments,
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    mask_ratio=st.floats(0.05, 0.95),
    blank_ratio=st.floats(0, 0.99),
    rounding=st.sampled_from(["visible", "masked"]),
    throw=st.booleans(),
    split=st.integers(1, 4),
)
def test_as_many_visible_patches_are_blanked_in_every_image(
    rows: int, columns: int, mask_ratio: float, blank_ratio: float, rounding: str, throw: bool, split: int
) -> None:
    arguments: dict[str, Any] = {
        "mask_ratio": mask_ratio,
        "rounding": rounding,
        "throw_ratio": (1 - mask_ratio) / 2 if throw else 0.0,
    }
    curriculum, plain = blanking(blank_ratio, **arguments), blanking(0.0, **arguments)
    try:
        curriculum.check(None, rows * columns)
    except ValueError:
        return
    batch = tiny_batch(num_images=5, grid=(rows, columns))
    mask = curriculum.draw(batch, None, 0.5, noise_for(batch, step=3))
    without = plain.draw(batch, None, 0.5, noise_for(batch, step=3))
    assert torch.equal(mask.visible, without.visible)
    assert torch.equal(mask.masked, without.masked)
    assert without.blanked is None
    if blank_ratio == 0:
        assert mask.blanked is None
        return
    assert mask.blanked is not None
    assert mask.blanked.dtype == torch.bool
    total = mask.num_visible
    expected = int(total * blank_ratio) if rounding == "masked" else total - int(total * (1 - blank_ratio))
    assert 0 < expected < mask.num_visible
    assert mask.blanked.sum(dim=1).tolist() == [expected] * 5
    part = Batch(batch.images[split:], batch.patch_size)
    parted = curriculum.draw(part, None, 0.5, noise_for(part, step=3, first=split))
    assert torch.equal(parted.blanked, mask.blanked[split:])


@pytest.mark.parametrize(("visible", "blanked"), [(49, 13), (64, 16), (12, 3)])
def test_um_mae_keeps_the_content_of_three_quarters_rounded_down(visible: int, blanked: int) -> None:
    """Its `int(visible * (1 - 0.25))` patches keep their content: 36 of the 49 of an image of 224 pixels."""
    curriculum = blanking(0.25, Stratified())
    assert curriculum.count_blanked(visible) == blanked
    batch = Batch(torch.zeros(3, 1, 2, visible * 2), 1)
    mask = curriculum.draw(batch, None, 0.5, noise_for(batch))
    assert mask.num_visible == visible
    assert mask.blanked is not None
    assert mask.blanked.sum(dim=1).tolist() == [blanked] * 3


def test_any_visible_patch_is_blanked_whichever_are_visible() -> None:
    """UM-MAE on a grid of 4 x 4: 256 ways to choose one patch of each cell, and 4 ways to blank one of these."""
    batch = Batch(torch.zeros(40_960, 1, 4, 4), 1)
    mask = blanking(0.25, Stratified()).draw(batch, None, 0.5, noise_for(batch))
    assert mask.blanked is not None
    visible_N = (1 << mask.visible).sum(dim=1)
    counts = (visible_N * 4 + mask.blanked.long().argmax(dim=1)).unique(return_counts=True)[1]
    assert len(counts) == 1024
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_what_is_blanked_does_not_follow_the_samplers_noise() -> None:
    """Neither the sampler's keys nor any stream but its own may decide what is blanked."""
    batch = Batch(torch.zeros(4000, 1, 4, 4), 1)
    noise = noise_for(batch)
    mask = blanking(0.25, Stratified()).draw(batch, None, 0.5, noise)
    assert mask.blanked is not None
    for other in (noise, *(noise.fold(stream) for stream in Stream if stream is not Stream.BLANKS)):
        most_N = random_keys(other.bits(4)).argmax(dim=1)
        assert float((mask.blanked.long().argmax(dim=1) == most_N).float().mean()) == pytest.approx(0.25, abs=0.04)


def test_other_steps_blank_other_patches() -> None:
    batch, curriculum = tiny_batch(num_images=50), blanking(0.25, mask_ratio=0.5)
    one, other = (curriculum.draw(batch, None, 0.5, noise_for(batch, step=step)).blanked for step in (1, 2))
    assert one is not None
    assert not torch.equal(one, other)
    assert bool((one != one[:1]).any())


@pytest.mark.parametrize(
    ("blank_ratio", "rounding", "message"),
    [
        (-0.1, "visible", r"Curriculum\.blank_ratio = -0\.1 must lie in \[0, 1\)"),
        (1.0, "visible", r"Curriculum\.blank_ratio = 1\.0 must lie in \[0, 1\)"),
        (
            0.2,
            "masked",
            r"blank_ratio = 0\.2 hides none of the 4 patches that are visible at .*mask_ratio = 0\.75; raise",
        ),
        (
            0.8,
            "visible",
            r"blank_ratio = 0\.8 hides all of the 4 patches that are visible at .*mask_ratio = 0\.75; lower",
        ),
    ],
)
def test_a_ratio_that_blanks_all_or_none_is_refused(blank_ratio: float, rounding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blanking(blank_ratio, rounding=rounding).check(None, 16)
