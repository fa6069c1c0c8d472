import gzip
import struct

import pytest
import torch

from hpm.data import fashion_mnist
from hpm.data.fashion_mnist import SYSTEM_FOLDER, FashionMNIST, read_idx
from hpm.errors import UserError


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = FashionMNIST(root=tmp_path_factory.mktemp("data"), train_size=2000)
    try:
        source.test()
    except UserError as error:
        pytest.skip(f"Fashion-MNIST is neither installed nor to be downloaded: {error}")
    return source


def test_images_and_labels(source):
    train, test = source.train(), source.test()
    assert train.images_KCHW.shape == (2000, 1, 28, 28)
    assert test.images_KCHW.shape == (10_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.labels[:6].tolist() == [9, 0, 0, 3, 0, 2]
    assert (source.img_size, source.in_chans, source.num_classes) == (28, 1, 10)
    images = source.load(train, torch.arange(2000))
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05


@pytest.mark.parametrize("train_size", [0, 60_001])
def test_bad_train_size(train_size):
    with pytest.raises(ValueError, match=r"FashionMNIST\.train_size = "):
        FashionMNIST(train_size=train_size)


def test_a_failed_download_names_the_package(tmp_path, monkeypatch):
    import torchvision

    def fail(*args, **kwargs):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nno route to host\n")

    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "nowhere")
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    with pytest.raises(UserError, match=r"no route to host.*dataset-fashion-mnist.*nowhere"):
        FashionMNIST(root=tmp_path).train()


def test_downloaded_files_are_read(tmp_path, monkeypatch):
    if not SYSTEM_FOLDER.is_dir():
        pytest.skip(f"{SYSTEM_FOLDER} does not exist")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for kind in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        packed = SYSTEM_FOLDER / f"{kind}-ubyte.gz"
        (raw / f"{kind}-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    installed = FashionMNIST().test()
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "nowhere")
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
