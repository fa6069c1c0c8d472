"""Whole runs of BootMAE: trained, resumed, evaluated, exported and planned."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from forks import Forks

from hpm.config import parse_config
from hpm.evaluation.features import pooled
from hpm.inference.loading import load_model
from hpm.planning.plan import make_plan
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

MODEL = [
    "Method.model = @BootMAE()",
    "BootMAE.encoder = @ViT()",
    "BootMAE.decoder_embed_dim = 12",
    "BootMAE.decoder_depth = 2",
    "BootMAE.decoder_num_heads = 2",
    "ViT.img_size = 16",
    "ViT.patch_size = 4",
    "ViT.embed_dim = 16",
    "ViT.depth = 2",
    "ViT.num_heads = 2",
    "Method.target = @WeightedTargets()",
    "WeightedTargets.targets = [@NormalizedPixels(), @TeacherFeatures()]",
    "WeightedTargets.weights = [1.0, @features/Ramp()]",
    "features/Ramp.start = 0.0",
    "features/Ramp.end = 1.0",
    "features/Ramp.until = 0.25",
    "NormalizedPixels.each_channel = True",
    "TeacherFeatures.standardized = True",
    "Method.neighbor_weight = 1.0",
]
SHORT = ["Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Checkpointing.every = 10", "Monitoring.log_every = 10"]
EVALUATIONS = [
    *(
        f"{protocol}.{split}_images = {count}"
        for protocol in ("KNN", "Linear")
        for split, count in (("train", 40), ("test", 16))
    ),
    "Agreement.images = 16",
    "Diagnostics.images = 16",
    "HardnessShare.images = 16",
    "Localization.images = 16",
]
PROTOCOLS = "knn,linear,agreement,diagnostics,hardness-share,localization"


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


def losses(run: str) -> list[float]:
    rows = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize(
    ("curriculum", "predictor"),
    [("hpm_easy_to_hard", 1), ("hpm_easy_to_hard", 0), ("hpm_dense", 1), ("hpm_memory", None), ("cross_mae", None)],
)
def test_it_trains_resumes_exactly_and_is_evaluated(
    curriculum: str, predictor: int | None, tiny: Path, hpm: Callable[..., int], same_end: Callable[[Path], None]
) -> None:
    settings = words(*MODEL, *SHORT, f"BootMAE.loss_predictor_depth = {predictor}")
    assert hpm("pretrain", tiny, f"curricula/{curriculum}", *settings, "--output", "run") == 0
    same_end(Path("run"))
    if predictor != 1 or curriculum != "hpm_easy_to_hard":
        return
    assert hpm("evaluate", "run", "--protocol", PROTOCOLS, *words(*EVALUATIONS)) == 0
    assert hpm("visualize", "run", "--count", "2") == 0
    assert hpm("export", "run", "--out", "exported", "--pool", "avg") == 0
    exported = timm.create_model("local-dir:exported", pretrained=True, num_classes=5).eval()
    context = load_model(Path("run")).context()
    images = context.source.load(context.source.test(), torch.arange(3))
    with torch.no_grad():
        ours = pooled(context.model.encoder, images, "mean")
        theirs = exported.forward_head(exported.forward_features(images), pre_logits=True)
        torch.testing.assert_close(theirs, ours)
    assert make_plan(parse_config(["run/config.gin"])).multiply_adds["loss predictor"] > 0


@pytest.fixture
def trained(pretrained: Callable[..., Path]) -> Path:
    return pretrained(*MODEL, *SHORT, "BootMAE.loss_predictor_depth = 1")


def weights_of(run: str | Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(list_checkpoints(Path(run, "checkpoints"))[0])
    return checkpoint.state_dict("student")


def test_a_run_goes_on_from_another_and_from_its_export(
    trained: Path, tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    still = [*SHORT, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0", "Schedule.blr = 1e-20"]
    settings = words(*MODEL, *still, "BootMAE.loss_predictor_depth = 1")
    assert hpm("export", trained, "--format", "safetensors", "--whole", "--out", "whole.safetensors") == 0
    capsys.readouterr()
    for place in (trained, "whole.safetensors"):
        assert hpm("pretrain", tiny, *settings, "--output", f"from-{Path(place).name}", "--init-from", place) == 0
        assert "left out" not in capsys.readouterr().out
    before = weights_of(trained)
    assert {"feature_mask_token", "feature_embed.weight", "feature_predictor.head.weight"} <= before.keys()
    for name in ("from-run", "from-whole.safetensors"):
        after = weights_of(name)
        assert after.keys() == before.keys()
        for key, value in after.items():
            torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


def test_other_targets_start_with_heads_of_their_own(
    trained: Path, tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where they are as wide: another target's values are not these."""
    still = [*SHORT, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0", "Schedule.blr = 1e-20"]
    before = weights_of(trained)
    for name, second in (("hog", "@HOG()"), ("contrast", "@PatchContrast()")):
        targets = [f"WeightedTargets.targets = [@NormalizedPixels(), {second}]", *["HOG.cell = 4"] * (name == "hog")]
        settings = words(*[line for line in MODEL if "TeacherFeatures.standardized" not in line], *still, *targets)
        others = words("BootMAE.loss_predictor_depth = 1", "Trainer.seed = 5")
        assert hpm("pretrain", tiny, *settings, *others, "--output", name, "--init-from", trained) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "it reconstructs WeightedTargets of pixels and TeacherFeatures in" in told
        after = weights_of(name)
        for key, value in after.items():
            if key in ("reconstructor.head.weight", "feature_predictor.head.weight"):
                assert value.shape != before[key].shape or not torch.allclose(value, before[key], atol=0.05)
            elif not key.startswith(("reconstructor.head.", "feature_predictor.head.")):
                torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("other", ["mae", "cross_mae"])
def test_encoders_of_other_models_and_for_them(
    other: str, trained: Path, tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """They start from each other's encoders, and their decoders anew."""
    still = [*SHORT, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0", "Schedule.blr = 1e-20"]
    models = {
        "mae": ["MaskedAutoencoder.depth = 2"],
        "cross_mae": [line.replace("BootMAE", "CrossMAE") for line in MODEL[:10]],
    }
    settings = words(*still, *models[other])
    assert hpm("pretrain", tiny, "curricula/random", *settings, "--output", "other", "--init-from", trained) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"left out: .*feature_predictor\.\*", told)
    ours, theirs = weights_of(trained), weights_of("other")
    for name in ("encoder.cls_token", "encoder.blocks.1.mlp.fc1.weight"):
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=1e-6)
    back = words(*MODEL, *still)
    assert hpm("pretrain", tiny, "curricula/random", *back, "--output", "back", "--init-from", "other") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(r"as initialized: .*feature_predictor\.\*", told)


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_as_one_does(sharding: str, tiny: Path, hpm: Callable[..., int], forks: Forks) -> None:
    settings = words(*MODEL, *SHORT[:2], "Monitoring.log_every = 1", "BootMAE.loss_predictor_depth = 1")
    dense = words("Method.dense_prediction_every = 2")
    assert hpm("pretrain", tiny, *settings, *dense, "--output", "alone") == 0
    sharded = words(f"Runtime.sharding = '{sharding}'")
    ran = forks.run("hpm", "pretrain", tiny, *settings, *dense, *sharded, "--output", "both", processes=2)
    assert ran.returncode == 0, ran.stderr
    assert len(losses("alone")) == 20
    assert losses("both") == pytest.approx(losses("alone"), rel=1e-4)


def test_a_target_that_is_not_of_two_is_refused(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, *words(*MODEL[:10], "Method.target = @Pixels()"), "--dry-run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "Method.target must be @WeightedTargets() of two targets for BootMAE" in told
