"""Whole runs of CrossMAE: trained, resumed, evaluated, exported and planned."""

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
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

MODEL = [
    "Method.model = @CrossMAE()",
    "CrossMAE.encoder = @ViT()",
    "CrossMAE.decoder_embed_dim = 16",
    "CrossMAE.decoder_depth = 2",
    "CrossMAE.decoder_num_heads = 2",
    "ViT.img_size = 16",
    "ViT.patch_size = 4",
    "ViT.embed_dim = 16",
    "ViT.depth = 2",
    "ViT.num_heads = 2",
    "Curriculum.reconstruction = @PartialReconstruction()",
]
SHORT = ["Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Checkpointing.every = 10", "Monitoring.log_every = 10"]
EVALUATIONS = [
    *(
        f"{protocol}.{split}_images = {count}"
        for protocol in ("KNN", "Linear", "Ridge")
        for split, count in (("train", 40), ("test", 16))
    ),
    "Agreement.images = 16",
    "Diagnostics.images = 16",
    "HardnessShare.images = 16",
    "RankMe.images = 16",
    "Localization.images = 16",
]
PROTOCOLS = "knn,linear,ridge,agreement,diagnostics,hardness-share,rankme,localization"


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


@pytest.mark.parametrize(
    ("curriculum", "predictor"),
    [("hpm_easy_to_hard", 1), ("hpm_easy_to_hard", 0), ("hpm_dense", 1), ("hpm_memory", None), ("true_loss", None)],
)
def test_it_trains_resumes_exactly_and_is_evaluated(
    curriculum: str, predictor: int | None, tiny: Path, hpm: Callable[..., int], same_end: Callable[[Path], None]
) -> None:
    settings = words(*MODEL, *SHORT, f"CrossMAE.loss_predictor_depth = {predictor}")
    assert hpm("pretrain", tiny, f"curricula/{curriculum}", *settings, "--output", "run") == 0
    same_end(Path("run"))
    checkpoint = Checkpoint(list_checkpoints(Path("run/checkpoints"))[0])
    norm = checkpoint.tensor("student.encoder.norm.weight")
    assert torch.equal(norm, torch.ones_like(norm))
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
    made = make_plan(parse_config(["run/config.gin"]))
    assert made.multiply_adds["loss predictor"] > 0
    assert hpm("pretrain", tiny, *settings, "--output", "again", "--init-from", "run") == 0


def test_encoders_of_other_models_and_for_them(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """An MAE of the same encoder starts from a CrossMAE, and the other way round: the decoders start anew."""
    short = [*SHORT, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0"]
    two_blocks = ["MaskedAutoencoder.depth = 2"]
    assert hpm("pretrain", tiny, *words(*short, *two_blocks), "--output", "mae") == 0
    assert (
        hpm("pretrain", tiny, "curricula/random", *words(*short, *MODEL), "--output", "cross", "--init-from", "mae")
        == 0
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "reconstructor" in told
    assert hpm("pretrain", tiny, *words(*short, *two_blocks), "--output", "mae-again", "--init-from", "cross") == 0


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_as_one_does(sharding: str, tiny: Path, hpm: Callable[..., int], forks: Forks) -> None:
    settings = words(*MODEL, *SHORT[:2], "Monitoring.log_every = 1", "CrossMAE.loss_predictor_depth = 1")
    partly = words("PartialReconstruction.sampler = @HardestFirst()", "PartialReconstruction.share = 0.5")
    assert hpm("pretrain", tiny, *settings, *partly, "--output", "alone") == 0
    sharded = words(f"Runtime.sharding = '{sharding}'")
    ran = forks.run("hpm", "pretrain", tiny, *settings, *partly, *sharded, "--output", "both", processes=2)
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


def test_the_summary_tells_what_is_reconstructed(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "curricula/random", *words(*MODEL), "--dry-run") == 0
    assert "mask ratio 0.75, 0.33 of the masked patches reconstructed model:" in " ".join(
        capsys.readouterr().out.split()
    )
    chosen = ["PartialReconstruction.sampler = @HardestFirst()", "PartialReconstruction.alpha = @part/Ramp()"]
    assert (
        hpm("pretrain", tiny, "curricula/hpm_memory", *words(*MODEL, *chosen, "part/Ramp.end = 0.8"), "--dry-run") == 0
    )
    told = " ".join(capsys.readouterr().out.split())
    assert "0.33 of the masked patches reconstructed (HardestFirst, alpha 0.20 -> 0.80) model:" in told
