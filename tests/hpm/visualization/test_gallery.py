"""Pictures of evaluations, read back pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hpm.data import IGNORED
from hpm.errors import UserError
from hpm.evaluation.gallery import IMAGES, Gallery, Panel, shown_rows
from hpm.visualization import draw_gallery
from hpm.visualization.style import check_replaceable

ORANGE = (0xD5, 0x5E, 0x00)  # of outlines and boxes


def drawn(path: Path, *panels: Panel, pixels: Tensor | None = None, name: str = "", title: str = "t") -> np.ndarray:
    """The picture, int [height, width, 3]; by default of one white image of 8 pixels in 2 by 2 patches."""
    pixels = torch.ones(1, 3, 8, 8) if pixels is None else pixels
    assert draw_gallery(Gallery(title, pixels, (2, 2), panels), path, name=name) == path
    with Image.open(path) as shown:
        return np.asarray(shown.convert("RGB")).astype(int)


def squares(picture: np.ndarray) -> dict[tuple[int, int, int], int]:
    """How much of a picture has each colour, of colours that have as much as a square of some pixels."""
    colors, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(color.tolist()): count for color, count in zip(colors, counts, strict=True) if count > 300}


def orange(picture: np.ndarray) -> np.ndarray:
    return (np.abs(picture - ORANGE).sum(axis=2) < 60) & (picture[..., 0] > 2 * picture[..., 2])


def halves(left: int, right: int) -> Tensor:
    return torch.tensor([[[left] * 4 + [right] * 4] * 8], dtype=torch.int16)


def test_the_first_class_has_no_color_and_what_counts_for_nothing_is_gray(tmp_path: Path) -> None:
    found = squares(drawn(tmp_path / "a.png", Panel("classes", class_maps=halves(0, IGNORED)))).keys() - {
        (255, 255, 255)
    }
    assert all(red == green == blue for red, green, blue in found)
    dimmed, gray = sorted(found)
    assert dimmed == (114, 114, 114)  # the white image at 45 %
    assert gray == (153, 153, 153)


def test_a_class_has_one_color_in_the_whole_picture_and_others_have_others(tmp_path: Path) -> None:
    panels = [Panel("a", class_maps=halves(3, 1)), Panel("b", class_maps=halves(1, 3))]
    two = squares(drawn(tmp_path / "a.png", *panels)).keys()
    one = squares(drawn(tmp_path / "b.png", *panels[:1])).keys()
    assert two == one
    assert len(one - {(255, 255, 255)}) == 2
    many = torch.arange(64, dtype=torch.int16).view(1, 8, 8)
    assert len(squares(drawn(tmp_path / "c.png", Panel("all", class_maps=many)))) == 65


@pytest.mark.parametrize("shown", [{}, {"scores": torch.zeros(1, 4)}], ids=["on the image", "on scores"])
@pytest.mark.parametrize("extent", ["all", "corner", "none"])
def test_an_outline_is_closed_where_it_meets_the_border(tmp_path: Path, shown: dict, extent: str) -> None:
    outlined = torch.zeros(1, 8, 8, dtype=torch.bool)
    if extent != "none":
        outlined[0, : 8 if extent == "all" else 4, : 8 if extent == "all" else 4] = True
    drawing = orange(drawn(tmp_path / "a.png", Panel("found", outlines=outlined, **shown)))
    if extent == "none":
        assert not drawing.any()
        return
    rows, columns = np.nonzero(drawing)
    box = drawing[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    side = 200 if extent == "all" else 100  # of pixels, about
    assert box.shape == pytest.approx((side, side), rel=0.15)
    middle = side // 2
    assert box[:5, middle].any() & box[-5:, middle].any() & box[middle, :5].any() & box[middle, -5:].any()
    assert not box[middle - 20 : middle + 20, middle - 20 : middle + 20].any()


def test_boxes_lie_where_they_say(tmp_path: Path) -> None:
    """In pixels of the image, of which each is 25 of the picture's wide."""
    pictures = []
    for name, box in (("a", [0.0, 0.0, 8.0, 8.0]), ("b", [2.0, 4.0, 4.0, 8.0])):
        rows, columns = np.nonzero(
            orange(drawn(tmp_path / f"{name}.png", Panel("boxes", boxes=(torch.tensor([box]),))))
        )
        pictures.append(np.array([columns.min(), rows.min(), columns.max(), rows.max()]))
    whole, part = pictures
    side = (whole[2] - whole[0]) / 8
    np.testing.assert_allclose(part - whole[:2].tolist() * 2, np.array([2, 4, 4, 8]) * side, atol=4)
    assert not orange(drawn(tmp_path / "c.png", Panel("boxes", boxes=(torch.zeros(0, 4),)))).any()


def test_scores_run_from_dark_to_bright_in_each_image(tmp_path: Path) -> None:
    """The scale is each image's own, and patches stand where they are in it."""
    white = torch.ones(1, 3, 8, 8)
    one = drawn(tmp_path / "a.png", Panel("s", scores=torch.tensor([[0.0, 0.0, 0.0, 1.0]])), pixels=white)
    other = drawn(tmp_path / "b.png", Panel("s", scores=torch.tensor([[-30.0, -30.0, -30.0, 50.0]])), pixels=white)
    assert (one == other).all()
    bright = (one[..., 0] > 240) & (one[..., 2] < 60)  # viridis ends in yellow
    dark = (one[..., 0] < 90) & (one[..., 1] < 20) & (one[..., 2] > 70)
    assert np.argwhere(bright).mean(axis=0).tolist() > np.argwhere(dark).mean(axis=0).tolist()
    assert dark.sum() == pytest.approx(3 * bright.sum(), rel=0.05)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (4, 16), (16, 4)])
def test_images_of_any_shape_and_number_of_channels(tmp_path: Path, channels: int, size: tuple[int, int]) -> None:
    gray = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0)).expand(-1, channels, -1, -1)
    notes = ("one", "a note that is far too long for its place")
    picture = drawn(
        tmp_path / "a.png",
        Panel("classes", class_maps=torch.zeros(2, *size, dtype=torch.int16), notes=notes),
        Panel("outlined", outlines=torch.ones(2, *size, dtype=torch.bool)),
        pixels=gray,
    )
    rows, columns = np.nonzero(orange(picture))
    between = 0.3  # of an image's width, for a note
    aspect = (rows.max() - rows.min()) / (columns.max() - columns.min())
    assert aspect == pytest.approx(2 * size[0] / size[1] + between, rel=0.1)


def test_names_are_written_as_they_are(tmp_path: Path) -> None:
    """Neither a formula nor letters that are none end the drawing."""
    drawn(tmp_path / "a.png", Panel("a"), name="_run$x^{$", title="what is shown, in a line that is too long for it")
    check_replaceable(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.jpg is not the name of a PNG picture"):
        drawn(tmp_path / "a.jpg", Panel("a"))


@pytest.mark.parametrize(
    ("count", "rows"), [(0, []), (1, [0]), (4, [0, 1, 2, 3]), (6, [*range(6)]), (101, [0, 20, 40, 60, 80, 100])]
)
def test_rows_are_spread_evenly(count: int, rows: list[int]) -> None:
    assert shown_rows(count).tolist() == rows
    assert len(rows) <= IMAGES
