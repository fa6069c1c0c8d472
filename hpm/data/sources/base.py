"""Sources of images: what a data set must offer.

Shape suffixes: N images of a batch, K images of a split, C channels, S S output height and width, Y classes.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from curriculum.sizes import Size, as_size
from curriculum.validation import require_at_least, require_choice
from hpm.data.crops import whole_boxes
from hpm.data.sources.annotations import BACKGROUND
from hpm.data.sources.carving import carve, most_to_take
from hpm.data.sources.normalization import Normalization
from hpm.data.sources.split import HELD_OUT, SPLITS, TEST, TRAIN, VALIDATION, Split
from hpm.errors import Notice, UserError

_CARVED_SHARE, _MOST_CARVED = 10, 10_000  # one of so many training images, and never more


class ImageSource(ABC):
    """A data set: its training, validation and test images, and how pixels are normalized.

    Making one reads nothing: images are looked for when a split or the classes are asked for, so that a trained model
    can be used where its images are not. Data that come without validation images have some carved from their training
    images, by `carve`.

    Args:
        img_size: of the images that the model sees in pixels, S for squares or (height, width).
        in_chans: C, their channels.
        mean: of each channel, for pixel values scaled to [0, 1].
        std: of each channel, likewise.
        class_names: names of the classes, in label order. Default none, or what the class says: see `class_names`.
        validation_images: how many training images are carved for validation, where the data have no such split. 0 for
            none; None, the default, for a tenth, at most 10,000, or for none where there are no test images either.
    """

    exif_orientation = False  # whether image files are turned upright, as the camera noted in them

    def __init__(
        self,
        *,
        img_size: Size,
        in_chans: int,
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] = (),
        validation_images: int | None = None,
    ) -> None:
        name = type(self).__name__
        self.img_size, self.in_chans = as_size(name, 1, img_size=img_size), in_chans
        require_at_least(name, 1, in_chans=in_chans)
        require_at_least(name, 0, validation_images=validation_images)
        self._normalization = Normalization(name, in_chans, mean, std)
        self.mean, self.std = self._normalization.mean, self._normalization.std
        if class_names:
            self.class_names = tuple(class_names)
        self.validation_images = validation_images
        self._loaded: dict[str, Split] = {}

    @abstractmethod
    def read(self, split: str) -> Split:
        """Read a split; called once for each that is used, and for validation only where `has_own_validation`.

        Args:
            split: one of `SPLITS`.

        Raises:
            UserError: if the data set has no such split, or it cannot be read.
        """

    @property
    def has_own_validation(self) -> bool:
        """Whether the data come with validation images, which `read` gives; where not, they are carved."""
        return False

    @property
    def has_test(self) -> bool:
        """Whether there are test images, as far as that is known without reading them."""
        return True

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images, of the data set's own or carved."""
        return self.has_own_validation or self._carved[1] is not None

    def existing(self, splits: Iterable[str]) -> dict[str, Split]:
        """Those of some splits that there are, by name.

        Args:
            splits: names, of `SPLITS`.
        """
        return {name: self.get_split(name) for name in splits if self._has(name)}

    def require_held_out(self) -> None:
        """Find out before measuring whether there are images to score; a notice says where there are no test images.

        Raises:
            UserError: if there are neither test nor validation images, or they cannot be found.
        """
        held_out = self.existing(HELD_OUT)
        if TEST in held_out:
            return
        if held_out:
            text = "there are no test images: evaluations score validation images, on which some of them also choose"
            warnings.warn(text, Notice, stacklevel=2)
            return
        most, advice = most_to_take(self.train()), ""
        if most:
            advice = f"; {type(self).__name__}.validation_images = N puts N of the training images aside, 1 to {most}"
        try:
            self.test()
        except UserError as error:
            raise UserError(f"{error}{advice}") from error

    def _has(self, split: str) -> bool:
        return self.has_validation if split == VALIDATION else self.has_test if split == TEST else True

    def train(self) -> Split:
        """The training split, less what is carved from it: the same object at every call."""
        return self.get_split(TRAIN)

    def validation(self) -> Split:
        """The validation split, the same object at every call.

        Raises:
            UserError: if there is none.
        """
        return self.get_split(VALIDATION)

    def test(self) -> Split:
        """The test split, the same object at every call.

        Raises:
            UserError: if the data set has none.
        """
        return self.get_split(TEST)

    def get_split(self, name: str) -> Split:
        """A split by its name, the same object at every call.

        Args:
            name: one of `SPLITS`.

        Raises:
            UserError: if there is none.
            ValueError: if no split is called so.
        """
        require_choice(f"{type(self).__name__}.get_split", SPLITS, name=name)
        if name not in self._loaded:
            self._loaded[name] = self.read(name) if name == TEST or self.has_own_validation else self._part(name)
        return self._loaded[name]

    def prepare(self) -> None:
        """Read what the splits that were asked for so far hold in memory; a UserError says what cannot be read."""
        for split in self._loaded.values():
            split.prepare()

    def describe(self) -> str:
        """For people, of the splits that were read so far: "ImageFolder, 3 classes, images: 90 train, 9 test (val)"."""
        read = dict(self._loaded)
        carves = not self.has_own_validation
        if carves and TRAIN in read and self._carved[1] is not None:
            read[VALIDATION] = self._carved[1]
        parts = []
        for name in (name for name in SPLITS if name in read):
            origin = "carved" if carves and name == VALIDATION else self.origin(name)
            parts.append(f"{len(read[name]):,} {name}" + (f" ({origin})" if origin else ""))
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        return f"{type(self).__name__}{classes}, images: {', '.join(parts) or 'none read'}"

    def origin(self, split: str) -> str:
        """What the data call a split that `read` gives, e.g. the name of its folder; "" where there is no such name."""
        return ""

    def _part(self, name: str) -> Split:
        """What carving leaves of the training images, or what it takes."""
        train, validation = self._carved
        if name == TRAIN:
            return train
        if validation is None:
            raise UserError(self._why_nothing_is_carved(train))
        return validation

    def _why_nothing_is_carved(self, train: Split) -> str:
        owner, most = type(self).__name__, most_to_take(train)
        if not most:
            return f"{owner} has no validation images, and no class with two training images to carve them from"
        what = f"{owner}.validation_images = {self.validation_images} leaves no validation images"
        if self.validation_images is None:
            few = f"a tenth of {len(train)} training images is none"
            what = (
                f"{owner} has no validation images: {few if self.has_test else 'without test images none are carved'}"
            )
        return (
            f"{what}; something is chosen or scored on them, so set {owner}.validation_images to a number of training "
            f"images from 1 to {most}"
        )

    @cached_property
    def _carved(self) -> tuple[Split, Split | None]:
        """The training and the validation images of data that have no validation split."""
        whole = self.read(TRAIN)
        count, most = self.validation_images, most_to_take(whole)
        if count is None:
            count = min(len(whole) // _CARVED_SHARE, _MOST_CARVED, most) if self.has_test else 0
        if count > most:
            raise UserError(
                f"{type(self).__name__}.validation_images = {count} is more than {most}, which leave one of "
                f"{len(whole)} images for training{'' if whole.labels is None else ' in every class'}"
            )
        return carve(whole, count) if count else (whole, None)

    @property
    def known_train_size(self) -> int | None:
        """How many training images there are, where the settings say so; None where that takes a look at the data."""
        return None

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order; none for unlabeled images. A source may read them here, when asked."""
        return ()

    @property
    def num_classes(self) -> int:
        """Classes; 0 where the images are unlabeled."""
        return len(self.class_names)

    @property
    def object_classes(self) -> tuple[str, ...]:
        """Names of the classes of `Split.objects`; none where the data know no objects."""
        return ()

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        """Names of the classes of `Split.class_maps`, by default those of objects; none where pixels have no class."""
        names = self.object_classes
        background = f"{BACKGROUND} (no object)" if BACKGROUND in names else BACKGROUND  # a name is of one class
        return (background, *names) if names else ()

    def normalize(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 255], of any type -> float32 [N, C, H, W], contiguous, as the model sees them."""
        return self._normalization(images_NCHW)

    def denormalize(self, images_NCHW: Tensor) -> Tensor:
        """What the model sees (or reconstructs) -> float32 [N, C, H, W] in [0, 1], clipped."""
        return self._normalization.undo(images_NCHW)

    def load(self, split: Split, indices_N: Tensor) -> Tensor:
        """Images for evaluation, not augmented: normalized float32 [N, C, S, S].

        Raises:
            UserError: if one cannot be read; it names the file.
        """

        def choose(rows: slice, sizes_N2: Tensor) -> tuple[Tensor, Tensor]:
            flips_N = torch.zeros(len(sizes_N2), dtype=torch.bool, device=sizes_N2.device)
            return self.evaluation_boxes(sizes_N2), flips_N

        return self.normalize(split.view(indices_N, self.img_size, choose).images_NCSS)

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The part of an image that `load` shows, float32 [N, 4]: all of it."""
        return whole_boxes(sizes_N2)

    @property
    def knows_objects(self) -> bool:
        """Whether the data can say which patches hold the object."""
        return False

    def object_map(self, split: Split, indices_N: Tensor, *, patch_size: Size) -> Tensor | None:
        """Which patches of images, as `load` shows them, hold the object.

        Args:
            split: one of this source's. One that was carved is not what `read` gave, but has kept where its images
                were there: `split.indices_K[indices_N]`; of others `split.indices_K` is None.
            indices_N: int64 [N], images of that split.
            patch_size: of a patch in pixels, the side of a square or (height, width); divides `img_size`.

        Returns:
            Bool [N, L], patches in raster order, or None where the data do not know.
        """
        return None
