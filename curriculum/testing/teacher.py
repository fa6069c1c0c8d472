"""TinyTeacher: a teacher without a network, and images for it.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, Q queries, K pixel values of a patch, D
width.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from curriculum.batch import Batch
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.sizes import Size, pair
from curriculum.streams import Stream

_NOTHING: Mapping[str, str] = MappingProxyType({})


def tiny_batch(
    *,
    num_images: int = 4,
    channels: int = 3,
    grid: tuple[int, int] = (4, 4),
    patch_size: Size = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Batch:
    """Make images of noise whose contrast differs from patch to patch, with indices and crops as of a data set."""
    rows, columns = grid
    patch_height, patch_width = pair(patch_size)
    height, width = rows * patch_height, columns * patch_width
    noise = Noise.for_batch(seed=seed, step=0, batch_size=num_images, device=device)
    images = noise.uniform(channels * height * width).view(num_images, channels, height, width) - 0.5
    contrast = noise.fold(Stream.TESTING_CONTRAST).uniform(rows * columns).view(num_images, 1, rows, columns) * 4
    boxes = torch.tensor([0.0, 0.0, width, height], device=device).repeat(num_images, 1)
    return Batch(
        images * functional.interpolate(contrast, scale_factor=(patch_height, patch_width), mode="nearest"),
        patch_size,
        indices=torch.arange(100, 100 + num_images, device=device),
        boxes=boxes,
        flips=torch.arange(num_images, device=device) % 2 == 1,
    )


class TinyTeacher:
    """A teacher with every capability, which computes its answers from a fixed random projection of the patches.

    It is deterministic on every device, for images of any number of channels. What it returns for an image depends on
    that image alone.

    Args:
        patch_size: of a patch in pixels, the side of a square or (height, width). Default 4.
        width: D, the width of its features. Default 8.
        seed: the seed of the projection. Default 0.
        lacks: why this teacher does not have a capability, by the name of the capability. Default none.

    Attributes:
        calls: the names of the methods called so far.
    """

    def __init__(
        self, *, patch_size: Size = 4, width: int = 8, seed: int = 0, lacks: Mapping[str, str] = _NOTHING
    ) -> None:
        self.patch_size = patch_size
        self.width = width
        self.seed = seed
        self.lacks = dict(lacks)
        self.calls: list[str] = []

    def unsupported_reason(self, capability: str) -> str | None:
        """Say why this teacher lacks `capability`; None where it has it."""
        return self.lacks.get(capability)

    def predicted_loss(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        """Return the energy of each patch's projection, [N, L].

        With a mask, the absolute difference of each masked one from the mean of the visible ones, [N, M].
        """
        self._note("predicted_loss")
        tokens_NLD = self._tokens(images_NCHW)
        if mask is None:
            return tokens_NLD.square().mean(dim=-1)
        guess_N1D = mask.gather_visible(tokens_NLD).mean(dim=1, keepdim=True)
        return (mask.gather_masked(tokens_NLD) - guess_N1D).abs().mean(dim=-1)

    def reconstruction_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """Return how far each masked patch lies from the mean of the visible ones, [N, M]."""
        self._note("reconstruction_loss")
        tokens_NLD = self._tokens(images_NCHW)
        guess_N1D = mask.gather_visible(tokens_NLD).mean(dim=1, keepdim=True)
        return (mask.gather_masked(tokens_NLD) - guess_N1D).square().mean(dim=-1)

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """Return the softmax over the patches of a fixed query's product with each, of two heads, [N, 2, L]."""
        self._note("attention")
        halves = self._tokens(images_NCHW).chunk(2, dim=-1)
        return torch.stack([half.sum(dim=-1).softmax(dim=1) for half in halves], dim=1)

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """Return the softmax over the patches of the given patches' products with each, summed over them, [N, L]."""
        self._note("sampled_attention")
        tokens_NLD = self._tokens(images_NCHW)
        queries_NQD = tokens_NLD.gather(1, queries_NQ.unsqueeze(2).expand(-1, -1, self.width))
        return (queries_NQD @ tokens_NLD.transpose(1, 2)).softmax(dim=2).sum(dim=1)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """Return the projections, [N, L, D]."""
        self._note("features")
        return self._tokens(images_NCHW)

    def student_features(self, images_NCHW: Tensor) -> Tensor:
        """Return the projections, in part those of the mirrored image, [N, L, D]."""
        self._note("student_features")
        return self._tokens(images_NCHW) + 0.5 * self._tokens(images_NCHW.flip(-1))

    def _note(self, capability: str) -> None:
        if capability in self.lacks:
            raise RuntimeError(f"asked for {capability}, but {self.lacks[capability]}")
        self.calls.append(capability)

    def _tokens(self, images_NCHW: Tensor) -> Tensor:
        patches_NKL = functional.unfold(images_NCHW.detach().float(), self.patch_size, stride=self.patch_size)
        size = patches_NKL.shape[1]
        noise = Noise.for_batch(seed=self.seed, step=0, batch_size=size, device=images_NCHW.device)
        projection_KD = (noise.uniform(self.width) - 0.5) * (12 / size) ** 0.5
        return patches_NKL.transpose(1, 2) @ projection_KD
