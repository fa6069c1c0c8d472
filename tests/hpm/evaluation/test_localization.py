from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from hpm.data import DigitScenes, ImageFolder
from hpm.evaluation import EvaluationContext, Localization
from hpm.methods.teacher import StudentTeacher

METRICS = ("auroc", "average_precision", "pointing_game")
OF_A_MODEL = ("predicted_loss", "true_loss", "attention", "features")


def names(*scores: str) -> set[str]:
    return {"localization/object_share"} | {f"localization/{name}/{metric}" for name in scores for metric in METRICS}


@pytest.fixture(scope="module")
def empty_source() -> DigitScenes:
    """Nothing but digits."""
    return DigitScenes(img_size=16, train_size=10, test_size=120, clutter=0, background=0.0)


def test_the_object_map_is_where_the_strokes_are(source: DigitScenes) -> None:
    indices = torch.tensor([7, 3, 90])
    object_NL = source.object_map(source.test(), indices, patch_size=4)
    strokes_NSS = source.object_masks(source.test(), indices)
    for image, strokes_SS in enumerate(strokes_NSS):
        for patch in range(16):
            top, left = patch // 4 * 4, patch % 4 * 4
            covered = strokes_SS[top : top + 4, left : left + 4].float().mean().item()
            assert bool(object_NL[image, patch]) == (covered >= 0.1)


def test_each_image_by_scikit_learn(context: EvaluationContext, source: DigitScenes) -> None:
    metrics = Localization(images=120)(context)
    indices = torch.arange(120)
    object_NL = source.object_map(source.test(), indices, patch_size=4)
    telling = [i for i in range(120) if 0 < object_NL[i].sum() < 16]
    images = source.load(source.test(), indices)
    for name, scores_NL in (
        ("teacher/predicted_loss", context.teacher.predicted_loss(images)),
        ("student/attention", context.model.attention(images).mean(dim=1).detach()),
    ):
        pairs = [(object_NL[i].numpy(), scores_NL[i].numpy()) for i in telling]
        area = sum(roc_auc_score(*pair) for pair in pairs) / len(pairs)
        precision = sum(average_precision_score(*pair) for pair in pairs) / len(pairs)
        assert metrics[f"localization/{name}/auroc"] == pytest.approx(area, abs=1e-5)
        assert metrics[f"localization/{name}/average_precision"] == pytest.approx(precision, abs=1e-5)
        hits = sum(bool(on[scores.argmax()]) for on, scores in pairs) / len(pairs)
        assert metrics[f"localization/{name}/pointing_game"] == pytest.approx(hits)
    share = object_NL[telling].float().mean().item()
    assert metrics["localization/object_share"] == pytest.approx(share, abs=1e-6)


def test_edges_find_a_digit_on_black_and_chance_does_not(context: EvaluationContext, empty_source: DigitScenes) -> None:
    metrics = Localization(images=120)(replace(context, source=empty_source))
    assert metrics.keys() == names(
        *(f"{whose}/{name}" for whose in ("teacher", "student") for name in OF_A_MODEL),
        "pixels",
        "edge_density",
        "center",
        "random",
    )
    assert metrics["localization/edge_density/auroc"] > 0.95
    assert metrics["localization/edge_density/pointing_game"] > 0.98
    assert metrics["localization/random/auroc"] == pytest.approx(0.5, abs=0.04)
    share = metrics["localization/object_share"]
    assert metrics["localization/random/pointing_game"] == pytest.approx(share, abs=0.12)
    assert 0.5 < metrics["localization/center/auroc"] < metrics["localization/edge_density/auroc"]


def test_student_and_teacher_are_measured_apart(context: EvaluationContext) -> None:
    """The average is a copy of the student until it moves."""
    metrics = Localization(images=40)(context)
    for name in OF_A_MODEL:
        assert metrics[f"localization/student/{name}/auroc"] == metrics[f"localization/teacher/{name}/auroc"]
    context.model.init_weights(torch.Generator().manual_seed(5))
    changed = Localization(images=40)(context)
    for name in OF_A_MODEL:
        assert changed[f"localization/teacher/{name}/auroc"] == metrics[f"localization/teacher/{name}/auroc"]
        assert changed[f"localization/student/{name}/auroc"] != metrics[f"localization/student/{name}/auroc"]


def test_what_a_model_does_not_have_is_not_measured(context: EvaluationContext) -> None:
    teacher = StudentTeacher(context.model, context.target)
    context = replace(context, teacher=teacher)
    assert Localization(images=10)(context).keys() == names(
        *(f"student/{name}" for name in OF_A_MODEL), "pixels", "edge_density", "center", "random"
    )
    context.model.loss_predictor = None
    assert Localization(images=10)(context).keys() == names(
        "student/true_loss", "student/attention", "student/features", "pixels", "edge_density", "center", "random"
    )


def test_repeats_and_leaves_everything_as_it_was(context: EvaluationContext) -> None:
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    evaluation = Localization(images=30)
    evaluation.check(context.source, context.model)
    assert evaluation(context) == evaluation(context)
    assert torch.equal(torch.get_rng_state(), state)
    assert context.model.training
    assert all(parameter.requires_grad for parameter in context.model.encoder.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())


def test_data_that_do_not_know_the_object_are_refused(context: EvaluationContext, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a" / "a.png")
    source = ImageFolder(root=str(tmp_path), img_size=16)
    assert not source.knows_objects
    assert source.object_map(source.test(), torch.arange(1), patch_size=4) is None
    with pytest.raises(ValueError, match=r"Localization needs data that know .* ImageFolder does not; use DigitScenes"):
        Localization().check(source, context.model)


def test_a_run_is_measured_at_its_end_with_edges_as_its_curriculum(
    hpm: Callable[..., int], tiny: Path, tmp_path: Path
) -> None:
    arguments = [
        "Monitoring.evaluations = [@Localization(), @Diagnostics()]",
        "Curriculum.difficulty = @EdgeDensity()",
        "Schedule.epochs = 2",
        "Localization.images = 40",
    ]
    bindings = [word for binding in arguments for word in ("-b", binding)]
    assert hpm("pretrain", tiny, *bindings, "--output", tmp_path / "run") == 0
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert metrics["localization/edge_density/auroc"] > 0.7
    assert metrics["curriculum/object_overlap_to_chance"] > 1


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"Localization.images = 0 must be at least 1"):
        Localization(images=0)
