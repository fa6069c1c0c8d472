"""What others published, used by every command without a config: sizes come from the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from hpm.errors import Notice
from hpm.inference.images import read
from hpm.inference.loading import load_model
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.vit import ViT

Hpm = Callable[..., int]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    trained = pretrained("Schedule.epochs = 2", "HorizonDecay.fraction = 0.2")
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image folder of noise, of the size that the models see."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def model(**changes: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(
        **{
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 64,
            "depth": 1,
            "num_heads": 1,
            "decoder_embed_dim": 32,
            "decoder_depth": 1,
            "decoder_num_heads": 1,
            "loss_predictor_depth": 1,
        }
        | changes
    )


def published(kind: str, state: dict[str, Tensor]) -> Path:
    """An encoder in some layout."""
    if kind == "mae.pth":
        torch.save({"model": state, "epoch": 3}, kind)
    elif kind == "hpm.pth":
        whole = {name.removeprefix("encoder."): value for name, value in model().state_dict().items()}
        torch.save({"model": "mae_vit_base", "state_dict": {f"module.{n}": v for n, v in whole.items()}}, kind)
    else:
        Path(kind).mkdir()
        save_file(state, Path(kind, "model.safetensors"))
        config = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 1}}
        Path(kind, "config.json").write_text(json.dumps(config))
    return Path(kind)


@pytest.mark.parametrize("kind", ["mae.pth", "hpm.pth", "timm"])
def test_no_command_needs_a_config(hpm: Hpm, kind: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = model().eval().encoder
    path = published(kind, encoder.state_dict())
    assert hpm("embed", path, photos, "--out", "features.parquet") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("num_heads = 1 must be right" in shown) == (kind != "timm")
    assert ("decoder_num_heads = 1 must be right" in shown) == (kind == "hpm.pth")
    assert ("as initialized: 2 decoder_embed.*, 1 mask_token, 16 reconstructor.*" in shown) == (kind != "hpm.pth")
    table = pq.read_table("features.parquet")
    seen = read(load_model(path).source, [photos / name for name in table["path"].to_pylist()]).images_KCSS
    with torch.no_grad():
        expected = encoder(seen)[:, 1:].mean(dim=1)
    torch.testing.assert_close(torch.tensor(table["embedding"].to_pylist()), expected, rtol=1e-5, atol=1e-5)
    data = ["-b", f"ImageFolder.root = '{photos}'", "-b", "KNN.k = 3"]
    assert hpm("evaluate", path, "--protocol", "knn", *data) == 0
    assert hpm("visualize", path, "--images", photos, "--count", 1) == 0
    assert hpm("export", path, "--out", "exported") == 0
    exported = timm.create_model("local-dir:exported", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(exported(seen), encoder(seen)[:, 0], rtol=1e-5, atol=1e-5)


def test_images_are_normalized_as_the_config_says() -> None:
    path = published("timm", model().encoder.state_dict())
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    assert (load_model(path).source.mean, load_model(path).source.std) == ((0.5,) * 3, (0.25,) * 3)


def test_an_export_says_how_images_are_shown_and_others_are_shown_as_usual(hpm: Hpm, run: Path) -> None:
    """What an architecture's config.json says of crops is of a fine-tuned model; what a run noted is its own."""
    bound = ("exif_orientation = True", "crop_pct = 0.5", "img_size = 16")
    bindings = [word for text in bound for word in ("-b", f"ImageFolder.{text}")]
    assert hpm("export", run, "-b", "Trainer.source = @ImageFolder()", *bindings, "--out", "exported") == 0

    def shown(path: str, *configs: str) -> tuple[Any, ...]:
        source: Any = load_model(Path(path), configs).source
        return source.crop_pct, source.crop_mode, source.exif_orientation

    assert shown("exported") == (0.5, "center", True)
    assert shown("exported", "data/image_folder") == (0.875, "center", True)
    assert hpm("export", "exported", "--out", "again") == 0
    assert shown("again") == (0.5, "center", True)
    config = json.loads(Path("exported/config.json").read_text())
    config["pretrained_cfg"] |= {"crop_pct": 0.9, "crop_mode": "squash"}
    (others := published("timm", model().encoder.state_dict()) / "config.json").write_text(json.dumps(config))
    assert shown(str(others.parent)) == (0.875, "center", False)
    config["pretrained_cfg"] |= {"crop_pct": 1.5}
    Path("exported/config.json").write_text(json.dumps(config))
    assert shown("exported") == (0.875, "center", False)


def test_an_export_is_read_back(hpm: Hpm, run: Path) -> None:
    """With its heads, which weights do not tell, and its decoders."""
    trained = load_model(run).context().model
    for name, options in (("timm", []), ("encoder.safetensors", ["--format", "safetensors"])):
        assert hpm("export", run, "--out", name, *options) == 0
        encoder = load_model(Path(name)).context().model.encoder
        assert encoder.num_heads == 2
        assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in trained.encoder.state_dict().items())
    assert hpm("export", run, "--out", "whole.safetensors", "--format", "safetensors", "--whole") == 0
    whole = load_model(Path("whole.safetensors")).context().model
    assert whole.decoder_num_heads == 2
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in trained.state_dict().items())


def test_a_run_at_another_size(run: Path) -> None:
    with pytest.warns(Notice, match="encoder.pos_embed computed for 8 x 8 patches, 4 x 4 there; decoder_pos_embed"):
        loaded = load_model(run, bindings=["IMG_SIZE = 32"])
    encoder = loaded.context().model.encoder
    assert torch.equal(encoder.pos_embed, ViT(img_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=2).pos_embed)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 65, 16)


def test_a_run_without_its_loss_predictor(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["-b", "MaskedAutoencoder.loss_predictor_depth = None", "-b", "Curriculum.difficulty = @Uniform()"]
    assert hpm("evaluate", run, "--protocol", "ridge", *plain) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("left out: 16 loss_predictor.*") == 1
    assert hpm("pretrain", "quickstart", "--init-from", run, "--dry-run") == 2
    told = capsys.readouterr().err
    assert "does not fit this model: encoder.cls_token is [1, 1, 16], in this model [1, 1, 64]" in told
    assert "MaskedAutoencoder.embed_dim = 16" in told


def test_a_run_starts_from_any_of_them(hpm: Hpm, tiny: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_encoder = load_model(run).context().model.encoder.state_dict()
    config = ["-b", "MaskedAutoencoder.num_heads = 1", "-b", "Schedule.epochs = 1", "-b", "Schedule.warmup_epochs = 0"]
    path = published("timm", tiny_encoder)
    assert hpm("pretrain", tiny, "--init-from", path, *config, "--output", "second") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "as initialized: 2 decoder_embed.*, 16 loss_predictor.*, 1 mask_token, 16 reconstructor.*" in shown
    learned = torch.randn(tiny_encoder["pos_embed"].shape)
    tuned = {name.replace("norm.", "fc_norm.", name.startswith("norm.")): v for name, v in tiny_encoder.items()}
    torch.save({"model": tuned | {"pos_embed": learned, "head.weight": torch.zeros(5, 16)}}, "tuned.pth")
    assert hpm("pretrain", tiny, "--init-from", "tuned.pth", *config, "--output", "third") == 0
    assert "left out: 2 fc_norm.*, 1 head.*" in " ".join(capsys.readouterr().out.split())
    context = load_model(Path("third")).context()
    assert torch.equal(context.model.encoder.pos_embed, learned), "positions that were learned stay"
    assert not torch.equal(context.initial().encoder.pos_embed, learned), "and are not what training began with"


def test_a_head_of_other_targets_is_left_out() -> None:
    """As of HPM with DINO's features: 384 values, where a patch has 192."""
    own = model()
    own.set_outputs(384)
    own.init_weights()
    torch.save({"state_dict": own.state_dict()}, "hpm.pth")
    with pytest.warns(Notice, match=r"left out: 2 reconstructor\.\*; as initialized: 2 reconstructor\.\*"):
        loaded = load_model(Path("hpm.pth"))
    assert torch.equal(loaded.method.student.encoder.cls_token, own.encoder.cls_token)
    assert "the head starts from initialization: it reconstructs something else in hpm.pth" in loaded.lines[-1]


COMMANDS: dict[str, list[str]] = {
    "embed": ["photos", "--out", "f.parquet"],
    "evaluate": ["--protocol", "knn"],
    "export": ["--out", "exported"],
    "visualize": ["--images", "photos"],
    "pretrain": ["--dry-run"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_the_same(
    hpm: Hpm, command: str, tiny: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    os.mkfifo("fifo")
    Path("text.pth").write_text("not weights")
    Path("hub").mkdir()
    Path("hub/config.json").write_text("{}")
    torch.save({"model": {"cls_token": torch.zeros(1).expand(1, 1, 10**10)}}, "bomb.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, "resnet.pth")
    state = model().state_dict()
    for name, parameter, odd in (
        ("token.pth", "encoder.cls_token", torch.zeros(64)),
        ("linear.pth", "encoder.patch_embed.proj.weight", torch.zeros(64, 192)),
        ("nothing.pth", "encoder.patch_embed.proj.weight", torch.zeros(64, 3, 0, 8)),
        ("double.pth", "encoder.norm.weight", torch.full((64,), 1e300, dtype=torch.float64)),
    ):
        torch.save(state | {parameter: odd}, name)
    torch.save({1: torch.zeros(2)}, "numbered.pth")
    for path, told in (
        ("nothing", "nothing does not exist; a model is a run's folder, one of its checkpoint-* folders, a file"),
        ("empty", "empty is not a model, which is a run's folder"),
        ("fifo", "fifo is not a model, which is a run's folder"),
        ("text.pth", "text.pth is damaged, or not a file of weights"),
        ("hub", "hub is a folder with a config.json, but there is no model.safetensors beside it"),
        ("bomb.pth", "would inflate to 40,000 MB, and was not read"),
        ("resnet.pth", "resnet.pth holds no encoder"),
        ("token.pth", "token.pth"),
        ("linear.pth", "linear.pth"),
        ("nothing.pth", "nothing.pth"),
        ("double.pth", "double.pth: encoder.norm.weight is not finite"),
        ("numbered.pth", "numbered.pth: the name 1 of a weight is no text"),
        ("x" * 300, "cannot be read: "),
    ):
        first = [tiny, "--init-from", path] if command == "pretrain" else [path]
        assert hpm(command, *first, *COMMANDS[command]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
