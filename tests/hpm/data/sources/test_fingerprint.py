"""A fingerprint tells the images and labels of a split from others, wherever they lie."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData

from hpm.data import DigitScenes, FashionMNIST, FolderSplit, ImageFolder, Split, TarSplit, TensorSplit, TimmDataset
from hpm.data.sources import scene_split
from hpm.data.sources.fingerprint import fingerprint_of, joined_names
from hpm.data.sources.tar_shards import Member
from hpm.data.sources.torchvision_data import ItemSplit

PATHS = ["ant/0.jpg", "ant/1.jpg", "bee/0.jpg"]
LABELS = torch.tensor([0, 0, 1])


def in_folder(folder: str, paths: list[str], labels: torch.Tensor | None = LABELS) -> str:
    return FolderSplit([Path(folder, path) for path in paths], labels).fingerprint()


def test_image_files_may_lie_anywhere() -> None:
    expected = in_folder("/data/train", PATHS)
    assert in_folder("/data/train", PATHS) == expected
    assert in_folder("/elsewhere/images/of/insects", PATHS) == expected
    assert in_folder("here", PATHS) == expected
    assert in_folder("", PATHS) == expected
    assert len(expected) == 16


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["ant/0.jpg", "ant/2.jpg", "bee/0.jpg"], LABELS),
        (["ant/0.jpg", "bug/1.jpg", "bee/0.jpg"], LABELS),
        (["ant/1.jpg", "ant/0.jpg", "bee/0.jpg"], LABELS),
        (PATHS, torch.tensor([0, 1, 1])),
        (PATHS, None),
        (PATHS[:2], LABELS[:2]),
        ([*PATHS, "bee/1.jpg"], torch.tensor([0, 0, 1, 1])),
        (["ant/0.jpg", "ant/1.jpgbee", "0.jpg"], LABELS),
    ],
)
def test_other_names_labels_order_or_count_are_told(paths: list[str], labels: torch.Tensor | None) -> None:
    assert in_folder("/data/train", paths, labels) != in_folder("/data/train", PATHS)


def test_names_of_any_bytes_and_of_few_images() -> None:
    assert joined_names([]) == b""
    assert joined_names(["/data/0.jpg"]) == joined_names(["0.jpg"]) == b"0.jpg"
    assert joined_names(["/data/1.jpg", "/data/10.jpg"]) == b"1.jpg\x0010.jpg"
    assert joined_names(["/data/a/0.jpg", "/data/ab/0.jpg"]) == b"a/0.jpg\0ab/0.jpg"
    assert joined_names([os.fsdecode(b"/data/\xff.jpg"), "/data/1.jpg"]) == b"\xff.jpg\x001.jpg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for path in PATHS:
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


def test_a_folder_that_was_moved_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    expected = ImageFolder(root=folder).train().fingerprint()
    assert TimmDataset(root=folder).train().fingerprint() == expected
    shutil.move(folder, tmp_path / "somewhere")
    assert ImageFolder(root=tmp_path / "somewhere").train().fingerprint() == expected
    (tmp_path / "somewhere/bee/0.jpg").rename(tmp_path / "somewhere/bee/1.jpg")
    assert ImageFolder(root=tmp_path / "somewhere").train().fingerprint() != expected


def in_tar(names: list[str], *, tar: str = "/data/0.tar", lengths: tuple[int, ...] = (5, 6, 7)) -> str:
    members = [Member(name, name.partition("/")[0], 512 * place, lengths[place]) for place, name in enumerate(names)]
    return TarSplit({Path(tar): members}, sorted({member.label for member in members})).fingerprint()


def test_tar_files_may_lie_anywhere_and_members_count() -> None:
    expected = in_tar(PATHS)
    assert in_tar(PATHS, tar="/elsewhere/images.tar") == expected
    others = [
        in_tar(PATHS[:2]),
        in_tar(["ant/0.jpg", "ant/2.jpg", "bee/0.jpg"]),
        in_tar(["ant/1.jpg", "ant/0.jpg", "bee/0.jpg"]),
        in_tar(["ant/0.jpg", "bee/1.jpg", "bee/0.jpg"]),
        in_tar(PATHS, lengths=(5, 6, 8)),
        in_tar([os.fsdecode(b"ant/\xff.jpg"), *PATHS[1:]]),
    ]
    assert len({expected, *others}) == 1 + len(others)


def test_every_pixel_and_label_in_memory_counts() -> None:
    images_KCHW = torch.randint(0, 256, (5000, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5000) % 10
    expected = TensorSplit(images_KCHW, labels).fingerprint()
    assert TensorSplit(images_KCHW.clone(), labels.clone()).fingerprint() == expected
    assert TensorSplit(images_KCHW.contiguous(memory_format=torch.channels_last), labels).fingerprint() == expected
    one_pixel, one_label = images_KCHW.clone(), labels.clone()
    one_pixel[4999, 0, 3, 3] += 1
    one_label[4999] = 3
    others = [
        TensorSplit(one_pixel, labels),
        TensorSplit(images_KCHW, one_label),
        TensorSplit(images_KCHW, None),
        TensorSplit(images_KCHW.flip(0), labels.flip(0)),
        TensorSplit(images_KCHW[:-1], labels[:-1]),
        TensorSplit(images_KCHW.view(5000, 1, 2, 8), labels),
        TensorSplit(images_KCHW.view(5000, 4, 2, 2), labels),
    ]
    assert len({expected, *(split.fingerprint() for split in others)}) == 1 + len(others)


def test_scenes_are_told_by_how_they_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenes(**changes: object) -> DigitScenes:
        return DigitScenes(**{"train_size": 20, "test_size": 20} | changes)

    expected = scenes().train().fingerprint()
    others = [
        scenes(train_size=21).train(),
        scenes().test(),
        scenes(seed=1).train(),
        scenes(img_size=40).train(),
        scenes(clutter=2).train(),
        scenes(background=0.4).train(),
        scenes(min_scale=0.8).train(),
    ]
    assert len({expected, *(split.fingerprint() for split in others)}) == 1 + len(others)
    monkeypatch.setattr(scene_split, "MEMORY_LIMIT", 0)
    rendered = scenes().train()
    assert rendered._images_KCSS is None
    assert rendered.fingerprint() == expected


def test_part_of_a_data_set_is_another(fashion_mnist: Path) -> None:
    splits = [FashionMNIST(train_size=200).train(), FashionMNIST(train_size=300).train(), FashionMNIST().test()]
    assert len({split.fingerprint() for split in splits}) == 3
    assert FashionMNIST(train_size=200).train().fingerprint() == splits[0].fingerprint()


def test_data_sets_of_items_are_told_by_class_count_and_labels() -> None:
    def items(count: int, labels: torch.Tensor | None = None) -> str:
        return ItemSplit(FakeData(size=count), labels, "RGB").fingerprint()

    assert items(3) == items(3)
    assert len({items(3), items(4), items(3, LABELS)}) == 3


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Split]:
    """Makes a data set of Hugging Face's in a folder, and opens it."""
    datasets = pytest.importorskip("datasets")

    def make(
        folder: str, *, names: list[str] = PATHS, labels: tuple[int, ...] = (0, 0, 1), flat: bool = False
    ) -> Split:
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (9, 8, 3), dtype=np.uint8) for _ in names]
        images[0] *= not flat
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
        (tmp_path / folder).mkdir()
        encoded = []
        for number, (name, image) in enumerate(zip(names, images, strict=True)):
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
            encoded.append({"bytes": (tmp_path / folder / f"{number}.png").read_bytes(), "path": name})
            (tmp_path / folder / f"{number}.png").unlink()
        rows = datasets.Dataset.from_dict({"image": encoded, "label": list(labels)}, features=features)
        rows.to_parquet(tmp_path / folder / "train.parquet")
        source = TimmDataset(name=f"hfds/{tmp_path / folder}", root=tmp_path / f"{folder} cache", test_split=None)
        return source.train()

    return make


def test_tables_may_lie_anywhere_and_names_labels_and_sizes_count(table: Callable[..., Split]) -> None:
    expected = table("here").fingerprint()
    assert table("there").fingerprint() == expected
    others = [
        table("renamed", names=["ant/0.jpg", "ant/2.jpg", "bee/0.jpg"]),
        table("labels", labels=(0, 1, 1)),
        table("fewer", names=PATHS[:2], labels=(0, 0)),
        table("flat", flat=True),  # encoded in fewer bytes
    ]
    assert len({expected, *(split.fingerprint() for split in others)}) == 1 + len(others)


def test_a_split_of_ones_own_is_told_by_its_count_and_labels() -> None:
    class Own(Split):
        def __init__(self, labels: torch.Tensor | None, count: int = 3) -> None:
            self.labels = labels
            self.count = count

        def __len__(self) -> int:
            return self.count

        def sizes(self, indices_N: torch.Tensor) -> torch.Tensor:
            raise AssertionError("nothing is looked at")

        def crop(self, *arguments: object) -> torch.Tensor:
            raise AssertionError("nothing is looked at")

    assert Own(LABELS).fingerprint() == Own(LABELS.clone()).fingerprint() == fingerprint_of(3, LABELS, [])
    assert len({Own(LABELS).fingerprint(), Own(None).fingerprint(), Own(LABELS, 4).fingerprint()}) == 3
