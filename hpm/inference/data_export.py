"""`hpm data export`: a data set in files that this project and others read.

coco           annotations/instances_SPLIT.json, and images SPLIT/NUMBER.png
segmentation   SPLIT/images/NUMBER.png, SPLIT/masks/NUMBER.png, and classes.txt
folder         SPLIT/CLASS/NUMBER.png

SPLIT is train, val or test, NUMBER an image's place in its split.

Shape suffixes: N images, C channels, S S height and width in pixels.
"""

from __future__ import annotations

import json
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from hpm import __version__
from hpm.config import parse_config
from hpm.data import IGNORED, SPLITS, TEST, VALIDATION, ImageSource, Objects, Split, annotated_views
from hpm.data.sources.coco_masks import coco_entry
from hpm.errors import Notice, UserError
from hpm.runtime.extras import import_extra
from hpm.runtime.files import check_folder, replacing, require_new
from hpm.runtime.progress import progress_to, track

_FOLDERS = dict(zip(SPLITS, ("train", "val", "test"), strict=True))
_BATCH = 256
_IGNORE_INDEX = 255  # of written masks; they hold at most so many classes


def export_data(
    configs: Sequence[str], out: Path, console: Console, *, to: str = "coco", bindings: Sequence[str] = ()
) -> Path:
    """Write a data set.

    Args:
        configs: that bind `Trainer.source`.
        out: the folder to write; must not be there, or be empty.
        console: where a person reads.
        to: the format, one of `FORMATS`.
        bindings: gin bindings over the configs.

    Returns:
        The folder.

    Raises:
        UserError: for an unknown format, data that have no such annotations, or a folder that cannot be written.
    """
    if to not in FORMATS:
        raise UserError(f"--format {to} is unknown; choose one of {', '.join(FORMATS)}")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out {out} is there already, and not an empty folder; give a new name")
    check_folder("--out", out)
    config = parse_config(list(configs), list(bindings))
    if not config.binds("Trainer"):
        raise UserError(
            f"{' '.join(configs)} binds no data set to Trainer.source; name one of the configs data/..., or your own"
        )
    source: ImageSource = config.parameter("Trainer", "source")
    config.check_bindings()
    writer = FORMATS[to](source)
    splits = source.existing(SPLITS)
    writer.check(splits)
    if VALIDATION in splits and TEST not in splits:
        text = "there are no test images: whoever reads this data set takes the folder val for those, as is usual"
        warnings.warn(text, Notice, stacklevel=2)
    console.print(f"data: {source.describe()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial, progress_to(console):
            for name, split in splits.items():
                writer.write(split, partial, _FOLDERS[name])
                console.print(f"{_FOLDERS[name]}: {len(split):,} images")
            require_new("--out", out, partial)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}; choose another --out") from error
    console.print(f"data set: {out}")
    console.print(f'read it by: {writer.config} -b "{writer.reader}.root = {str(out)!r}"')
    return out


class _Writer(ABC):
    """Writes a data set in one format.

    Args:
        source: the data.

    Attributes:
        reader: the source that reads it.
        config: the shipped config that binds it.

    Raises:
        UserError: if the data lack what the format tells.
    """

    reader: ClassVar[str]
    config: ClassVar[str]

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.name = type(source).__name__
        if source.in_chans not in (1, 3):
            raise UserError(f"images of {source.in_chans} channels have no place in a PNG; {self.name} has such")

    def check(self, splits: Mapping[str, Split]) -> None:  # noqa: B027 - most formats take any splits
        """Find out before anything is written whether these can be read again.

        Raises:
            UserError: if not.
        """

    @abstractmethod
    def write(self, split: Split, folder: Path, name: str) -> None:
        """Write a split.

        Args:
            split: one of the source's.
            folder: of the data set.
            name: of the split's folder.
        """

    def images(self, split: Split, indices_N: Tensor) -> list[Image.Image]:
        """Images as evaluations see them."""
        shown_NCSS = self.source.denormalize(self.source.load(split, indices_N)).mul(255).round().to(torch.uint8)
        pixels = shown_NCSS.permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image) for image in pixels]


def _batches(split: Split, name: str) -> Iterator[Tensor]:
    """The indices of a split's images, of which many are in memory at a time."""
    return track(torch.arange(len(split)).split(_BATCH), f"{name}:", len(split), count=len)


class _Coco(_Writer):
    reader, config = "CocoDetection", "data/coco_detection"

    def __init__(self, source: ImageSource) -> None:
        super().__init__(source)
        if not source.object_classes:
            raise UserError(
                f"--format coco needs objects with masks, and {self.name} knows none; choose another format"
            )
        import_extra("faster_coco_eval.core.mask", package="faster-coco-eval", needed_by="--format coco")

    def write(self, split: Split, folder: Path, name: str) -> None:
        """Images, and a file of annotations; categories and objects are numbered from 1, as COCO's are."""
        (folder / name).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for indices_N in _batches(split, name):
            objects = annotated_views.objects(self.source, split, indices_N)
            for index, image, of_image in zip(indices_N.tolist(), self.images(split, indices_N), objects, strict=True):
                file = f"{index:06d}.png"
                image.save(folder / name / file)
                images.append({"id": index, "file_name": file, "width": image.width, "height": image.height})
                annotations += self._annotations(of_image, index, len(annotations) + 1)
        content = {
            "info": {"description": f"{self.name}, {name}", "contributor": f"curriculum-masking {__version__}"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": id, "name": name} for id, name in enumerate(self.source.object_classes, start=1)],
        }
        (folder / "annotations" / f"instances_{name}.json").write_text(json.dumps(content), encoding="utf-8")

    def _annotations(self, objects: Objects, image: int, first: int) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                **coco_entry(image, int(label) + 1, box, mask_SS, needed_by="--format coco"),
                "area": int(mask_SS.sum()),
                "iscrowd": int(crowd),
            }
            for number, (label, box, mask_SS, crowd) in enumerate(zip(*objects, strict=True), start=first)
        ]


class _Segmentation(_Writer):
    reader, config = "SegmentationFolder", "data/segmentation_folder"

    def __init__(self, source: ImageSource) -> None:
        super().__init__(source)
        count = len(source.pixel_classes)
        if not 2 <= count <= _IGNORE_INDEX:
            what = f"{count} classes of pixels" if count else "none"
            raise UserError(
                f"--format segmentation needs 2 to {_IGNORE_INDEX} classes of pixels; {self.name} has {what}"
            )
        for name, times in Counter(source.pixel_classes).items():
            if times > 1 or name != name.strip() or len(name.splitlines()) != 1:
                reason = "is the name of two classes" if times > 1 else "is no line of classes.txt"
                raise UserError(f"--format segmentation: {name!r} {reason}; rename a class of {self.name}")

    def write(self, split: Split, folder: Path, name: str) -> None:
        """Images and masks, in which 255 counts for nothing; and the names of the classes."""
        for kind in ("images", "masks"):
            (folder / name / kind).mkdir(parents=True)
        (folder / "classes.txt").write_text("".join(f"{c}\n" for c in self.source.pixel_classes), encoding="utf-8")
        for indices_N in _batches(split, name):
            maps_NSS = annotated_views.class_maps(self.source, split, indices_N)
            masks_NSS = maps_NSS.where(maps_NSS != IGNORED, _IGNORE_INDEX).to(torch.uint8).numpy()
            for index, image, mask_SS in zip(indices_N.tolist(), self.images(split, indices_N), masks_NSS, strict=True):
                image.save(folder / name / "images" / f"{index:06d}.png")
                Image.fromarray(mask_SS).save(folder / name / "masks" / f"{index:06d}.png")


class _Folder(_Writer):
    reader, config = "ImageFolder", "data/image_folder"

    def __init__(self, source: ImageSource) -> None:
        super().__init__(source)
        if not source.class_names:
            raise UserError(f"--format folder needs a class for every image, and the images of {self.name} have none")
        for name in source.class_names:
            if name in ("", ".", "..") or name.startswith(".") or "/" in name or "\0" in name:
                raise UserError(f"--format folder: the class {name!r} cannot be the name of a folder that is read")

    def check(self, splits: Mapping[str, Split]) -> None:
        """Whether every split shows every class: readers of such folders number the classes that they find."""
        for name, split in splits.items():
            assert split.labels is not None
            missing = sorted(set(range(self.source.num_classes)) - set(split.labels.tolist()))
            if missing:
                told = ", ".join(self.source.class_names[label] for label in missing[:5])
                more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise UserError(
                    f"--format folder: none of the {len(split):,} {name} images is of class {told}{more}; readers take "
                    f"classes from the folders of each split, so let {self.name} have more {name} images, or choose "
                    "another format"
                )

    def write(self, split: Split, folder: Path, name: str) -> None:
        """Images, each in the folder of its class."""
        assert split.labels is not None
        places = [folder / name / class_name for class_name in self.source.class_names]
        for label in split.labels.unique().tolist():
            places[label].mkdir(parents=True)
        for indices_N in _batches(split, name):
            labels = split.labels[indices_N].tolist()
            for index, label, image in zip(indices_N.tolist(), labels, self.images(split, indices_N), strict=True):
                image.save(places[label] / f"{index:06d}.png")


FORMATS: dict[str, type[_Writer]] = {"coco": _Coco, "segmentation": _Segmentation, "folder": _Folder}
"""What can be written, by the name that `--format` takes."""
