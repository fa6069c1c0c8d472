import gzip
import struct

import pytest
import torch

from hpm.data.sources import fashion_mnist as module
from hpm.data.sources.fashion_mnist import FashionMNIST, read_idx
from hpm.errors import UserError


@pytest.mark.needs_fashion_mnist
def test_the_real_images():
    source = FashionMNIST(train_size=2000)
    train, test = source.train(), source.test()
    assert train.images_KCHW.shape == (2000, 1, 28, 28)
    assert test.images_KCHW.shape == (10_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.labels[:6].tolist() == [9, 0, 0, 3, 0, 2]
    images = source.load(train, torch.arange(2000))
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


def test_images_and_labels(fashion_mnist):
    source = FashionMNIST(train_size=200)
    train, test = source.train(), source.test()
    written = read_idx(fashion_mnist / "train-images-idx3-ubyte.gz", ndim=3)
    assert torch.equal(train.images_KCHW, written[:200].unsqueeze(1))
    assert train.labels.tolist() == read_idx(fashion_mnist / "train-labels-idx1-ubyte.gz", ndim=1)[:200].tolist()
    assert test.images_KCHW.shape == (100, 1, 28, 28)
    assert test.labels.bincount().tolist() == [10] * 10
    assert (source.img_size, source.in_chans, source.num_classes) == (28, 1, 10)
    expected = (written[:5].unsqueeze(1) / 255 - source.mean[0]) / source.std[0]
    torch.testing.assert_close(source.load(train, torch.arange(5)), expected)


def test_files_that_do_not_fit_are_named(fashion_mnist, tmp_path, monkeypatch):
    for name, kind in (("train", "images-idx3"), ("t10k", "labels-idx1")):
        packed = (fashion_mnist / f"{name}-{kind}-ubyte.gz").read_bytes()
        (tmp_path / f"train-{kind}-ubyte.gz").write_bytes(packed)
    monkeypatch.setattr(module, "SYSTEM_FOLDER", tmp_path)
    with pytest.raises(UserError, match=r"train-images-idx3.* are not Fashion-MNIST: .*600, 28, 28.* and .*100"):
        FashionMNIST().train()


@pytest.mark.parametrize("train_size", [0, 60_001])
def test_bad_train_size(train_size):
    with pytest.raises(ValueError, match=r"FashionMNIST\.train_size = "):
        FashionMNIST(train_size=train_size)


def test_a_failed_download_names_the_package(tmp_path, monkeypatch):
    import torchvision

    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno route to host\n")

    monkeypatch.setattr(module, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(UserError, match=r"no route to host.*dataset-fashion-mnist.*nowhere"):
        FashionMNIST(root=tmp_path).train()


def test_downloaded_files_are_read(fashion_mnist, tmp_path, monkeypatch):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in fashion_mnist.iterdir():
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    installed = FashionMNIST().test()
    monkeypatch.setattr(module, "SYSTEM_FOLDER", tmp_path / "nowhere")
    assert torch.equal(FashionMNIST(root=tmp_path).test().images_KCHW, installed.images_KCHW)


def test_read_idx(tmp_path):
    content = struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(range(6))
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    for path in (plain, packed):
        assert read_idx(path, ndim=2).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("short", struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(5)),
        ("long", struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(7)),
        ("magic", struct.pack(">BBBBII", 0, 0, 9, 2, 2, 3) + bytes(6)),
        ("header", struct.pack(">BBBBI", 0, 0, 8, 2, 2)),
        ("empty", b""),
        ("no-gzip.gz", b"not compressed"),
        ("cut.gz", gzip.compress(struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(6), mtime=0)[:-12]),
        ("garbled.gz", gzip.compress(bytes(1000), mtime=0)[:10] + b"\xff" * 30),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        read_idx(path, ndim=2)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent is missing"):
        read_idx(tmp_path / "absent", ndim=1)
