"""Mask: which patches of each image the encoder sees and which it must reconstruct.

Shape suffixes: N images, L patches, V visible, M masked, T thrown, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from curriculum.validation import require_choice

ROUNDINGS = ("visible", "masked")


def round_share(total: int, share: float, rounding: str) -> int:
    """Return how many of `total` patches a share of them is, in whole patches.

    Args:
        total: the number of patches.
        share: in [0, 1].
        rounding: "masked" rounds what is returned down, "visible" what is left of `total`.
    """
    return int(total * share) if rounding == "masked" else total - int(total * (1 - share))


def count_masked(num_patches: int, mask_ratio: float, rounding: str = "visible") -> int:
    """Return M, the number of masked patches.

    It is computed in floating point, as published: `int(100 * (1 - 0.9))` is 9, so that 91 of 100 patches are masked.

    Args:
        num_patches: L.
        mask_ratio: in (0, 1).
        rounding: which count is rounded down. "visible" as MAE and HPM do: M is `L - int(L * (1 - mask_ratio))`;
            "masked" as AttMask and AMT do: `int(L * mask_ratio)`. Default "visible".

    Raises:
        ValueError: if the ratio is outside (0, 1), or leaves no patch visible or none masked, or no such rounding is
            known.
    """
    require_choice("Curriculum", ROUNDINGS, rounding=rounding)
    if not 0.0 < mask_ratio < 1.0:
        raise ValueError(f"Curriculum.mask_ratio = {mask_ratio} must lie strictly between 0 and 1")
    num_visible = num_patches - round_share(num_patches, mask_ratio, rounding)
    if num_visible < 1 or num_visible >= num_patches:
        raise ValueError(
            f"Curriculum.mask_ratio = {mask_ratio} of {num_patches} patches leaves {num_visible} visible: there must "
            "be at least one visible and one masked patch; use smaller patches, larger images or another ratio"
        )
    return num_patches - num_visible


class Counts(NamedTuple):
    """The numbers of patches that a `Mask` divides the L patches of an image into.

    Args:
        visible: V, those that the encoder sees.
        reconstructed: M, those in `Mask.masked`.
        thrown: T, those that are neither seen nor reconstructed.
    """

    visible: int
    reconstructed: int
    thrown: int


@dataclass(frozen=True)
class Mask:
    """Visible and masked patch indices, in ascending order, of equal count in every image.

    Args:
        visible: int64 [N, V], the patches that the encoder sees.
        masked: int64 [N, M], the patches that are reconstructed.
        thrown: int64 [N, T], the patches that are neither seen nor reconstructed; None for none. Every index in [0, L)
            is in one of the three exactly once.
        blanked: bool [N, V], True where a visible patch is a mask token to the encoder, which knows its place but not
            its content (UM-MAE's secondary masking, arXiv 2205.10063); not reconstructed. None for none.
    """

    visible: Tensor
    masked: Tensor
    thrown: Tensor | None = None
    blanked: Tensor | None = None

    @classmethod
    def from_keys(cls, keys_NL: Tensor, num_masked: int, num_thrown: int = 0) -> Mask:
        """Mask the `num_masked` patches of each image with the largest keys, without waiting for the device.

        The `num_thrown` patches with the next largest keys are thrown away (AMT, arXiv 2211.15362).
        """
        if num_thrown:
            counts = [num_masked, num_thrown, keys_NL.shape[1] - num_masked - num_thrown]
            masked, thrown, visible = keys_NL.argsort(dim=1, descending=True).split(counts, dim=1)
            return cls(*(index.sort(dim=1).values for index in (visible, masked, thrown)))
        top_NM = keys_NL.topk(num_masked, dim=1, sorted=False).indices
        return cls._from_bool(torch.zeros_like(keys_NL, dtype=torch.bool).scatter_(1, top_NM, True), num_masked)

    @classmethod
    def from_bool(cls, mask_NL: Tensor) -> Mask:
        """Make a mask of bool [N, L], True where masked; checking it waits for the device.

        Raises:
            ValueError: if images mask different numbers of patches.
        """
        counts = mask_NL.sum(dim=1)
        num_masked = int(counts[0])
        if not bool((counts == num_masked).all()):
            raise ValueError(f"every image must mask the same number of patches, got {counts.unique().tolist()}")
        return cls._from_bool(mask_NL.bool(), num_masked)

    @classmethod
    def _from_bool(cls, mask_NL: Tensor, num_masked: int) -> Mask:
        # Where each patch goes when visible ones come first, both groups in raster order: counting sort by one bit.
        num_visible = mask_NL.shape[1] - num_masked
        count_NL = mask_NL.cumsum(dim=1, dtype=torch.int32)
        raster_L = torch.arange(mask_NL.shape[1], device=mask_NL.device, dtype=torch.int32)
        target_NL = torch.where(mask_NL, count_NL + (num_visible - 1), raster_L - count_NL).long()
        order_NL = torch.empty_like(target_NL)
        order_NL.scatter_(1, target_NL, raster_L.long().expand_as(target_NL))
        visible_NV, masked_NM = order_NL.split([num_visible, num_masked], dim=1)
        return cls(visible_NV, masked_NM)

    @property
    def num_visible(self) -> int:
        """V, the number of visible patches of an image."""
        return self.visible.shape[1]

    @property
    def num_masked(self) -> int:
        """M, the number of masked patches of an image."""
        return self.masked.shape[1]

    @property
    def num_thrown(self) -> int:
        """T, the number of patches of an image that are thrown away."""
        return 0 if self.thrown is None else self.thrown.shape[1]

    @property
    def num_patches(self) -> int:
        """L = V + M + T, the number of patches of an image."""
        return self.num_visible + self.num_masked + self.num_thrown

    def to_bool(self) -> Tensor:
        """Return bool [N, L], True where masked."""
        shape = (self.masked.shape[0], self.num_patches)
        return torch.zeros(shape, dtype=torch.bool, device=self.masked.device).scatter_(1, self.masked, True)

    def gather_visible(self, x: Tensor) -> Tensor:
        """Return the visible patches of [N, L] or [N, L, D], as [N, V] or [N, V, D]."""
        return _gather(x, self.visible)

    def gather_masked(self, x: Tensor) -> Tensor:
        """Return the masked patches of [N, L] or [N, L, D], as [N, M] or [N, M, D]."""
        return _gather(x, self.masked)

    def scatter(self, visible: Tensor, masked: Tensor) -> Tensor:
        """Invert the two gathers: join [N, V, ...] and [N, M, ...] to [N, L, ...] in raster order.

        It is only for masks that throw no patch away.
        """
        order_NL = torch.cat([self.visible, self.masked], dim=1)
        values = torch.cat([visible, masked], dim=1)
        return torch.empty_like(values).scatter(1, _expand(order_NL, values), values)

    def to(self, device: torch.device | str) -> Mask:
        """Return the same mask on another device."""
        moved = (None if x is None else x.to(device) for x in (self.thrown, self.blanked))
        return Mask(self.visible.to(device), self.masked.to(device), *moved)


def _expand(index: Tensor, like: Tensor) -> Tensor:
    return index if like.ndim == 2 else index.unsqueeze(-1).expand(-1, -1, like.shape[-1])


def _gather(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, _expand(index, x))
