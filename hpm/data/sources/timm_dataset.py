"""Whatever `timm.data` reads and can address by index: folders, tar files, torchvision's and Hugging Face's data sets.

Shape suffixes: N images, K images of the split, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import ClassVar

from timm.data import create_dataset, create_reader
from torch import Tensor

from curriculum.sizes import Size
from curriculum.validation import require_choice, require_in
from hpm.data.crops import central_boxes
from hpm.data.sources.base import ImageSource
from hpm.data.sources.hugging_face import from_hugging_face
from hpm.data.sources.image_files import describe_left_out
from hpm.data.sources.image_folder import IMAGENET_MEAN, IMAGENET_STD, scan
from hpm.data.sources.split import TEST, TRAIN, VALIDATION, Split
from hpm.data.sources.timm_files import find_split, read_files
from hpm.data.sources.timm_names import same_images
from hpm.data.sources.torchvision_data import from_torchvision
from hpm.errors import UserError
from hpm.runtime.files import expanded

_ITERABLE = {
    "wds": "WebDataset",
    "tfds": "TensorFlow Datasets",
    "hfids": "Hugging Face data sets in streaming mode",
}
_USUAL_TEST_SPLIT = "validation"
_TORCHVISION_FOLDERS = ("torch/image_folder", "torch/folder")
_READERS = '"" (a folder of images, a tar file or a folder of tar files), "torch/NAME" and "hfds/NAME"'


class TimmDataset(ImageSource):
    """A data set by timm's name for it.

    - `name = ""`: `root/TRAIN_SPLIT` and `root/TEST_SPLIT`, each a folder of images in class folders, a folder of tar
      files, or a tar file (`root/train.tar`). timm's synonyms (`train`, `training`; `val`, `validation`, ...) are
      looked for as well. A `root` without a training split is the training split itself.
    - `name = "torch/cifar10"`: one of torchvision's. Its `image_folder` is the folders of `name = ""`, but that a class
      is the folder right below the split's, in alphabetical order, where timm's is the innermost, in natural order.
    - `name = "hfds/USER/NAME"`: one of Hugging Face's, with the package `datasets`; `root` is its cache.

    Args:
        name: what to read. Default "", files.
        root: folder of the data. None, the default, for the usual cache of "hfds/", or where a model is used or
            planned without its images.
        train_split: name of the training split. Default "train".
        test_split: name of the test split, None for none. Default "validation"; files without it have no test images.
        validation_split: name of the validation split, of other images than the two above. None, the default, has
            validation images carved from the training images.
        img_size: of the images in pixels, the side of squares or (height, width). Default 224.
        in_chans: C, 3 for color or 1 for gray. Default 3.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.
        crop_pct: sides of the central box that evaluation sees, of the images' aspect, relative to the largest such box
            that fits. Default 0.875.
        download: whether torchvision may fetch what is missing. Default False.
        input_key: Hugging Face's column of images. Default "image".
        target_key: Hugging Face's column of labels. Default "label".
        validation_images: how many training images are carved for validation; see `ImageSource`. Default None.

    Raises:
        UserError: if the name is none of these, or of data that cannot be addressed by index; if two splits are the
            same images by their names.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self,
        *,
        name: str = "",
        root: str | Path | None = None,
        train_split: str = "train",
        test_split: str | None = _USUAL_TEST_SPLIT,
        validation_split: str | None = None,
        img_size: Size = 224,
        in_chans: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        crop_pct: float = 0.875,
        download: bool = False,
        input_key: str = "image",
        target_key: str = "label",
        validation_images: int | None = None,
    ) -> None:
        require_choice("TimmDataset", (1, 3), in_chans=in_chans)
        require_in("TimmDataset", "(0, 1]", crop_pct=crop_pct)
        kind, slash, rest = name.partition("/")
        self.name = kind.lower() + slash + rest
        self._of_torchvision_folders = self.name.lower() in _TORCHVISION_FOLDERS
        self._of_files = not self.name or self._of_torchvision_folders
        self._left_out: dict[str, Counter[str]] = {}
        self.root = None if root is None else expanded(root)
        self.test_split = test_split
        self.validation_split = validation_split
        self.crop_pct = crop_pct
        self.download = download
        self.keys = (input_key, target_key)
        self._mode = "RGB" if in_chans == 3 else "L"
        self.train_split = train_split
        if validation_split is not None and validation_images:
            raise ValueError(
                f"TimmDataset.validation_images = {validation_images} and TimmDataset.validation_split = "
                f"{validation_split!r} say the same thing twice; leave one of them out"
            )
        self._check_name()
        self._check_splits()
        super().__init__(img_size=img_size, in_chans=in_chans, mean=mean, std=std, validation_images=validation_images)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes of the training split, in label order; none for unlabeled images."""
        return tuple(self._training[1])

    @property
    def has_test(self) -> bool:
        if self.test_split is None or not self._of_files or self.root is None:
            return self.test_split is not None
        return find_split(self.root, self.test_split) is not None

    @property
    def has_own_validation(self) -> bool:
        return self.validation_split is not None

    def read(self, split: str) -> Split:
        """Read a split.

        Raises:
            UserError: if the data are missing, hold no images, or need a package that is not installed; if there is no
                such split, its classes differ from the training split's, or two splits are the same images.
        """
        self._check_splits()
        self._check_there()
        if split == TRAIN:
            return self._training[0]
        name = self.test_split if split == TEST else self.validation_split
        if name is None:
            raise UserError("TimmDataset.test_split is None, so there is nothing to evaluate on")
        images, class_names = self._read(name, training=False)
        if tuple(class_names) != self.class_names:
            differing = sorted(set(class_names) ^ set(self.class_names))[:5]
            raise UserError(f"the splits of {self._described} must hold the same classes; they differ in {differing}")
        return images

    def origin(self, split: str) -> str:
        names = {TRAIN: self.train_split, VALIDATION: self.validation_split, TEST: self.test_split}
        name = names[split] or ""
        if not name or not self._of_files or self.root is None:
            return name
        path = find_split(self.root, name)
        return "" if path is None else path.name

    def describe(self) -> str:
        told = describe_left_out(sum(self._left_out.values(), Counter()))
        return super().describe() + (f"; {told}" if told else "")

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The central boxes of `crop_pct` of the largest of the model's aspect that fit, float32 [N, 4]."""
        return central_boxes(sizes_N2, self.crop_pct, self.img_size)

    @cached_property
    def _training(self) -> tuple[Split, list[str]]:
        """All training images, and the names of their classes."""
        self._check_there()
        return self._read(self.train_split, training=True)

    @property
    def _described(self) -> str:
        """The data set, for errors."""
        return f"TimmDataset {self.name!r}" + (f" in {self.root}" if self.root else "")

    def _check_name(self) -> None:
        kind, _, rest = self.name.partition("/")
        if kind in _ITERABLE:
            raise UserError(
                f"TimmDataset.name = {self.name!r}: {_ITERABLE[kind]} can only be read from front to back, but an "
                "image must be addressed by its index here. Unpack it to a folder of images; or name a folder of tar "
                "files, such as WebDataset's shards, as TimmDataset.root with TimmDataset.name = ''"
            )
        if self.name and (kind not in ("torch", "hfds") or not rest):
            raise UserError(f"TimmDataset.name = {self.name!r} is unknown; choose {_READERS}")

    def _check_splits(self) -> None:
        """The splits must be different images, as far as names, and folders that are there, tell."""
        splits = {"train_split": self.train_split, "test_split": self.test_split}
        if self.validation_split is not None:
            splits["validation_split"] = self.validation_split
        named = {argument: split for argument, split in splits.items() if split is not None}
        for argument, split in named.items():
            if not split:
                raise UserError(f"TimmDataset.{argument} = '' names no split; name one, or set None for none")
        for (first, one), (second, other) in combinations(named.items(), 2):
            if same_images("" if self._of_files else self.name, self.root, one, other):
                raise UserError(
                    f"TimmDataset.{second} = {other!r} means the same images as TimmDataset.{first} = {one!r}; choose "
                    "another: what is learned or chosen on images says nothing when it is scored on them"
                )

    def _check_there(self) -> None:
        if self.name.startswith("hfds/") and find_spec("datasets") is None:
            raise UserError(f"TimmDataset.name = {self.name!r} needs the package datasets: pip install datasets")
        if not self.name.startswith("hfds/") and self.root is None:
            raise UserError(f"TimmDataset.root must be the folder of the data for TimmDataset.name = {self.name!r}")
        if self._of_files and self.root is not None and not self.root.exists():
            raise UserError(f"TimmDataset.root = {self.root} does not exist")
        if self.test_split is None or self.has_test:
            return
        assert self.root is not None
        if self.test_split != _USUAL_TEST_SPLIT:
            raise UserError(
                f"TimmDataset.test_split = {self.test_split!r} is neither a folder nor a tar file in TimmDataset.root "
                f"= {self.root}; name one, or set it to None for none"
            )
        if self.validation_split != "test" and find_split(self.root, "test") is not None:
            raise UserError(
                f"TimmDataset.test_split = {self.test_split!r} is not in TimmDataset.root = {self.root}, but test is; "
                "set it to 'test', or to None for no test images"
            )

    def _read(self, split: str, *, training: bool) -> tuple[Split, list[str]]:
        """A split, and the names of its classes."""
        if self._of_files:
            return self._read_files(split, training=training)
        if self.name.startswith("torch/"):
            advice = "" if self.download else "TimmDataset.download = True fetches some of torchvision's data sets"
            with self._opening(split, advice):
                dataset = create_dataset(self.name, root=str(self.root), split=split, download=self.download)
            return from_torchvision(dataset, self._mode, self.name)
        image_key, target_key = self.keys
        root = None if self.root is None else str(self.root)
        with self._opening(split):
            reader = create_reader(self.name, root=root, split=split, input_key=image_key, target_key=target_key)
        return from_hugging_face(reader, target_key=target_key, mode=self._mode, described=self._described)

    def _read_files(self, split: str, *, training: bool) -> tuple[Split, list[str]]:
        """A split of files, and the names of its classes."""
        assert self.root is not None
        path = find_split(self.root, split)
        if path is None and training and split == "train" and not self._held_out_files(self.root):
            path = self.root
        if path is None:
            raise UserError(
                f"TimmDataset.root = {self.root} holds no split {split!r}: neither a folder {split} nor {split}.tar"
            )
        left_out = self._left_out[split] = Counter[str]()
        if self._of_torchvision_folders and path.is_dir():
            return scan(path, left_out, self._mode)
        return read_files(path, self._mode, left_out)

    def _held_out_files(self, root: Path) -> list[Path]:
        splits = [split for split in (self.test_split, self.validation_split) if split is not None]
        return [path for split in (*splits, "test", "val") if (path := find_split(root, split)) is not None]

    @contextmanager
    def _opening(self, split: str, advice: str = "") -> Iterator[None]:
        """Turn whatever a library raises, from a missing file or network to a missing column, into a sentence."""
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            more = f" ({advice})" if advice else ""
            raise UserError(f"{self._described}, split {split!r}, cannot be opened: {reason}{more}") from error
