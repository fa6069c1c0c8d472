"""Images and patches that are not square, and images of other than three channels, from the folder to the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import timm
import torch
from cards import run_program
from PIL import Image

from hpm.evaluation.features import pooled
from hpm.inference.loading import LoadedModel, load_model

Hpm = Callable[..., int]

CONFIG = """
include 'base.gin'
include 'data/image_folder.gin'
include 'curricula/hpm_easy_to_hard.gin'

ImageFolder.root = 'images'
Loading.num_workers = 0
MaskedAutoencoder.embed_dim = 16
MaskedAutoencoder.depth = 1
MaskedAutoencoder.num_heads = 2
MaskedAutoencoder.decoder_embed_dim = 16
MaskedAutoencoder.decoder_depth = 1
MaskedAutoencoder.decoder_num_heads = 2
MaskedAutoencoder.loss_predictor_depth = 1
Schedule.epochs = 5
Schedule.batch_size = 16
Schedule.warmup_epochs = 1
Checkpointing.every = 10
MLflowTracker.enabled = False
"""
WIDE = ("IMG_SIZE = (16, 24)", "MaskedAutoencoder.patch_size = (4, 8)")
GRAY = (
    "IMG_SIZE = 16",
    "MaskedAutoencoder.patch_size = 4",
    "IN_CHANS = 1",
    "ImageFolder.mean = (0.45,)",
    "ImageFolder.std = (0.25,)",
)
FIVE = """
import gin
import torch
from hpm.data import ImageSource, TensorSplit


@gin.register
class Spectra(ImageSource):
    '''Images of five channels, of which the last tells the class.'''

    def __init__(self) -> None:
        super().__init__(
            img_size=(12, 16), in_chans=5, mean=(0.5,) * 5, std=(0.3,) * 5, class_names=("dark", "bright")
        )

    def read(self, split: str) -> TensorSplit:
        labels = torch.arange(72 if split == "train" else 24) % 2
        draw = torch.Generator().manual_seed(len(labels))
        images = torch.randint(0, 128, (len(labels), 5, 12, 16), generator=draw)
        images[:, 4] += 127 * labels.view(-1, 1, 1)
        return TensorSplit(images.to(torch.uint8), labels)
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A complete config but for the sizes, and the images that it reads: a class of wide ones, one of high ones."""
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 36), ("val", 6)):
        for name, size in (("wide", (18, 30, 3)), ("high", (30, 20, 3))):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 256, size, generator=draw, dtype=torch.uint8)
                Image.fromarray(noise.numpy()).resize(size[1::-1]).save(folder / f"{number}.png")
    path = tmp_path / "small.gin"
    path.write_text(CONFIG)
    return path


def train(hpm: Hpm, config: Path, *bindings: str) -> Path:
    words = [word for text in bindings for word in ("-b", text)]
    assert hpm("pretrain", config, "--output", "run", *words) == 0
    return Path("run")


def check_export(hpm: Hpm, loaded: LoadedModel) -> None:
    """timm's features of the run's own images are ours, and the card's program gives some for a file."""
    assert hpm("export", loaded.run.path, "--out", "exported", "--pool", "avg") == 0  # type: ignore[union-attr]
    theirs = timm.create_model("local-dir:exported", pretrained=True).eval()
    images = loaded.source.load(loaded.source.test(), torch.arange(4))
    with torch.no_grad():
        ours = pooled(loaded.method.student.encoder, images, "mean")
        torch.testing.assert_close(theirs(images), ours, rtol=1e-5, atol=1e-5)
    Image.new("RGB", (40, 30), "red").save("image.png")
    assert run_program(Path("exported"))["features"].shape == (1, ours.shape[1])


def check_pictures(hpm: Hpm, run: Path) -> None:
    for kind in ("sheet", "strip"):
        assert hpm("visualize", run, *([] if kind == "sheet" else [f"--{kind}"]), "--count", 2) == 0
        assert (run / f"{kind}.png").stat().st_size > 10_000


def test_a_run_of_wide_images_and_patches(hpm: Hpm, config: Path, same_end: Callable[[Path], None]) -> None:
    run = train(hpm, config, *WIDE)
    assert json.loads((run / "run.json").read_text())["grid"] == [4, 3]
    same_end(run)
    assert hpm("evaluate", run, "--protocol", "knn") == 0
    loaded = load_model(run)
    assert (loaded.method.student.img_size, loaded.method.student.patch_size) == ((16, 24), (4, 8))
    check_export(hpm, loaded)
    assert json.loads(Path("exported/config.json").read_text())["pretrained_cfg"]["input_size"] == [3, 16, 24]
    assert hpm("embed", run, "images/val", "--out", "features.parquet") == 0
    assert pq.read_table("features.parquet").num_rows == 12
    check_pictures(hpm, run)


def test_a_run_of_gray_images(hpm: Hpm, config: Path, same_end: Callable[[Path], None]) -> None:
    run = train(hpm, config, *GRAY)
    same_end(run)
    loaded = load_model(run)
    assert loaded.source.load(loaded.source.test(), torch.arange(2)).shape == (2, 1, 16, 16)
    assert hpm("evaluate", run, "--protocol", "knn") == 0
    check_export(hpm, loaded)
    assert hpm("embed", run, "images/val", "--out", "features.parquet") == 0
    check_pictures(hpm, run)


def test_a_run_of_five_channels(
    hpm: Hpm, config: Path, same_end: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    Path("spectra.py").write_text(FIVE)
    monkeypatch.syspath_prepend(Path().resolve())
    config.write_text(f"import spectra\n{CONFIG}\nTrainer.source = @Spectra()\nIN_CHANS = 5\nIMG_SIZE = (12, 16)\n")
    run = train(hpm, config, "MaskedAutoencoder.patch_size = 4", "Monitoring.evaluations = [@KNN()]")
    assert json.loads((run / "summary.json").read_text())["metrics"]["knn/pretrained"] > 0.5
    same_end(run)
    check_export(hpm, load_model(run))
    check_pictures(hpm, run)
    capsys.readouterr()
    assert hpm("embed", run, "images/val", "--out", "features.parquet") == 2
    assert "the model sees 5 channels; image files give 1 (gray) or 3 (color)" in " ".join(
        capsys.readouterr().err.split()
    )
