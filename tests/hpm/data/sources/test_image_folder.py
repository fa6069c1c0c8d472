import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from hpm.data.sources.image_folder import ImageFolder
from hpm.errors import UserError


def save(path: Path, *, width: int, height: int, seed: int = 0, mode: str = "RGB") -> np.ndarray:
    """A smooth random picture, so that JPEG keeps it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return np.array(picture.convert("RGB"))


@pytest.fixture
def root(tmp_path):
    for part in ("train", "val"):
        for label, name in enumerate(("cat", "ant")):
            for k in range(3):
                save(tmp_path / part / name / f"{k}.png", width=40 + k, height=30 + label, seed=10 * label + k)
    return tmp_path


def test_layout_with_train_and_val(root):
    source = ImageFolder(root=root, img_size=16)
    assert source.class_names == ("ant", "cat")
    assert source.train().labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [Path(path).relative_to(root).as_posix() for path in source.train().paths[:3]] == [
        f"train/ant/{k}.png" for k in range(3)
    ]
    assert len(source.test()) == 6
    assert source.train().sizes(torch.tensor([5, 1])).tolist() == [[30, 42], [31, 41]]
    assert source.load(source.test(), torch.arange(6)).shape == (6, 3, 16, 16)


def test_test_folder_in_the_place_of_val(root):
    (root / "val").rename(root / "test")
    assert len(ImageFolder(root=root).test()) == 6


def test_without_a_train_folder_everything_is_for_training(root):
    source = ImageFolder(root=root / "train")
    assert source.class_names == ("ant", "cat")
    with pytest.raises(UserError, match="has no val or test folder"):
        source.test()


def test_plain_images_are_unlabeled(tmp_path):
    save(tmp_path / "b.png", width=20, height=20)
    save(tmp_path / "a.JPG", width=20, height=20)
    (tmp_path / "notes.txt").write_text("not an image")
    source = ImageFolder(root=tmp_path)
    assert source.train().labels is None
    assert source.num_classes == 0
    assert [Path(path).name for path in source.train().paths] == ["a.JPG", "b.png"]


@pytest.mark.parametrize("flip", [False, True])
def test_crop_is_torchvisions_of_the_same_picture(tmp_path, flip):
    picture = torch.from_numpy(save(tmp_path / "a.png", width=60, height=50)).permute(2, 0, 1)
    left = 7
    top = 11
    width = 40
    height = 30
    size = 24
    ours = (
        ImageFolder(root=tmp_path)
        .train()
        .crop(torch.tensor([0]), torch.tensor([[left, top, width, height]]).float(), torch.tensor([flip]), size)
    )
    theirs = F.resized_crop(
        picture.float(), top, left, height, width, [size, size], InterpolationMode.BICUBIC, antialias=True
    )
    theirs = F.hflip(theirs) if flip else theirs
    assert ours.shape == (1, 3, size, size)
    assert ours.dtype == torch.uint8
    assert (ours[0] - theirs.clamp(0, 255)).abs().max() < 2.0


def test_a_large_jpeg_is_decoded_smaller_to_the_same_effect(tmp_path):
    save(tmp_path / "a.jpg", width=803, height=601, seed=4)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
    box = (101, 53, 603, 403)
    ours = (
        ImageFolder(root=tmp_path)
        .train()
        .crop(torch.tensor([0]), torch.tensor([box]).float(), torch.tensor([False]), 32)
    )
    theirs = F.resized_crop(whole, 53, 101, 403, 603, [32, 32], InterpolationMode.BICUBIC, antialias=True)
    assert (ours[0] - theirs.clamp(0, 255)).abs()[:, 1:-1, 1:-1].max() < 4.0


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("P", "a.png"), ("RGBA", "a.png"), ("CMYK", "a.jpg")])
def test_other_modes_become_rgb(tmp_path, mode, name):
    save(tmp_path / name, width=30, height=30, mode=mode)
    source = ImageFolder(root=tmp_path, img_size=8)
    assert source.load(source.train(), torch.tensor([0])).shape == (1, 3, 8, 8)


def test_evaluation_sees_the_central_square(tmp_path):
    picture = torch.from_numpy(save(tmp_path / "a.png", width=96, height=64)).permute(2, 0, 1)
    source = ImageFolder(root=tmp_path, img_size=56)
    loaded = source.load(source.train(), torch.tensor([0]))
    assert torch.equal(loaded[0], source.normalize(picture[None, :, 4:60, 20:76])[0])


@pytest.mark.parametrize(
    ("bound", "box"),
    [
        ({"crop_pct": 1.0}, [4.0, 0.0, 8.0, 8.0]),
        ({"crop_mode": "squash"}, [1.0, 0.5, 14.0, 7.0]),
        ({"crop_mode": "squash", "crop_pct": 1.0}, [0.0, 0.0, 16.0, 8.0]),
    ],
)
def test_how_much_evaluation_sees_can_be_chosen(bound, box):
    source = ImageFolder(img_size=8, **bound)
    assert source.evaluation_boxes(torch.tensor([[8, 16]])).tolist() == [box]


def test_missing_and_empty_folders_are_named(tmp_path, root):
    with pytest.raises(UserError, match=r"ImageFolder\.root = .*nowhere is not a folder"):
        ImageFolder(root=tmp_path / "nowhere").train()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images"):
        ImageFolder(root=tmp_path / "empty").train()
    (root / "train" / "bee").mkdir()
    with pytest.raises(UserError, match="bee holds no images"):
        ImageFolder(root=root).train()


def test_different_classes_are_named(root):
    save(root / "train" / "bee" / "0.png", width=20, height=20)
    with pytest.raises(UserError, match="must hold the same classes; only one has bee"):
        ImageFolder(root=root).train()


def test_a_part_of_the_data_is_one_folder(root):
    (root / "validation").symlink_to(root / "val")
    (root / "valid").mkdir()
    (root / "Test").write_text("notes " * 100)
    assert len(ImageFolder(root=root).test()) == len(list((root / "val").rglob("*.png")))
    (root / "validation").unlink()
    (root / "valid").rmdir()
    (root / "Validation").write_text("../elsewhere")
    with pytest.raises(UserError, match=r"Validation is no folder, but a link to nothing or what stands for a link"):
        ImageFolder(root=root).train()
    (root / "Validation").unlink()
    (root / "Validation").symlink_to(root / "nowhere")
    with pytest.raises(UserError, match=r"Validation is no folder"):
        ImageFolder(root=root).train()
    (root / "Validation").unlink()
    (root / "val").rename(root / "valid")
    shutil.copytree(root / "valid", root / "validation")
    with pytest.raises(UserError, match=r"two folders of validation images, valid and validation; rename or move one"):
        ImageFolder(root=root).train()


def test_images_beside_class_folders_are_refused(root):
    save(root / "train" / "stray.png", width=20, height=20)
    with pytest.raises(UserError, match=r"images beside class folders, e\.g\. stray\.png"):
        ImageFolder(root=root).train()


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_an_unreadable_image_is_named(root, content):
    path = root / "train" / "ant" / "1.png"
    path.write_bytes(path.read_bytes()[:200] if content == "cut" else content)
    source = ImageFolder(root=root, img_size=16)
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
        source.load(source.train(), torch.tensor([0, 1]))


def test_nothing_is_read_before_images_are_asked_for(tmp_path):
    """A trained model is used where its images are not."""
    nowhere = tmp_path / "nowhere"
    source = ImageFolder(root=nowhere, img_size=16)
    assert source.known_train_size is None
    assert source.normalize(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    for ask in (source.train, source.test, lambda: source.class_names, lambda: source.num_classes):
        with pytest.raises(UserError, match=rf"ImageFolder\.root = {nowhere} is not a folder"):
            ask()
    save(nowhere / "a.png", width=20, height=20)
    assert len(source.train()) == 1
    assert source.train() is source.train()
    with pytest.raises(UserError, match=rf"ImageFolder\.root = {nowhere} has no val or test folder"):
        source.test()


def test_a_folder_need_not_be_bound_before_images_are_asked_for():
    source = ImageFolder(img_size=16)
    for ask in (source.train, source.test, lambda: source.num_classes):
        with pytest.raises(UserError, match=r"ImageFolder\.root is not bound; bind it to the folder"):
            ask()


def test_bad_arguments_are_named(root):
    with pytest.raises(ValueError, match=r"ImageFolder\.img_size = 0"):
        ImageFolder(root=root, img_size=0)
    with pytest.raises(ValueError, match=r"ImageFolder\.std = "):
        ImageFolder(root=root, std=(1.0,))
    for setting, values in (("mean", (123.7, 116.3, 103.5)), ("std", (58.4, 57.1, 57.4)), ("std", (1e-45, 1, 1))):
        with pytest.raises(ValueError, match=rf"ImageFolder\.{setting} = .* must lie in .*; divide what is"):
            ImageFolder(root=root, **{setting: values})
