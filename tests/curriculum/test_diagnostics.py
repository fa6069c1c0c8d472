"""Against other people's implementations, golden numbers, and what must hold for any input."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from curriculum import HardestFirst, Noise, Random
from curriculum.diagnostics import (
    auroc,
    average_precision,
    coverage,
    hard_share,
    hardness_gap,
    mask_entropy,
    overlap,
    overlap_to_chance,
    pointing_game,
    spearman,
    top_k_agreement,
)
from curriculum.testing import refuse_host_sync

NAN = math.nan
LOCALIZATION = [auroc, average_precision, pointing_game]


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def random_values(num_images: int, num_patches: int, *, seed: int, levels: int | None = None) -> Tensor:
    """Uniform in [0, 1); rounded to so many levels, so that there are ties, where that is given."""
    values = torch.rand(num_images, num_patches, generator=torch.Generator().manual_seed(seed))
    return values if levels is None else (values * levels).floor()


def random_objects(num_images: int, num_patches: int, *, seed: int) -> Tensor:
    """Of any size but none and all."""
    size = 1 + torch.arange(num_images) % (num_patches - 1)
    return random_values(num_images, num_patches, seed=seed).argsort(dim=1) < size.unsqueeze(1)


# Rankings


@pytest.mark.parametrize("levels", [None, 2, 5])
@pytest.mark.parametrize("count", [2, 3, 25, 196])
def test_spearman_against_scipy(count: int, levels: int | None) -> None:
    one, other = (random_values(20, count, seed=seed, levels=levels) for seed in (0, 1))
    other = other + one if levels is None else other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant rows, for which scipy gives NaN, as we do
        expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert spearman(one, other).tolist() == pytest.approx(expected, nan_ok=True)


def test_spearman_of_constant_or_unscored_rows_is_nan() -> None:
    one = rows([1, 1, 1], [1, NAN, 2], [1, 2, 3], [1, 2, 3])
    other = rows([1, 2, 3], [1, 2, 3], [3, 2, NAN], [1, 2, 4])
    assert spearman(one, other).tolist() == pytest.approx([NAN, NAN, NAN, 1], nan_ok=True)


@pytest.mark.parametrize("levels", [None, 2, 5])
def test_spearman_among_some(levels: int | None) -> None:
    """Against scipy on what is left, whatever was left out."""
    one, other = (random_values(40, 25, seed=seed, levels=levels) for seed in (0, 1))
    among = random_objects(40, 25, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are constant, or of one value
        expected = [
            scipy.stats.spearmanr(a[chosen], b[chosen]).statistic if chosen.sum() > 1 else NAN
            for a, b, chosen in zip(one, other, among, strict=True)
        ]
    assert any(math.isnan(value) for value in expected)
    assert spearman(one, other, among).tolist() == pytest.approx(expected, nan_ok=True)
    anything = torch.where(among, one, NAN), torch.where(among, other, math.inf)
    assert spearman(*anything, among).tolist() == pytest.approx(expected, nan_ok=True)
    assert spearman(one, other, torch.ones_like(among)).tolist() == pytest.approx(spearman(one, other).tolist())
    assert spearman(rows([1, NAN, 2]), rows([1, 2, 3]), torch.tensor([[True, True, False]])).isnan().all()


@pytest.mark.parametrize(
    ("one", "other", "k", "expected"),
    [
        ([4, 3, 2, 1], [4, 3, 1, 2], 2, 1.0),
        ([4, 3, 2, 1], [1, 2, 3, 4], 2, 0.0),
        ([4, 3, 2, 1], [4, 1, 3, 2], 2, 0.5),
        ([4, 3, 2, 1], [0, 0, 0, 0], 2, 0.5),  # a constant row is as good as chance
        ([0, 0, 0, 0], [0, 0, 0, 0], 1, 0.25),  # and so are two, though they are equal
        ([9, 5, 5, 1], [9, 5, 1, 1], 2, 0.75),  # one of two ties at random: the patch in common in half the cases
        ([4, NAN, 2, 1], [1, 9, 3, 2], 1, 0.0),  # NaN is not among the highest
        ([NAN, NAN, NAN, 1], [4, 3, 2, 1], 2, 0.0),  # fewer scored than asked for
        ([-math.inf, 1, 2, math.inf], [1, 2, 3, 4], 4, 1.0),
    ],
)
def test_top_k_agreement(one: list[float], other: list[float], k: int, expected: float) -> None:
    assert top_k_agreement(rows(one), rows(other), k).item() == pytest.approx(expected)
    assert top_k_agreement(rows(other), rows(one), k).item() == pytest.approx(expected)


def test_top_k_agreement_by_chance() -> None:
    """k / K: 6 of 25, with a standard error below 0.003."""
    agreement = top_k_agreement(random_values(4000, 25, seed=0), random_values(4000, 25, seed=1), 6)
    assert agreement.mean().item() == pytest.approx(6 / 25, abs=0.01)


@pytest.mark.parametrize("k", [0, -1, 5])
def test_as_many_as_there_are(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} must lie between 1 and the 4 values"):
        top_k_agreement(torch.zeros(2, 4), torch.zeros(2, 4), k)
    with pytest.raises(ValueError, match=f"k = {k} must lie"):
        hard_share(torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool), k)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(count=st.integers(2, 30), levels=st.integers(2, 40), seed=st.integers(0, 1000), data=st.data())
def test_agreement_looks_at_the_order_alone(count: int, levels: int, seed: int, data: st.DataObject) -> None:
    one, other = (random_values(3, count, seed=seed + i, levels=levels) for i in (0, 1))
    k = data.draw(st.integers(1, count))
    for measure in (spearman, lambda a, b: top_k_agreement(a, b, k)):
        value = measure(one, other)
        torch.testing.assert_close(measure(other, one), value, equal_nan=True)
        torch.testing.assert_close(measure(one.exp(), other * 3 - 5), value, equal_nan=True)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(measure(one[:, order], other[:, order]), value, equal_nan=True)


# Masks


def test_hardness_gap() -> None:
    gap_N = hardness_gap(rows([1, 3], [2, 2]), rows([1, 1], [3, 2]))
    assert gap_N.tolist() == [1.0, -0.5]


@pytest.mark.parametrize(
    ("scores", "masked", "k", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 2, 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 2, 0.0),
        ([1, 2, 3, 4], [1, 0, 0, 1], 1, 1.0),
        ([5, 5, 5, 5], [1, 1, 1, 0], 3, 0.75),
        ([NAN, NAN, 3, 4], [1, 1, 0, 0], 2, 0.0),
        ([NAN, NAN, 3, 4], [1, 1, 1, 0], 3, 1 / 2),  # two are scored, and so the hardest
        ([NAN, NAN, NAN, NAN], [1, 1, 0, 0], 2, NAN),
    ],
)
def test_hard_share(scores: list[float], masked: list[int], k: int, expected: float) -> None:
    assert hard_share(rows(scores), torch.tensor([masked]).bool(), k).item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_hard_share_of_masks_drawn_by_difficulty(alpha: float) -> None:
    """Of 12 masked of 16, `int(12 alpha)` follow the difficulty, the rest falls anywhere else."""
    scores_NL, noise = random_values(3000, 16, seed=0), Noise.for_batch(seed=1, step=0, batch_size=3000)
    mask = HardestFirst()(scores_NL, alpha=alpha, num_masked=12, grid=(4, 4), noise=noise)
    hard = int(12 * alpha)
    expected = (hard + (12 - hard) * (12 - hard) / (16 - hard)) / 12
    assert hard_share(scores_NL, mask.to_bool(), 12).mean().item() == pytest.approx(expected, abs=0.005)


def test_coverage_and_entropy_of_two_masks() -> None:
    masked_NL = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    assert coverage(masked_NL).tolist() == [1.0, 0.5, 0.5, 0.0]
    assert mask_entropy(masked_NL).item() == pytest.approx(0.5)  # one bit at two of four positions


def test_entropy_of_the_same_mask_is_zero_and_of_all_positions_in_turn_is_one() -> None:
    assert mask_entropy(torch.tensor([[1, 1, 0]] * 5).bool()).item() == 0
    assert mask_entropy(torch.eye(7).bool()).item() == pytest.approx(1)
    assert mask_entropy(torch.zeros(3, 4).bool()).isnan()


def test_entropy_of_uniform_masks_falls_short_of_one_by_what_the_docstring_says() -> None:
    noise = Noise.for_batch(seed=0, step=0, batch_size=256 * 40)
    mask = Random()(None, alpha=0.0, num_masked=12, grid=(4, 4), noise=noise)
    missing = [1 - mask_entropy(masked_NL).item() for masked_NL in mask.to_bool().split(256)]
    largest = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert sum(missing) / 40 == pytest.approx(1 / (2 * 256 * largest), rel=0.15)


def test_entropy_falls_as_masks_settle_on_positions() -> None:
    scores_L, noise = torch.arange(25.0), Noise.for_batch(seed=0, step=0, batch_size=500)
    entropies = []
    for alpha in (0.0, 0.3, 0.6, 1.0):
        mask = HardestFirst()(scores_L.expand(500, 25), alpha=alpha, num_masked=19, grid=(5, 5), noise=noise)
        entropies.append(mask_entropy(mask.to_bool()).item())
    assert all(more > less for more, less in pairwise(entropies))
    assert entropies[-1] == 0


def test_overlap() -> None:
    chosen_NL = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    object_NL = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert overlap(chosen_NL, object_NL).tolist() == pytest.approx([1, 0.5, 0, NAN, 0], nan_ok=True)
    relative = overlap_to_chance(chosen_NL, object_NL).tolist()
    assert relative == pytest.approx([2, 2, 0, NAN, NAN], nan_ok=True)


def test_random_masks_overlap_by_chance() -> None:
    object_NL = random_objects(4000, 16, seed=0)
    mask = Random()(None, alpha=0.0, num_masked=12, grid=(4, 4), noise=Noise.for_batch(seed=0, step=0, batch_size=4000))
    share_N = object_NL.double().mean(dim=1)
    assert overlap(mask.to_bool(), object_NL).mean().item() == pytest.approx(share_N.mean().item(), abs=0.005)
    assert overlap_to_chance(mask.to_bool(), object_NL).mean().item() == pytest.approx(1, abs=0.01)


# Localization


@pytest.mark.parametrize("levels", [None, 2, 6])
@pytest.mark.parametrize("count", [2, 25, 196])
def test_localization_against_scikit_learn(count: int, levels: int | None) -> None:
    scores_NL, object_NL = random_values(60, count, seed=0, levels=levels), random_objects(60, count, seed=1)
    scores_NL = scores_NL + object_NL * 0.2 if levels is None else scores_NL
    pairs = [(on.numpy(), scores.numpy()) for on, scores in zip(object_NL, scores_NL, strict=True)]
    assert auroc(scores_NL, object_NL).tolist() == pytest.approx([roc_auc_score(*pair) for pair in pairs])
    theirs = [average_precision_score(*pair) for pair in pairs]
    assert average_precision(scores_NL, object_NL).tolist() == pytest.approx(theirs)
    hits = [on[scores == scores.max()].mean() for on, scores in pairs]
    assert pointing_game(scores_NL, object_NL).tolist() == pytest.approx(hits)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([9, 8, 1, 2], (1, 1, 1)),
        ([1, 2, 9, 8], (0, 5 / 12, 0)),  # precision 1/3 and 2/4
        ([5, 5, 5, 5], (0.5, 0.5, 0.5)),  # no opinion: the object's share of the patches
        ([5, 1, 5, 2], (3 / 8, 0.5, 0.5)),
        ([math.inf, -math.inf, 1, 2], (0.5, 0.75, 1)),
    ],
)
def test_localization_by_hand(scores: list[float], expected: tuple[float, ...]) -> None:
    object_NL = torch.tensor([[True, True, False, False]])
    assert [measure(rows(scores), object_NL).item() for measure in LOCALIZATION] == pytest.approx(expected)


@pytest.mark.parametrize("measure", LOCALIZATION)
def test_images_that_tell_nothing_are_nan_and_leave_the_others_alone(measure) -> None:  # type: ignore[no-untyped-def]
    scores_NL = rows([3, 2, 1], [3, 2, 1], [3, 2, 1], [NAN, 2, 1], [3, 2, NAN])
    object_NL = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]]).bool()
    assert measure(scores_NL, object_NL).tolist() == pytest.approx([1, NAN, NAN, NAN, NAN], nan_ok=True)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(count=st.integers(2, 30), levels=st.integers(1, 40), seed=st.integers(0, 1000))
def test_localization_looks_at_the_order_alone(count: int, levels: int, seed: int) -> None:
    scores_NL, object_NL = random_values(4, count, seed=seed, levels=levels), random_objects(4, count, seed=seed + 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for measure in LOCALIZATION:
        value_N = measure(scores_NL, object_NL)
        assert bool(((value_N >= 0) & (value_N <= 1)).all())
        torch.testing.assert_close(measure(scores_NL * 2 - 7, object_NL), value_N)
        torch.testing.assert_close(measure(scores_NL[:, order], object_NL[:, order]), value_N)
    torch.testing.assert_close(auroc(scores_NL, ~object_NL), 1 - auroc(scores_NL, object_NL))
    torch.testing.assert_close(auroc(-scores_NL, object_NL), 1 - auroc(scores_NL, object_NL))


def test_nothing_waits_for_the_device() -> None:
    scores_NL, object_NL = random_values(4, 9, seed=0), random_objects(4, 9, seed=1)
    with refuse_host_sync():
        for measure in (*LOCALIZATION, overlap_to_chance):
            measure(object_NL if measure is overlap_to_chance else scores_NL, object_NL)
        spearman(scores_NL, -scores_NL)
        top_k_agreement(scores_NL, -scores_NL, 3)
        hard_share(scores_NL, object_NL, 3)
        hardness_gap(scores_NL, scores_NL)
        mask_entropy(object_NL)
