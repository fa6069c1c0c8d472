"""Image files in folders: one walk for training, evaluation and embedding, so that all of them see the same images."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from hpm.errors import UserError

_KINDS_TOLD = 6
_PROGRAMS = {"EPS"}  # formats for which Pillow starts another program

# Of what is no fault: how a programmer might convert a palette, and of large images that are not refused as too large.
for _hint in ("Palette images with Transparency", "Image size .* exceeds limit of"):
    warnings.filterwarnings("ignore", message=_hint, module=r"PIL\.")


def open_image(file: str | Path | BinaryIO) -> Image.Image:
    """An image that is not decoded yet, by any of Pillow's formats but PostScript, whatever the file is called.

    For PostScript Pillow starts Ghostscript, another program, which runs what the file says.

    Raises:
        OSError: if it is none, or cannot be read.
    """
    return Image.open(file, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()  # which formats there are depends on how Pillow was built, and on its plugins
    return tuple(name for name in Image.OPEN if name not in _PROGRAMS)


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, in alphabetical order, but for hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def image_files(folder: Path, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """The image files of a folder and the folders within, no folder twice; see `labeled_files`."""
    return (path for path, _ in _walk(folder, left_out, once_in_each=False))


def labeled_files(folder: Path, left_out: Counter[str] | None = None) -> Iterator[tuple[Path, str | None]]:
    """The image files of a folder and the folders within, ordered by their paths; one folder's names are in memory.

    Each comes with the name of the folder that it lies in right below `folder`, which is its class where folders are
    classes; None for images in none.

    What is an image is told by the ending of a file's name. Hidden files and folders are left out: what begins with a
    dot, as .ipynb_checkpoints does, and archives' __MACOSX. Links are followed, but to no folder twice within one of
    the folders that `folder` holds, which may be classes.

    Args:
        folder: to look through.
        left_out: is told how many files of each kind are left out: "hidden", ".gif", "links to nothing".

    Raises:
        UserError: if there is no such folder, or one cannot be read.
    """
    return _walk(folder, left_out, once_in_each=True)


def _walk(folder: Path, left_out: Counter[str] | None, *, once_in_each: bool) -> Iterator[tuple[Path, str | None]]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images")
    counts = Counter[str]() if left_out is None else left_out
    top = os.path.realpath(folder)

    def walk(place: str, label: str | None, seen: set[str]) -> Iterator[tuple[Path, str | None]]:
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{place} cannot be read: {error.strerror}") from error
        for entry in found:
            if is_hidden(entry.name):
                counts["hidden"] += 1
            elif _is(entry.is_dir):
                within = {top} if label is None and once_in_each else seen
                real = os.path.realpath(entry.path)
                if real in within:
                    counts["links to folders that were seen"] += 1
                else:
                    within.add(real)
                    yield from walk(entry.path, label or entry.name, within)
            elif not entry.name.lower().endswith(IMG_EXTENSIONS):
                counts[Path(entry.name).suffix.lower() or "files without an ending"] += 1
            elif _is(entry.is_file):
                yield Path(entry.path), label
            else:
                counts["links to nothing" if entry.is_symlink() else "pipes and devices"] += 1

    yield from walk(str(folder), None, {top})


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link in a circle is of none."""
    try:
        return kind()
    except OSError:
        return False


def describe_left_out(left_out: Counter[str]) -> str:
    """For people: "left out: 3 .gif, 2 hidden"; "" where nothing was."""
    kinds = [f"{count:,} {kind}" for kind, count in left_out.most_common(_KINDS_TOLD)]
    others = left_out.total() - sum(count for _, count in left_out.most_common(_KINDS_TOLD))
    return f"left out: {', '.join(kinds + ([f'{others:,} others'] if others else []))}" if kinds else ""


def natural_key(name: str) -> tuple[list[Decimal | str], str]:
    """Sorts names as timm does, numbers in them by their size and letters whatever their case.

    Names that timm takes for equal, "1" and "01" or "Cat" and "cat", come in the order of their characters; timm leaves
    it to chance. Digits that are no decimal ones, as in "x²", end timm's with an error; here they are letters.
    """
    pieces = re.split(r"(\d+)", name.lower())
    return [Decimal(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def is_hidden(name: str) -> bool:
    """Whether files and folders of this name are left out."""
    return name.startswith(".") or name == "__MACOSX"
