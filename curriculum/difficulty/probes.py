"""Probes: masked passes of a teacher at the training mask ratio, by which an estimator scores every patch.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.streams import Stream


def covering_probes(num_patches: int, num_masked: int) -> int:
    """Return the fewest probes, but at least two, that together mask every patch."""
    return max(2, -(-num_patches // num_masked))


def check_probes(owner: str, probes: int, num_patches: int, num_masked: int) -> None:
    """Refuse more than one probe that still leave some patch visible in all of them, and probes that repeat others.

    Args:
        owner: the estimator's name, as a config writes it.
        probes: how many, at least 1.
        num_patches: L.
        num_masked: M.

    Raises:
        ValueError: naming the setting at fault and the number that would do.
    """
    if probes > 1 and num_masked < -(-num_patches // probes):
        needed = covering_probes(num_patches, num_masked)
        raise ValueError(
            f"{owner}.probes = {probes} probes that mask {num_masked} of {num_patches} patches leave some "
            f"patch visible in all of them; use {owner}.probes = {needed}, or 1 to leave patches unscored"
        )
    if probes > num_patches:
        raise ValueError(
            f"{owner}.probes = {probes} must be at most {num_patches}, the patches of an image: more probes repeat "
            "masks of others"
        )


def mean_over_probes(
    measure: Callable[[Mask], Tensor], batch: Batch, *, probes: int, num_masked: int, noise: Noise
) -> Tensor:
    """Score every patch by the mean of what is measured in those probes that mask it.

    The probes' visible sets are evenly spaced stretches of one random order of the patches. At a ratio of 0.5 or more
    those of two probes are disjoint, and of two or more probes some masks every patch.

    Args:
        measure: a mask to one number for each masked patch, [N, M].
        batch: N images with L patches each.
        probes: how many, at least 1.
        num_masked: M.
        noise: the estimator's.

    Returns:
        Float32 [N, L]; NaN where no probe masks the patch.
    """
    num_patches = batch.num_patches
    # A patch's place in a random order; probe k sees the V places from k L / probes on, cyclically.
    place_NL = noise.fold(Stream.DISJOINT_PROBES).bits(num_patches).argsort(dim=1).argsort(dim=1)
    total_NL = torch.zeros(place_NL.shape, dtype=torch.float32, device=place_NL.device)
    count_NL = torch.zeros_like(total_NL)
    for probe in range(probes):
        key_NL = (place_NL - probe * num_patches // probes) % num_patches
        mask = Mask.from_keys(key_NL, num_masked)
        measured_NM = measure(mask).float()
        total_NL.scatter_add_(1, mask.masked, measured_NM)
        count_NL.scatter_add_(1, mask.masked, torch.ones_like(measured_NM))
    return total_NL / count_NL  # 0 / 0 is NaN: not scored
