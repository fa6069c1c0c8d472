import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, FakeData

from hpm.data import SPLITS, FolderSplit, ImageFolder, Loader, RandomResizedCrop, TensorSplit, TimmDataset
from hpm.data.sources.torchvision_data import ItemSplit, from_torchvision
from hpm.errors import UserError

CLASSES = ("ant", "bee")


def encode(seed: int, suffix: str = ".jpg", **options) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(coarse).resize((60 + seed % 5, 48), Image.Resampling.BICUBIC)
    picture.save(stream, Image.registered_extensions()[suffix], **options)
    return stream.getvalue()


def fill(folder: Path, *, images: int = 6, first: int = 0) -> Path:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for k in range(images):
            (folder / name / f"{k}.jpg").write_bytes(encode(first + 100 * label + k))
    return folder


def pack(tar: Path, members: dict[str, bytes]) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return tar


def pack_folder(tar: Path, folder: Path) -> Path:
    return pack(tar, {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.jpg"))})


def batches_of(source, num_workers=0):
    loader = Loader(
        source=source, batch_size=4, patch_size=8, crop=RandomResizedCrop(), seed=1, num_workers=num_workers
    )
    return [batch for step in loader.epoch(0) for batch in step]


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "data" / "train")
    fill(tmp_path / "data" / "val", images=2, first=50)
    return tmp_path / "data"


def test_folders(root):
    source, plain = TimmDataset(root=root, img_size=32), ImageFolder(root=root, img_size=32)
    assert source.class_names == CLASSES
    assert isinstance(source.train(), FolderSplit)
    assert sorted([*source.train().labels.tolist(), *source.validation().labels.tolist()]) == [0] * 6 + [1] * 6
    for name, count in (("train", 11), ("validation", 1), ("test", 4)):
        ours, theirs = source.get_split(name), plain.get_split(name)
        assert len(ours) == len(theirs) == count
        assert ours.labels.tolist() == theirs.labels.tolist()
        every = torch.arange(count)
        assert torch.equal(source.load(ours, every), plain.load(theirs, every))


@pytest.mark.parametrize("layout", ["tars", "shards", "one tar for each class", "tars in a tar", "WebDataset"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_tar_files_give_what_the_folder_gives(root, tmp_path, layout, num_workers):
    packed = tmp_path / "packed"
    for split in ("train", "val"):
        files = {str(p.relative_to(root / split)): p.read_bytes() for p in sorted((root / split).rglob("*.jpg"))}
        items = list(files.items())
        if layout == "tars":
            pack(packed / f"{split}.tar", files)
        elif layout == "shards":
            for n in range(3):
                start, end = len(items) * n // 3, len(items) * (n + 1) // 3
                pack(packed / split / f"{n}.tar", dict(items[start:end]))
        elif layout == "WebDataset":
            members = {}
            for n, (name, data) in enumerate(items):
                members |= {f"{n:04}.jpg": data, f"{n:04}.cls": b"0" if name.startswith("ant") else b"1"}
            pack(packed / split / "0.tar", members)
        else:
            own = {c: {name.partition("/")[2]: data for name, data in items if name.startswith(c)} for c in CLASSES}
            tars = [pack(packed / split / f"{c}.tar", members) for c, members in own.items()]
            if layout == "tars in a tar":
                pack(packed / f"{split}.tar", {tar.name: tar.read_bytes() for tar in tars})
                for tar in tars:
                    tar.unlink()
                (packed / split).rmdir()
    source, folder = TimmDataset(root=packed, img_size=32), TimmDataset(root=root, img_size=32)
    assert source.class_names == (("0", "1") if layout == "WebDataset" else CLASSES)
    assert source.train().labels.tolist() == folder.train().labels.tolist()
    assert len(source.test()) == 4
    for ours, theirs in zip(batches_of(source, num_workers), batches_of(folder), strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        assert torch.equal(ours.images, theirs.images)
    assert not list(tmp_path.rglob("*.pickle"))


def test_a_tar_file_alone_is_for_training(root, tmp_path):
    tar = pack_folder(tmp_path / "all.tar", root / "train")
    source = TimmDataset(root=tar)
    assert len(source.train()) == 12
    assert source.train().name(0) == f"{tar}: ant/0.jpg"
    with pytest.raises(UserError, match=r"all\.tar holds no split 'validation'"):
        source.test()


def test_images_in_no_folder_are_unlabeled(root, tmp_path):
    tar = pack(tmp_path / "flat.tar", {f"{k}.png": encode(k, ".png") for k in range(4)})
    for source in (TimmDataset(root=tar), TimmDataset(root=root / "train" / "ant")):
        assert source.train().labels is None
        assert source.num_classes == 0


def test_a_damaged_member_is_named(root, tmp_path):
    whole = encode(0)
    tar = pack(tmp_path / "x.tar", {"ant/0.jpg": whole, "ant/1.jpg": whole[:300], "ant/2.jpg": whole})
    source = TimmDataset(root=tar)
    with pytest.raises(UserError, match=r"x\.tar: ant/1\.jpg cannot be read as an image"):
        source.load(source.train(), torch.arange(3))


def test_bad_tar_files_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(UserError, match=r"0\.tar cannot be read as a tar file"):
        TimmDataset(root=tmp_path / "a").train()
    cut = pack(tmp_path / "b" / "0.tar", {"ant/0.jpg": encode(0), "ant/1.jpg": encode(1)})
    cut.write_bytes(cut.read_bytes()[:-11_000])
    with pytest.raises(UserError, match=r"0\.tar cannot be read as a tar file"):
        TimmDataset(root=cut).train()
    with pytest.raises(UserError, match="holds no images"):
        TimmDataset(root=pack(tmp_path / "c.tar", {"notes.txt": b"x"})).train()
    with pytest.raises(UserError, match=r"stray\.jpg lies in no class folder"):
        TimmDataset(root=pack(tmp_path / "d.tar", {"stray.jpg": encode(0), "ant/1.jpg": encode(1)})).train()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A small data set in CIFAR-10's format: the published files' checksums are those of the published files."""
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{n}", 4) for n in range(1, 6)), ("test_batch", 6)]:
        entry = {
            "data": random.integers(0, 256, (count, 3072), dtype=np.uint8),
            "labels": [k % 10 for k in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    return tmp_path


def test_torchvision_in_memory(cifar):
    source = TimmDataset(name="torch/cifar10", root=cifar, img_size=32, crop_pct=1.0)
    assert isinstance(source.train(), TensorSplit)
    assert [len(source.get_split(name)) for name in SPLITS] == [18, 2, 6]
    assert source.class_names[3] == "class 3"
    assert source.test().labels.tolist() == list(range(6))
    picture = np.array(CIFAR10(cifar, train=False)[2][0])
    loaded = source.load(source.test(), torch.tensor([2]))
    assert torch.equal(loaded, source.normalize(torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0)))
    with pytest.raises(UserError, match=r"set TimmDataset\.in_chans = 3"):
        TimmDataset(name="torch/cifar10", root=cifar, img_size=32, in_chans=1, mean=(0.5,), std=(0.5,)).train()


def test_torchvision_gray_in_color():
    class Gray:
        data = torch.arange(32, dtype=torch.uint8).view(2, 4, 4)
        targets = torch.tensor([1, 0])
        classes = ("zero", "one")

    color, names = from_torchvision(Gray(), "RGB", "torch/mnist")
    gray, _ = from_torchvision(Gray(), "L", "torch/mnist")
    assert names == ["zero", "one"]
    assert gray.images_KCHW.shape == (2, 1, 4, 4)
    assert torch.equal(color.images_KCHW, gray.images_KCHW.expand(2, 3, 4, 4))
    assert color.labels.tolist() == [1, 0]


def test_torchvision_by_files(root):
    source = TimmDataset(name="torch/image_folder", root=root, img_size=32)
    assert isinstance(source.train(), FolderSplit)
    assert source.class_names == CLASSES
    assert len(source.test()) == 4


@pytest.mark.parametrize(("name", "class_names"), [("", ("deep", *CLASSES)), ("torch/image_folder", CLASSES)])
def test_what_is_left_out_of_folders_is_told(root, name, class_names):
    """By the walk of all image files, where torchvision's takes .ipynb_checkpoints for a class."""
    source = TimmDataset(name=name, root=root, img_size=32, test_split=None, validation_images=2)
    (root / "train/.ipynb_checkpoints").mkdir()
    (root / "train/.ipynb_checkpoints/0-checkpoint.jpg").write_bytes(encode(7))
    (root / "train/bee/a.gif").write_bytes(b"GIF")
    (root / "train/bee/._0.jpg").write_bytes(b"")
    (root / "train/bee/deep").mkdir()
    (root / "train/bee/deep/1.jpg").write_bytes(encode(8))
    assert source.class_names == tuple(sorted(class_names))
    assert len(source.train()) + len(source.validation()) == 13
    assert source.describe().endswith("; left out: 2 hidden, 1 .gif")


@pytest.mark.parametrize("name", ["torch/image_folder", "torch/Folder"])
def test_folders_of_torchvision_that_are_not_there(root, name):
    """timm gives the whole of the root in the place of a split that is missing: the training images, too."""
    with pytest.raises(UserError, match=r"test_split = 'test' is neither a folder nor a tar file"):
        TimmDataset(name=name, root=root, img_size=32, test_split="test").train()
    with pytest.raises(UserError, match=r"validation_split = 'validation' means the same images"):
        TimmDataset(name=name, root=root, img_size=32, validation_split="validation", test_split="val")


def test_what_is_left_out_of_tar_files_is_told(tmp_path):
    members = {"a/0.jpg": encode(0), "a/1.jpg": encode(1), "a/1.gif": b"GIF", "a/._1.jpg": b"", "README": b""}
    pack(tmp_path / "train.tar", members)
    source = TimmDataset(root=tmp_path, img_size=32, test_split=None, validation_images=1)
    assert (len(source.train()), len(source.validation())) == (1, 1)
    assert source.describe().endswith("; left out: 1 .gif, 1 hidden, 1 files without an ending")
    pack(tmp_path / "train.tar", {"a/1.gif": b"GIF"})
    with pytest.raises(UserError, match=r"train.tar holds no images \(left out: 1 .gif\)"):
        TimmDataset(root=tmp_path, img_size=32, test_split=None).train()


def test_what_is_left_out_beside_tar_files_is_told(tmp_path):
    for name in ("one", "two"):
        pack(tmp_path / "train" / f"{name}.tar", {"0.jpg": encode(0), "1.jpg": encode(1)})
    (tmp_path / "train/._one.tar").write_bytes(b"")  # Finder's, and no tar file
    (tmp_path / "train/0.jpg").write_bytes(encode(2))
    (tmp_path / "train/more").mkdir()
    source = TimmDataset(root=tmp_path, img_size=32, test_split=None, validation_images=2)
    assert len(source.train()) + len(source.validation()) == 4
    assert set(source.describe().rpartition("left out: ")[2].split(", ")) == {"1 hidden", "1 .jpg", "1 folders"}


def test_torchvision_image_by_image():
    split, names = from_torchvision(FakeData(size=5, image_size=(3, 20, 30)), "RGB", "torch/fake")
    assert isinstance(split, ItemSplit)
    assert (len(split), names, split.labels) == (5, [], None)
    assert split.sizes(torch.tensor([0, 4])).tolist() == [[20, 30]] * 2
    assert split.crop(torch.tensor([1]), torch.tensor([[0.0, 0.0, 30.0, 20.0]]), torch.tensor([True]), 8).any()


def test_hugging_face(root, tmp_path):
    datasets = pytest.importorskip("datasets")
    for split in ("train", "val"):
        paths = sorted((root / split).rglob("*.jpg"))
        table = datasets.Dataset.from_dict(
            {
                "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
                "label": [CLASSES.index(path.parent.name) for path in paths],
            },
            features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}),
        )
        table.to_parquet(tmp_path / "table" / f"{'train' if split == 'train' else 'validation'}.parquet")
    source = TimmDataset(name=f"hfds/{tmp_path / 'table'}", root=tmp_path / "cache", img_size=32)
    folder = TimmDataset(root=root, img_size=32)
    assert source.class_names == CLASSES
    assert source.train().labels.tolist() == folder.train().labels.tolist()
    assert [source.train().name(k) for k in range(3)] == [folder.train().name(k)[-5:] for k in range(3)]
    assert len(source.test()) == 4
    with pytest.raises(UserError, match=r"input_key = 'img'; other columns are \['image', 'label'\]"):
        TimmDataset(name=source.name, root=tmp_path / "cache", input_key="img").train()
    for workers in (0, 2):
        for ours, theirs in zip(batches_of(source, workers), batches_of(folder), strict=True):
            assert torch.equal(ours.images, theirs.images)


@pytest.mark.parametrize("name", ["wds/imagenet", "tfds/cifar10", "hfids/food101"])
def test_data_sets_without_an_index_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}.* front to back.*Unpack it .* folder of tar files"):
        TimmDataset(name=name, root=tmp_path)


def test_other_refusals(root, tmp_path):
    with pytest.raises(UserError, match=r"name = 'jax/cifar10' is unknown; choose .* \"torch/NAME\""):
        TimmDataset(name="jax/cifar10", root=root)
    with pytest.raises(UserError, match=r"TimmDataset\.root must be the folder"):
        TimmDataset().train()
    with pytest.raises(UserError, match=r"TimmDataset\.root = .*nowhere does not exist"):
        TimmDataset(root=tmp_path / "nowhere").train()
    with pytest.raises(UserError, match=r"'torch/cifar10' in .*, split 'train', cannot be opened: .*download = True"):
        TimmDataset(name="torch/cifar10", root=tmp_path).train()
    with pytest.raises(UserError, match=r"'torch/nonsense' in .* cannot be opened: Unknown torchvision dataset"):
        TimmDataset(name="torch/nonsense", root=tmp_path).train()
    with pytest.raises(UserError, match="holds no split 'train_10'"):
        TimmDataset(root=root, train_split="train_10").train()
    with pytest.raises(UserError, match="test_split is None"):
        TimmDataset(root=root, test_split=None).test()
    (root / "train").rename(root / "training_images")
    with pytest.raises(UserError, match="holds no split 'train'"):
        TimmDataset(root=root).train()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images"):
        TimmDataset(root=tmp_path / "empty").train()


def test_nothing_is_read_before_images_are_asked_for(tmp_path):
    """A trained model is used where its images are not."""
    for options in ({}, {"root": tmp_path / "nowhere"}, {"name": "torch/cifar10", "root": tmp_path}):
        source = TimmDataset(**options, img_size=16)
        assert source.known_train_size is None
        assert source.normalize(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
        for ask in (source.train, source.test, lambda source=source: source.class_names):
            with pytest.raises(UserError, match=r"TimmDataset"):
                ask()
    later = TimmDataset(root=tmp_path / "nowhere", test_split=None)
    fill(tmp_path / "nowhere" / "train")
    assert later.class_names == CLASSES
    assert later.train() is later.train()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("hpm.data.sources.timm_dataset.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package datasets: pip install datasets"):
        TimmDataset(name="hfds/food101").train()


def test_different_classes_are_named(root):
    (root / "val" / "bee").rename(root / "val" / "cat")
    with pytest.raises(UserError, match=r"must hold the same classes; they differ in \['bee', 'cat'\]"):
        TimmDataset(root=root).test()


@pytest.mark.parametrize(("argument", "value"), [("in_chans", 2), ("crop_pct", 0.0), ("img_size", 0)])
def test_bad_arguments_are_named(root, argument, value):
    with pytest.raises(ValueError, match=rf"TimmDataset\.{argument} = "):
        TimmDataset(root=root, **{argument: value})
