"""Images of more than 8 bits keep what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpm.data.sources.composite_files import read_photograph
from hpm.data.sources.image_modes import to_mode
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


def test_files(tmp_path: Path) -> None:
    Image.fromarray(RAMP_HW.astype(np.uint16)).save(tmp_path / "deep.png")
    photograph = read_photograph(tmp_path / "deep.png", kept=48, least=24)
    assert np.abs(np.asarray(photograph.getchannel(0)).astype(float) - RAMP_HW / 257).max() <= 0.51
    Image.fromarray(np.full((48, 64), 7.0, np.float32)).save(tmp_path / "bright.tiff")
    with pytest.raises(UserError, match=r"bright.tiff cannot be read as an image: its pixels are from 7 to 7"):
        read_photograph(tmp_path / "bright.tiff", kept=48, least=24)
