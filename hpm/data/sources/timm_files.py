"""Files as `timm.data` reads them: a folder of images in class folders, a tar file, or a folder of tar files."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.data import create_reader

from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.image_folder import FolderSplit
from hpm.data.sources.tar_shards import read_tars
from hpm.errors import UserError

# timm's synonyms for the names of folders.
SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))


def find_split(root: Path, name: str) -> Path | None:
    """`root/name` or `root/name.tar`, also under timm's other names for it; None where there is none."""
    for known in ([name], *(names for names in SYNONYMS if name in names)):
        for candidate in known:
            for path in (root / candidate, root / f"{candidate}.tar"):
                if path.exists():
                    return path
    return None


def read_files(path: Path, mode: str) -> tuple[EncodedSplit, list[str]]:
    """A split of image files, or of tar files, and the names of its classes.

    Args:
        path: a folder or a tar file.
        mode: of the images, "RGB" or "L" (gray).

    Raises:
        UserError: if there are no images, or a tar file cannot be read.
    """
    if path.is_file() or any(path.glob("*.tar")):
        return read_tars(path, mode)
    try:
        reader = create_reader("", root=str(path))
    except RuntimeError as error:
        raise UserError(f"{path} holds no images") from error
    paths, labels = zip(*reader.samples, strict=True)
    names = list(reader.class_to_idx)
    if names == [""]:  # what timm calls the class of images in no folder
        return FolderSplit(paths, None, mode), []
    return FolderSplit(paths, torch.tensor(labels), mode), names
