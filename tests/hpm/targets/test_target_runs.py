"""Whole runs with each target: resumed, evaluated, started from weights of another."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from tiny_models import some_images, tiny_model

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.inference.loading import load_model
from hpm.planning.plan import make_plan
from hpm.runs.checkpoint import list_checkpoints
from hpm.targets import TimmFeatures

TIMM = "vit_tiny_patch16_224"
DISTILLED = [
    "Method.model = @SimMIM()",
    "SimMIM.encoder = @ViT()",
    "ViT.img_size = %IMG_SIZE",
    "ViT.in_chans = %IN_CHANS",
    "ViT.patch_size = 4",
    "ViT.embed_dim = 16",
    "ViT.depth = 1",
    "ViT.num_heads = 2",
    "Method.target = @DistilledTokens()",
    "DistilledTokens.prototypes = 24",
    "DistilledTokens.hidden = 32",
    "DistilledTokens.bottleneck = 16",
    "DistilledTokens.teacher_temperature = @warmup/Ramp()",
    "warmup/Ramp.start = 0.04",
    "warmup/Ramp.end = 0.07",
]
RUNS = {
    "hog": ["Method.target = @HOG()", "HOG.cell = 2"],
    "teacher": ["Method.target = @TeacherFeatures()"],
    "timm": [
        "Method.target = @TimmFeatures()",
        f"TimmFeatures.model = '{TIMM}'",
        "TimmFeatures.pretrained = False",
        "TimmFeatures.img_size = 32",
    ],
    "contrast": ["Method.target = @PatchContrast()", "PatchContrast.beta = @rise/Ramp()", "rise/Ramp.end = 1.0"],
    "distilled": DISTILLED,
    "clusters": ["Method.target = @OnlineClusters()", "OnlineClusters.clusters = 24"],
    "weighted": [
        "Method.target = @WeightedTargets()",
        "WeightedTargets.targets = [@Pixels(), @TeacherFeatures()]",
        "WeightedTargets.weights = [1.0, @rise/Ramp()]",
        "rise/Ramp.end = 1.0",
    ],
}
SHORT = ["Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Checkpointing.every = 10", "Monitoring.log_every = 10"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_exactly_and_is_evaluated(
    name: str, tiny: Path, hpm: Callable[..., int], same_end: Callable[[Path], None]
) -> None:
    words = [word for text in (*SHORT, *RUNS[name]) for word in ("-b", text)]
    assert hpm("pretrain", tiny, *words, "--output", "run") == 0
    same_end(Path("run"))
    small = ["-b", "Agreement.images = 16", "-b", "Diagnostics.images = 16"]
    assert (
        hpm(
            "evaluate",
            "run",
            "--protocol",
            "agreement,diagnostics,localization",
            *small,
            "-b",
            "Localization.images = 16",
        )
        == 0
    )
    metrics = json.loads(Path("run/evaluation-agreement.json").read_text())[-1]["metrics"]
    assert -1 <= metrics["agreement/student"]["mean"] <= 1
    assert hpm("visualize", "run", "--count", "2") == 0
    assert hpm("visualize", "run", "--count", "2", "--strip") == 0


def test_an_exported_folder_with_weights_of_another_file(tiny: Path, hpm: Callable[..., int], tmp_path: Path) -> None:
    assert hpm("pretrain", tiny, *(w for b in SHORT for w in ("-b", b)), "--output", "run") == 0
    assert hpm("export", "run", "--out", "exported") == 0
    assert hpm("export", "run", "--out", "teacher.safetensors", "--format", "safetensors", "--weights", "teacher") == 0
    images, answers = some_images(size=16), []
    for checkpoint in (None, "teacher.safetensors", "run"):
        target = TimmFeatures(model="local-dir:exported", checkpoint=checkpoint)
        target.outputs(tiny_model(img_size=16, patch_size=4))
        answers.append(target.features(images, None))
    context = load_model(Path("run")).context()
    with torch.no_grad():
        torch.testing.assert_close(answers[0], context.model.features(images))
        torch.testing.assert_close(answers[1], context.teacher.model.features(images))
        assert torch.equal(answers[2], answers[0]), "a run names its student's weights"
    # Timm's own config says another scale and other heads than the run does.
    config = json.loads(Path("exported/config.json").read_text())
    target = TimmFeatures(model="local-dir:exported", checkpoint="run")
    config["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    Path("exported/config.json").write_text(json.dumps(config))
    target.outputs(tiny_model(img_size=16, patch_size=4))
    target.prepare(torch.device("cpu"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    source = load_model(Path("run")).source
    mean, std = (torch.tensor(values)[:, None, None] for values in (source.mean, source.std))
    with torch.no_grad():
        torch.testing.assert_close(target.features(images, None), context.model.features((images - mean) / std))
    config["model_args"]["num_heads"] = 4
    Path("exported/config.json").write_text(json.dumps(config))
    target = TimmFeatures(model="local-dir:exported", checkpoint="run")
    target.outputs(tiny_model(img_size=16, patch_size=4))
    with pytest.raises(UserError, match="its weights are for 2 heads, and the model has 4"):
        target.load()


def test_a_run_does_not_go_on_towards_features_of_other_weights(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    """The file has the same name, and other weights in it."""
    bindings = [
        *SHORT,
        "Method.target = @TimmFeatures()",
        f"TimmFeatures.model = '{TIMM}'",
        "TimmFeatures.img_size = 32",
    ]
    words = [word for text in (*bindings, "TimmFeatures.checkpoint = 'frozen.pth'") for word in ("-b", text)]
    network = timm.create_model(TIMM, num_classes=0, img_size=32)
    torch.save(network.state_dict(), "frozen.pth")
    assert hpm("pretrain", tiny, *words, "--output", "run") == 0
    last, *_ = list_checkpoints(Path("run/checkpoints"))
    shutil.rmtree(last)
    Path("run/summary.json").unlink()
    shutil.move("frozen.pth", "kept.pth")
    network.norm.weight.data += 1e-3
    torch.save(network.state_dict(), "frozen.pth")
    assert hpm("pretrain", "--resume", "--output", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"features of other weights \(fingerprint \w{16} then, \w{16} now\): let Method.target", told), (
        told
    )
    shutil.move("kept.pth", "frozen.pth")
    assert hpm("pretrain", "--resume", "--output", "run") == 0


def test_weights_of_another_target(tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    """All but the head are taken, also where the head would fit."""
    short = [word for text in SHORT for word in ("-b", text)]
    assert hpm("pretrain", tiny, *short, "--output", "pixels") == 0
    newest = list_checkpoints(Path("pixels/checkpoints"))[0]
    for name, told in (("teacher", True), ("weighted", True), ("absolute", False)):
        bindings = [
            *RUNS.get(name, ["Pixels.error = 'absolute'", "Method.target = @Pixels()"]),
            "MaskedAutoencoder.embed_dim = 48",
        ]
        if name != "teacher":
            bindings = bindings[:-1]
        words = [word for text in bindings for word in ("-b", text)]
        code = hpm("pretrain", tiny, *short, *words, "--init-from", newest, "--output", name)
        text = " ".join("".join(capsys.readouterr()).split())
        if name == "teacher":
            assert code == 2  # another width
            assert "does not fit this model" in text
            continue
        assert code == 0
        assert ("the head starts from initialization: it reconstructs pixels in pixels/" in text) == told
        assert ("the head starts from initialization" in text) == told


def test_what_a_network_beside_the_student_takes(tiny: Path) -> None:
    bindings = [*RUNS["timm"], "Runtime.precision = 'fp32'"]
    made = make_plan(parse_config([str(tiny)], bindings))
    network = timm.create_model(TIMM, num_classes=0, img_size=32)
    assert made.memory["network of the target"] == 4 * sum(p.numel() for p in network.parameters())
    assert made.multiply_adds["target"] > 5 * 4 * 12 * 192**2 * 12 / 4


def test_a_hub_that_cannot_be_reached(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (
        hpm(
            "pretrain",
            tiny,
            "-b",
            "Method.target = @TimmFeatures()",
            "-b",
            "TimmFeatures.img_size = 32",
            "-b",
            "TimmFeatures.model = 'vit_tiny_patch16_224.augreg_in21k'",
            "--output",
            "run",
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "cannot be loaded" in error
    assert "TimmFeatures.checkpoint" in error
    assert not Path("run").exists()
