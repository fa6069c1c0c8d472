"""Files of weights that others wrote, read as data.

Nothing in them is run, and nothing inflates to far more than the file.
"""

from __future__ import annotations

import argparse
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from hpm.errors import UserError
from hpm.runtime.files import named_in_utf8, read_json

_CONFIG = "config.json"
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")  # as Hugging Face and timm call them
_MOST_INFLATED = 4  # times a file's size; student and teacher may share numbers, and nothing else does
_ALLOWANCE = 1 << 24  # bytes of a small file that are no harm


class WeightFile(NamedTuple):
    """What a file of weights holds.

    Args:
        path: the file.
        content: a state dict, or one among other things.
        config: the config.json of its folder; empty where there is none.
        notes: what a safetensors file says of itself; empty for others.
    """

    path: Path
    content: Mapping[str, Any]
    config: Mapping[str, Any]
    notes: Mapping[str, str]


def is_weight_folder(path: Path) -> bool:
    """Whether a folder is one of Hugging Face's or timm's: a config.json with weights beside it."""
    return (path / _CONFIG).is_file()


def read_weight_file(path: Path) -> WeightFile:
    """Read a .pth, .bin or .safetensors file, or a folder that holds one and a config.json.

    Raises:
        UserError: if there are no weights, or they are damaged, objects other than weights, or inflate.
    """
    file = _file_of(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there is no file {file}; pass a file of weights, e.g. a .pth or .safetensors file")
    notes: Mapping[str, str] = {}
    try:
        if file.suffix == ".safetensors":
            with named_in_utf8(file) as name, safe_open(name, "pt") as opened:
                notes = opened.metadata() or {}
                content: Any = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        else:
            check_inflation(file)
            # MAE's files hold their command's options. Torch warns of sparse tensors and the like, which are refused.
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise UserError(f"{file} is damaged, or not a file of weights") from error
        raise UserError(
            f"{file} holds more than weights: reading it would run {foreign[1]}, and was refused; save its state dict "
            "alone, torch.save(model.state_dict(), ...), where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle fails in any way there is
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{file} is damaged, or not a file of weights: {reason}") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}, not a state dict")
    _check_tensors(content, file)
    config = file.parent / _CONFIG
    beside = file.suffix == ".safetensors" or file.name in _IN_FOLDER
    return WeightFile(file, content, _json(config) if beside and config.is_file() else {}, notes)


def _check_tensors(content: Mapping[Any, Any], file: Path) -> None:
    """Refuse tensors that hold more numbers than the file does, or none: a repeated number costs the file nothing."""
    size = 0
    for state in (content, *(inner for inner in content.values() if isinstance(inner, Mapping))):
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                continue
            if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
                raise UserError(f"{file}: {name} is not a plain tensor (strided, with content, not quantized)")
            size += tensor.numel() * tensor.element_size()
    _check_size(size, file)


def check_inflation(file: Path) -> None:
    """Find out, before anything is read, what a file of torch.save's, or an .npz file, would become in memory.

    Raises:
        UserError: if that is far more than the file is.
        Exception: if it is damaged.
    """
    needle = b"bytearray"  # a few bytes of a pickle that ask for any number of them
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_size(sum(member.file_size for member in members), file)
            if not any(member.CRC for member in members):
                for member in members:
                    del member.CRC  # torch can leave checksums out; nothing is compared then
            if (damaged := archive.testzip()) is not None:
                raise UserError(f"{file} is damaged: {damaged} in it does not match its checksum")
            found = any(needle in archive.read(member) for member in members if member.filename.endswith(".pkl"))
    else:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.find(needle) >= 0
    if found:
        raise UserError(f"{file} holds more than weights: a bytearray; save its state dict alone")


def _check_size(size: int, file: Path) -> None:
    on_disk = file.stat().st_size
    if size > _MOST_INFLATED * on_disk + _ALLOWANCE:
        raise UserError(
            f"{file} of {on_disk / 1e6:,.1f} MB would inflate to {size / 1e6:,.0f} MB, and was not read: weights are "
            "stored as they are, so it is damaged or made to fill the memory; save the state dict again"
        )


def _file_of(folder: Path) -> Path:
    for name in _IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    parts = sorted(folder.glob("*.index.json"))
    fault = f"its weights are in several parts ({parts[0].name})" if parts else f"there is no {_IN_FOLDER[0]} beside it"
    raise UserError(f"{folder} is a folder with a {_CONFIG}, but {fault}; save the weights as one {_IN_FOLDER[0]}")


def _json(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not the settings of a model")
    return content
