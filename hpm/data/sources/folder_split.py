"""Image files as the images of a split.

Shape suffixes: K images of the split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.fingerprint import joined_names
from hpm.data.sources.image_files import open_image

_SIZES = 10_000  # files of a split whose sizes a fingerprint holds, evenly from the first to the last


class FolderSplit(EncodedSplit):
    """Image files, opened when they are asked for.

    Args:
        paths: K files.
        labels: int64 [K], or None.
        mode: of the images, "RGB" or "L" (gray). Default "RGB".
        exif_orientation: whether to turn images upright, as the camera noted in them. Default False.
    """

    def __init__(
        self, paths: Sequence[str | Path], labels: Tensor | None, mode: str = "RGB", *, exif_orientation: bool = False
    ) -> None:
        super().__init__(mode)
        self.exif_orientation = exif_orientation
        self.paths = [str(path) for path in paths]
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file's path."""
        return self.paths[index]

    def open(self, index: int) -> Image.Image:
        """The file, not decoded yet but where it has to be turned."""
        image = open_image(self.paths[index])
        turn = self.exif_orientation and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if turn:
            ImageOps.exif_transpose(image, in_place=True)  # a copy would lose a TIFF's tags
        return image

    def subset(self, indices_K: Tensor) -> FolderSplit:
        """Some of the files."""
        labels = None if self.labels is None else self.labels[indices_K]
        paths = [self.paths[index] for index in indices_K.tolist()]
        subset = FolderSplit(paths, labels, self.mode, exif_orientation=self.exif_orientation)
        subset.indices_K = indices_K
        return subset

    def content(self) -> Iterable[bytes]:
        """Each file's name, from the folder on that holds all of them; and the sizes, of so many as take no time."""
        every = -(-len(self.paths) // _SIZES)
        yield joined_names(self.paths)
        yield repr([_size(path) for path in self.paths[:: max(1, every)]]).encode()


def _size(path: str) -> int | None:
    """Bytes of a file; None where it is not there."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return None
