"""Which of the masked patches are reconstructed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from curricula import noise_for
from estimators import training_context
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from curriculum import (
    ADIOS,
    Batch,
    Blockwise,
    Bonus,
    Cells,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    FilteredNoise,
    HardestFirst,
    Hint,
    InverseBlock,
    LossMemory,
    Mask,
    MultiBlock,
    Noise,
    Parts,
    Pool,
    Quotas,
    Ramp,
    Random,
    Sampler,
    Smoothed,
    Stratified,
    Uniform,
    Weighted,
)
from curriculum.partial_reconstruction import PartialReconstruction
from curriculum.testing import tiny_batch

SAMPLERS = (
    Blockwise,
    Bonus,
    Cells,
    FilteredNoise,
    HardestFirst,
    Hint,
    InverseBlock,
    MultiBlock,
    Pool,
    Random,
    Stratified,
    Weighted,
)


def reconstructing(reconstruction: PartialReconstruction | None, **arguments: Any) -> Curriculum:
    defaults: dict[str, Any] = {"scheduler": Constant(value=1.0), "difficulty": EdgeDensity(), "sampler": Random()}
    return Curriculum(**(defaults | arguments), reconstruction=reconstruction)


def batch_of(images: int, rows: int = 6, columns: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(5)
    return Batch(torch.randn(images, 1, 4 * rows, 4 * columns, generator=generator), 4)


def among(index_NK: Tensor, num_patches: int) -> Tensor:
    return torch.zeros(len(index_NK), num_patches, dtype=torch.bool).scatter_(1, index_NK, True)


@pytest.mark.parametrize(
    ("num_patches", "mask_ratio", "rounding", "share", "counts"),
    [
        (196, 0.75, "visible", 1 / 3, (49, 49, 98)),  # CrossMAE: int(196 * (0.75 - 0.25)) are not reconstructed
        (256, 0.75, "visible", 1 / 3, (64, 64, 128)),  # the same, ViT-H/14
        (256, 0.65, "masked", 0.05, (90, 8, 158)),  # CAPI: int(0.05 * 166)
    ],
)
def test_as_many_are_reconstructed_as_published(
    num_patches: int, mask_ratio: float, rounding: str, share: float, counts: tuple[int, int, int]
) -> None:
    curriculum = reconstructing(PartialReconstruction(share=share), mask_ratio=mask_ratio, rounding=rounding)
    assert curriculum.counts(num_patches, curriculum.count_masked(num_patches)) == counts


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    kind=st.sampled_from(SAMPLERS),
    masking=st.sampled_from([Random, HardestFirst, InverseBlock]),
    share=st.floats(0.01, 0.99),
    mask_ratio=st.floats(0.1, 0.8),
    throw=st.booleans(),
    alpha=st.sampled_from([0.0, 0.4, 1.0]),
    split=st.integers(1, 3),
)
def test_the_reconstructed_are_some_of_the_masked_and_the_rest_is_thrown_away(
    kind: type[Sampler],
    masking: type[Sampler],
    share: float,
    mask_ratio: float,
    throw: bool,
    alpha: float,
    split: int,
) -> None:
    arguments: dict[str, Any] = {"mask_ratio": mask_ratio, "throw_ratio": 0.1 if throw else 0.0, "sampler": masking()}
    part = PartialReconstruction(share=share, sampler=kind(), alpha=alpha)
    curriculum, plain = reconstructing(part, **arguments), reconstructing(None, **arguments)
    assume(part.count(plain.count_masked(36)) >= 1)
    curriculum.check(None, 36, (6, 6))
    batch = batch_of(4)
    mask, whole = (one.draw(batch, None, 0.5, noise_for(batch)) for one in (curriculum, plain))
    assert torch.equal(mask.visible, whole.visible)
    assert (mask.num_visible, mask.num_masked, mask.num_thrown) == curriculum.counts(36, curriculum.count_masked(36))
    assert mask.num_masked == int(whole.num_masked * share)
    reconstructed_NL, masked_NL = mask.to_bool(), whole.to_bool()
    assert not (reconstructed_NL & ~masked_NL).any()
    assert mask.thrown is not None
    thrown_NL = masked_NL & ~reconstructed_NL
    if whole.thrown is not None:
        thrown_NL |= among(whole.thrown, 36)
    assert torch.equal(among(mask.thrown, 36), thrown_NL)
    for index_NK in (mask.masked, mask.thrown):
        assert (index_NK.diff(dim=1) > 0).all()
    # An image's choice does not depend on the others of its batch.
    part_of = Batch(batch.images[split:], 4)
    again = curriculum.draw(part_of, None, 0.5, noise_for(part_of, first=split))
    assert torch.equal(again.masked, mask.masked[split:])


def test_random_ones_are_uniform_among_the_masked_and_independent_of_the_mask() -> None:
    curriculum = reconstructing(PartialReconstruction(share=0.5), difficulty=Uniform(), mask_ratio=0.5)
    batch = Batch(torch.zeros(20_000, 1, 8, 8), 4)  # 4 patches: 2 are masked, 1 of them is reconstructed
    mask = curriculum.draw(batch, None, 0.0, noise_for(batch))
    assert mask.thrown is not None
    pairs = (4 * mask.masked + mask.thrown).flatten().bincount(minlength=16)
    ordered = [int(pairs[4 * one + other]) for one in range(4) for other in range(4) if one != other]
    assert sum(ordered) == 20_000
    assert stats.chisquare(ordered).pvalue > 1e-3


@pytest.mark.parametrize("polarity", ["hardest", "easiest"])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_the_hardest_of_the_masked_are_reconstructed(polarity: str, alpha: float) -> None:
    part = PartialReconstruction(share=0.5, sampler=HardestFirst(), alpha=alpha, polarity=polarity)
    curriculum = reconstructing(part, mask_ratio=0.5, polarity="easiest")  # which is the mask's own
    batch = batch_of(50)
    mask = curriculum.draw(batch, None, 0.0, noise_for(batch))
    scores_NL = curriculum.scores
    assert scores_NL is not None
    assert mask.thrown is not None
    for scores_L, masked_M, thrown_T in zip(scores_NL, mask.masked, mask.thrown, strict=True):
        among_H = torch.cat([masked_M, thrown_T])
        ordered = sorted(among_H.tolist(), key=lambda patch: float(scores_L[patch]), reverse=polarity == "hardest")
        first = ordered[: int(9 * alpha)]
        assert set(first) <= set(masked_M.tolist())
        if alpha == 1.0:
            assert set(first) == set(masked_M.tolist())


def test_patches_without_a_score_are_not_preferred() -> None:
    class Half(EdgeDensity):
        def __call__(self, batch: Batch, *arguments: Any, **named: Any) -> Tensor:
            scores_NL = super().__call__(batch, *arguments, **named)
            return scores_NL.index_fill(1, torch.arange(18), float("nan"))

    part = PartialReconstruction(share=0.3, sampler=HardestFirst())
    curriculum = reconstructing(part, difficulty=Half(), mask_ratio=0.75)
    batch = batch_of(30)
    mask = curriculum.draw(batch, None, 0.0, noise_for(batch))
    assert mask.num_masked == 8
    assert (mask.masked >= 18).all()  # of 18 scored patches at least 9 are masked


def test_the_difficulty_is_asked_where_either_follows_it() -> None:
    batch = batch_of(2)
    part = PartialReconstruction(sampler=HardestFirst(), alpha=Ramp(start=0.0, end=1.0))
    curriculum = reconstructing(part)
    assert curriculum.ever_needs_scores
    assert [curriculum.needs_scores_at(progress, 36) for progress in (0.0, 0.5)] == [False, True]
    for progress in (0.0, 0.5):
        curriculum.draw(batch, None, progress, noise_for(batch))
        assert (curriculum.scores is not None) == (progress > 0)
    assert not reconstructing(PartialReconstruction()).ever_needs_scores
    assert list(curriculum.schedulers()) == ["scheduler", "reconstruction.alpha"]


def test_steps_that_ask_no_difficulty_reconstruct_any() -> None:
    curriculum = reconstructing(PartialReconstruction(sampler=HardestFirst()), score_every=2)
    batch = batch_of(2)
    asked = []
    for step in range(4):
        curriculum.draw(batch, None, 0.0, noise_for(batch, step=step))
        asked.append(curriculum.scores is not None)
    assert asked == [True, False, True, False]


@pytest.mark.parametrize("masking", [Random, HardestFirst])
def test_random_masks_to_compare_with_equal_the_masks_of_a_random_curriculum(masking: type[Sampler]) -> None:
    curriculum = reconstructing(PartialReconstruction(), sampler=masking(), blank_ratio=0.5)
    batch = batch_of(3)
    mask, uniform = (
        one.draw(batch, None, 0.0, noise_for(batch)) for one in (curriculum, curriculum.with_random_masks())
    )
    assert (mask.num_visible, mask.num_masked) == (uniform.num_visible, uniform.num_masked)
    assert torch.equal(mask.masked, uniform.masked) == (masking is Random)
    assert mask.blanked is not None
    assert uniform.blanked is not None
    assert torch.equal(mask.blanked, uniform.blanked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, "PartialReconstruction.share = 0.0 must lie strictly between 0 and 1"),
        ({"share": 1.0}, "set Curriculum.reconstruction = None"),
        ({"alpha": 1.5}, "PartialReconstruction.alpha = 1.5 must stay in"),
        ({"alpha": Ramp(start=0.0, end=2.0)}, r"PartialReconstruction.alpha = 1\.0\d* must stay in"),
        ({"sampler": EdgeDensity()}, "PartialReconstruction.sampler"),
        ({"polarity": "hard"}, "PartialReconstruction.polarity"),
        ({"sampler": Quotas(), "polarity": "easiest"}, "PartialReconstruction.sampler = Quotas"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialReconstruction(**arguments)


def test_what_cannot_be_drawn_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"share = 0.05 has none of the 12 masked .* raise it, to 0.0834 or more"):
        reconstructing(PartialReconstruction(share=0.05)).check(None, 16)
    reconstructing(PartialReconstruction(share=0.0834)).check(None, 16)
    trained = reconstructing(PartialReconstruction(), difficulty=ADIOS(), sampler=HardestFirst())
    with pytest.raises(ValueError, match="ADIOS learns from all masked patches"):
        trained.check(None, 36)
    part = PartialReconstruction(sampler=HardestFirst())
    parts = reconstructing(part, difficulty=Parts(), sampler=Quotas())
    with pytest.raises(ValueError, match="HardestFirst masks what is hard"):
        parts.check(None, 36)
    with pytest.raises(ValueError, match="Quotas cannot draw without scores"):
        reconstructing(PartialReconstruction(sampler=Quotas()), difficulty=Parts(), sampler=Random(), score_every=2)


def test_a_memory_keeps_the_losses_of_what_was_reconstructed() -> None:
    curriculum = reconstructing(PartialReconstruction(share=0.5), difficulty=LossMemory(), mask_ratio=0.5)
    curriculum.prepare(training_context())
    batch = tiny_batch(num_images=3)
    noise = noise_for(batch)
    mask = curriculum.draw(batch, None, 0.0, noise)
    assert (mask.num_visible, mask.num_masked) == (8, 4)
    true_NM = torch.arange(12.0).view(3, 4)
    curriculum.remember(batch, mask, true_NM=true_NM, predicted_NM=None, noise=noise)
    scores_NL = curriculum.difficulty(batch, None, num_masked=8, noise=noise_for(batch, step=1))
    # Crops of every other image are mirrored, and so are their memories' masks.
    assert torch.equal(scores_NL.isnan(), ~mask.to_bool())


@pytest.mark.parametrize("difficulty", [LossMemory(), Smoothed(estimator=LossMemory())])
def test_a_memory_of_losses_needs_two_patches_reconstructed(difficulty: DifficultyEstimator) -> None:
    def memory(share: float) -> Curriculum:
        return reconstructing(PartialReconstruction(share=share), difficulty=difficulty, sampler=HardestFirst())

    memory(0.08).check(None, 36)  # two of 27
    with pytest.raises(ValueError, match=r"PartialReconstruction.share has 1 of them reconstructed"):
        memory(0.05).check(None, 36)


def test_quotas_reconstruct_whole_parts_of_what_is_masked() -> None:
    reconstruction = PartialReconstruction(sampler=Quotas(parts=4), share=1 / 3)
    keys_NL = torch.rand(64, 36, generator=torch.Generator().manual_seed(0)).mul(2**20).long()
    mask = Mask.from_keys(keys_NL, 24)
    part_NL = (torch.arange(36) // 9).float().expand(64, -1)
    drawn = reconstruction.at(0.0)(mask, part_NL, grid=(6, 6), noise=Noise.for_batch(seed=0, step=0, batch_size=64))
    size_NG, taken_NG = (
        torch.nn.functional.one_hot(chosen // 9, 4).sum(dim=1) for chosen in (mask.masked, drawn.masked)
    )
    # Of one part at most some of the masked patches are reconstructed, of every other all or none.
    assert bool((((taken_NG > 0) & (taken_NG < size_NG)).sum(dim=1) <= 1).all())
    assert bool((taken_NG.sum(dim=1) == 8).all())
