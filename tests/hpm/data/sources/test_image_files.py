"""Which files of a folder are images: the same ones for training, evaluation and embedding."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from timm.utils.misc import natural_key as timms_natural_key

from hpm.data import ImageFolder, TimmDataset, describe_left_out, image_files
from hpm.data.sources.composite_files import find_cutouts, find_photographs
from hpm.data.sources.image_files import labeled_files, natural_key, open_image
from hpm.data.sources.split import Unreadable
from hpm.errors import UserError


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 10, 10)).save(path, "PNG")


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """What real folders hold beside their images."""
    root = tmp_path / "messy"
    for name in (
        "a/0.png",
        "a/b.jpg/1.png",  # a folder of that name
        "a/deeper/2.PNG",
        "a/.ipynb_checkpoints/0-checkpoint.png",
        "a/.hidden.png",
        "b/3.png",
        ".git/4.png",
        "__MACOSX/a/5.png",
    ):
        save(root / name)
    (root / "a/animated.gif").write_bytes(b"GIF89a")
    (root / "b/phone.HEIC").write_bytes(b"heic")
    (root / "b/notes").write_text("which is which")
    (root / "b/gone.png").symlink_to(root / "nowhere.png")
    (root / "b/circle").symlink_to(root / "b")
    (root / "b/again").symlink_to(tmp_path / "pool")
    (root / "b/once_more").symlink_to(tmp_path / "pool")
    (root / "a/pool").symlink_to(tmp_path / "pool")
    save(tmp_path / "pool/6.png")
    return root


FOUND = ["a/0.png", "a/b.jpg/1.png", "a/deeper/2.PNG", "a/pool/6.png", "b/3.png", "b/again/6.png"]


def test_what_is_found_and_what_is_left_out(messy: Path) -> None:
    left_out = Counter[str]()
    assert [(path.relative_to(messy).as_posix(), name) for path, name in labeled_files(messy, left_out)] == [
        (name, name[0]) for name in FOUND
    ]
    assert left_out == {
        "hidden": 4,
        ".gif": 1,
        ".heic": 1,
        "files without an ending": 1,
        "links to nothing": 1,
        "links to folders that were seen": 2,
    }
    assert describe_left_out(left_out).startswith("left out: 4 hidden, 2 links to folders that were seen, 1 ")
    assert describe_left_out(Counter()) == ""
    assert describe_left_out(Counter({f".{k}": 9 - k for k in range(8)})).endswith("4 .5, 5 others")


def test_every_reader_of_folders_finds_the_same(messy: Path) -> None:
    folder, timm = ImageFolder(root=messy), TimmDataset(root=messy, test_split=None)
    found = [str(messy / name) for name in FOUND]
    assert folder.train().paths == found
    assert folder.train().labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert "2 classes, images: 6 train; left out: 4 hidden" in folder.describe()
    assert sorted(timm.train().paths) == found
    # Where folders are no classes, no folder comes twice.
    assert [str(path) for path in image_files(messy)] == found[:-1]
    assert {name: [str(path) for path in paths] for name, paths in find_cutouts(messy).items()} == {
        "a": found[:4],
        "b": found[4:],
    }
    assert [str(path) for path in find_photographs(messy)] == found[:-1]


def test_links_to_themselves(tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    left_out = Counter[str]()
    assert [path.name for path in image_files(tmp_path, left_out)] == ["0.png"]
    assert left_out["links to nothing"] == 1


@pytest.mark.parametrize("kind", ["hidden", "gif", "pipe"])
def test_a_class_folder_without_images_tells_what_it_holds(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "a/0.png")
    (tmp_path / "b").mkdir()
    if kind == "pipe":
        os.mkfifo(tmp_path / "b/0.png")
    else:
        (tmp_path / "b" / {"hidden": ".0.png", "gif": "0.gif"}[kind]).write_bytes(b"")
    told = {"hidden": "1 hidden", "gif": "1 .gif", "pipe": "1 pipes and devices"}[kind]
    with pytest.raises(UserError, match=rf"b holds no images \(left out: {told}\)"):
        ImageFolder(root=tmp_path).train()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("cut", [512, 1024 - 300, 1024, 1024 + 512, 1024 + 700])
def test_a_tar_file_that_is_cut_off_anywhere(tmp_path: Path, cut: int, nested: bool) -> None:
    """At its end mark, within a header, between members, within one."""

    def pack(tar: Path, files: list[Path], whole: Callable[[bytes], bytes]) -> Path:
        with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as packed:
            for file in files:
                packed.add(file, f"ant/{file.name}" if file.suffix == ".png" else file.name)
            end = packed.offset
        tar.write_bytes(whole(tar.read_bytes()[: end + 1024]))
        return tar

    save(tmp_path / "0.png")
    save(tmp_path / "1.png")
    tar = pack(tmp_path / "x.tar", [tmp_path / "0.png", tmp_path / "1.png"], lambda content: content[:-cut])
    if nested:
        tar = pack(tmp_path / "outer.tar", [tar], lambda content: content)
    source = TimmDataset(root=tar, test_split=None)
    if cut == 512:  # one block of zeros marks the end as well
        assert len(source.train()) == 2
        return
    with pytest.raises(UserError, match=rf"{tar.name} cannot be read as a tar file"):
        source.train()


def test_hidden_members_of_a_tar_file(messy: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for name in ("a/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", "__MACOSX/a/5.png", "b/3.png"):
            packed.add(messy / name, name)
    assert len(TimmDataset(root=tmp_path / "x.tar", test_split=None).train()) == 2


@pytest.mark.parametrize(("turned", "box"), [(False, (12, 8)), (True, (8, 12))])
def test_the_cameras_orientation_is_a_setting(tmp_path: Path, turned: bool, box: tuple[int, int]) -> None:
    image = Image.new("RGB", (12, 8), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 12, 4))  # blue above
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned: blue is right
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a/0.png", exif=exif)
    image.save(tmp_path / "a/1.png")
    source = ImageFolder(root=tmp_path, img_size=8, exif_orientation=turned)
    split = source.train()
    assert split.sizes(torch.tensor([0, 1])).tolist() == [[box[1], box[0]], [8, 12]]
    whole = torch.tensor([[0.0, 0.0, *map(float, box)]])
    pixels_CSS = split.crop(torch.tensor([0]), whole, torch.tensor([False]), 8)[0].float()
    red_SS, blue_SS = pixels_CSS[0], pixels_CSS[2]
    if turned:
        assert min(blue_SS[:, 5:].mean(), red_SS[:, :3].mean()) > 250
    else:
        assert min(blue_SS[:3].mean(), red_SS[5:].mean()) > 250


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "mine/a/0.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(ImageFolder(root="~/mine").train()) == 1
    assert len(TimmDataset(root="~/mine", test_split=None).train()) == 1
    with pytest.raises(UserError, match="~nobody-of-this-name/mine is not a folder"):
        ImageFolder(root="~nobody-of-this-name/mine").train()


def test_tars_in_tars_without_end(tmp_path: Path) -> None:
    content = b""
    for _ in range(400):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as outer:
            info = tarfile.TarInfo("x.tar")
            info.size = len(content)
            outer.addfile(info, io.BytesIO(content))
        content = packed.getvalue()[: len(content) + 3 * 512 + 1024]
    (tmp_path / "deep.tar").write_bytes(content)
    with pytest.raises(UserError, match=r"deep\.tar cannot be read as a tar file"):
        TimmDataset(root=tmp_path / "deep.tar", test_split=None).train()


def test_a_damaged_header_of_a_tar_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        info = tarfile.TarInfo("ant/0.png")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "ant/0.png"}
        info.size = 600
        packed.addfile(info, io.BytesIO(b"no map of a sparse file\n" * 25))
    with pytest.raises(UserError, match=r"x\.tar cannot be read as a tar file"):
        TimmDataset(root=tmp_path / "x.tar", test_split=None).train()


@pytest.mark.parametrize(
    "names", [["a1", "A01", "a001"], ["Cat", "cat"], ["x2", "x10"], ["x\N{SUPERSCRIPT TWO}", "x2"], ["9" * 5000, "a"]]
)
def test_names_have_one_order(names: list[str]) -> None:
    """Names that timm takes for equal would be ordered by chance, in a set, and a class be another in each process."""
    ordered = sorted(names, key=natural_key)
    assert all(sorted(order, key=natural_key) == ordered for order in permutations(names))
    with contextlib.suppress(ValueError):
        assert sorted(ordered, key=timms_natural_key) == ordered  # as timm has it, where it has an order


def test_no_other_program_is_started_for_an_image(tmp_path: Path) -> None:
    """Pillow gives PostScript to Ghostscript, which would wait for this one for ever."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"
    with pytest.raises(UnidentifiedImageError):
        open_image(io.BytesIO(script))
    (tmp_path / "a.png").write_bytes(script)
    save(tmp_path / "b.png")
    split = ImageFolder(root=tmp_path).train()
    with pytest.raises(Unreadable, match=r"a\.png cannot be read as an image"):
        split.crop(torch.tensor([0]), torch.tensor([[0.0, 0, 8, 6]]), torch.tensor([False]), 8)
