"""Augmentation for supervised training: RandAugment in the loader's workers, by address rather than by state.

timm's augmentations draw from Python's, NumPy's and PyTorch's global generators. They are lent ones that are seeded
with what is augmented, and get their own state back afterwards: training draws the same whatever came before it,
whatever the number of workers and wherever it is resumed, and nothing else notices.

Shape suffixes: N images, C channels, S side.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from curriculum.noise import hash_words
from curriculum.sizes import Size, pair
from curriculum.streams import Stream
from hpm.data import TRAIN, Crops, ImageSource, Loader, RandomResizedCrop, Split, Unreadable, UnreadableImages
from hpm.data.sources.split import Choose
from hpm.runtime.distributed import DistributedContext

_CPU = torch.device("cpu")
_MOST_OPERATIONS = 100  # on an image


@contextmanager
def isolated_rng(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Within this context the global generators are seeded; after it they are as before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm draws from it
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed % 2**63)  # torch.manual_seed would reach every device's
        if device.type == "cuda":
            torch.cuda.manual_seed(seed % 2**63)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def named_crop(owner: str, *, scale: tuple[float, float], flip: float) -> RandomResizedCrop:
    """A crop whose errors name the evaluation: a run has another RandomResizedCrop.

    Args:
        owner: whose settings these are, for errors.
        scale: area of the crops, relative to the image.
        flip: probability of mirroring.

    Raises:
        ValueError: naming the owner's setting at fault.
    """
    try:
        return RandomResizedCrop(scale=scale, flip=flip)
    except ValueError as error:
        raise ValueError(str(error).replace("RandomResizedCrop", owner)) from None


def rand_augment(owner: str, policy: str, *, size: Size, mean: Sequence[float]) -> Any:
    """RandAugment by timm (Cubuk et al. 2020, arXiv 1909.13719), with what its `create_transform` sets beside it.

    Args:
        owner: who names the policy, for the error.
        policy: timm's spelling, e.g. "rand-m9-mstd0.5-inc1".
        size: of the images in pixels, S for squares or (height, width); translations reach 0.45 of the shorter side.
        mean: of each channel in [0, 1], which fills what moves in.

    Raises:
        ValueError: if timm does not know the policy.
    """
    # Gray images are augmented as colored ones.
    fill = tuple(min(255, round(255 * value)) for value in (mean if len(mean) == 3 else [mean[0]] * 3))
    hints = {
        "translate_const": int(min(pair(size)) * 0.45),
        "img_mean": fill,
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        transform = rand_augment_transform(policy, hints)
    except (AssertionError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"{owner}.rand_augment = {policy!r} is no RandAugment of timm's; write e.g. 'rand-m9-mstd0.5-inc1', or None"
        ) from error
    if transform.num_layers > _MOST_OPERATIONS:
        raise ValueError(
            f"{owner}.rand_augment = {policy!r} asks for {transform.num_layers:,} operations on each image, n; "
            f"{_MOST_OPERATIONS} are the most, and 2 usual"
        )
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits. The strongest level keeps none: black, which newer versions of Pillow refuse."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else image.point(lambda value: 0)


class RandAugmented(Split):
    """Crops of another split after RandAugment. What is done to an image depends on (seed, epoch, index) alone.

    Args:
        inner: where the crops come from; images of one or three channels.
        transform: of a Pillow image.
        seed: of the augmentation.

    Attributes:
        epoch: the one whose augmentation is drawn; set before the loader's workers start.
    """

    def __init__(self, inner: Split, transform: Any, *, seed: int) -> None:
        self.inner = inner
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        self.labels = inner.labels

    def __len__(self) -> int:
        return len(self.inner)

    def sizes(self, indices_N: Tensor) -> Tensor:
        """As the inner split's."""
        return self.inner.sizes(indices_N)

    def name(self, index: int) -> str:
        """As the inner split's."""
        return self.inner.name(index)

    def prepare(self) -> None:
        """Read what the inner split reads once."""
        self.inner.prepare()

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """Uint8 [N, C, S, S]."""
        return self.view(indices_N, size, lambda rows, sizes_N2: (boxes_N4[rows], flips_N[rows])).images_NCSS

    def view(self, indices_N: Tensor, size: Size, choose: Choose) -> Crops:
        """The inner split's crops, augmented: uint8."""
        try:
            return self._augmented(self.inner.view(indices_N, size, choose), indices_N)
        except Unreadable as error:
            if error.crops is not None:
                error.crops = self._augmented(error.crops, indices_N)
            raise

    def _augmented(self, crops: Crops, indices_N: Tensor) -> Crops:
        images_NCSS = crops.images_NCSS
        if images_NCSS.is_floating_point():
            images_NCSS = images_NCSS.round().clamp(0, 255).to(torch.uint8)
        augmented = [
            self._augment(image_CSS, hash_words(self.seed, Stream.RAND_AUGMENT, self.epoch, index))
            for image_CSS, index in zip(images_NCSS, indices_N.tolist(), strict=True)
        ]
        return crops._replace(images_NCSS=torch.stack(augmented))

    def _augment(self, image_CSS: Tensor, seed: int) -> Tensor:
        pixels = image_CSS.permute(1, 2, 0).contiguous().numpy()
        gray = pixels.shape[2] == 1
        image = Image.fromarray(pixels[:, :, 0]).convert("RGB") if gray else Image.fromarray(pixels)
        with isolated_rng(seed):
            image = self.transform(image)
        pixels = np.array(image.convert("L") if gray else image).reshape(pixels.shape)
        return torch.from_numpy(pixels).permute(2, 0, 1)


class _WithTrainingSplit(ImageSource):
    """Another source whose training split is the one given."""

    def __init__(self, source: ImageSource, train: Split) -> None:
        super().__init__(
            img_size=source.img_size,
            in_chans=source.in_chans,
            mean=source.mean,
            std=source.std,
            class_names=source.class_names,
            validation_images=0,
        )
        self._source = source
        self._train = train

    def read(self, split: str) -> Split:
        return self._train if split == TRAIN else self._source.get_split(split)


class AugmentingLoader(Loader):
    """A `Loader` that applies RandAugment to the crops.

    Args:
        source: the images.
        transform: from `rand_augment`, or None for crops alone.
        seed: of order, crops and augmentation.
        processes: that share a batch.
        unreadable: takes the images that cannot be read, for which others stand in. Default those of this loader alone.
        **settings: the others of `Loader`.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        transform: Any,
        seed: int,
        processes: DistributedContext,
        unreadable: UnreadableImages | None = None,
        **settings: Any,
    ) -> None:
        self._augmented = None if transform is None else RandAugmented(source.train(), transform, seed=seed)
        if self._augmented is not None:
            source = _WithTrainingSplit(source, self._augmented)
        super().__init__(source=source, seed=seed, rank=processes.rank, world_size=processes.world_size, **settings)
        if unreadable is not None:
            self.unreadable_images = unreadable

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Any, ...]]:
        """As `Loader.epoch`. The one before must have ended."""
        if self._augmented is not None:
            self._augmented.epoch = epoch
        return super().epoch(epoch, first_step)
