"""Hugging Face's data sets as splits.

Shape suffixes: K images of the split.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from PIL import Image
from torch import Tensor

from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.fingerprint import joined_names
from hpm.data.sources.image_files import open_image
from hpm.data.sources.labels import whole_labels
from hpm.errors import UserError

_ROWS_AT_ONCE = 10_000


def from_hugging_face(reader: Any, *, target_key: str, mode: str, described: str) -> tuple[EncodedSplit, list[str]]:
    """A table as a split, and the names of its classes.

    Args:
        reader: timm's, which opens the table.
        target_key: the column of labels.
        mode: of the images, "RGB" or "L" (gray).
        described: the data set, for errors.

    Raises:
        UserError: if the reader's column of images holds none.
    """
    columns, image_key = reader.dataset.column_names, reader.image_key
    if len(reader) and reader.dataset[0][image_key] is None:  # timm adds an empty column where there is none
        others = [column for column in columns if column != image_key]
        raise UserError(
            f"{described} holds no images in TimmDataset.input_key = {image_key!r}; other columns are {others}"
        )
    labels = None
    if target_key in columns:
        labels = whole_labels(reader.dataset.select_columns([target_key])[:][target_key])
    if labels is None:
        return HuggingFaceSplit(reader, None, mode), []
    names = list(reader.class_to_idx) or [str(label) for label in range(int(labels.max()) + 1)]
    return HuggingFaceSplit(reader, labels, mode), names


class HuggingFaceSplit(EncodedSplit):
    """A table of encoded images, memory-mapped by the package `datasets`.

    Args:
        reader: timm's, which opens the table.
        labels: int64 [K], or None.
        mode: of the images, "RGB" or "L" (gray).
    """

    def __init__(self, reader: Any, labels: Tensor | None, mode: str) -> None:
        super().__init__(mode)
        self.reader = reader
        self.labels = labels

    def __len__(self) -> int:
        return len(self.reader)

    def name(self, index: int) -> str:
        """The image's path in the table, where it has one."""
        return self.reader.filename(index) or super().name(index)

    def open(self, index: int) -> Image.Image:
        """The image, not decoded yet."""
        image = self.reader.dataset[index][self.reader.image_key]
        return open_image(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"])

    def content(self) -> Iterable[bytes]:
        """Each image's name, and how many bytes it has in the table; of the bytes themselves none is read."""
        from pyarrow import compute  # which few runs need

        paths: list[str] = []
        lengths: list[int] = []
        key = self.reader.image_key
        for table in self.reader.dataset.select_columns([key]).with_format("arrow").iter(_ROWS_AT_ONCE):
            images = table.column(key)
            paths += (path or "" for path in compute.struct_field(images, "path").to_pylist())
            lengths += compute.binary_length(compute.struct_field(images, "bytes")).to_pylist()
        yield joined_names(paths)
        yield repr(lengths).encode()
