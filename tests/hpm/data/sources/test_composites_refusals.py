"""Settings and files of Composites that are refused, each in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hpm.data import Composites
from hpm.errors import UserError

Folders = Callable[..., dict[str, str]]
FEW = {"img_size": 24, "train_size": 60, "validation_size": 24, "test_size": 24}


@pytest.fixture(scope="module")
def folders(composite_folders: Folders) -> dict[str, str]:
    return composite_folders()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("img_size", 4),
        ("train_size", 0),
        ("validation_size", 0),
        ("test_size", 0),
        ("min_scale", 0.0),
        ("max_scale", 0.4),
        ("max_scale", 1.2),
        ("occlusion", 1.5),
    ],
)
def test_bad_arguments_are_named(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"Composites\.{argument} = "):
        Composites(**{argument: value})


@pytest.mark.parametrize("setting", ["cutouts", "photographs"])
def test_missing_folders_are_named(folders: dict[str, str], setting: str) -> None:
    with pytest.raises(UserError, match=rf"Composites\.{setting} = /nowhere is not a folder"):
        Composites(**folders | {setting: "/nowhere"}, **FEW).train()
    with pytest.raises(UserError, match=rf"Composites\.{setting} is not bound; bind it to the folder"):
        Composites(**folders | {setting: None}, **FEW).train()
    with pytest.raises(UserError, match=rf"Composites\.{setting} is empty; bind it to the folder"):
        Composites(**folders | {setting: ""}, **FEW).train()


def spoil(root: Path, what: str) -> None:
    cutouts, photographs = root / "cutouts", root / "photographs"
    if what == "no class":
        shutil.rmtree(cutouts)
        cutouts.mkdir()
    elif what == "one class":
        shutil.rmtree(cutouts / "red")
        shutil.rmtree(cutouts / "yellow")
    elif what == "empty class":
        shutil.rmtree(cutouts / "red")
        (cutouts / "red").mkdir()
    elif what == "opaque":
        Image.new("RGB", (30, 30), "red").save(cutouts / "red" / "tall.png")
    elif what == "nothing":
        Image.new("RGBA", (30, 30)).save(cutouts / "red" / "tall.png")
    elif what == "thin":
        line = Image.new("RGBA", (420, 20))
        line.paste("red", (10, 10, 410, 11))
        line.save(cutouts / "red" / "tall.png")
    elif what == "faint":
        Image.new("RGBA", (30, 30), (255, 0, 0, 100)).save(cutouts / "red" / "tall.png")
    elif what == "damaged cut-out":
        (cutouts / "red" / "tall.png").write_bytes((cutouts / "red" / "tall.png").read_bytes()[:60])
    elif what == "no image":
        (cutouts / "red" / "tall.png").write_text("a cut-out")
    elif what == "few":
        shutil.rmtree(photographs / "of 1")
        for path in sorted((photographs / "of 0").iterdir())[2:]:
            path.unlink()
    elif what == "small":
        for path in photographs.rglob("*.png"):
            Image.new("RGB", (200, 23)).save(path)
    elif what == "damaged photograph":
        for path in photographs.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("no class", r"Composites\.cutouts = .*cutouts has 0 class folders; two or more"),
        ("one class", r"Composites\.cutouts = .*cutouts has 1 class folders; two or more"),
        ("empty class", r"cutouts/red holds no images"),
        ("opaque", r"red/tall\.png has no transparency"),
        ("nothing", r"red/tall\.png is transparent everywhere"),
        ("thin", r"red/tall\.png would not be seen in scenes of 24 pixels at min_scale = 0\.45: .* raise min_scale or"),
        ("faint", r"red/tall\.png would not be seen in scenes of 24 pixels"),
        ("damaged cut-out", r"red/tall\.png cannot be read as an image: "),
        ("no image", r"red/tall\.png cannot be read as an image: "),
        ("few", r"Composites\.photographs = .* holds 2 images; .* share no photograph, which takes 3 or more"),
        (
            "small",
            r"photographs/of ./...png has 200 x 23 pixels, too few for scenes of 24 pixels.*; .* more files are unfit$",
        ),
        ("damaged photograph", r"photographs/of ./...png cannot be read as an image: "),
    ],
)
def test_unfit_files_are_named(folders: dict[str, str], tmp_path: Path, what: str, told: str) -> None:
    for name, folder in folders.items():
        shutil.copytree(folder, tmp_path / name)
    spoil(tmp_path, what)
    with pytest.raises(UserError, match=told):
        Composites(cutouts=tmp_path / "cutouts", photographs=tmp_path / "photographs", **FEW).train().prepare()


@pytest.mark.parametrize("photographs", [".", "cutouts"])
def test_cutouts_are_no_photographs(folders: dict[str, str], tmp_path: Path, photographs: str) -> None:
    cutouts = shutil.copytree(folders["cutouts"], tmp_path / "cutouts")
    shutil.copytree(folders["photographs"], tmp_path / "photographs")
    mixed = Composites(cutouts=str(cutouts), photographs=str(tmp_path / photographs), **FEW)
    with pytest.raises(UserError, match=r"Composites\.photographs = .* of its images are cut-outs, of"):
        mixed.train()


def test_a_folder_with_an_images_name_is_a_folder(folders: dict[str, str], tmp_path: Path) -> None:
    album = shutil.copytree(folders["photographs"], tmp_path / "all" / "album.jpg")
    photographs = Composites(cutouts=folders["cutouts"], photographs=str(album.parent), **FEW).photograph_files
    assert photographs
    assert all(path.is_file() and path.is_relative_to(album) for path in photographs)
