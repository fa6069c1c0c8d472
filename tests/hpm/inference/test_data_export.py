"""`hpm data export`: what is written is read again by this project's sources, and by others' programs."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_folders import annotation, coco_layout, content_of
from forks import Forks
from mask_folders import own_layout
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import ImageFolder as TorchvisionFolder

from hpm import __version__
from hpm.data import (
    IGNORED,
    SPLITS,
    CocoDetection,
    DigitScenes,
    ImageFolder,
    ImageSource,
    SegmentationFolder,
    Split,
    StampScenes,
    annotated_views,
)
from hpm.data.crops import whole_boxes
from hpm.errors import UserError
from hpm.inference.data_export import FORMATS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

Hpm = Callable[..., int]
PARTS = dict(zip(SPLITS, ("train", "val", "test"), strict=True))
SCENES = {"img_size": (24, 32), "train_size": 40, "validation_size": 6, "test_size": 8, "background_objects": 8}


def bound(**bindings: object) -> list[str]:
    """`IMG_SIZE=8` and `StampScenes__seed=1` as words of the command line."""
    return [word for name, value in bindings.items() for word in ("-b", f"{name.replace('__', '.')} = {value!r}")]


def scene_words(root: Path, **changes: object) -> list[str]:
    settings = SCENES | {"root": str(root)} | changes
    size = settings.pop("img_size")
    return ["data/stamp_scenes", *bound(IMG_SIZE=size, **{f"StampScenes__{k}": v for k, v in settings.items()})]


@pytest.fixture
def scenes(stamp_files: Path) -> StampScenes:
    return StampScenes(root=stamp_files, **SCENES)


def pixels(split: Split, size: tuple[int, int]) -> torch.Tensor:
    """All images whole, uint8."""
    indices_N = torch.arange(len(split))
    images = split.crop(indices_N, whole_boxes(split.sizes(indices_N)), torch.zeros(len(split), dtype=torch.bool), size)
    return images.round().to(torch.uint8)


def seen(source: ImageSource, split: Split) -> torch.Tensor:
    """All images as evaluations see them, uint8."""
    return (source.denormalize(source.load(split, torch.arange(len(split)))) * 255).round().to(torch.uint8)


# COCO's format.


def test_scenes_come_back_from_cocos_format(
    hpm: Hpm,
    stamp_files: Path,
    scenes: StampScenes,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hpm.inference.data_export._BATCH", 7)
    assert hpm("data", "export", *scene_words(stamp_files), "--out", "coco") == 0
    assert capsys.readouterr().out.splitlines() == [
        "data: StampScenes, 100 classes, images: 40 train, 6 validation, 8 test; 140 cut-outs on 27, 7, 8 photographs",
        "train: 40 images",
        "val: 6 images",
        "test: 8 images",
        "data set: coco",
        "read it by: data/coco_detection -b \"CocoDetection.root = 'coco'\"",
    ]
    read, crowds = CocoDetection(root="coco", img_size=SCENES["img_size"]), 0
    assert read.object_classes == scenes.class_names
    for name in SPLITS:
        before, after = scenes.get_split(name), read.get_split(name)
        indices_N = torch.arange(len(before))
        assert torch.equal(pixels(after, (24, 32)), before.images(indices_N))
        for old, new in zip(before.objects(indices_N), after.objects(indices_N), strict=True):
            assert all(torch.equal(*parts) for parts in zip(old, new, strict=True))
            crowds += int(old.crowd_O.sum())
        for old_HW, new_HW in zip(before.class_maps(indices_N), after.class_maps(indices_N), strict=True):
            assert torch.equal(old_HW, new_HW)
    assert crowds > 0


def test_pycocotools_reads_what_is_exported(hpm: Hpm, stamp_files: Path, scenes: StampScenes) -> None:
    assert hpm("data", "export", *scene_words(stamp_files), "--out", "coco", "--format", "coco") == 0
    for name, part in PARTS.items():
        split = scenes.get_split(name)
        coco = COCO(f"coco/annotations/instances_{part}.json")
        assert coco.dataset["info"] == {
            "description": f"StampScenes, {part}",
            "contributor": f"curriculum-masking {__version__}",
        }
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(scenes.class_names)
        assert min(coco.getCatIds()) == 1
        ids = coco.getAnnIds()
        assert ids == list(range(1, len(ids) + 1))
        for image in coco.loadImgs(coco.getImgIds()):
            with Image.open(Path("coco", part, image["file_name"])) as picture:
                assert picture.size == (image["width"], image["height"]) == (32, 24)
            (objects,) = split.objects(torch.tensor([image["id"]]))
            annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
            assert [each["category_id"] - 1 for each in annotations] == objects.labels_O.tolist()
            for each, mask_SS, crowd in zip(annotations, objects.masks_OHW.numpy(), objects.crowd_O, strict=True):
                assert np.array_equal(coco.annToMask(each).astype(bool), mask_SS)
                assert each["area"] == mask_SS.sum()
                assert each["iscrowd"] == int(crowd)
                left, top, width, height = map(int, each["bbox"])
                assert mask_SS[top : top + height, left : left + width].sum() == mask_SS.sum()


def test_objects_of_larger_images_are_exported_as_they_are_shown(hpm: Hpm, tmp_path: Path) -> None:
    annotations = [annotation(7), annotation(7, 18, iscrowd=1, segmentation={"size": [20, 30], "counts": [300, 300]})]
    for part in ("train2017", "val2017"):
        coco_layout(tmp_path / "large", part, content_of([*annotations, annotation(8, 90)]))
    words = ("data/coco_detection", *bound(IMG_SIZE=(10, 15), CocoDetection__root=str(tmp_path / "large")))
    assert hpm("data", "export", *words, "--out", "small") == 0
    large, small = CocoDetection(root=tmp_path / "large", img_size=(10, 15)), CocoDetection(root="small")
    assert sorted(path.name for path in Path("small", "annotations").iterdir()) == [
        "instances_test.json",
        "instances_train.json",
    ]
    before = annotated_views.objects(large, large.train(), torch.arange(3))
    for old, new in zip(before, small.train().objects(torch.arange(3)), strict=True):
        assert all(torch.equal(*parts) for parts in zip(old, new, strict=True))
    assert before[0].boxes_O4.tolist() == [[2.0, 1.0, 6.0, 4.0]] * 2  # the crowd's too, as the file says
    assert torch.equal(pixels(small.train(), (10, 15)), seen(large, large.train()))


# A mask for each image.


def test_scenes_come_back_from_masks(hpm: Hpm, stamp_files: Path, scenes: StampScenes) -> None:
    assert hpm("data", "export", *scene_words(stamp_files), "--out", "masks", "--format", "segmentation") == 0
    read, values = SegmentationFolder(root="masks", img_size=SCENES["img_size"]), set()
    assert read.pixel_classes == scenes.pixel_classes
    for name in SPLITS:
        before, after = scenes.get_split(name), read.get_split(name)
        indices_N = torch.arange(len(before))
        assert torch.equal(pixels(after, (24, 32)), before.images(indices_N))
        for old_HW, new_HW in zip(before.class_maps(indices_N), after.class_maps(indices_N), strict=True):
            assert torch.equal(old_HW, new_HW)
            values |= set(old_HW.unique().tolist())
    assert {IGNORED, 0} < values
    assert len(values) > 50


def test_a_folder_of_masks_comes_back_from_its_export(hpm: Hpm, tmp_path: Path) -> None:
    """Where validation images are carved, as here, the export holds them as its own."""
    own_layout(tmp_path / "before", {"train": 20, "test": 3})
    words = ("data/segmentation_folder", *bound(IMG_SIZE=(10, 16), SegmentationFolder__root=str(tmp_path / "before")))
    assert hpm("data", "export", *words, "--out", "after", "--format", "segmentation") == 0
    before, after = (SegmentationFolder(root=tmp_path / name, img_size=(10, 16)) for name in ("before", "after"))
    assert before.pixel_classes == after.pixel_classes
    assert [before.has_own_validation, after.has_own_validation] == [False, True]
    for name, count in zip(SPLITS, (18, 2, 3), strict=True):
        old, new, indices_N = before.get_split(name), after.get_split(name), torch.arange(count)
        assert len(old) == len(new) == count
        shown_NSS = annotated_views.class_maps(before, old, indices_N)
        assert torch.equal(shown_NSS, torch.stack(new.class_maps(indices_N)))
        assert torch.equal(pixels(new, (10, 16)), seen(before, old))


# A folder for each class.


def save_classes(root: Path, parts: dict[str, int], mode: str = "RGB") -> None:
    generator = np.random.default_rng(0)
    for part, count in parts.items():
        for name in ("ant", "bee", "cow and calf"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                values = generator.integers(0, 256, (20, 26, 3), dtype=np.uint8)
                Image.fromarray(values).convert(mode).save(root / part / name / f"{number}.png")


def test_images_come_back_from_folders(hpm: Hpm, tmp_path: Path) -> None:
    """Of these images evaluations see the middle, which is what is exported."""
    save_classes(tmp_path / "before", {"train": 10, "val": 2})
    words = ("data/image_folder", *bound(IMG_SIZE=16, ImageFolder__root=str(tmp_path / "before")))
    assert hpm("data", "export", *words, "--out", "after", "--format", "folder") == 0
    before, after = (ImageFolder(root=tmp_path / name, img_size=16) for name in ("before", "after"))
    assert before.class_names == after.class_names
    assert [before.has_own_validation, after.has_own_validation] == [False, True]
    for name, count in zip(SPLITS, (27, 3, 6), strict=True):
        old, new = before.get_split(name), after.get_split(name)
        assert len(old) == len(new) == count
        theirs = TorchvisionFolder(f"after/{PARTS[name]}")
        assert theirs.classes == list(before.class_names)
        assert [str(Path(path).absolute()) for path, _ in theirs.samples] == new.paths
        assert [label for _, label in theirs.samples] == new.labels.tolist()
        # Files are numbered in the order that they had, and read in the order of their classes.
        order = [int(Path(path).stem) for path, _ in theirs.samples]
        assert torch.equal(new.labels, old.labels[order])
        assert torch.equal(pixels(new, (16, 16)), seen(before, old)[order])


def test_gray_images_stay_gray(hpm: Hpm, tmp_path: Path) -> None:
    save_classes(tmp_path / "before", {"train": 3, "test": 1}, mode="L")
    gray = {"in_chans": 1, "mean": (0.5,), "std": (0.25,)}
    words = bound(
        IMG_SIZE=16, ImageFolder__root="before", **{f"ImageFolder__{name}": value for name, value in gray.items()}
    )
    (tmp_path / "gray.gin").write_text("Trainer.source = @ImageFolder()\nImageFolder.img_size = %IMG_SIZE\n")
    assert hpm("data", "export", "gray.gin", *words, "--out", "after", "--format", "folder") == 0
    before, after = (ImageFolder(root=name, img_size=16, **gray) for name in ("before", "after"))
    with Image.open(after.train().paths[0]) as image:
        assert image.mode == "L"
    assert torch.equal(pixels(after.test(), (16, 16)), seen(before, before.test()))


def test_scenes_come_back_from_folders(hpm: Hpm, stamp_files: Path) -> None:
    few = {"img_size": 8, "train_size": 200, "validation_size": 100, "test_size": 101, "background_objects": 0}
    assert hpm("data", "export", *scene_words(stamp_files, **few), "--out", "folders", "--format", "folder") == 0
    scenes, read = StampScenes(root=stamp_files, **few), ImageFolder(root="folders", img_size=8)
    for name in SPLITS:
        old, new = scenes.get_split(name), read.get_split(name)
        order = torch.tensor([int(Path(path).stem) for path in new.paths])
        named = [read.class_names[label] for label in new.labels.tolist()]
        assert named == [scenes.class_names[label] for label in old.labels[order].tolist()]
        assert torch.equal(pixels(new, (8, 8)), old.images(order))


# Notices.


def test_without_test_images_a_notice_says_how_the_others_are_read(
    hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_classes(tmp_path, {"train": 4})
    words = ("data/image_folder", *bound(IMG_SIZE=16, ImageFolder__root="train", ImageFolder__validation_images=3))
    assert hpm("data", "export", *words, "--out", "after", "--format", "folder") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("there are no test images: whoever reads this data set takes the folder val for those")
    assert told[1] == "data: ImageFolder, 3 classes, images: 9 train, 3 validation (carved)"
    assert [len(split) for split in ImageFolder(root="after", validation_images=0).existing(SPLITS).values()] == [9, 3]
    assert hpm("data", "export", *words[:-2], "--out", "only", "--format", "folder") == 0
    assert capsys.readouterr().out.startswith("data: ImageFolder, 3 classes, images: 12 train\n")
    assert [path.name for path in Path("only").iterdir()] == ["train"]


# What is refused.


@pytest.fixture
def refusal(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The sentence that the command ends in, and nothing written."""

    def refused(*words: object, out: str = "out") -> str:
        there = sorted(Path().iterdir())
        assert hpm("data", "export", *words, "--out", out) == 2
        assert sorted(Path().iterdir()) == there
        told = capsys.readouterr().err
        assert re.fullmatch(r"error: .+\n", told)
        return told.removeprefix("error: ").strip()

    return refused


def test_an_unknown_format(refusal: Callable[..., str]) -> None:
    told = "--format yolo is unknown; choose one of coco, segmentation, folder"
    assert refusal("data/digit_scenes", "--format", "yolo") == told


def test_a_place_that_is_taken(refusal: Callable[..., str], hpm: Hpm, stamp_files: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        told = f"--out {name} is there already, and not an empty folder; give a new name"
        assert refusal("data/digit_scenes", out=name) == told
    assert "file is a file and no folder" in refusal("data/digit_scenes", out="file/within")
    (tmp_path / "link").symlink_to("nowhere")
    assert refusal("data/digit_scenes", out="link") == (
        "--out link is a link to nowhere, which is not there; name a folder"
    )
    (tmp_path / "empty").mkdir()
    assert hpm("data", "export", *scene_words(stamp_files, train_size=1), "--out", "empty") == 0
    assert len(list((tmp_path / "empty" / "train").iterdir())) == 1


def test_configs_without_data(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "wrong.gin").write_text("Trainer.source = @Ramp()\n")
    assert refusal("curricula/random") == (
        "curricula/random binds no data set to Trainer.source; name one of the configs data/..., or your own"
    )
    assert refusal("wrong.gin") == "Trainer.source must be an ImageSource, got Ramp (wrong.gin, line 1)"
    unused = refusal("data/digit_scenes", *bound(IMG_SIZE=16, Ramp__end=0.5))
    assert unused.startswith("Ramp.end (-b) is bound, but nothing in this run uses Ramp")


def test_data_that_do_not_know_what_the_format_tells(
    refusal: Callable[..., str], tmp_path: Path, fashion_mnist: Path
) -> None:
    own_layout(tmp_path / "masks", {"train": 20, "test": 3})
    masks = ("data/segmentation_folder", *bound(IMG_SIZE=8, SegmentationFolder__root="masks"))
    assert refusal("data/fashion_mnist") == (
        "--format coco needs objects with masks, and FashionMNIST knows none; choose another format"
    )
    assert refusal("data/fashion_mnist", "--format", "segmentation") == (
        "--format segmentation needs 2 to 255 classes of pixels; FashionMNIST has none"
    )
    assert refusal(*masks) == (
        "--format coco needs objects with masks, and SegmentationFolder knows none; choose another format"
    )
    assert refusal(*masks, "--format", "folder") == (
        "--format folder needs a class for every image, and the images of SegmentationFolder have none"
    )


def test_more_classes_than_a_mask_has_numbers_for(refusal: Callable[..., str], tmp_path: Path) -> None:
    own_layout(tmp_path / "masks", {"train": 20, "test": 3})
    (tmp_path / "masks" / "classes.txt").write_text("\n".join(f"class {number}" for number in range(256)))
    words = bound(IMG_SIZE=8, SegmentationFolder__root="masks", SegmentationFolder__ignore_index=300)
    assert refusal("data/segmentation_folder", *words, "--format", "segmentation") == (
        "--format segmentation needs 2 to 255 classes of pixels; SegmentationFolder has 256 classes of pixels"
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "'' is no line of classes.txt"),
        (" car", "' car' is no line of classes.txt"),
        ("a\nb", r"'a\nb' is no line of classes.txt"),
    ],
)
def test_names_that_a_list_of_classes_cannot_hold(
    refusal: Callable[..., str], tmp_path: Path, name: str, why: str
) -> None:
    categories = [{"id": 1, "name": name}, {"id": 2, "name": "dog"}]
    coco_layout(tmp_path / "coco", content=content_of([annotation(7, 1)]) | {"categories": categories})
    words = bound(IMG_SIZE=8, CocoDetection__root="coco")
    told = f"--format segmentation: {why}; rename a class of CocoDetection"
    assert refusal("data/coco_detection", *words, "--format", "segmentation") == told


def test_a_split_that_lacks_a_class(refusal: Callable[..., str], stamp_files: Path) -> None:
    """Whoever numbers the folders that are there would call the classes otherwise in each split."""
    words = scene_words(stamp_files, train_size=100, validation_size=97)
    missing = StampScenes(root=stamp_files, **SCENES | {"validation_size": 100}).validation().labels
    names = [StampScenes(root=stamp_files).class_names[label] for label in sorted(missing[97:].tolist())]
    assert refusal(*words, "--format", "folder") == (
        f"--format folder: none of the 97 validation images is of class {', '.join(names)}; readers take classes from "
        "the folders of each split, so let StampScenes have more validation images, or choose another format"
    )


@pytest.mark.parametrize("name", [".hidden", "..", "a/b", "a\0b", ""])
def test_classes_that_cannot_be_folders(name: str) -> None:
    source = DigitScenes(img_size=8, train_size=1, validation_size=1, test_size=1)
    source.class_names = (name, *"123456789")
    with pytest.raises(UserError, match=r"--format folder: the class .* cannot be the name of a folder that is read"):
        FORMATS["folder"](source)


def test_a_package_that_is_missing(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core.mask", None)
    told = refusal("data/digit_scenes", *bound(IMG_SIZE=16))
    assert told.startswith("--format coco needs the package faster-coco-eval, which cannot be imported (")
    assert told.endswith("; install it: pip install 'curriculum-masking[dense]'")


# Killed.

DYING = """
import os
import gin
from hpm.data import DigitScenes

@gin.register
class Dying(DigitScenes):
    def load(self, split, indices_N):
        if split is self.test() and "SIGNAL" in os.environ:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        return super().load(split, indices_N)
"""


@pytest.fixture
def dying(tmp_path: Path) -> tuple[str, ...]:
    """The command over data during whose test images the process is sent $SIGNAL."""
    (tmp_path / "dying_data.py").write_text(DYING)
    sizes = "Dying.train_size = 100\nDying.validation_size = 60\nDying.test_size = 60\n"
    (tmp_path / "dying.gin").write_text("import dying_data\nTrainer.source = @Dying()\nDying.img_size = 16\n" + sizes)
    return "data", "export", "dying.gin", "--out", "out"


def test_a_kill_leaves_nothing_under_the_name(dying: tuple[str, ...], forks: Forks, tmp_path: Path, hpm: Hpm) -> None:
    killed = forks.run("hpm", *dying, cwd=tmp_path, env={**os.environ, "SIGNAL": str(int(signal.SIGKILL))})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not Path("out").exists()
    (left,) = Path().glob("out.*")
    assert re.fullmatch(r"out\.[0-9a-f]{8}\.partial", left.name)
    assert len(list(left.rglob("*.png"))) == 160
    assert hpm(*dying) == 0
    assert sorted(path.name for path in Path("out").rglob("*.json")) == [
        f"instances_{part}.json" for part in sorted(PARTS.values())
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_whoever_is_told_to_stop_leaves_nothing(
    dying: tuple[str, ...],
    hpm: Hpm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGTERM)))
    assert hpm(*dying, "--format", form) == 75
    told = capsys.readouterr().err
    assert told == "stopped: SIGTERM received before the command was done; start it again\n"
    assert list(Path().glob("out*")) == []
    monkeypatch.delenv("SIGNAL")
    assert hpm(*dying, "--format", form) == 0
    assert len(list(Path("out", "test").rglob("*.png"))) == 60 * (1 + (form == "segmentation"))


def test_a_full_disk_is_told(
    dying: tuple[str, ...], hpm: Hpm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system refuses files of more than some bytes, as it refuses all on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        code = hpm(*dying)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2
    assert re.fullmatch(
        r"error: --out out cannot be written: \[Errno 27\] File too large; choose another --out\n",
        capsys.readouterr().err,
    )
    assert list(Path().glob("out*")) == []


# The commands.


def test_the_group_lists_its_commands(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    hpm("data")
    told = capsys.readouterr()
    assert re.search(r"│ export +Write a data set's images as PNG", told.out + told.err)
    assert hpm("data", "-h") == 0
    assert re.search(r"│ export +Write a data set's images as PNG", capsys.readouterr().out)
    assert hpm("-h") == 0
    listed = re.findall(r"^│ ([a-z]+)  ", capsys.readouterr().out, re.MULTILINE)
    assert "data" in listed
    assert listed == sorted(listed)


def test_its_help_tells_the_formats(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("data", "export", "-h") == 0
    told = capsys.readouterr().out
    for word in ("--out", "--format", "--binding", "coco", "segmentation", "folder", "[default: coco]"):
        assert word in told


def test_what_is_no_command_and_what_is_missing(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (("data", "import"), "No such command 'import'"),
        (("data", "export", "--out", "out"), "Missing argument"),
        (("data", "export", "data/digit_scenes"), "Missing option '--out'"),
    ):
        assert hpm(*words) == 2
        assert told in capsys.readouterr().err
    assert hpm("data", "export", "data/digit_scenes", "--out", "") == 2
    assert capsys.readouterr().err == ("error: what follows --out is empty; name something there, or leave it out\n")
