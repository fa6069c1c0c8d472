"""Features of a folder's images: which, in which order, and what happens to files that are no images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hpm.data import image_files
from hpm.evaluation.features import pooled
from hpm.inference import embed as embedding
from hpm.inference.loading import load_model

Hpm = Callable[..., int]


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    trained = pretrained("Schedule.epochs = 2", "HorizonDecay.fraction = 0.2")  # a teacher that is not the student
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def images(folder: Path, classes: int = 3, each: int = 5) -> list[str]:
    """Noise of the size that the run's model sees; their paths, in order."""
    generator = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.png")
    return [f"class{label}/{number}.png" for label in range(classes) for number in range(each)]


def expected_features(run: Path, folder: Path, paths: list[str], pool: str) -> torch.Tensor:
    context = load_model(run).context()
    pixels = [torch.from_numpy(np.array(Image.open(folder / path))).permute(2, 0, 1) for path in paths]
    with torch.no_grad():
        return pooled(context.model.encoder, context.source.normalize(torch.stack(pixels)), pool)


def read(file: Path) -> tuple[list[str], list[str | None], torch.Tensor]:
    table = pq.read_table(file)
    values = torch.tensor(table["embedding"].to_pylist())
    return table["path"].to_pylist(), table["label"].to_pylist(), values


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_features_labels_and_paths(
    hpm: Hpm, run: Path, tmp_path: Path, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "_ROWS", 6)  # several row groups
    paths = images(tmp_path / "mine")
    out = tmp_path / "features.parquet"
    assert hpm("embed", run, tmp_path / "mine", "--out", out, "--pool", pool, "--batch-size", 4) == 0
    found, labels, values = read(out)
    assert found == paths
    assert labels == [path.split("/")[0] for path in paths]
    torch.testing.assert_close(values, expected_features(run, tmp_path / "mine", paths, pool), rtol=1e-5, atol=1e-5)
    file = pq.ParquetFile(out)
    assert file.num_row_groups == 2  # 8 and 7 rows
    notes = json.loads(file.schema_arrow.metadata[b"curriculum-masking"])
    assert (notes["step"], notes["pool"], notes["weights"]) == (20, pool, "student")


@pytest.mark.parametrize("form", ["timm", "safetensors"])
def test_an_exported_encoder_sees_images_as_its_run_did(hpm: Hpm, run: Path, tmp_path: Path, form: str) -> None:
    """The whole of them, whatever their aspect; a folder's own are cropped."""
    images(tmp_path / "mine", classes=1)
    Image.linear_gradient("L").rotate(90).resize((40, 20)).convert("RGB").save(tmp_path / "mine/class0/wide.png")
    exported = tmp_path / ("encoder.safetensors" if form == "safetensors" else "encoder")
    assert hpm("export", run, "--format", form, "--out", exported) == 0
    for model, out in ((run, "run"), (exported, "exported")):
        assert hpm("embed", model, tmp_path / "mine", "--out", tmp_path / f"{out}.parquet", "--pool", "token") == 0
    (paths, _, ours), (theirs_paths, _, theirs) = (read(tmp_path / f"{out}.parquet") for out in ("run", "exported"))
    assert paths == theirs_paths
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    for number, bound in enumerate(("ImageFolder.crop_mode = 'center'", "ImageFolder.crop_pct = 0.875")):
        out = tmp_path / f"{number}.parquet"
        assert hpm("embed", exported, tmp_path / "mine", "--out", out, "--pool", "token", "-b", bound) == 0
        assert not torch.allclose(read(out)[2][-1], ours[-1], rtol=1e-2)  # of the wide image


def test_unreadable_images_are_named_and_left_out(
    hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    paths = images(folder, classes=1)
    (folder / "class0/0.png").write_bytes(b"")
    whole = (folder / "class0/2.png").read_bytes()
    (folder / "class0/2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no image, and no attempt to read it as one")
    assert hpm("embed", run, folder, "--out", tmp_path / "features.parquet", "--batch-size", 1) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "class0/0.png" in shown
    assert "class0/2.png" in shown
    assert "notes.txt" not in shown
    assert "3 images, 2 unreadable ones left out" in shown
    found, _, values = read(tmp_path / "features.parquet")
    assert found == [paths[1], paths[3], paths[4]]
    torch.testing.assert_close(values, expected_features(run, folder, found, "mean"), rtol=1e-5, atol=1e-5)


def test_a_batch_with_unreadable_images_keeps_the_others(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    paths = images(tmp_path / "mine", classes=1)
    (tmp_path / "mine/class0/1.png").write_text("no image")
    assert hpm("embed", run, tmp_path / "mine", "--out", tmp_path / "f.parquet") == 0
    found, _, values = read(tmp_path / "f.parquet")
    assert found == [path for path in paths if not path.endswith("/1.png")]
    torch.testing.assert_close(values, expected_features(run, tmp_path / "mine", found, "mean"), rtol=1e-5, atol=1e-5)


def test_images_outside_of_class_folders_have_no_label(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    images(folder, classes=1, each=1)
    Image.new("L", (40, 10), 90).save(folder / "alone.jpg")
    assert hpm("embed", run, folder, "--out", tmp_path / "f.parquet") == 0
    assert read(tmp_path / "f.parquet")[:2] == (["alone.jpg", "class0/0.png"], [None, "class0"])


def test_links_are_followed_once(tmp_path: Path) -> None:
    images(tmp_path / "a", classes=1, each=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/linked").symlink_to(tmp_path / "a/class0")
    (tmp_path / "b/loop").symlink_to(tmp_path / "b")
    assert [path.name for path in image_files(tmp_path / "b")] == ["0.png", "1.png"]


def test_what_is_refused(hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "mine", tmp_path / "f.parquet"
    images(folder, classes=1, each=1)
    (tmp_path / "empty").mkdir()
    for options, told in (
        ([folder, "--out", out, "--pool", "max"], "--pool max is unknown"),
        ([folder, "--out", out, "--batch-size", 0], "--batch-size 0"),
        ([folder, "--out", out, "--batch-size", 10**9], "--batch-size 1000000000 must be 1 to 16,384"),
        ([folder, "--out", tmp_path / "no/f.parquet"], "there is no folder"),
        ([folder, "--out", tmp_path / "f.csv"], "f.csv is not the name of a Parquet file; let it end in .parquet"),
        ([tmp_path / "none", "--out", out], "none is not a folder"),
        ([tmp_path / "empty", "--out", out], "empty holds no images"),
        (["quickstart", folder, "--out", out], "knows its configuration"),
    ):
        assert hpm("embed", run, *options) == 2
        assert told in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.glob("*.partial"))
    out.write_text("mine")
    assert hpm("embed", run, folder, "--out", out) == 2
    assert "there already" in capsys.readouterr().err
    assert out.read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_leaves_nothing_half_written(
    hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    images(tmp_path / "mine", classes=1, each=400)
    ended = threading.Event()

    def send_once_it_writes() -> None:
        while not ended.wait(0.001):
            if list(tmp_path.glob("f.parquet.*.partial")):
                os.kill(os.getpid(), number)
                return

    before = {other: signal.getsignal(other) for other in signal.valid_signals()}
    sender = threading.Thread(target=send_once_it_writes)
    sender.start()
    try:
        assert hpm("embed", run, tmp_path / "mine", "--out", tmp_path / "f.parquet", "--batch-size", 1) == 75
    finally:
        ended.set()
        sender.join()
    assert f"stopped: {number.name} received before the command was done" in capsys.readouterr().err
    assert not list(tmp_path.glob("f.parquet*"))
    assert {other: signal.getsignal(other) for other in signal.valid_signals()} == before


def test_features_that_are_not_finite(hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights may be finite and far too large."""
    images(tmp_path / "mine", classes=1)
    weights = load_model(run).context().model.state_dict()
    torch.save({name: 1e30 * value for name, value in weights.items()}, tmp_path / "large.pth")
    configs = [run / "config.gin"]
    assert hpm("embed", tmp_path / "large.pth", *configs, tmp_path / "mine", "--out", tmp_path / "f") == 3
    assert "the encoder's features are not finite" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
    assert hpm("evaluate", tmp_path / "large.pth", *configs, "--protocol", "knn") == 3
    assert "the encoder's features are not finite" in capsys.readouterr().err


def test_the_teachers_features_differ(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    images(tmp_path / "mine", classes=1)
    for weights in ("student", "teacher"):
        assert hpm("embed", run, tmp_path / "mine", "--out", tmp_path / weights, "--weights", weights) == 0
    student, teacher = (read(tmp_path / weights)[2] for weights in ("student", "teacher"))
    assert student.shape == teacher.shape == (5, 16)
    assert not torch.allclose(student, teacher, atol=1e-4)
