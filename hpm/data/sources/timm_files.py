"""Files as `timm.data` reads them: a folder of images in class folders, a tar file, or a folder of tar files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.image_files import describe_left_out, labeled_files, natural_key
from hpm.data.sources.tar_shards import read_tars, tars_in
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


def read_files(path: Path, mode: str, left_out: Counter[str]) -> tuple[EncodedSplit, list[str]]:
    """A split of image files, or of tar files, and the names of its classes.

    Args:
        path: a folder or a tar file.
        mode: of the images, "RGB" or "L" (gray).
        left_out: is told how many files of each kind are left out; see `labeled_files`.

    Raises:
        UserError: if there are no images, or a tar file cannot be read.
    """
    if path.is_file() or tars_in(path):
        return read_tars(path, mode, left_out)
    if not path.is_dir():
        raise UserError(f"{path} is neither a folder nor a tar file")
    files = sorted((file for file, _ in labeled_files(path, left_out)), key=lambda file: natural_key(str(file)))
    if not files:
        told = describe_left_out(left_out)
        raise UserError(f"{path} holds no images" + (f" ({told})" if told else ""))
    folders = [file.parent.name if file.parent != path else "" for file in files]
    if not any(folders):
        return FolderSplit(files, None, mode), []
    names = sorted(set(folders), key=natural_key)
    labels = {name: label for label, name in enumerate(names)}
    return FolderSplit(files, torch.tensor([labels[name] for name in folders]), mode), names
