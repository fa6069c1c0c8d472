"""What a model that is loaded again knows of its curriculum: what the run had observed and learned, and no more."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hpm.errors import Notice, UserError
from hpm.inference.loading import load_model
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.visualization.panels import look
from hpm.visualization.picture import held_out

LEARNING = (
    "Curriculum.scheduler = @Plateau()",
    "Plateau.patience = 1",
    "Plateau.threshold = 0.9",
    "Curriculum.difficulty = @Residual()",
    "Residual.estimator = @PredictedLoss()",
    "Monitoring.evaluations = [@Diagnostics()]",
    "Checkpointing.keep_every = 7",
)
Hpm = Callable[..., int]


@pytest.fixture
def run(pretrained: Callable[..., Path]) -> Path:
    """Its alpha is what the losses made of it, and its difficulty knows the positions' mean losses."""
    return pretrained(*LEARNING)


def test_an_evaluation_sees_the_curriculum_as_the_run_left_it(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run", symlinks=True)
    assert hpm("evaluate", copied, "--protocol", "diagnostics") == 0
    (entry,) = json.loads((copied / "evaluation-diagnostics.json").read_text())
    final = json.loads((run / "summary.json").read_text())["metrics"]
    assert final["curriculum/alpha"] > 0
    for name, metric in entry["metrics"].items():
        assert metric["mean"] == final[name], name


def test_each_checkpoint_has_its_own(run: Path) -> None:
    loaded = load_model(run)
    alphas, positions = [], []
    for folder in list_checkpoints(run / "checkpoints")[::-1]:
        loaded.load(Checkpoint(folder))
        alphas.append(loaded.method.curriculum.alpha(1.0))
        module = loaded.method.curriculum.difficulty.module
        assert module is not None
        positions.append(module.get_submodule("positions").get_buffer("sums").clone())
    assert alphas == sorted(alphas)
    assert alphas[0] < alphas[-1]
    assert not torch.equal(positions[0], positions[-1])


def test_another_scheduler_stands_as_before_training(run: Path) -> None:
    for binding in ("Curriculum.scheduler = @MetricPaced()", "Curriculum.scheduler = @Ramp()"):
        with pytest.warns(
            Notice, match=r"what was observed does not fit scheduler = .*, which stands as before training"
        ):
            load_model(run, bindings=[binding])
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        load_model(run, bindings=["Plateau.patience = 3"])


def test_a_difficulty_that_learned_nothing_here_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="holds nothing of what PositionLoss learns beside a model"):
        load_model(run, bindings=["Curriculum.difficulty = @PositionLoss()"])


def test_what_is_kept_of_training_images_is_left_where_it_is(pretrained: Callable[..., Path]) -> None:
    run = pretrained("Curriculum.difficulty = @LossMemory()", "Monitoring.evaluations = []")
    loaded = load_model(run)
    assert loaded.learned_by_difficulty() == []
    module = loaded.method.curriculum.difficulty.module
    assert module is not None
    assert [len(tensor) for tensor in module.state_dict().values()] == [0, 0, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(run: Path, tiny: Path, tmp_path: Path, hpm: Hpm, value: float) -> None:
    weights = Checkpoint(list_checkpoints(run / "checkpoints")[0]).state_dict("student")
    weights["mask_token"][..., 1] = value
    torch.save(weights, tmp_path / "weights.pth")
    message = r"weights.pth: mask_token is not finite; the training that wrote it has diverged"
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "weights.pth", [str(tiny)])
    assert hpm("pretrain", tiny, "--init-from", tmp_path / "weights.pth", "--dry-run") == 2


def test_a_checkpoint_that_is_not_finite_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(list_checkpoints(run / "checkpoints")[0])
    loaded = load_model(run)
    read = checkpoint.tensor
    monkeypatch.setattr(checkpoint, "tensor", lambda name: read(name) * float("nan"))
    with pytest.raises(UserError, match=r"checkpoint-\d+: \w+.* more tensors are not finite"):
        loaded.load(checkpoint)


@pytest.mark.parametrize("model", ["run", "exported"])
def test_images_that_are_normalized_otherwise_are_told(hpm: Hpm, run: Path, tmp_path: Path, model: str) -> None:
    """With the bindings that mend it, which then leave nothing to tell."""
    exported = tmp_path / "exported"
    assert hpm("export", run, "--format", "timm", "--out", exported) == 0
    path = {"run": run, "exported": exported}[model]
    other = ["Trainer.source = @ImageFolder()", f"ImageFolder.img_size = {load_model(run).source.img_size}"]
    own = ["ImageFolder.mean = (0.293, 0.291, 0.275)", "ImageFolder.std = (0.28, 0.271, 0.275)"]
    told = "ImageFolder normalizes pixels by another mean and deviation than the model was trained with"
    lines = load_model(run, bindings=other).lines
    assert lines[-1] == f"{told}; as in training: " + " ".join(f"-b '{binding}'" for binding in own)
    data = [] if model == "run" else ["data/image_folder"]
    assert not any(told in line for line in load_model(path, over=data, bindings=[*other, *own]).lines)
    published = ["ImageFolder.mean = (0.485, 0.456, 0.406)"]
    assert any(told in line for line in load_model(path, over=data, bindings=[*other, *published]).lines)
    assert not any(told in line for line in load_model(path).lines)


def test_normalization_of_colored_images_is_none_of_a_gray_models(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    """A config.json keeps what its architecture is usually for."""
    gray = tmp_path / "gray"
    assert hpm("export", run, "--format", "timm", "--out", gray) == 0
    weights, told = (
        safetensors.torch.load_file(gray / "model.safetensors"),
        json.loads((gray / "config.json").read_text()),
    )
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    safetensors.torch.save_file(weights, gray / "model.safetensors")
    told["model_args"]["in_chans"] = 1
    (gray / "config.json").write_text(json.dumps(told))
    loaded = load_model(gray, bindings=["ImageFolder.mean = (0.5,)", "ImageFolder.std = (0.25,)"])
    assert not any("normalizes" in line for line in loaded.lines)


def test_nothing_is_told_of_what_nobody_has_trained(
    hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An encoder that came alone has losses of a random decoder, which are left out or refused."""
    encoder = tmp_path / "encoder"
    assert hpm("export", run, "--format", "timm", "--out", encoder) == 0
    data = ("data/digit_scenes", "-b", "IMG_SIZE = 16", "-b", "DigitScenes.test_size = 40")
    for protocol in ("agreement", "diagnostics", "hardness-share"):
        capsys.readouterr()
        assert hpm("evaluate", encoder, *data, "--protocol", protocol) == 2
        assert f"error: {protocol} can say nothing of {encoder}: it holds no whole " in capsys.readouterr().err
    for protocol in ("localization", "unsupervised-segmentation"):
        assert hpm("evaluate", encoder, *data, "--protocol", protocol) == 0
        (entry,) = json.loads((tmp_path / f"evaluation-{protocol}.json").read_text())
        shares = {name for name in entry["metrics"] if name.endswith("/object_share")}
        scores = {name.removeprefix("validation/").split("/", 1)[1] for name in entry["metrics"].keys() - shares}
        assert {name.rsplit("/", 1)[0] for name in scores} == {
            *("student/attention", "student/features", "pixels", "edge_density", "center", "random")
        }
    assert load_model(run).untrained == frozenset()
    panels = look(load_model(run).context(), held_out(load_model(run).source, 4, 2))
    assert panels.reconstruction is not None
    assert panels.maps.keys() == {"predicted loss", "true loss", "attention"}
    loaded = load_model(encoder, over=["data/digit_scenes"], bindings=["IMG_SIZE = 16"])
    panels = look(loaded.context(), held_out(loaded.source, 4, 2))
    assert panels.reconstruction is None
    assert panels.maps.keys() == {"attention"}
    assert panels.curriculum is None or panels.curriculum.difficulty is None
    for difficulty in ("PredictedLoss", "TrueLoss"):
        asking = ["IMG_SIZE = 16", "Curriculum.sampler = @HardestFirst()", f"Curriculum.difficulty = @{difficulty}()"]
        asking += ["Curriculum.scheduler = @Constant()", "Method.ema_decay = @HorizonDecay()"]
        asking += ["MaskedAutoencoder.loss_predictor_depth = 1"]
        loaded = load_model(encoder, over=["data/digit_scenes"], bindings=asking)
        panels = look(loaded.context(), held_out(loaded.source, 4, 2))
        assert panels.curriculum is None
        assert not panels.averaged
    assert hpm("visualize", encoder, *data, "--out", "sheet.png") == 0
    other = load_model(run, bindings=["Method.target = @HOG()", "HOG.cell = 4"])
    assert other.untrained == {"reconstructor"}
    words = ("-b", "Method.target = @HOG()", "-b", "HOG.cell = 4", "--out", "strip.png")
    assert hpm("visualize", run, "--strip", *words) == 2
    assert "a strip shows reconstructions, and " in capsys.readouterr().err
