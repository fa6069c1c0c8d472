"""Exported encoders in the programs they are for: the same features, and a training step there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open

from hpm.evaluation.features import pooled
from hpm.inference.export import timm_encoder
from hpm.inference.loading import load_model
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.pretrained import load_into
from hpm.models.published import load_published

Hpm = Callable[..., int]
OURS = {"token": "token", "avg": "mean"}


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    trained = pretrained("Schedule.epochs = 2", "HorizonDecay.fraction = 0.2")  # a teacher that is not the student
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def features(run: Path, pool: str, weights: str = "student", count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the run's and what its own encoder makes of them."""
    context = load_model(run).context(weights)
    images = context.source.load(context.source.test(), torch.arange(count))
    with torch.no_grad():
        return images, pooled(context.model.encoder, images, OURS[pool])


@pytest.mark.parametrize("weights", ["student", "teacher"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_timm_computes_our_features(hpm: Hpm, run: Path, tmp_path: Path, pool: str, weights: str) -> None:
    out = tmp_path / "exported"
    assert hpm("export", run, "--out", out, "--pool", pool, "--weights", weights) == 0
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images, expected = features(run, pool, weights)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    others = "teacher" if weights == "student" else "student"
    assert not torch.allclose(features(run, pool, others)[1], expected, atol=1e-4)
    other = timm.create_model(f"local-dir:{out}", pretrained=True, global_pool="avg").eval()
    with torch.no_grad():
        torch.testing.assert_close(other(images), features(run, "avg", weights)[1], rtol=1e-5, atol=1e-5)


def test_every_weight_arrives(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    assert hpm("export", run, "--out", tmp_path / "exported") == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True, num_classes=7)
    ours, theirs = load_model(run).context().model.encoder.state_dict(), model.state_dict()
    assert set(theirs) - set(ours) == {"head.weight", "head.bias"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert theirs["head.weight"].shape == (7, 16)
    # Into a model without head, timm loads strictly: a missing weight would be an error.
    with safe_open(tmp_path / "exported/model.safetensors", "pt") as file:
        assert set(file.keys()) == set(ours)


def test_timm_knows_how_images_reach_it(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    assert hpm("export", run, "--out", tmp_path / "exported") == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True, num_classes=3)
    source = load_model(run).source
    found = timm.data.resolve_model_data_config(model)
    assert found["input_size"] == (3, 16, 16)
    assert tuple(found["mean"]) == pytest.approx(source.mean)
    assert tuple(found["std"]) == pytest.approx(source.std)
    assert (found["crop_pct"], found["crop_mode"], found["interpolation"]) == (1.0, "squash", "bicubic")
    timm.data.create_transform(**found)


def test_timm_fine_tunes_it(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    assert hpm("export", run, "--out", tmp_path / "exported", "--pool", "avg") == 0
    torch.manual_seed(0)
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True, num_classes=10).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    context = load_model(run).context()
    split = context.source.train()
    images, labels = context.source.load(split, torch.arange(32)), split.labels[:32]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    # A weight decay alone would move a parameter too: each must have had a gradient.
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert all(not torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("whole", [False, True])
def test_plain_weights_are_read_back(hpm: Hpm, run: Path, tmp_path: Path, whole: bool) -> None:
    out = tmp_path / "weights.safetensors"
    assert hpm("export", run, "--format", "safetensors", "--out", out, *(["--whole"] if whole else [])) == 0
    trained = load_model(run).context().model
    with safe_open(out, "pt") as file:
        notes = file.metadata()
        assert set(file.keys()) == set((trained if whole else trained.encoder).state_dict())
    assert (notes["step"], notes["weights"], notes["input_size"]) == ("20", "student", "[3, 16, 16]")
    assert json.loads(notes["encoder"])["embed_dim"] == 16
    again = MaskedAutoencoder(
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        loss_predictor_depth=1,
    )
    found = load_published(out)
    load_into(again, found.student, out, said=found.said)
    for name, value in (trained if whole else trained.encoder).state_dict().items():
        assert torch.equal((again if whole else again.encoder).state_dict()[name], value)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_onnx_computes_our_features(hpm: Hpm, run: Path, tmp_path: Path, pool: str) -> None:
    pytest.importorskip("onnxscript")
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    out = tmp_path / "encoder.onnx"
    assert hpm("export", run, "--format", "onnx", "--out", out, "--pool", pool) == 0
    assert [path.name for path in tmp_path.glob("encoder*")] == ["encoder.onnx"]  # weights inside
    content = onnx.load(out)
    onnx.checker.check_model(content)
    assert {entry.key for entry in content.metadata_props} >= {"mean", "std", "input_size"}
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    for count in (1, 5, 9):
        images, expected = features(run, pool, count=count)
        (found,) = session.run(["features"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)


def test_a_copy_leaves_the_global_generator_alone(run: Path) -> None:
    model = load_model(run).context().model
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    timm_encoder(model, "avg")
    assert torch.equal(torch.rand(1), expected)


def test_nothing_is_overwritten(hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "full", tmp_path / "there.safetensors"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    file.write_text("mine")
    assert hpm("export", run, "--out", folder) == 2
    assert "full is a folder that is not empty" in capsys.readouterr().err
    assert hpm("export", run, "--format", "safetensors", "--out", file) == 2
    assert "there already" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert hpm("export", run, "--out", tmp_path / "empty") == 0
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_refused(hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in (
        (["--format", "keras"], "--format keras is unknown"),
        (["--pool", "max"], "--pool max is unknown"),
        (["--weights", "best"], "--weights best is unknown"),
        (["--whole"], "--whole goes with"),
        (["--format", "safetensors", "--pool", "avg"], "--pool avg goes with --format timm or onnx"),
    ):
        assert hpm("export", run, "--out", tmp_path / "new", *options) == 2
        assert told in capsys.readouterr().err
    assert hpm("export", tmp_path / "nothing", "--out", tmp_path / "new") == 2
    assert "nothing does not exist; a model is" in capsys.readouterr().err
    assert hpm("export", "/nothing", "--out", tmp_path / "new") == 2  # which has no two folders above it
    assert "/nothing does not exist; a model is" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_published_file_needs_no_data(hpm: Hpm, run: Path, tiny: Path, tmp_path: Path) -> None:
    """MAE's layout, under a config whose images are not on this machine; its crop is the config's."""
    config = tmp_path / "far.gin"
    config.write_text(
        f"include '{tiny}'\ninclude 'data/image_folder.gin'\nImageFolder.img_size = 16\nImageFolder.root = '/nowhere'\n"
    )
    encoder = load_model(run).context().model.encoder.state_dict()
    torch.save({"model": encoder, "epoch": 3}, tmp_path / "mae.pth")
    assert hpm("export", "mae.pth", config, "--out", "exported") == 0
    model = timm.create_model("local-dir:exported", pretrained=True).eval()
    images, expected = features(run, "token")
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    found = timm.data.resolve_model_data_config(model)
    assert (found["crop_pct"], found["crop_mode"]) == (0.875, "center")
    assert tuple(found["mean"]) == (0.485, 0.456, 0.406)
    assert hpm("export", "mae.pth", config, "--out", "other", "--weights", "teacher") == 2
