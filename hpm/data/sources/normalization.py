"""How pixels become what the model sees, and how that becomes a picture again.

Shape suffixes: N images of a batch, C channels, H W height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_VALUES_AT_ONCE = 1 << 18  # few enough for the processor's cache, which makes normalization five times faster
_LEAST_STD = 0.001  # smaller than 1/255, which leaves pixels from 0 to 255


class Normalization:
    """Pixel values scaled to [0, 1], less a mean, divided by a standard deviation.

    Args:
        owner: the source that the settings belong to, as a config writes it.
        in_chans: C.
        mean: of each channel.
        std: of each channel.

    Raises:
        ValueError: for another number of values, and for those that no pixels between 0 and 1 have.
    """

    def __init__(self, owner: str, in_chans: int, mean: Sequence[float], std: Sequence[float]) -> None:
        for name, values, least in (("mean", mean, 0.0), ("std", std, _LEAST_STD)):
            if len(values) != in_chans:
                raise ValueError(f"{owner}.{name} = {values} must have one value for each of the {in_chans} channels")
            if not all(least <= value <= 1 for value in values):
                raise ValueError(
                    f"{owner}.{name} = {values} must lie in [{least:g}, 1], since pixels lie in [0, 1]; divide what is "
                    "of pixels up to 255 by 255"
                )
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._moments_on: dict[torch.device, Tensor] = {}

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 255], of any type -> float32 [N, C, H, W], contiguous, as the model sees them."""
        mean_C11, std_C11, white_C11 = self._moments(images_NCHW.device)
        normalized_NCHW = torch.empty(images_NCHW.shape, device=images_NCHW.device)
        if images_NCHW.device.type != "cpu":
            # The same operations in two passes over memory; the CPU's cache makes four of simple ones faster.
            return torch.addcdiv(-mean_C11, images_NCHW, white_C11, out=normalized_NCHW).div_(std_C11)
        at_once = max(1, _VALUES_AT_ONCE // max(1, math.prod(images_NCHW.shape[1:])))
        for part, pixels in zip(normalized_NCHW.split(at_once), images_NCHW.split(at_once), strict=True):
            part.copy_(pixels).div_(255.0).sub_(mean_C11).div_(std_C11)
        return normalized_NCHW

    def undo(self, images_NCHW: Tensor) -> Tensor:
        """What the model sees (or reconstructs) -> float32 [N, C, H, W] in [0, 1], clipped."""
        mean_C11, std_C11, _ = self._moments(images_NCHW.device)
        return (images_NCHW.float() * std_C11 + mean_C11).clamp(0.0, 1.0)

    def _moments(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation, and the largest pixel value, 255."""
        # Made once for each device: a copy from ordinary memory waits for the device.
        if device not in self._moments_on:
            moments_3C = torch.tensor([self.mean, self.std, [255.0] * len(self.mean)], device=device)
            self._moments_on[device] = moments_3C[:, :, None, None]
        mean_C11, std_C11, white_C11 = self._moments_on[device]
        return mean_C11, std_C11, white_C11
