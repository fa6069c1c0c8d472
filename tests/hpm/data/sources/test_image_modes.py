"""Images of more than 8 bits keep what they show."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data.sources.composite_files import read_photograph
from hpm.data.sources.image_folder import FolderSplit
from hpm.data.sources.image_modes import to_mode
from hpm.data.sources.split import Unreadable
from hpm.errors import UserError

RAMP_HW = np.linspace(0, 65535, 64 * 48).round().reshape(48, 64)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(RAMP_HW.astype(np.uint16)),
        Image.fromarray(RAMP_HW.astype(np.int32)),
        Image.fromarray((RAMP_HW / 65535).astype(np.float32)),
    ],
    ids=lambda image: image.mode,
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_scaled_rather_than_cut_off(image: Image.Image, mode: str) -> None:
    converted = to_mode(image, mode)
    assert converted.mode == mode
    gray_HW = np.asarray(converted.getchannel(0)).astype(float)
    assert np.abs(gray_HW - RAMP_HW / 257).max() <= 0.51


def test_what_has_no_known_white_is_refused() -> None:
    for pixels in (np.array([[70_000]], np.int32), np.array([[-1]], np.int32), np.array([[1.5]], np.float32)):
        with pytest.raises(ValueError, match=r"its pixels are from .* save it with 8 or 16 bits"):
            to_mode(Image.fromarray(pixels), "RGB")


def tiff_of_12_bits(path: Path, pixels_HW: np.ndarray, **tags: int) -> Path:
    """A TIFF whose pixels have 12 bits, which Pillow reads and does not write."""
    pairs_N = (pixels_HW[:, 0::2].astype(np.uint32) << 12 | pixels_HW[:, 1::2]).ravel()
    data = b"".join(int(pair).to_bytes(3, "big") for pair in pairs_N)
    height, width = pixels_HW.shape
    entries = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(data)}
    entries |= {int(tag.removeprefix("tag")): value for tag, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4  # where the pixels begin
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data)
    return path


@pytest.mark.parametrize("turned", [False, True])
def test_white_of_12_bits_is_4095(tmp_path: Path, turned: bool) -> None:
    ramp_HW = (RAMP_HW / 65535 * 4095).round().astype(np.uint16)
    path = tiff_of_12_bits(tmp_path / "deep.tif", ramp_HW, **({"tag274": 3} if turned else {}))
    split = FolderSplit([path], None, "L", exif_orientation=True)
    boxes_14 = torch.tensor([[0.0, 0.0, 64.0, 48.0]])
    (pixels_HW,) = split.crop(torch.tensor([0]), boxes_14, torch.tensor([False]), (48, 64))[0].numpy()
    expected_HW = ramp_HW / 4095 * 255
    assert np.abs(pixels_HW - (expected_HW[::-1, ::-1] if turned else expected_HW)).max() <= 0.51


@pytest.mark.parametrize(("dtype", "white"), [(np.uint16, 4095), (np.int32, 200), (np.int32, 1e5), (np.float32, 7.0)])
def test_white_may_be_told_by_a_tiff(tmp_path: Path, dtype: type, white: float) -> None:
    Image.fromarray((RAMP_HW / 65535 * white).astype(dtype)).save(tmp_path / "told.tif", tiffinfo={341: white})
    with Image.open(tmp_path / "told.tif") as image:
        assert to_mode(image, "L").getextrema() == (0, 255)
    Image.fromarray(np.full((4, 4), white + 1, dtype)).save(tmp_path / "beyond.tif", tiffinfo={341: white})
    with Image.open(tmp_path / "beyond.tif") as image, pytest.raises(ValueError, match=f"0 to {white:g} is black to"):
        to_mode(image, "L")


@pytest.mark.parametrize(("dtype", "bright", "readable"), [(np.int32, 65535, True), (np.float32, 7.0, False)])
@pytest.mark.parametrize("side", [10.0, 9.5])
def test_a_crop_is_judged_by_its_whole_image(
    tmp_path: Path, dtype: type, bright: float, readable: bool, side: float
) -> None:
    """The left half is black. Of integers its crops are black, of floating point they are as unreadable as the rest."""
    pixels_HW = np.zeros((16, 32), dtype)
    pixels_HW[:, 16:] = bright
    Image.fromarray(pixels_HW).save(tmp_path / "half.tif")
    split = FolderSplit([tmp_path / "half.tif"], None, "L")
    for left, value in ((1.0, 0), (20.0, 255)):
        boxes_14, flips_1 = torch.tensor([[left, 2.0, side, side]]), torch.tensor([False])
        if readable:
            assert split.crop(torch.tensor([0]), boxes_14, flips_1, 8).unique().tolist() == [value]
        else:
            with pytest.raises(Unreadable, match=r"its pixels are from 0 to 7"):
                split.crop(torch.tensor([0]), boxes_14, flips_1, 8)


def test_files(tmp_path: Path) -> None:
    Image.fromarray(RAMP_HW.astype(np.uint16)).save(tmp_path / "deep.png")
    photograph = read_photograph(tmp_path / "deep.png", kept=48, least=24)
    assert np.abs(np.asarray(photograph.getchannel(0)).astype(float) - RAMP_HW / 257).max() <= 0.51
    Image.fromarray(np.full((48, 64), 7.0, np.float32)).save(tmp_path / "bright.tiff")
    with pytest.raises(UserError, match=r"bright.tiff cannot be read as an image: its pixels are from 7 to 7"):
        read_photograph(tmp_path / "bright.tiff", kept=48, least=24)
