"""Files: written whole or not at all, read in words that name them, and looked at before the work that ends in them."""

from __future__ import annotations

import errno
import glob
import json
import math
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_SECONDS_LEFT_ALONE = 24 * 3600  # what nobody has written to for so long, a process left that was killed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to, which takes the place of `path` at once in the end.

    The name is nobody else's, so that several processes may replace one file, and the last one's stays. After an
    exception `path` is as it was, and what was begun is removed; so is what a process left a day ago that was killed.

    Raises:
        OSError: if the file system refuses it.
    """
    if os.path.lexists(path) and not (path.is_file() or path.is_dir()):  # of a folder the system tells
        raise OSError(errno.EEXIST, f"it is {_kind_of(path)} and no file", str(path))
    for left in begun_for(path):
        with suppress(OSError):  # others remove it too
            if left.stat().st_mtime < time.time() - _SECONDS_LEFT_ALONE:
                _remove(left)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def require_new(name: str, path: Path, partial: Path) -> None:
    """Find out, when a file or folder is to become `path`, whether another program has made one there meanwhile.

    Args:
        name: what the user calls it, "--out".
        path: where it was to lie.
        partial: where it lies; it is kept under a name beside `path` that is free.

    Raises:
        UserError: naming both.
    """
    if not os.path.lexists(path) or (partial.is_dir() and path.is_dir() and not any(path.iterdir())):
        return
    own = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}")
    partial.replace(own)
    raise UserError(f"{name} {path} was made by another program meanwhile and is left alone; this is now {own}")


def begun_for(path: Path) -> list[Path]:
    """What processes write at the moment, or wrote when they were killed, to take the place of `path`."""
    return list(path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.partial"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, whole or not at all. Of names that are no text it holds what `printable` gives.

    Raises:
        OSError: if the file system refuses it, or there is something else than a file.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def printable(name: str) -> str:
    r"""A name as any text can hold it: what of a file's name is no UTF-8 is written as Python writes it, \udcff."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextmanager
def named_in_utf8(path: Path) -> Iterator[Path]:
    """A name of the same file that is text, as long as it is entered: for libraries that open no others."""
    if printable(str(path)) == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, printable(path.name))
        link.symlink_to(path.absolute())
        yield link


def read_text(path: Path) -> str:
    """The text of a file, without the mark that some editors begin it with.

    Raises:
        UserError: naming the file, where it is none, or cannot be read as UTF-8.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} cannot be read: it is {_kind_of(path)} and no file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        UserError: naming the file, where it is none, or holds no JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: its content is nested too deep") from error


def check_file(name: str, path: Path) -> None:
    """Find out before the work whether a file can be written, in the place of an older one or of nothing.

    Args:
        name: what the user calls it, "--out".
        path: the file.

    Raises:
        UserError: if there is something else than a file, or no folder that could hold it.
    """
    _check_place(name, path, "file", is_there=Path.is_file)


def check_folder(name: str, path: Path) -> None:
    """Find out before the work whether a folder is there, or can be made.

    Args:
        name: what the user calls it, "--output".
        path: the folder.

    Raises:
        UserError: if there is something else than a folder, or no folder that could hold it.
    """
    _check_place(name, path, "folder", is_there=Path.is_dir)


def _check_place(name: str, path: Path, kind: str, *, is_there: Callable[[Path], bool]) -> None:
    """Nothing else may lie there, and the nearest of the folders above that exists must be one."""
    if os.path.lexists(path) and not is_there(path):  # asked in this order: another may make it meanwhile
        raise UserError(f"{name} {path} is {_kind_of(path)}; name a {kind}")
    above = next((folder for folder in path.absolute().parents if os.path.lexists(folder)), None)
    if above is not None and not above.is_dir():
        raise UserError(f"{name} {path} cannot be written: {above} is {_kind_of(above)} and no folder")


def _kind_of(path: Path) -> str:
    """What lies at a path, for people."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode) and not path.exists():
        return f"a link to {path.readlink()}, which is not there"
    mode = path.stat().st_mode
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def write_json(path: Path, content: Any) -> None:
    """Replace a file's content by JSON, whole or not at all; see `to_json`.

    Raises:
        OSError: if the file system refuses it.
    """
    write_text(path, to_json(content, indent=2) + "\n")


def to_json(content: Any, *, indent: int | None = None) -> str:
    """JSON that every program reads: null for a number that is infinite or none, for which JSON has no word.

    Args:
        content: of dictionaries, lists, tuples, texts, numbers, True, False and None.
        indent: spaces of a level; None for a single line.
    """
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def save_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file for whoever may read other new files; safetensors' own are their owner's alone.

    Args:
        tensors: by name.
        path: the file.
        notes: the file's metadata.

    Raises:
        OSError: if the file system refuses it.
    """
    from safetensors.torch import save_file

    path.open("wb").close()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=None if notes is None else dict(notes))
    path.chmod(mode)


def flush_to_disk(path: Path) -> None:
    """Wait until a file or a folder is on the disk, also if the power fails.

    Raises:
        OSError: if the disk refuses it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expanded(path: str | Path) -> Path:
    """A path in which `~` is the home of the user, as a shell has it; one whose user is unknown stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
