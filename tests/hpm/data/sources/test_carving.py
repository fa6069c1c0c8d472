"""Validation images: carved by a fixed rule from the training images, or the data set's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpm.data import DigitScenes, FashionMNIST, ImageFolder, ImageSource, Split, TensorSplit, TimmDataset
from hpm.data.sources.carving import carve, most_to_take
from hpm.data.sources.split import Subset
from hpm.errors import UserError


def numbered(labels: list[int] | None, count: int) -> TensorSplit:
    """Images of one pixel, whose values are their numbers."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    return TensorSplit(images, None if labels is None else torch.tensor(labels))


def numbers(split: Split) -> list[int]:
    assert isinstance(split, TensorSplit)
    return split.images_KCHW.flatten().tolist()


@settings(deadline=None, max_examples=50)
@given(st.data(), st.integers(2, 200))
def test_every_image_is_in_one_part_and_every_class_gives_its_share(data: st.DataObject, count: int) -> None:
    labels = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    whole = numbered(labels, count)
    assert most_to_take(whole) == count - len(set(labels))
    taken = data.draw(st.integers(0, most_to_take(whole)))
    left, carved = carve(whole, taken)
    assert left.labels is not None
    assert set(left.labels.tolist()) == set(labels)
    assert len(carved) == taken
    assert sorted(numbers(left) + numbers(carved)) == list(range(count))
    assert numbers(carved) == sorted(numbers(carved))
    assert carved.labels is not None
    assert [labels[number] for number in numbers(carved)] == carved.labels.tolist()
    for label in set(labels):
        share = taken / count * labels.count(label)
        # Where more than half is taken, a class that keeps its last image gives one less, and another one more.
        assert abs(carved.labels.tolist().count(label) - share) <= 2 + (len(set(labels)) if 2 * taken > count else 0)


def test_the_rule_is_fixed() -> None:
    assert numbers(carve(numbered(None, 20), 4)[1]) == numbers(carve(numbered(None, 20), 4)[1]) == [4, 5, 13, 19]
    assert numbers(carve(numbered([0] * 15 + [1] * 5, 20), 4)[1]) == [4, 5, 13, 19]


class Pixels(ImageSource):
    def __init__(self, count: int, **options: object) -> None:
        super().__init__(img_size=4, in_chans=1, mean=(0.5,), std=(0.5,), **options)  # type: ignore[arg-type]
        self.count = count

    def read(self, split: str) -> Split:
        return numbered(None, 5) if split == "test" else numbered(None, self.count)


def test_a_tenth_is_carved_unless_more_or_none_is_asked_for() -> None:
    sizes = {
        images: (len(Pixels(60, validation_images=images).train()), Pixels(60, validation_images=images).has_validation)
        for images in (None, 20, 0)
    }
    assert sizes == {None: (54, True), 20: (40, True), 0: (60, False)}
    source = Pixels(60)
    assert source.validation() is source.validation()
    assert sorted(numbers(source.train()) + numbers(source.validation())) == list(range(60))


def test_no_validation_images() -> None:
    with pytest.raises(UserError, match=r"Pixels.validation_images = 0 leaves no validation images; .* from 1 to 59$"):
        Pixels(60, validation_images=0).validation()
    message = r"Pixels.validation_images = 60 is more than 59, which leave one of 60 images for training$"
    with pytest.raises(UserError, match=message):
        Pixels(60, validation_images=60).train()
    few = "Pixels has no validation images: a tenth of 9 training images is none; .* from 1 to 8$"
    with pytest.raises(UserError, match=few):
        Pixels(9).validation()
    with pytest.raises(UserError, match="Pixels has no validation images, and no class with two training images"):
        Pixels(1).validation()
    with pytest.raises(ValueError, match=r"Pixels.validation_images = -1 must be at least 0"):
        Pixels(60, validation_images=-1)


def test_a_class_keeps_its_last_image() -> None:
    left, carved = carve(numbered([0, 1, 1, 1, 1, 1, 1, 2], 8), 5)
    assert left.labels is not None
    assert left.labels.tolist() == [0, 1, 2]
    assert len(carved) == 5

    class Classes(Pixels):
        def read(self, split: str) -> Split:
            return numbered([0, 1, 1, 1, 1, 1, 1, 2], 8)

    message = r"validation_images = 6 is more than 5, which leave one of 8 images for training in every class"
    with pytest.raises(UserError, match=message):
        Classes(8, validation_images=6).train()


@pytest.mark.parametrize("source", [Pixels(60), DigitScenes(train_size=4, validation_size=4, test_size=4)])
def test_a_split_of_another_name_is_refused(source: ImageSource) -> None:
    with pytest.raises(ValueError, match=r"get_split.name = 'val' is unknown; choose 'train', 'validation', 'test'"):
        source.get_split("val")


def fill(folder: Path, count: int, first: int) -> None:
    """Images of two classes; for a count of 0, two images without classes."""
    if not count:
        folder.mkdir()
        for number in (first, first + 1):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.JPEG")
        return
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(first, first + count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / label / f"{number}.png")


def fill_all(root: Path, counts: dict[str, int]) -> None:
    """Folders of images, of which no two are the same."""
    for place, (name, count) in enumerate(counts.items()):
        fill(root / name, count, 100 * place)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        ({"train": 20, "val": 3, "test": 4}, [40, 6, 8]),
        ({"train": 20, "val": 3}, [36, 4, 6]),
        ({"train": 20, "test": 4}, [36, 4, 8]),
        ({"train": 20, "val": 3, "test": 0}, [36, 4, 6]),
    ],
)
def test_folders(tmp_path: Path, folders: dict[str, int], sizes: list[int]) -> None:
    fill_all(tmp_path, folders)
    source = ImageFolder(root=tmp_path, img_size=8)
    splits = [source.train(), source.validation(), source.test()]
    assert [len(split) for split in splits] == sizes
    assert len({path for split in splits for path in split.paths}) == sum(sizes)  # type: ignore[attr-defined]
    assert source.test().name(0).split("/")[-3] == ("test" if folders.get("test") else "val")


def test_splits_are_told_with_their_folders(tmp_path: Path) -> None:
    fill_all(tmp_path, {"train": 20, "valid": 3})
    for source in (ImageFolder(root=tmp_path, img_size=8), TimmDataset(root=tmp_path, img_size=8, test_split="valid")):
        assert source.describe() == f"{type(source).__name__}, 2 classes, images: none read"
        source.train()
        assert source.describe().endswith(", images: 36 train (train), 4 validation (carved)")
        source.existing(("validation", "test"))
        assert source.describe().endswith(", images: 36 train (train), 4 validation (carved), 6 test (valid)")
    fill(tmp_path / "test", 4, 300)
    both = ImageFolder(root=tmp_path, img_size=8)
    both.existing(("validation", "test"))
    assert both.describe() == "ImageFolder, 2 classes, images: 6 validation (valid), 8 test (test)"


def test_nothing_is_carved_beside_validation_images_of_their_own(tmp_path: Path) -> None:
    fill_all(tmp_path, {"train": 20, "val": 3, "test": 4})
    with pytest.raises(UserError, match=r"validation_images = 5 carves nothing, for .* has a folder of validation im"):
        ImageFolder(root=tmp_path, img_size=8, validation_images=5).train()
    with pytest.raises(
        ValueError, match=r"validation_images = 5 and TimmDataset.validation_split = 'val' say the same"
    ):
        TimmDataset(root=tmp_path, img_size=8, validation_split="val", test_split="test", validation_images=5)
    assert len(ImageFolder(root=tmp_path, img_size=8, validation_images=0).train()) == 40


def test_a_test_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    """It would count as none, and the images in the folder that was meant would be scored by nobody."""
    fill_all(tmp_path, {"train": 20, "test": 4})
    with pytest.raises(UserError, match=r"TimmDataset.test_split = 'tset' is neither a folder nor a tar file in"):
        TimmDataset(root=tmp_path, img_size=8, test_split="tset", validation_images=5).train()
    assert not TimmDataset(root=tmp_path, img_size=8, test_split=None).has_test


def test_folders_under_other_names_are_not_taken_for_classes(tmp_path: Path) -> None:
    fill(tmp_path / "Train", 20, 0)
    fill(tmp_path / "Test", 4, 100)
    assert len(ImageFolder(root=tmp_path, img_size=8).test()) == 8
    (tmp_path / "Train").rename(tmp_path / "train")
    (tmp_path / "Test").rename(tmp_path / "test")
    with pytest.raises(
        UserError, match=r"test_split = 'validation' is not in .*, but test is; set it to 'test', or to"
    ):
        TimmDataset(root=tmp_path, img_size=8).train()
    (tmp_path / "train").rename(tmp_path / "pictures")
    with pytest.raises(UserError, match="holds no split 'train'"):
        TimmDataset(root=tmp_path, img_size=8, test_split="test").train()
    with pytest.raises(UserError, match="holds no split 'train'"):
        TimmDataset(root=tmp_path, img_size=8, test_split=None).train()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """With a capital, among other classes."""
    for place, name in enumerate(("Bus", "Train")):
        fill(tmp_path / name, 0, 100 * place)
    source = ImageFolder(root=tmp_path, img_size=8)
    assert source.class_names == ("Bus", "Train")
    assert len(source.train()) == 4


def test_a_folder_without_test_images_is_all_for_training(tmp_path: Path) -> None:
    fill(tmp_path, 20, 0)
    for source in (ImageFolder(root=tmp_path, img_size=8), TimmDataset(root=tmp_path, img_size=8)):
        assert len(source.train()) == 40
        assert not source.has_validation
    assert len(ImageFolder(root=tmp_path, img_size=8, validation_images=10).train()) == 30


def test_timm_takes_a_validation_split_by_its_name(tmp_path: Path) -> None:
    fill_all(tmp_path, {"train": 20, "val": 3, "test": 4})
    source = TimmDataset(root=tmp_path, img_size=8, validation_split="val", test_split="test")
    assert [len(source.train()), len(source.validation()), len(source.test())] == [40, 6, 8]


def test_fashion_mnist_validates_on_the_last_of_its_training_images(fashion_mnist: Path) -> None:
    few, all_of_them = FashionMNIST(train_size=100), FashionMNIST()
    assert [len(few.train()), len(few.validation()), len(few.test())] == [100, 5000, 100]
    assert torch.equal(few.validation().images_KCHW, all_of_them.validation().images_KCHW)  # type: ignore[attr-defined]
    assert all_of_them.validation_images == FashionMNIST(validation_images=None).validation_images == 5000
    assert few.train().images_KCHW.untyped_storage().data_ptr() == (  # type: ignore[attr-defined]
        FashionMNIST().validation().images_KCHW.untyped_storage().data_ptr()  # type: ignore[attr-defined]
    )
    whole = FashionMNIST(validation_images=0)
    assert len(whole.train()) == len(all_of_them.train()) + 5000
    assert few.train().fingerprint() == whole.train().subset(torch.arange(100)).fingerprint()
    assert not whole.has_validation
    with pytest.raises(ValueError, match=r"FashionMNIST.train_size = 56000 must lie between 1 and 55000"):
        FashionMNIST(train_size=56000)


def test_a_subset_is_the_images_it_names() -> None:
    split = numbered([5, 6, 7, 8], 4)
    subset = Subset(split, torch.tensor([3, 1]))
    boxes, flips = torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.zeros(2, dtype=torch.bool)
    assert subset.crop(torch.tensor([1, 0]), boxes, flips, 1).flatten().tolist() == [1.0, 3.0]
    assert subset.labels is not None
    assert (len(subset), subset.name(0), subset.labels.tolist()) == (2, "image 3", [8, 6])
    assert subset.fingerprint() != Subset(split, torch.tensor([1, 3])).fingerprint()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_the_validation_folder_by_any_of_its_names(tmp_path: Path, name: str) -> None:
    fill_all(tmp_path, {"train": 20, name: 3, "test": 4})
    source = ImageFolder(root=tmp_path, img_size=8)
    assert [len(source.train()), len(source.validation()), len(source.test())] == [40, 6, 8]


def test_folders_that_would_score_training_images(tmp_path: Path) -> None:
    fill(tmp_path / "train", 20, 0)
    (tmp_path / "val").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match=r"two of the folders train, val of .* are the same"):
        ImageFolder(root=tmp_path, img_size=8).train()
    (tmp_path / "train").rename(tmp_path / "training")
    (tmp_path / "val").unlink()
    fill(tmp_path / "val", 2, 100)
    with pytest.raises(UserError, match="has a folder val and none called train"):
        ImageFolder(root=tmp_path, img_size=8).train()
    with pytest.raises(UserError, match=r"TimmDataset.validation_split = '' names no split"):
        TimmDataset(root=tmp_path, validation_split="")
