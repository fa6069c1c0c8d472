from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from curriculum import Batch, EdgeDensity, Noise, Random, TrueLoss, count_masked
from curriculum.hardness import not_blank
from hpm.evaluation import Agreement, EvaluationContext

NAMES = [
    "agreement/teacher",
    "agreement/teacher_top",
    "agreement/student",
    "agreement/student_top",
    "agreement/teacher_not_blank",
    "agreement/position",
    "agreement/position_not_blank",
    "agreement/edges",
    "agreement/edges_not_blank",
]


def loaded(context: EvaluationContext, images: int) -> tuple[Batch, Noise]:
    """The first test images, as the evaluation sees them where it is given all 120 of them."""
    indices = torch.arange(images)
    batch = Batch(context.source.load(context.source.test(), indices), context.model.patch_size)
    return batch, Noise(context.seed, 0, indices)


def share_in_common(one: torch.Tensor, other: torch.Tensor, k: int) -> float:
    tops = [[set(row.topk(k).indices.tolist()) for row in values] for values in (one, other)]
    return sum(len(a & b) / k for a, b in zip(*tops, strict=True)) / len(one)


@torch.no_grad()
def test_each_image_by_hand(context: EvaluationContext) -> None:
    """16 patches, 12 of them masked: a quarter is 4 and 3."""
    metrics = Agreement(images=120)(context)
    batch, noise = loaded(context, 120)
    true_NL = TrueLoss.covering(16, 12)(batch, context.teacher, num_masked=12, noise=noise)
    predicted_NL = context.teacher.predicted_loss(batch.images)
    mask = Random()(None, alpha=0.0, num_masked=count_masked(16, 0.75), grid=(4, 4), noise=noise)
    output = context.model(batch.images, mask)
    true_NM = context.target.loss(output.reconstruction_NMP, context.target(batch.images, mask, 4))
    assert output.predicted_loss_NM is not None
    edges_NL = EdgeDensity()(batch, None, num_masked=12, noise=noise)
    position_NL = torch.stack([torch.cat([true_NL[:n], true_NL[n + 1 :]]).mean(dim=0) for n in range(120)])
    shown_NL = not_blank(batch)
    assert 0 < (~shown_NL).sum() < shown_NL.numel()
    for whose, predicted in (("teacher", predicted_NL), ("position", position_NL), ("edges", edges_NL)):
        for among, chosen in (("", torch.ones_like(shown_NL)), ("_not_blank", shown_NL)):
            rho = [
                scipy.stats.spearmanr(a[some], b[some]).statistic
                for a, b, some in zip(predicted, true_NL, chosen, strict=True)
            ]
            assert metrics[f"agreement/{whose}{among}"] == pytest.approx(np.nanmean(rho), abs=1e-4), whose
    for whose, predicted, true, k in (
        ("teacher", predicted_NL, true_NL, 4),
        ("student", output.predicted_loss_NM, true_NM, 3),
    ):
        rho = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(predicted, true, strict=True)]
        assert metrics[f"agreement/{whose}"] == pytest.approx(sum(rho) / 120, abs=1e-6)
        assert metrics[f"agreement/{whose}_top"] == pytest.approx(share_in_common(predicted, true, k), abs=1e-6)


def test_an_untrained_predictor_agrees_by_chance_and_an_oracle_in_full(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Agreement(images=120)(context)
    assert list(metrics) == NAMES
    assert metrics["agreement/teacher_top"] == pytest.approx(4 / 16, abs=0.15)
    monkeypatch.setattr(TrueLoss, "__call__", lambda self, batch, teacher, **_: teacher.predicted_loss(batch.images))
    oracle = Agreement(images=120)(context)
    assert oracle["agreement/teacher"] == oracle["agreement/teacher_not_blank"] == pytest.approx(1)
    assert oracle["agreement/teacher_top"] == pytest.approx(1)
    assert oracle["agreement/student_top"] == metrics["agreement/student_top"]


def test_a_larger_top_is_easier_to_agree_on(context: EvaluationContext) -> None:
    few, many = (Agreement(images=60, top=top)(context) for top in (0.1, 0.9))
    assert few["agreement/teacher"] == many["agreement/teacher"]
    assert few["agreement/teacher_top"] < many["agreement/teacher_top"]
    assert many["agreement/teacher_top"] >= (2 * 14 - 16) / 14  # two sets of 14 of 16 share 12 or more


def test_a_predictor_that_is_constant_agrees_by_chance(context: EvaluationContext) -> None:
    head = context.teacher.model.loss_predictor.head  # type: ignore[union-attr]
    torch.nn.init.zeros_(head.weight)
    metrics = Agreement(images=20)(context)
    assert metrics["agreement/teacher_top"] == pytest.approx(4 / 16)
    assert "agreement/teacher" not in metrics  # there is no correlation


def test_one_image_has_no_other_to_be_told_positions_by(context: EvaluationContext) -> None:
    metrics = Agreement(images=1)(context)
    assert not [name for name in metrics if "position" in name]
    assert all(math.isfinite(value) for value in metrics.values())


def test_nothing_is_measured_without_a_predictor(context: EvaluationContext) -> None:
    context.model.loss_predictor = None
    assert Agreement()(context) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"images": 0}, "Agreement.images = 0"), ({"top": 0.0}, "Agreement.top = 0.0"), ({"top": 1.0}, "Agreement.top")],
)
def test_refuses(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agreement(**arguments)  # type: ignore[arg-type]
