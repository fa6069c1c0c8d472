"""The files of composites: cut-outs in class folders, and photographs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from curriculum.sizes import Size, pair
from hpm.data.sources.image_files import class_folders, image_files, labeled_files, open_image
from hpm.data.sources.image_modes import to_mode
from hpm.data.sources.split import SPLITS, TEST, TRAIN, VALIDATION
from hpm.errors import UserError

_PERIOD, _VALIDATION, _TEST = 20, (1, 9, 15), (2, 7, 12, 17)  # photographs, and the places of those held out
_FEWEST_PHOTOGRAPHS = 3  # one for each split
_MOST_TOLD = 3  # unfit files in one message
_FAINT = 16  # opacity, of 255, below which a pixel does not belong to a cut-out


def find_cutouts(folder: Path, left_out: Counter[str] | None = None) -> dict[str, list[Path]]:
    """The images of each class folder, both in alphabetical order.

    Args:
        folder: to look through.
        left_out: is told how many files of each kind are left out; see `labeled_files`.

    Raises:
        UserError: if the folder is missing or has fewer than two class folders, or if one of them holds no image.
    """
    _require_folder("cutouts", folder)
    classes = class_folders(folder)
    if len(classes) < 2:
        raise UserError(
            f"Composites.cutouts = {folder} has {len(classes)} class folders; two or more belong there, each with "
            "cut-outs of one class"
        )
    found: dict[str, list[Path]] = {path.name: [] for path in classes}
    for path, name in labeled_files(folder, left_out):
        if name is not None:
            found[name].append(path)
        elif left_out is not None:
            left_out["images in no class folder"] += 1
    for name, paths in found.items():
        if not paths:
            raise UserError(f"{folder / name} holds no images")
    return found


def find_photographs(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """All images of a folder and the folders within, in alphabetical order; none twice by a link.

    Args:
        folder: to look through.
        left_out: is told how many files of each kind are left out; see `image_files`.

    Raises:
        UserError: if the folder is missing or holds fewer than three photographs.
    """
    _require_folder("photographs", folder)
    first: dict[Path, Path] = {}  # of the paths that lead to a file
    for path in image_files(folder, left_out):
        if first.setdefault(path.resolve(), path) != path and left_out is not None:
            left_out["links to photographs that were seen"] += 1
    found = list(first.values())
    if len(found) < _FEWEST_PHOTOGRAPHS:
        raise UserError(
            f"Composites.photographs = {folder} holds {len(found)} images; training, validation and test scenes share "
            f"no photograph, which takes {_FEWEST_PHOTOGRAPHS} or more"
        )
    return found


def divide(photographs: Sequence[Path]) -> dict[str, list[Path]]:
    """The photographs of each split, by its name: of every twenty in their order 3 are for validation, 4 for testing.

    They lie apart, so that every folder of many photographs gives some to each split, and three or more photographs
    give each split one.
    """
    places = [place % _PERIOD for place in range(len(photographs))]
    names = [TEST if place in _TEST else VALIDATION if place in _VALIDATION else TRAIN for place in places]
    return {name: [path for path, own in zip(photographs, names, strict=True) if own == name] for name in SPLITS}


def read_all(paths: Iterable[Path], read: Callable[[Path], Image.Image]) -> list[Image.Image]:
    """Read files, and name all that are unfit, not the first alone.

    Raises:
        UserError: what is wrong with the first three, and how many there are.
    """
    images, faults = [], []
    for path in paths:
        try:
            images.append(read(path))
        except UserError as error:
            faults.append(str(error))
    if faults:
        more = f"; and {len(faults) - _MOST_TOLD} more files are unfit" if len(faults) > _MOST_TOLD else ""
        raise UserError("; ".join(faults[:_MOST_TOLD]) + more)
    return images


def read_cutout(path: Path, *, side: int) -> Image.Image:
    """A cut-out without its empty margin, its colours multiplied by its opacity (Pillow's mode RGBa).

    Args:
        path: an image with transparency.
        side: pixels; a cut-out whose larger side is larger is made smaller.

    Raises:
        UserError: if the file is damaged, or nothing or everything in it is opaque.
    """
    image = _decode(path, None, "RGBA")
    opacity = image.getchannel("A")
    if opacity.getextrema()[0] == 255:
        raise UserError(f"{path} has no transparency, which is what tells a cut-out from what was around it")
    box = opacity.point(lambda level: 255 * (level >= _FAINT)).getbbox()
    if box is None:
        raise UserError(f"{path} is transparent everywhere: there is no cut-out in it")
    return _shrink(image.crop(box).convert("RGBa"), side / max(box[2] - box[0], box[3] - box[1]))


def read_photograph(path: Path, *, kept: Size, least: Size) -> Image.Image:
    """A photograph in colour.

    Args:
        path: an image.
        kept: in pixels, of a square or (height, width); a photograph that is larger in both is made smaller.
        least: pixels that it needs, of a square or (height, width).

    Raises:
        UserError: if the file is damaged or the photograph too small.
    """
    height, width = pair(least)
    image = _decode(path, kept, "RGB")
    if image.height < height or image.width < width:
        needed = f"{least} pixels" if isinstance(least, int) else f"{width} x {height} pixels (width x height)"
        raise UserError(
            f"{path} has {image.width} x {image.height} pixels, too few for scenes of {needed}; take it out of "
            "the photographs, or lower the scenes' size, IMG_SIZE"
        )
    rows, columns = pair(kept)
    return _shrink(image, max(rows / image.height, columns / image.width))


def digest_of(paths: Iterable[Path]) -> str:
    """Hexadecimal digits that tell the content of files, in their order, from others; their names do not count.

    Raises:
        UserError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _decode(path: Path, kept: Size | None, mode: str) -> Image.Image:
    """The image of a file, decoded, in a mode of 8 bits.

    A JPEG is decoded at a fraction of its size where twice the height and width that are kept remain, which is faster.
    """
    try:
        with open_image(path) as image:
            if kept is not None:
                rows, columns = pair(kept)
                image.draft(None, (2 * columns, 2 * rows))
            image.load()
            return to_mode(image, mode)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} cannot be read as an image: it is none that Pillow knows") from error
    except Exception as error:  # Pillow's readers raise almost anything about a damaged file
        raise UserError(f"{path} cannot be read as an image: {error}") from error


def _shrink(image: Image.Image, factor: float) -> Image.Image:
    """The image made smaller by an antialiased filter; the image itself where the factor is 1 or more."""
    if factor >= 1:
        return image
    size = tuple(max(1, round(length * factor)) for length in image.size)
    return image.resize(size, Image.Resampling.BICUBIC)  # type: ignore[arg-type]


def _require_folder(setting: str, folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"Composites.{setting} = {folder} is not a folder")
