"""Runs towards assignments to prototypes: none collapses, two processes train as one, and what comes out is used."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from torch import Tensor

from curriculum import Mask
from hpm.config import parse_config
from hpm.errors import Notice
from hpm.evaluation.compute import equal_epochs
from hpm.evaluation.samples import held_out_batches
from hpm.inference.loading import load_model
from hpm.planning.plan import make_plan
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

SIMMIM = [
    "Method.model = @SimMIM()",
    "SimMIM.encoder = @ViT()",
    "ViT.img_size = %IMG_SIZE",
    "ViT.in_chans = %IN_CHANS",
    "ViT.patch_size = 4",
    "ViT.embed_dim = 16",
    "ViT.depth = 1",
    "ViT.num_heads = 2",
]
DISTILLED = [
    *SIMMIM,
    "Method.target = @DistilledTokens()",
    "DistilledTokens.prototypes = 24",
    "DistilledTokens.hidden = 32",
    "DistilledTokens.bottleneck = 16",
]
RUNS = {
    "centering": DISTILLED,
    "sinkhorn": [*DISTILLED, "DistilledTokens.assignment = 'sinkhorn'"],
    "clusters": ["Method.target = @OnlineClusters()", "OnlineClusters.clusters = 24"],
}
SHORT = ["Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Monitoring.log_every = 1"]


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


def assignments(run: Path, weights: str = "student") -> Tensor:
    """[N, L, K]: of every patch of the test images."""
    context = load_model(run).context(weights)
    found: list[Tensor] = []
    for _, batch, _ in held_out_batches(context, context.held_out["test"], 48):
        patches = torch.arange(batch.num_patches).expand(len(batch), -1)
        everything = Mask(visible=patches[:, :0], masked=patches)
        found.append(context.target(batch.images, everything, batch.patch_size, context.teacher))
    return torch.cat(found)


def entropy(shares: Tensor) -> Tensor:
    return -torch.xlogy(shares, shares).sum(dim=-1)


LEAST = {"centering": 0.7, "sinkhorn": 0.85, "clusters": 0.85}


@pytest.mark.parametrize("name", RUNS)
def test_no_target_collapses(name: str, tiny: Path, hpm: Callable[..., int]) -> None:
    """Patches differ in their prototypes, each of which has about its share of them."""
    assert share_of_entropy(tiny, hpm, *RUNS[name]) > LEAST[name]


def test_without_its_center_a_target_does_collapse(tiny: Path, hpm: Callable[..., int]) -> None:
    """A center that forgets nothing of where it started moves in no step."""
    assert share_of_entropy(tiny, hpm, *DISTILLED, "DistilledTokens.center_momentum = 0.999999") < 0.6


def share_of_entropy(tiny: Path, hpm: Callable[..., int], *bindings: str) -> float:
    """The entropy of the mean assignment after 100 steps, of the most that it can be; patches differ in theirs."""
    run = words(*bindings, "Schedule.epochs = 10", "HorizonDecay.fraction = 0.2", "Monitoring.evaluations = []")
    assert hpm("pretrain", tiny, *run, "--output", "run") == 0
    assigned = assignments(Path("run"))
    of_the_mean, of_each = entropy(assigned.mean(dim=(0, 1))), entropy(assigned).mean()
    assert of_each < of_the_mean - 0.2
    return (of_the_mean / math.log(assigned.shape[-1])).item()


@pytest.mark.parametrize(("name", "sharding"), [("centering", "fsdp"), ("clusters", "none")])
def test_two_processes_train_as_one(
    name: str, sharding: str, tiny: Path, hpm: Callable[..., int], forks: Forks
) -> None:
    run = words(*RUNS[name], *SHORT, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0", "Monitoring.evaluations = []")
    assert hpm("pretrain", tiny, *run, "--output", "alone") == 0
    shared = [*run, *words(f"Runtime.sharding = '{sharding}'"), "--output", sharding]
    ran = forks.run("hpm", "pretrain", tiny, *shared, env=dict(os.environ), processes=2)
    assert ran.returncode == 0, ran.stderr
    for metric in ("reconstruction_loss", "gradient_norm"):
        values = []
        for folder in ("alone", sharding):
            lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
            values.append([row[metric] for row in lines if row["kind"] == "train"])
        assert len(values[0]) == 10
        assert values[1] == pytest.approx(values[0], rel=1e-3)
    one, two = (Checkpoint(list_checkpoints(Path(folder, "checkpoints"))[0]) for folder in ("alone", sharding))
    assert set(one.names()) == set(two.names())
    kept = [tensor for tensor in one.names() if tensor.startswith("target.")]
    assert kept
    for tensor in kept:
        torch.testing.assert_close(two.tensor(tensor), one.tensor(tensor), atol=1e-3, rtol=1e-3)


def test_what_is_kept_goes_with_a_run(tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    """Into evaluations, exports and the next run; where it is not, the head starts anew."""
    clusters = words(*RUNS["clusters"], *SHORT)
    assert hpm("pretrain", tiny, *clusters, "--output", "run") == 0
    newest = Checkpoint(list_checkpoints(Path("run/checkpoints"))[0])
    loaded = load_model(Path("run"))
    assert equal_epochs(loaded.context(), labelled=10) is not None
    target = loaded.method.target
    assert target.module is not None
    for name, tensor in target.module.state_dict().items():
        assert torch.equal(tensor, newest.tensor(f"target.{name}"))

    # A run from these weights goes on from these clusters, and one to more clusters has to begin with them.
    again = words("Schedule.blr = 1e-9", "Schedule.epochs = 2")
    assert hpm("pretrain", tiny, *clusters, *again, "--init-from", "run", "--output", "next") == 0
    assert "the head starts from initialization" not in " ".join("".join(capsys.readouterr()).split())
    goes_on = Checkpoint(list_checkpoints(Path("next/checkpoints"))[0])
    for name in ("student.reconstructor.head.weight", "target.layer.weight"):
        torch.testing.assert_close(goes_on.tensor(name), newest.tensor(name), atol=1e-5, rtol=1e-5)
    more = words("OnlineClusters.clusters = 32")
    assert hpm("pretrain", tiny, *clusters, *more, "--init-from", "run", "--output", "more") == 0
    told = " ".join("".join(capsys.readouterr()).split())
    assert "the head starts from initialization: it reconstructs OnlineClusters of 24 in run/" in told

    small = words("KNN.train_images = 20", "KNN.test_images = 20", "HardnessShare.images = 20")
    assert hpm("evaluate", "run", "--protocol", "knn,hardness-share", *small) == 0
    assert hpm("export", "run", "--out", "exported") == 0
    # On another grid what belongs to a position means nothing, and the clusters are the same.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        larger = load_model(Path("run"), bindings=["IMG_SIZE = 24"]).method.target
    notices = [str(warning.message) for warning in caught if issubclass(warning.category, Notice)]
    assert any("of another grid of patches stays as before training: sinkhorn.potentials" in text for text in notices)
    assert larger.module is not None
    assert torch.equal(larger.module.state_dict()["layer.weight"], newest.tensor("target.layer.weight"))


def test_what_a_target_learns_beside_the_student_is_planned(tiny: Path) -> None:
    made = make_plan(parse_config([str(tiny)], RUNS["clusters"]))
    features = make_plan(parse_config([str(tiny)], ["Method.target = @TeacherFeatures()"]))
    # A product forward, and one for the gradient of its weights; the tokens have none.
    learned = made.multiply_adds["target"] - features.multiply_adds["target"]
    assert learned == 2 * 16 * 16 * 24
    assert made.memory["network of the target"] == 16 * (16 + 1) * 24
    distilled = make_plan(parse_config([str(tiny)], DISTILLED))
    head = 16 * 32 + 32 * 32 + 32 * 16 + 16 * 24
    assert distilled.multiply_adds["reconstructor"] == 12 * head
    encoder = distilled.multiply_adds["encoder"]
    assert distilled.multiply_adds["target"] == encoder + 16 * head


def test_micro_batches_are_refused(tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    for name in RUNS:
        assert hpm("pretrain", tiny, *words(*RUNS[name], "Schedule.accumulate = 2"), "--output", "run") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "Schedule.accumulate = 2 cuts a step into micro-batches" in told
        assert "learns from all images of a step at once; set it to 1" in told
        assert hpm("plan", tiny, *words(*RUNS[name], "Schedule.accumulate = 2")) == 2
    ratios = ("Curriculum.mask_ratio = @UniformRatio()", "UniformRatio.groups = 2", "Schedule.accumulate = 2")
    assert hpm("pretrain", tiny, *words(*RUNS["clusters"], *ratios), "--output", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "set it to 1, and train with 2 processes, or a multiple, for UniformRatio.groups = 2" in told


def test_a_head_of_other_widths_starts_from_initialization(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    short = words(*RUNS["centering"], *SHORT, "Monitoring.evaluations = []")
    assert hpm("pretrain", tiny, *short, "--output", "run") == 0
    capsys.readouterr()
    wider = words("DistilledTokens.hidden = 40")
    assert hpm("pretrain", tiny, *short, *wider, "--init-from", "run", "--output", "next") == 0
    told = " ".join("".join(capsys.readouterr()).split())
    assert "it reconstructs DistilledTokens of 24 by layers of 32 and 16 in run/" in told
