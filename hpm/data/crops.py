"""Random resized crops, drawn and resampled for a whole batch at a time.

Shape suffixes: N images, C channels, H W stored pixels, S S output height and width, T tries.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.noise import Noise
from curriculum.sizes import Size, pair
from curriculum.validation import require_in
from hpm.runtime.precision import full_float32

_TRIES = 10


class RandomResizedCrop:
    """The random crop of Inception and of masked autoencoders, by torchvision's rule.

    A crop has an area of `scale` times the image's and a log-uniform aspect ratio. The first of ten draws that fits
    in the image is placed uniformly; where none fits, the largest central crop of an allowed ratio is taken. The ratio
    is the box's own whatever the size that it is resampled to, as torchvision has it: crops for a model of wide images
    are drawn like those for square ones, and stretched.

    Args:
        scale: smallest and largest area, relative to the image's. Default (0.2, 1.0).
        ratio: smallest and largest width / height. Default (3/4, 4/3).
        flip: probability of mirroring left to right. Default 0.5.
    """

    def __init__(
        self, *, scale: tuple[float, float] = (0.2, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), flip: float = 0.5
    ) -> None:
        if len(scale) != 2 or not 0.0 < scale[0] <= scale[1] <= 1.0:
            raise ValueError(f"RandomResizedCrop.scale = {scale} must be (smallest, largest) with 0 < both <= 1")
        if len(ratio) != 2 or not 0.0 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError(f"RandomResizedCrop.ratio = {ratio} must be (smallest, largest), both positive")
        require_in("RandomResizedCrop", "[0, 1]", flip=flip)
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.flip = float(flip)

    def draw(self, sizes_N2: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Crops for images of the given sizes.

        Args:
            sizes_N2: int64 [N, 2], height and width of the stored images, in pixels.
            noise: one row for each image.

        Returns:
            Boxes, float32 [N, 4] with integer values (left, top, width, height) in stored pixels; flips, bool [N].
        """
        # In float64, for the logarithms: a rounding that depended on an image's place in the batch would move boxes.
        uniform = noise.uniform(2 * _TRIES + 3).double()
        area_NT, ratio_NT, place_N3 = uniform.split([_TRIES, _TRIES, 3], dim=1)
        height_N1, width_N1 = sizes_N2.double().split(1, dim=1)

        area_NT = height_N1 * width_N1 * (self.scale[0] + (self.scale[1] - self.scale[0]) * area_NT)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio_NT = torch.exp(low + (high - low) * ratio_NT)
        tried_w_NT = (area_NT * ratio_NT).sqrt().round()
        tried_h_NT = (area_NT / ratio_NT).sqrt().round()
        fits_NT = (tried_w_NT > 0) & (tried_w_NT <= width_N1) & (tried_h_NT > 0) & (tried_h_NT <= height_N1)

        first_N1 = fits_NT.int().argmax(dim=1, keepdim=True)  # argmax gives the first of equal values
        fits_N1 = fits_NT.any(dim=1, keepdim=True)
        # A pixel at least, which torchvision's rule leaves open where narrow ratios meet small images.
        central_w_N1 = torch.minimum(width_N1, (height_N1 * self.ratio[1]).round().clamp(min=1))
        central_h_N1 = torch.minimum(height_N1, (width_N1 / self.ratio[0]).round().clamp(min=1))
        w_N1 = torch.where(fits_N1, tried_w_NT.gather(1, first_N1), central_w_N1)
        h_N1 = torch.where(fits_N1, tried_h_NT.gather(1, first_N1), central_h_N1)
        room_N2 = torch.cat([width_N1 - w_N1, height_N1 - h_N1], dim=1)
        corner_N2 = torch.where(fits_N1, place_N3[:, :2] * (room_N2 + 1), room_N2 / 2).floor()
        return torch.cat([corner_N2, w_N1, h_N1], dim=1).float(), place_N3[:, 2] < self.flip


def whole_boxes(sizes_N2: Tensor) -> Tensor:
    """Boxes that hold the whole image, float32 [N, 4], for sizes (height, width), int64 [N, 2]."""
    return torch.cat([torch.zeros_like(sizes_N2), sizes_N2.flip(1)], dim=1).float()


def central_boxes(sizes_N2: Tensor, fraction: float, shape: Size | None = 1) -> Tensor:
    """The central boxes of a shape, `fraction` of the largest that fit in the images.

    Args:
        sizes_N2: int64, height and width of the images.
        fraction: of the largest box's sides, in (0, 1].
        shape: what the box is resampled to; its aspect alone counts. Default 1, squares; None for each image's own.

    Returns:
        Float32 [N, 4].
    """
    height, width = sizes_N2.double().split(1, dim=1) if shape is None else pair(shape)
    # In float64 up to the largest box, so that one which touches its image's border does so exactly.
    scale_N1 = torch.minimum(sizes_N2[:, :1].double() / height, sizes_N2[:, 1:].double() / width)
    box_N2 = torch.cat([scale_N1 * width, scale_N1 * height], dim=1).float() * fraction
    return torch.cat([(sizes_N2.flip(1) - box_N2) / 2, box_N2], dim=1).float()


def resample(images_NCHW: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
    """Crop, resize and mirror a batch of images: bicubic and antialiased, as Pillow and torchvision do.

    Separable, so two batched matrix products: one with weights [N, S, W], one with weights [N, S, H]. No pixel
    outside the box is used. The whole image at its own size comes back exactly. TF32 is never used, whatever the
    process's precision of float32 matrix products is: it would move pixels.

    Args:
        images_NCHW: uint8 (or float in the same range) [N, C, H, W].
        boxes_N4: float32 [N, 4], (left, top, width, height) in pixels; at least one pixel wide and high.
        flips_N: bool [N], mirror left to right after cropping.
        size: of the output in pixels, S for a square or (height, width).

    Returns:
        Float32 [N, C, S, S] in [0, 255], not rounded.
    """
    N, C, H, W = images_NCHW.shape
    left_N, top_N, width_N, height_N = boxes_N4.unbind(1)
    height, width = pair(size)
    columns_NSW = _weights(left_N, width_N, flips_N, size=width, pixels=W)
    rows_NSH = _weights(top_N, height_N, torch.zeros_like(flips_N), size=height, pixels=H)
    with full_float32():
        wide_NCHS = torch.bmm(images_NCHW.reshape(N, C * H, W).float(), columns_NSW.mT).view(N, C, H, width)
        crops_NCSS = torch.matmul(rows_NSH.unsqueeze(1), wide_NCHS)
    return crops_NCSS.clamp_(0.0, 255.0)


def _weights(start_N: Tensor, length_N: Tensor, flips_N: Tensor, *, size: int, pixels: int) -> Tensor:
    """Weight of every stored pixel in every output pixel, along one axis, [N, size, pixels]."""
    output_S = torch.arange(size, device=start_N.device)
    output_NS = torch.where(flips_N.unsqueeze(1), size - 1 - output_S, output_S)
    step_N1 = (length_N / size).unsqueeze(1)
    center_NS1 = (start_N.unsqueeze(1) + (output_NS + 0.5) * step_N1).unsqueeze(2)
    pixel_P = torch.arange(pixels, device=start_N.device) + 0.5
    start_N11, end_N11 = start_N.view(-1, 1, 1), (start_N + length_N).view(-1, 1, 1)
    # Shrinking widens the kernel to the output pixel, which is what antialiasing means here.
    weights_NSP = keys_cubic((pixel_P - center_NS1) / step_N1.clamp(min=1.0).unsqueeze(2))
    weights_NSP = weights_NSP * ((pixel_P >= start_N11) & (pixel_P < end_N11))
    return weights_NSP / weights_NSP.sum(dim=2, keepdim=True)


def keys_cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5, elementwise: 1 at 0, 0 at every other integer and beyond 2."""
    x = x.abs().clamp_(max=2.0)
    near = x.mul(1.5).sub_(2.5).mul_(x).mul_(x).add_(1.0)
    far = x.mul(-0.5).add_(2.5).mul_(x).sub_(4.0).mul_(x).add_(2.0)
    return torch.where(x < 1.0, near, far)
