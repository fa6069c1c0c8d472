"""A teacher looks at an image once, however many masks it is given, where masks change nothing in what it says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forks import Forks
from tiny_models import some_images, tiny_method, tiny_model

from curriculum import (
    Attention,
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    Disagreement,
    FeatureNorm,
    HardestFirst,
    Noise,
    PredictedLoss,
    Random,
    SampledAttention,
    Smoothed,
    TrueLoss,
    Uniform,
)
from hpm.methods import operations
from hpm.methods.loss_prediction import AbsoluteLoss
from hpm.methods.method import Method
from hpm.methods.once_per_image import once_per_image
from hpm.methods.supervision import SemiSupervised
from hpm.targets import Pixels, Target, TeacherFeatures

K, IMAGES = 3, 2
ONCE = [PredictedLoss(), Attention(), FeatureNorm(), Disagreement(), Smoothed(estimator=PredictedLoss())]
EACH = [PredictedLoss(probes=2), TrueLoss(), SampledAttention()]


def method(difficulty: DifficultyEstimator, target: Target | None = None, *, device: str = "cpu") -> Method:
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=HardestFirst())
    with torch.device(device):
        built = tiny_method(target or Pixels(), curriculum=curriculum, model=tiny_model(depth=2))
    if device == "cpu":
        built.initialize(torch.device("cpu"), autocast=None, seed=0)
        with torch.no_grad():
            built.student.encoder.norm.bias.add_(torch.linspace(-1, 1, 16))  # the average is another now
    return built


def copy_on_meta(built: Method) -> Method:
    """The same method, of which nothing is computed."""
    counted = copy.copy(built)
    counted.student = copy.deepcopy(built.student).to("meta")
    return counted


def rows_seen(built: Method) -> list[int]:
    """How many images each pass of the average's embedding is given."""
    seen: list[int] = []
    embed = built.teacher.model.encoder._embed

    def counting(images: torch.Tensor, *arguments: object, **named: object) -> torch.Tensor:
        seen.append(len(images))
        return embed(images, *arguments, **named)  # type: ignore[arg-type]

    built.teacher.model.encoder._embed = counting  # type: ignore[method-assign]
    return seen


def batch(masks_per_image: int) -> Batch:
    return Batch(some_images(IMAGES).repeat_interleave(K, dim=0), 8, masks_per_image=masks_per_image)


@pytest.mark.parametrize("difficulty", [*ONCE, *EACH], ids=lambda one: type(one).__name__)
def test_scores_are_those_of_every_row(difficulty: DifficultyEstimator) -> None:
    built, noise = method(difficulty), Noise.for_batch(seed=0, step=0, batch_size=K * IMAGES)
    seen = rows_seen(built)
    alone = difficulty(batch(1), once_per_image(built.teacher, batch(1)), num_masked=12, noise=noise)
    assert set(seen) == {K * IMAGES}
    seen.clear()
    several = batch(K)
    shared = difficulty(several, once_per_image(built.teacher, several), num_masked=12, noise=noise)
    assert set(seen) == {K * IMAGES if difficulty in EACH else IMAGES}
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)


def test_other_images_are_looked_at_row_by_row() -> None:
    built, other = method(PredictedLoss()), some_images(4)
    teacher = once_per_image(built.teacher, batch(K))
    assert torch.equal(teacher.predicted_loss(other), built.teacher.predicted_loss(other))
    assert teacher.features(other).shape == (4, 16, 16)
    assert teacher.unsupported_reason("attention") is None
    assert teacher.unsupported_reason("nothing") == "this teacher has none"


def test_a_step_is_the_same_and_target_and_difficulty_share_its_pass() -> None:
    built, noise = method(FeatureNorm(), TeacherFeatures()), Noise.for_batch(seed=0, step=0, batch_size=K * IMAGES)
    alone = built.losses(batch(1), 0.5, noise)
    seen = rows_seen(built)
    several = built.losses(batch(K), 0.5, noise)
    assert seen == [IMAGES]
    assert torch.equal(several.mask.masked, alone.mask.masked)
    torch.testing.assert_close(several.true_NM, alone.true_NM)


def test_pseudo_labels_are_those_of_every_row_and_cost_a_pass_of_each_image() -> None:
    """One for its class and one for its predicted losses."""
    supervision = SemiSupervised(num_classes=4, labeled_share=0.5, share=0.5)
    curriculum = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random())
    built = tiny_method(
        Pixels(),
        curriculum=curriculum,
        model=tiny_model(depth=2),
        prediction_loss=AbsoluteLoss(standardized=False),
        supervision=supervision,
    )
    costs = [operations.multiply_adds(copy_on_meta(built), masks_per_image=masks) for masks in (1, K)]
    assert costs[1]["pseudo-labels"] == pytest.approx(costs[0]["pseudo-labels"] / K)
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    with torch.no_grad():
        head = built.teacher.model.class_head
        assert head is not None
        head.weight.copy_(torch.linspace(-1, 1, head.weight.numel()).view_as(head.weight))
    supervision.prepare(torch.arange(8) % 4, batch_size=K * IMAGES, device=torch.device("cpu"))
    noise, seen, losses = Noise.for_batch(seed=0, step=0, batch_size=K * IMAGES), rows_seen(built), []
    indices = torch.arange(IMAGES).repeat_interleave(K)
    for masks in (1, K):
        losses.append(built.losses(replace(batch(masks), indices=indices), 0.5, noise))
    assert seen == [K * IMAGES] * 2 + [IMAGES] * 2
    alone, several = (found.supervision.measured() for found in losses if found.supervision is not None)
    torch.testing.assert_close(several, alone)


@pytest.mark.parametrize("difficulty", [ONCE[0], EACH[1]], ids=lambda one: type(one).__name__)
def test_what_a_row_costs(difficulty: DifficultyEstimator) -> None:
    built = method(difficulty, TeacherFeatures(), device="meta")
    one, several = (operations.multiply_adds(built, masks_per_image=masks) for masks in (1, K))
    share = 1 if difficulty in EACH else 1 / K
    assert several["teacher"] == pytest.approx(share * one["teacher"])
    assert several["target"] == pytest.approx(one["target"] / K)
    assert {name: several[name] for name in ("encoder", "reconstructor", "loss predictor")} == {
        name: one[name] for name in ("encoder", "reconstructor", "loss predictor")
    }


def test_runs_resume_and_are_divided_among_processes_as_ever(
    tiny: Path, hpm: Callable[..., int], forks: Forks, same_end: Callable[[Path], None]
) -> None:
    bindings = ["Schedule.masks_per_image = 2", "Schedule.epochs = 1", "Schedule.warmup_epochs = 0"]
    bindings += ["HorizonDecay.fraction = 0.2", "Checkpointing.every = 10", "Monitoring.log_every = 1"]
    words = [word for text in (*bindings, "Curriculum.scheduler = @Constant()") for word in ("-b", text)]
    words += ["-b", "Constant.value = 0.5"]
    assert hpm("pretrain", tiny, *words, "--output", "alone") == 0
    same_end(Path("alone"))
    ran = forks.run("hpm", "pretrain", tiny, *words, "--output", "both", processes=2)
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
