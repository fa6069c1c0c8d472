"""Images in tar files, read in place: one file, or a folder of shards.

Shape suffixes: K images of the split.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.image_files import describe_left_out, is_hidden, natural_key, open_image
from hpm.errors import UserError


@dataclass(frozen=True)
class Member:
    """An image in a tar file.

    Args:
        name: its path there; that of an inner tar first, for a tar in a tar.
        label: the name of its class, empty where there is none.
        offset: of its first byte from the tar file's.
        length: its bytes.
    """

    name: str
    label: str
    offset: int
    length: int


class TarSplit(EncodedSplit):
    """Images in tar files, found by `scan_tar`.

    A file is opened for each image read, so nothing is shared between processes.

    Args:
        members: of each tar file; every one with a label, or none.
        classes: names of the classes, in label order; empty where there are none.
        mode: of the images, "RGB" or "L" (gray). Default "RGB".
    """

    def __init__(self, members: dict[Path, list[Member]], classes: Sequence[str], mode: str = "RGB") -> None:
        super().__init__(mode)
        # Arrays and one list of names: a million objects would be copied into every worker as they are touched.
        self.tars = [str(tar) for tar in members]
        flat = [member for in_tar in members.values() for member in in_tar]
        self.names = [member.name for member in flat]
        self._tar_K = np.repeat(np.arange(len(members)), [len(in_tar) for in_tar in members.values()])
        self._offset_K = np.array([member.offset for member in flat], dtype=np.int64)
        self._length_K = np.array([member.length for member in flat], dtype=np.int64)
        if classes:
            number = {name: label for label, name in enumerate(classes)}
            self.labels = torch.tensor([number[member.label] for member in flat])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The tar file's path and the member's in it."""
        return f"{self.tars[self._tar_K[index]]}: {self.names[index]}"

    def open(self, index: int) -> Image.Image:
        """The member, not decoded yet."""
        with open(self.tars[self._tar_K[index]], "rb") as file:  # noqa: PTH123 (a path object for each image is slow)
            file.seek(self._offset_K[index])
            return open_image(io.BytesIO(file.read(self._length_K[index])))

    def content(self) -> Iterable[bytes]:
        """Each member's name and length; not those of the tar files."""
        yield os.fsencode("\0".join(self.names))
        yield self._length_K.tobytes()


def read_tars(path: Path, mode: str, left_out: Counter[str]) -> tuple[TarSplit, list[str]]:
    """The images of a tar file or of a folder of them, in the order of the files' names and of the members in them.

    A class is the innermost folder that an image lies in; in a folder of tar files, those outside any folder take the
    tar file's name. Where files ending in `.cls` lie beside the images, as in WebDataset's shards, they tell the
    class. A tar file holds no index: its headers are read at every start.

    Args:
        path: the file or folder.
        mode: of the images, "RGB" or "L" (gray).
        left_out: is told how many members, and files beside the tar files, of each kind are left out: "hidden", ".gif",
            "links and devices".

    Returns:
        The split and the names of the classes; none where there are no folders.

    Raises:
        UserError: if a file cannot be read or there is no image.
    """
    tars = [path] if path.is_file() else tars_in(path)
    for beside in [] if path.is_file() else set(path.iterdir()) - set(tars):
        kind = "folders" if beside.is_dir() else beside.suffix.lower() or "files without an ending"
        left_out["hidden" if is_hidden(beside.name) else kind] += 1
    members = {tar: list(scan_tar(tar, left_out, "" if path.is_file() else tar.stem)) for tar in tars}
    labels = {member.label for in_tar in members.values() for member in in_tar}
    if not labels:
        told = describe_left_out(left_out)
        raise UserError(
            f"{path} holds no images" + ("" if path.is_file() else " in its tar files") + (f" ({told})" if told else "")
        )
    if "" in labels and len(labels) > 1:
        stray = next(f"{tar}: {m.name}" for tar, in_tar in members.items() for m in in_tar if not m.label)
        raise UserError(f"{stray} lies in no class folder, where other images do: move one or the other")
    classes = [] if labels == {""} else sorted(labels, key=natural_key)
    return TarSplit(members, classes, mode), classes


def tars_in(folder: Path) -> list[Path]:
    """The tar files of a folder, in alphabetical order, but for hidden ones."""
    return sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name))


def scan_tar(tar: Path, left_out: Counter[str], label: str = "") -> Iterator[Member]:
    """The images of a tar file and of the tar files in it.

    Args:
        tar: the file, not compressed.
        left_out: see `read_tars`.
        label: class of the images that lie in no folder.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        # "r:" seeks from header to header, where a compressed file could only be read through.
        with tarfile.open(tar, "r:") as file:
            yield from _scan(file, PurePosixPath(), label, 0, left_out)
    # What tarfile makes of a damaged one, and of tars in tars without end.
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{tar} cannot be read as a tar file without compression: {error}") from error


def _scan(
    file: tarfile.TarFile, inside: PurePosixPath, label: str, start: int, left_out: Counter[str]
) -> Iterator[Member]:
    images: list[tuple[PurePosixPath, tarfile.TarInfo]] = []
    classes: dict[PurePosixPath, str] = {}
    for info in file:
        path = PurePosixPath(info.name)
        suffix = path.suffix.lower()
        if info.isdir():
            continue
        if any(map(is_hidden, path.parts)):
            left_out["hidden"] += 1
        elif not info.isreg():
            left_out["links and devices"] += 1
        elif suffix == ".tar":
            inner = file.extractfile(info)
            with tarfile.open(fileobj=inner, mode="r:") as nested:
                yield from _scan(nested, inside / path, path.stem, start + info.offset_data, left_out)
        elif suffix == ".cls":
            content = file.extractfile(info)
            classes[path.with_suffix("")] = content.read().decode(errors="replace").strip() if content else ""
        elif suffix in IMG_EXTENSIONS:
            if info.sparse is not None:
                raise tarfile.TarError(f"{path} is stored as a sparse file")
            images.append((path, info))
        else:
            left_out[suffix or "files without an ending"] += 1
    _require_end(file)
    for path, info in images:
        # WebDataset's key ends at the first dot of the file's name, and so does the class's.
        own = classes.get(path.with_name(path.name.partition(".")[0])) if classes else path.parent.name or label
        if own is None:
            raise tarfile.TarError(f"{path} has no .cls file beside it, where other images do")
        yield Member(str(inside / path), own, start + info.offset_data, info.size)


def _require_end(file: tarfile.TarFile) -> None:
    """Refuse a file that is cut off: tarfile takes one that ends in a header, or where one is damaged, for whole."""
    assert file.fileobj is not None
    file.fileobj.seek(file.offset)  # after the last member: where its end is marked
    if file.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        last = f"after {file.getmembers()[-1].name}" if file.getmembers() else "at its begin"
        raise tarfile.TarError(f"it is cut off or damaged {last}, where its end is not marked")
