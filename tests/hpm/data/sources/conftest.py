"""Small cut-outs and photographs for composites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

COLORS = {"green": (0, 255, 0), "red": (255, 0, 0), "yellow": (255, 255, 0)}


def save_cutout(path: Path, color: tuple[int, int, int], size: tuple[int, int]) -> None:
    """An ellipse with a smooth edge, within an empty margin."""
    width, height = size
    opacity = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(opacity).ellipse((0.4 * width, 0.4 * height, 3.6 * width, 3.6 * height), fill=255)
    image = Image.new("RGB", size, color)
    image.putalpha(opacity.resize(size))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="session")
def composite_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Makes folders of cut-outs, each class of one colour without blue, and of photographs of one blue each."""

    def make(blues: range | list[int] = range(100, 220, 10), colors: dict = COLORS) -> dict[str, str]:
        root = tmp_path_factory.mktemp("composites")
        for name, color in colors.items():
            save_cutout(root / "cutouts" / name / "wide.png", color, (90, 60))
            save_cutout(root / "cutouts" / name / "tall.png", color, (40, 70))
        for number, blue in enumerate(blues):
            path = root / "photographs" / f"of {number % 2}" / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (120 + number, 70), (0, 0, blue)).save(path)
        return {"cutouts": str(root / "cutouts"), "photographs": str(root / "photographs")}

    return make


@pytest.fixture
def tiny_composites(tiny: Path) -> Path:
    """The tiny config on composites, whose folders are for the test to bind."""
    without = [line for line in tiny.read_text().splitlines() if "igit" not in line]
    tiny.write_text("\n".join([without[0], "include 'data/composites.gin'", *without[1:]]))
    return tiny
