"""The share of attainable hardness: are the patches that a difficulty calls hard also hard to reconstruct?

    share = (mean loss of the k patches that score highest - mean loss of all)
            / (mean loss of the k patches whose loss is highest - mean loss of all)

It is 1 where the difficulty finds the hardest patches, 0 where it does as well as chance and negative where it prefers
easy ones. A loss is measured with noise, and the patches that were found hardest owe that to their noise in part. So it
is measured twice, independently: the hardest are chosen by one measurement and judged by the other.

The functions are pure functions of tensors, for a whole batch at once, and do not wait for the device.

Shape suffixes: N images, C channels, R rows and K columns of patches, P pixels of a patch's side, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.sizes import pair

BLANK_VARIANCE = 1e-3
"""The largest variance of a blank patch's pixels: about two of 255 levels of gray, as images are usually normalized."""


def extra_loss(scores_NL: Tensor, losses_NL: Tensor, k: int, among_NL: Tensor | None = None) -> Tensor:
    """Compute by how much the mean loss of the patches that score highest exceeds the mean loss of all.

    Where the k-th highest score is tied the result is its expectation over ties that are broken at random, so that a
    constant score gives exactly 0.

    Args:
        scores_NL: floating point [N, L], higher = harder. NaN, not scored, ranks below every score: where fewer than k
            are scored, the others are drawn at random, in expectation, among those that are not.
        losses_NL: [N, L], the loss of each patch.
        k: how many patches count as those that score highest, in [1, L].
        among_NL: bool [N, L], the patches that are looked at, all others being left out of everything; of the n of an
            image, k * n / L are chosen, rounded, but at least 1. Default None, all.

    Returns:
        Float64 [N], in the unit of the loss. NaN where there is nothing to choose: no more patches than are chosen.

    Raises:
        ValueError: if there are not k patches.
    """
    num_patches = scores_NL.shape[1]
    if not 1 <= k <= num_patches:
        raise ValueError(f"k = {k} must lie between 1 and the {num_patches} patches of an image")
    if among_NL is None:
        among_NL = torch.ones_like(scores_NL, dtype=torch.bool)
    count_N1 = among_NL.sum(dim=1, keepdim=True)
    chosen_N1 = (count_N1.double() * k / num_patches).round().long().clamp(min=1)
    rank_NL = _ranks(scores_NL, among_NL)
    threshold_N1 = rank_NL.sort(dim=1, descending=True).values.gather(1, chosen_N1 - 1)
    above_NL, equal_NL = rank_NL > threshold_N1, rank_NL == threshold_N1
    places_N1 = chosen_N1 - above_NL.sum(dim=1, keepdim=True)  # left for those that equal the threshold
    # Quotients of whole numbers: where all patches are tied, each weight is 1 / n - 1 / n, and exactly 0.
    tied_N1 = places_N1.double() / (chosen_N1 * equal_NL.sum(dim=1, keepdim=True))
    weights_NL = above_NL / chosen_N1.double() + equal_NL * tied_N1 - 1 / count_N1.double()
    extra_N = (weights_NL * losses_NL).masked_fill(~among_NL, 0.0).sum(dim=1)
    return extra_N.masked_fill((chosen_N1 >= count_N1).squeeze(1), float("nan"))


def _ranks(scores_NL: Tensor, among_NL: Tensor) -> Tensor:
    """Return whole numbers in the order of the scores, [N, L]: 0 for a patch not scored, -1 for one not looked at."""
    unscored_NL = scores_NL.isnan()
    values_NL = scores_NL.masked_fill(unscored_NL, -torch.inf).contiguous()
    below_NL = torch.searchsorted(values_NL.sort(dim=1).values, values_NL)
    return (below_NL + 1).masked_fill(unscored_NL, 0).masked_fill(~among_NL, -1)


def attainable_extra_loss(one_NL: Tensor, other_NL: Tensor, k: int, among_NL: Tensor | None = None) -> Tensor:
    """Compute `extra_loss` of the truly hardest patches: chosen by one measurement of the loss, judged by the other.

    It is the mean over both ways round. Noise makes the choice a little worse than the best, never the result better.

    Args:
        one_NL: [N, L], the loss of each patch, measured once.
        other_NL: [N, L], measured again, independently.
        k: see `extra_loss`.
        among_NL: see `extra_loss`.

    Returns:
        Float64 [N].
    """
    return (extra_loss(one_NL, other_NL, k, among_NL) + extra_loss(other_NL, one_NL, k, among_NL)) / 2


def hardness_share(
    scores_NL: Tensor, one_NL: Tensor, other_NL: Tensor, k: int, among_NL: Tensor | None = None
) -> Tensor:
    """Compute the share of attainable hardness, a ratio of means over the images; see the module.

    Args:
        scores_NL: floating point [N, L], higher = harder; NaN is not scored.
        one_NL: [N, L], the loss of each patch, measured once.
        other_NL: [N, L], measured again, independently.
        k: how many patches count as hard, in [1, L]; see `extra_loss`.
        among_NL: bool [N, L], the patches that are looked at; see `extra_loss`. Default None, all.

    Returns:
        Float64 scalar, at most 1 but for noise. Infinite or NaN where nothing is attainable.
    """
    extra_N = extra_loss(scores_NL, (one_NL.double() + other_NL) / 2, k, among_NL)  # the mean over both measurements
    return extra_N.nanmean() / attainable_extra_loss(one_NL, other_NL, k, among_NL).nanmean()


def position_scores(losses_NL: Tensor) -> Tensor:
    """Score patches by their position alone: the mean loss of that position over the other images.

    It is what a difficulty that never looks at the image can know. The image's own loss is left out, for with few
    images it would be a good part of the mean.

    Args:
        losses_NL: [N, L], the loss of each patch.

    Returns:
        Float64 [N, L]; NaN where there is one image only.
    """
    losses_NL = losses_NL.double()
    return (losses_NL.sum(dim=0) - losses_NL) / (len(losses_NL) - 1)


def not_blank(batch: Batch) -> Tensor:
    """Find the patches that show something: whose pixels vary.

    Args:
        batch: images as the model sees them.

    Returns:
        Bool [N, L]: whether the variance over a patch's pixels, mean over the channels, is above `BLANK_VARIANCE`.
    """
    (height, width), (rows, columns) = pair(batch.patch_size), batch.grid
    pixels_NCRPKP = batch.images.float().reshape(*batch.images.shape[:2], rows, height, columns, width)
    return (pixels_NCRPKP.var(dim=(3, 5), unbiased=False).mean(dim=1) > BLANK_VARIANCE).flatten(1)
