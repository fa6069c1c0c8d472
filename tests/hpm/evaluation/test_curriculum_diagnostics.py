from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from curriculum import (
    Batch,
    Cached,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    LossMemory,
    Mixture,
    Noise,
    ObjectShare,
    Parts,
    Quotas,
    Ramp,
    Random,
    Residual,
    Sampler,
    Scheduler,
    TrueLoss,
    Uniform,
)
from hpm.data import ImageFolder
from hpm.errors import Notice
from hpm.evaluation import Diagnostics, EvaluationContext
from hpm.methods.teacher import EMATeacher
from hpm.targets import Pixels

ALWAYS = {
    "curriculum/alpha",
    "curriculum/coverage_max",
    "curriculum/coverage_min",
    "curriculum/hardness_gap",
    "curriculum/hardness_gap_relative",
    "curriculum/mask_entropy",
}
OBJECT = {"curriculum/object_overlap", "curriculum/object_overlap_to_chance"}


def under(
    context: EvaluationContext,
    *,
    scheduler: Scheduler,
    difficulty: DifficultyEstimator | None = None,
    sampler: Sampler | None = None,
    polarity: str = "hardest",
) -> EvaluationContext:
    """The same model under another curriculum, reconstructing raw pixels, whose losses differ from patch to patch."""
    curriculum = Curriculum(
        scheduler=scheduler,
        difficulty=difficulty or EdgeDensity(),
        sampler=sampler or HardestFirst(),
        polarity=polarity,
    )
    teacher = EMATeacher(context.model, Pixels())
    return replace(context, curriculum=curriculum, target=Pixels(), teacher=teacher)


def test_at_alpha_0_masks_are_uniform(context: EvaluationContext) -> None:
    metrics = Diagnostics(images=120)(under(context, scheduler=Constant(value=0.0)))
    assert metrics.keys() == ALWAYS | OBJECT
    assert metrics["curriculum/alpha"] == metrics["curriculum/hardness_gap"] == 0
    assert metrics["curriculum/hardness_gap_relative"] == 0
    assert metrics["curriculum/mask_entropy"] > 0.98
    assert metrics["curriculum/coverage_min"] < 0.75 < metrics["curriculum/coverage_max"]
    assert metrics["curriculum/object_overlap_to_chance"] == pytest.approx(1, abs=0.02)


def test_the_hardest_patches_cost_more_and_the_easiest_less(context: EvaluationContext) -> None:
    hardest, easiest = (
        Diagnostics(images=120)(
            under(context, scheduler=Constant(value=1.0), difficulty=TrueLoss.covering(16, 12), polarity=polarity)
        )
        for polarity in ("hardest", "easiest")
    )
    assert hardest["curriculum/hardness_gap"] > 0.1 > 0 > easiest["curriculum/hardness_gap"]
    uniform = hardest["curriculum/hardness_gap"] / hardest["curriculum/hardness_gap_relative"]
    assert uniform == pytest.approx(easiest["curriculum/hardness_gap"] / easiest["curriculum/hardness_gap_relative"])
    assert hardest["curriculum/hard_share"] == 1
    assert easiest["curriculum/hard_share"] == pytest.approx(8 / 12)  # 4 of the 12 hardest are all that is left visible


def test_edges_lead_to_the_digit(context: EvaluationContext) -> None:
    metrics = Diagnostics(images=120)(under(context, scheduler=Constant(value=1.0)))
    assert metrics["curriculum/object_overlap_to_chance"] > 1.15
    assert metrics["curriculum/object_overlap_to_chance"] <= 16 / 12


def test_no_opinion_is_as_good_as_uniform(context: EvaluationContext) -> None:
    metrics = Diagnostics(images=120)(under(context, scheduler=Constant(value=1.0), difficulty=Uniform()))
    assert metrics["curriculum/hard_share"] == pytest.approx(12 / 16)
    assert metrics["curriculum/mask_entropy"] > 0.98


@pytest.mark.parametrize(("progress", "alpha"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5)])
def test_masks_are_drawn_at_the_progress_asked_for(context: EvaluationContext, progress: float, alpha: float) -> None:
    evaluation = Diagnostics(images=60, progress=progress)
    metrics = evaluation(under(context, scheduler=Ramp(start=0.0, end=0.5)))
    assert metrics["curriculum/alpha"] == pytest.approx(alpha)
    assert ("curriculum/hard_share" in metrics) == (alpha > 0)
    fixed = Diagnostics(images=60)(under(context, scheduler=Constant(value=alpha)))
    assert metrics == pytest.approx(fixed)


def test_numbers_of_parts_have_no_hard_share(context: EvaluationContext) -> None:
    curriculum = under(context, scheduler=Constant(value=1.0), difficulty=Parts(parts=3), sampler=Quotas(parts=3))
    metrics = Diagnostics()(curriculum)
    assert metrics.keys() >= ALWAYS
    assert "curriculum/hard_share" not in metrics


@pytest.mark.parametrize(
    "difficulty",
    [
        LossMemory(),
        ObjectShare(),
        Cached(estimator=EdgeDensity()),
        Mixture(estimators=[LossMemory(), EdgeDensity()]),
        Residual(estimator=LossMemory()),
    ],
)
def test_what_knows_training_images_alone_masks_no_others(
    context: EvaluationContext, difficulty: DifficultyEstimator
) -> None:
    context = under(context, scheduler=Ramp(start=0.0, end=1.0), difficulty=difficulty)
    with pytest.warns(
        Notice, match=f"{type(difficulty).__name__} scores images of a training run alone: Diagnostics draw no"
    ):
        assert Diagnostics()(context) == {"curriculum/alpha": 0.25}
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)  # told once
        Diagnostics()(context)
        assert Diagnostics(progress=0.0)(context).keys() >= ALWAYS  # masks are random, and need no scores


def test_coverage_is_that_of_the_masks_drawn(context: EvaluationContext) -> None:
    context = under(context, scheduler=Constant(value=0.5))
    metrics = Diagnostics(images=120)(context)
    indices = torch.arange(120)
    batch = Batch(context.source.load(context.source.test(), indices), 4)
    mask = context.curriculum.draw(batch, context.teacher, 1.0, Noise(context.seed, 0, indices))
    coverage_L = mask.to_bool().float().mean(dim=0)
    assert metrics["curriculum/coverage_min"] == pytest.approx(coverage_L.min().item())
    assert metrics["curriculum/coverage_max"] == pytest.approx(coverage_L.max().item())


def test_repeats_and_leaves_everything_as_it_was(context: EvaluationContext) -> None:
    context.curriculum.scores = before = torch.zeros(2, 16)
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    evaluation = Diagnostics(images=40)
    evaluation.check(context.source, context.model)
    assert evaluation(context) == evaluation(context)
    assert torch.equal(torch.get_rng_state(), state)
    assert context.curriculum.scores is before
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())


def test_data_that_do_not_know_the_object(context: EvaluationContext, tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / split / "a"
        folder.mkdir(parents=True)
        for name in range(3):
            Image.new("RGB", (16, 16), (40 * name, 9, 200)).save(folder / f"{name}.png")
    source = ImageFolder(root=str(tmp_path), img_size=16)
    evaluation = Diagnostics()
    evaluation.check(source, context.model)
    metrics = evaluation(replace(context, source=source))
    assert metrics.keys() - {"curriculum/hard_share"} == ALWAYS


def test_random_masks_need_no_teacher(context: EvaluationContext) -> None:
    metrics = Diagnostics(images=40)(under(context, scheduler=Constant(value=1.0), sampler=Random()))
    assert metrics.keys() == ALWAYS | OBJECT
    assert metrics["curriculum/hardness_gap"] == 0


def test_as_a_probe_it_changes_nothing(hpm: Callable[..., int], tiny: Path, tmp_path: Path) -> None:
    rows = {}
    for name, probes in (("with", "[@Diagnostics()]"), ("without", "[]")):
        bindings = (
            "-b",
            "Schedule.epochs = 2",
            "-b",
            "Monitoring.probe_every = 1",
            "-b",
            f"Monitoring.probes = {probes}",
        )
        assert hpm("pretrain", tiny, *bindings, "--output", tmp_path / name) == 0
        rows[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
    losses = {name: [row["loss"] for row in own if row["kind"] == "train"] for name, own in rows.items()}
    assert losses["with"] == losses["without"]
    (probe,) = [row for row in rows["with"] if row["kind"] == "probe"]  # after each epoch but the last
    assert probe.keys() >= {f"validation/{name}" for name in ALWAYS | OBJECT | {"curriculum/hard_share"}}
    assert not probe.keys() & ALWAYS  # the test images are for the end
    assert probe["validation/curriculum/alpha"] == pytest.approx(0.25)  # that of the epoch that ends


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "Diagnostics.images = 0"),
        ({"progress": -0.1}, "Diagnostics.progress = -0.1 must lie"),
        ({"progress": 1.1}, "Diagnostics.progress = 1.1 must lie"),
    ],
)
def test_refuses(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Diagnostics(**arguments)  # type: ignore[arg-type]
