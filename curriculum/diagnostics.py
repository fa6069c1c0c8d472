"""Measures of what a curriculum does: how well rankings agree, where masks fall, whether difficulty finds an object.

They are pure functions of tensors, for a whole batch at once, and do not wait for the device. Where there is a result
for each image, the caller averages it, e.g. by `nanmean`.

Shape suffixes: N images, K values of an image, L patches, M masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Rankings


def spearman(one_NK: Tensor, other_NK: Tensor, among_NK: Tensor | None = None) -> Tensor:
    """Compute Spearman's rank correlation of each row; ties take their mean rank.

    Args:
        one_NK: [N, K], values of any type that sorts.
        other_NK: [N, K], the values that they are compared with.
        among_NK: bool [N, K], the values that are looked at, all others being left out. Default None, all.

    Returns:
        Float64 [N] in [-1, 1]. NaN for a row that is constant or holds NaN in either.
    """
    ranks_NK, others_NK = (_centered_ranks(x, among_NK) for x in (one_NK, other_NK))
    return (ranks_NK * others_NK).sum(dim=1) / (ranks_NK.norm(dim=1) * others_NK.norm(dim=1))


def top_k_agreement(one_NK: Tensor, other_NK: Tensor, k: int) -> Tensor:
    """Compute the share of the k highest values of one that are among the k highest of the other.

    Unrelated rankings reach k / K on average, and so does a constant one. Where the k-th highest value is tied, the
    result is its expectation over ties that are broken at random, in the two independently.

    Args:
        one_NK: [N, K], values of any type that sorts. NaN is never among the highest.
        other_NK: [N, K], the values that they are compared with, likewise.
        k: how many values are compared, in [1, K].

    Returns:
        Float64 [N] in [0, 1].

    Raises:
        ValueError: if there are not k values.
    """
    return (_top_k(one_NK, k) * _top_k(other_NK, k)).sum(dim=1) / k


def _centered_ranks(values_NK: Tensor, among_NK: Tensor | None) -> Tensor:
    """Return each value's rank among those that are looked at, minus their mean rank, float64 [N, K]; else 0."""
    if among_NK is None:
        ranks_NK = _mean_ranks(values_NK)
        return ranks_NK - ranks_NK.mean(dim=1, keepdim=True)
    # Ranked twice: what is left out goes behind everything else, whatever its value was.
    ranks_NK = _mean_ranks(values_NK.masked_fill(~among_NK, 0))
    ranks_NK = _mean_ranks(ranks_NK.masked_fill(~among_NK, torch.inf)).masked_fill(~among_NK, 0.0)
    mean_N1 = ranks_NK.sum(dim=1, keepdim=True) / among_NK.sum(dim=1, keepdim=True)
    return (ranks_NK - mean_N1).masked_fill(~among_NK, 0.0)


def _mean_ranks(values_NK: Tensor) -> Tensor:
    """Return each value's rank in its row from 0, float64 [N, K]; ties take their mean, a row with NaN is all NaN."""
    below_NK, above_NK = _count_below(values_NK), _count_below(values_NK, or_equal=True)
    ranks_NK = (below_NK + above_NK - 1).double() / 2
    return ranks_NK.masked_fill(values_NK.isnan().any(dim=1, keepdim=True), float("nan"))


def _count_below(values_NK: Tensor, *, or_equal: bool = False) -> Tensor:
    """Count the values of its row that lie below each value (or equal it, itself included), int64 [N, K]."""
    return torch.searchsorted(values_NK.sort(dim=1).values, values_NK.contiguous(), right=or_equal)


def _top_k(values_NK: Tensor, k: int) -> Tensor:
    """Return the probability that each value is among its row's k highest, ties broken at random, float64 [N, K]."""
    if not 1 <= k <= values_NK.shape[1]:
        raise ValueError(f"k = {k} must lie between 1 and the {values_NK.shape[1]} values of a row")
    unscored_NK = values_NK.isnan()
    values_NK = values_NK.masked_fill(unscored_NK, -torch.inf)
    threshold_N1 = values_NK.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above_NK, equal_NK = values_NK > threshold_N1, values_NK == threshold_N1
    places_N1 = k - above_NK.sum(dim=1, keepdim=True)  # left for those that equal the threshold
    chance_N1 = places_N1.double() / equal_NK.sum(dim=1, keepdim=True)
    return (above_NK + equal_NK * chance_N1).masked_fill(unscored_NK, 0.0)


# Masks


def hardness_gap(drawn_NM: Tensor, uniform_NM: Tensor) -> Tensor:
    """Compute how much harder a curriculum's masks are to reconstruct than uniform ones, in units of the loss.

    Two things make a mask hard: which patches it masks, and how little it leaves to infer them from. The gap includes
    both.

    Args:
        drawn_NM: [N, M], the reconstruction loss of each masked patch under the masks drawn.
        uniform_NM: [N, M], that of the same images and model under uniformly random masks.

    Returns:
        [N], the difference of the images' mean losses; 0 for uniform masks, negative where the masks are easier.
    """
    return drawn_NM.mean(dim=1) - uniform_NM.mean(dim=1)


def hard_share(scores_NL: Tensor, masked_NL: Tensor, k: int) -> Tensor:
    """Compute the share of the k hardest patches that are masked; ties count by expectation.

    With k = M, the number of masked patches, it is also the share of the masked patches that are among the M hardest:
    1 for a mask of the hardest, M / L on average for a uniform one.

    Args:
        scores_NL: [N, L], higher = harder. NaN, not scored, is never among the hardest.
        masked_NL: bool [N, L], True where masked.
        k: how many patches count as the hardest, in [1, L]; all that are scored, where these are fewer.

    Returns:
        Float64 [N] in [0, 1]; NaN where nothing is scored.

    Raises:
        ValueError: if there are not k patches.
    """
    hardest_NL = _top_k(scores_NL, k)
    return (hardest_NL * masked_NL).sum(dim=1) / hardest_NL.sum(dim=1)


def coverage(masked_NL: Tensor) -> Tensor:
    """Return the share of the images in which each position is masked, float64 [L], of masks bool [N, L]."""
    return masked_NL.double().mean(dim=0)


def mask_entropy(masked_NL: Tensor) -> Tensor:
    """Compute how little a patch's position says about whether it is masked, relative to the maximum.

    It is the entropy of "masked or not" at each position, averaged over the positions and divided by its largest value
    at this mask ratio, which is reached where every position is masked equally often: 1 for uniform masks, 0 where all
    images have the same mask. Content is not part of it: masks that follow objects which may be anywhere reach 1 too.
    Chance alone costs about 1 / (2 N h), h being that largest value in nats: 0.003 for 256 images at a mask ratio of
    0.75.

    Args:
        masked_NL: bool [N, L], masks of N images.

    Returns:
        Float64 scalar in [0, 1]; NaN where nothing or everything is masked.
    """
    coverage_L = coverage(masked_NL)
    return _binary_entropy(coverage_L).mean() / _binary_entropy(coverage_L.mean())


def _binary_entropy(probability: Tensor) -> Tensor:
    return torch.special.entr(probability) + torch.special.entr(1 - probability)


def overlap(chosen_NL: Tensor, object_NL: Tensor) -> Tensor:
    """Compute the share of the chosen patches that lie on the object.

    Args:
        chosen_NL: bool [N, L], the masked patches, or the hard ones.
        object_NL: bool [N, L], the patches that hold the object. A random choice reaches their share of the L patches.

    Returns:
        Float64 [N] in [0, 1]; NaN where nothing is chosen.
    """
    return (chosen_NL & object_NL).sum(dim=1).double() / chosen_NL.sum(dim=1)


def overlap_to_chance(chosen_NL: Tensor, object_NL: Tensor) -> Tensor:
    """Compute `overlap` relative to chance: 1 for a random choice, above 1 where the object is preferred.

    Args:
        chosen_NL: bool [N, L], the masked patches, or the hard ones.
        object_NL: bool [N, L], the patches that hold the object.

    Returns:
        Float64 [N]; at most L / max(chosen, patches of the object). NaN without an object or a choice.
    """
    return overlap(chosen_NL, object_NL) / object_NL.double().mean(dim=1)


# Localization. The result is NaN for an image that is all object or has none, and for one with a score of NaN.


def auroc(scores_NL: Tensor, object_NL: Tensor) -> Tensor:
    """Compute the area under the ROC curve: how often a patch of the object scores higher than another, ties half.

    Args:
        scores_NL: [N, L], higher = harder.
        object_NL: bool [N, L], the patches that hold the object.

    Returns:
        Float64 [N] in [0, 1]; 0.5 is chance. NaN where all patches hold the object or none does, or a score is NaN.
    """
    on_N = object_NL.sum(dim=1)
    rank_sum_N = (_mean_ranks(scores_NL) * object_NL).sum(dim=1)
    return (rank_sum_N - on_N * (on_N - 1) / 2) / (on_N * (object_NL.shape[1] - on_N))


def average_precision(scores_NL: Tensor, object_NL: Tensor) -> Tensor:
    """Compute the average precision: the area under precision as a step function of recall.

    Args:
        scores_NL: [N, L], higher = harder.
        object_NL: bool [N, L], the patches that hold the object.

    Returns:
        Float64 [N] in (0, 1]; a constant score reaches the object's share of the patches, random ones a little more.
        NaN where all patches hold the object or none does, or a score is NaN.
    """
    # Mean over the object's patches of the precision at that patch's own score, equal scores included.
    on_N1 = object_NL.sum(dim=1, keepdim=True)
    order_NL = scores_NL.argsort(dim=1)
    on_up_to_NL = object_NL.long().gather(1, order_NL).cumsum(dim=1)  # in ascending order of the scores
    below_NL = _count_below(scores_NL).clamp(max=scores_NL.shape[1] - 1)  # NaN, which is dropped, may exceed it
    on_below_NL = torch.nn.functional.pad(on_up_to_NL, (1, 0)).gather(1, below_NL)
    precision_NL = (on_N1 - on_below_NL).double() / (scores_NL.shape[1] - below_NL)
    mean_N = (precision_NL * object_NL).sum(dim=1) / on_N1.squeeze(1)
    return mean_N.masked_fill(_is_undefined(scores_NL, object_NL), float("nan"))


def pointing_game(scores_NL: Tensor, object_NL: Tensor) -> Tensor:
    """Find out whether the highest patch lies on the object (Zhang et al. 2018, "Top-down neural attention").

    Args:
        scores_NL: [N, L], higher = harder.
        object_NL: bool [N, L], the patches that hold the object. A random choice hits as often as its share of them.

    Returns:
        Float64 [N]: 0 or 1; where several patches are highest, the share of them that lie on the object. NaN where all
        patches hold the object or none does, or a score is NaN.
    """
    highest_NL = scores_NL == scores_NL.amax(dim=1, keepdim=True)
    return overlap(highest_NL, object_NL).masked_fill(_is_undefined(scores_NL, object_NL), float("nan"))


def _is_undefined(scores_NL: Tensor, object_NL: Tensor) -> Tensor:
    """Return bool [N], True where an image is all object or has none, or has a score of NaN."""
    uniform_N = object_NL.all(dim=1) | ~object_NL.any(dim=1)
    return uniform_N | scores_NL.isnan().any(dim=1)
