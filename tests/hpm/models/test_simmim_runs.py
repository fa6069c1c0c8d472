"""Whole runs of SimMIM with a ViT and with a Swin: trained, resumed, evaluated, exported and planned."""

from __future__ import annotations

import json
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

RUNS = {
    "vit": [
        "SimMIM.encoder = @ViT()",
        "ViT.img_size = 16",
        "ViT.patch_size = 4",
        "ViT.embed_dim = 16",
        "ViT.depth = 1",
        "ViT.num_heads = 2",
        "ViT.relative_positions = True",
    ],
    "swin": [
        "SimMIM.encoder = @Swin()",
        "Swin.img_size = 16",
        "Swin.patch_size = 2",
        "Swin.embed_dim = 8",
        "Swin.depths = (1, 1)",
        "Swin.num_heads = (1, 2)",
        "Swin.window_size = 4",
    ],
}
COMMON = [
    "Method.model = @SimMIM()",
    "Method.target = @Pixels()",
    "Pixels.error = 'absolute'",
    "Schedule.epochs = 2",
    "HorizonDecay.fraction = 0.2",
    "Checkpointing.every = 10",
    "Monitoring.log_every = 10",
]
SMALL = [
    *(
        f"{protocol}.{split}_images = {count}"
        for protocol in ("KNN", "Linear", "Ridge")
        for split, count in (("train", 40), ("test", 16))
    ),
    *(
        f"{protocol}.{binding}"
        for protocol in ("FineTune", "LinearMAE")
        for binding in ("epochs = 1", "accumulate = 1", "batch_size = 16", "warmup_epochs = 0", "pool = 'mean'")
    ),
    "FineTune.rand_augment = None",
    "LowShot.labels = 20",
    "LowShot.epochs = 1",
    "LowShot.batch_size = 10",
    "LowShot.draws = 1",
    "LowShot.test_images = 16",
    "Agreement.images = 16",
    "Diagnostics.images = 16",
    "Localization.images = 16",
]
PROTOCOLS = "knn,linear,linear-mae,ridge,finetune,low-shot,agreement,diagnostics,localization"


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("curriculum", ["random", "hpm_easy_to_hard"])
def test_it_trains_resumes_exactly_and_is_evaluated(
    name: str, curriculum: str, tiny: Path, hpm: Callable[..., int], same_end: Callable[[Path], None]
) -> None:
    settings = words(*COMMON, *RUNS[name])
    assert hpm("pretrain", tiny, f"curricula/{curriculum}", *settings, "--output", "run") == 0
    same_end(Path("run"))
    if curriculum == "random":
        return
    assert hpm("evaluate", "run", "--protocol", PROTOCOLS, *words(*SMALL)) == 0
    found = json.loads(Path("run/evaluation-finetune.json").read_text())[-1]["metrics"]
    assert 0 <= found["finetune/pretrained"]["mean"] <= 1
    assert hpm("visualize", "run", "--count", "2") == 0
    assert hpm("export", "run", "--out", "exported", "--pool", "avg") == 0
    model = timm.create_model("local-dir:exported", pretrained=True, num_classes=5).eval()
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 5)
    context = load_model(Path("run")).context()
    images = context.source.load(context.source.test(), torch.arange(3))
    with torch.no_grad():
        ours = pooled(context.model.encoder, images, "mean")
        torch.testing.assert_close(model.forward_head(model.forward_features(images), pre_logits=True), ours)
    made = make_plan(parse_config(["run/config.gin"]))
    assert made.multiply_adds["loss predictor"] > 0
    assert made.multiply_adds["teacher"] > made.multiply_adds["encoder"] * 0.9


def test_a_class_token_that_is_not_there(tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    settings = words(*COMMON, *RUNS["swin"], "Schedule.epochs = 1", "Schedule.warmup_epochs = 0")
    assert hpm("pretrain", tiny, *settings, *words("Monitoring.evaluations = [@KNN()]", "KNN.pool = 'token'")) == 2
    assert "KNN.pool = 'token' needs a class token, and Swin has none" in capsys.readouterr().err
    assert hpm("pretrain", tiny, *settings, "--output", "run") == 0
    for command in (
        ["evaluate", "run", "--protocol", "knn", "-b", "KNN.pool = 'token'", *words(*SMALL[:2])],
        ["export", "run", "--out", "exported", "--pool", "token"],
    ):
        assert hpm(*command) == 2
        assert "class token" in capsys.readouterr().err
    assert hpm("export", "run", "--out", "exported") == 0
    assert json.loads(Path("exported/config.json").read_text())["global_pool"] == "avg"
    assert hpm("pretrain", tiny, *settings, "--init-from", __file__) == 2
    assert "is damaged, or not a file of weights" in " ".join(capsys.readouterr().err.split())


def test_two_processes_train_as_one_does(tiny: Path, hpm: Callable[..., int], forks: Forks) -> None:
    """A Swin in parts, with a target that asks the moving average."""
    settings = [
        *RUNS["swin"],
        *COMMON[:1],
        *COMMON[3:5],
        "Monitoring.log_every = 1",
        "Method.target = @WeightedTargets()",
        "WeightedTargets.targets = [@Pixels(), @TeacherFeatures()]",
        "WeightedTargets.weights = [1.0, @rise/Ramp()]",
        "rise/Ramp.end = 1.0",
    ]
    assert hpm("pretrain", tiny, *words(*settings), "--output", "alone") == 0
    ran = forks.run(
        "hpm", "pretrain", tiny, *words(*settings, "Runtime.sharding = 'fsdp'"), "--output", "both", processes=2
    )
    assert ran.returncode == 0, ran.stderr
    alone, both = (
        [
            row["loss"]
            for line in Path(run, "metrics.jsonl").read_text().splitlines()
            if (row := json.loads(line))["kind"] == "train"
        ]
        for run in ("alone", "both")
    )
    assert len(alone) == 20
    assert both == pytest.approx(alone, rel=1e-4)
