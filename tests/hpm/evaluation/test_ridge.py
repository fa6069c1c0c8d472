"""The ridge probe against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hpm.evaluation import EvaluationContext, Ridge
from hpm.evaluation.frozen_probe import Labelled
from hpm.evaluation.ridge import classify, ridge


def features(count: int = 600) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, size=count)
    mixing = rng.normal(size=(12, 12))
    return torch.tensor((rng.normal(size=(count, 12)) + np.eye(5, 12)[labels]) @ mixing), torch.tensor(labels)


def test_the_regression_is_scikit_learns() -> None:
    x_ND, y_N = features()
    strengths = (0.1, 10.0, 1000.0)
    ours = ridge(x_ND, y_N, strengths, num_classes=5)
    for solution, strength in zip(ours, strengths, strict=True):
        theirs = RidgeClassifier(alpha=strength).fit(x_ND.numpy(), y_N.numpy())
        # Its targets are -1 and 1, ours 0 and 1.
        np.testing.assert_allclose(2 * solution[:-1].T.numpy(), theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(2 * solution[-1].numpy() - 1, theirs.intercept_, atol=1e-8)
        assert classify(x_ND, solution).tolist() == theirs.predict(x_ND.numpy()).tolist()


def test_the_probe_is_scikit_learns_at_the_strength_that_validation_chooses() -> None:
    x_ND, y_N = features()
    train, validation, test_MD = Labelled(x_ND[:320], y_N[:320]), Labelled(x_ND[320:400], y_N[320:400]), x_ND[400:]
    scaler = StandardScaler().fit(train.features_ND.numpy())
    strengths = (0.1, 100.0, 10000.0)
    theirs = [RidgeClassifier(alpha=s).fit(scaler.transform(train.features_ND), train.labels_N) for s in strengths]
    scores = [one.score(scaler.transform(validation.features_ND), validation.labels_N) for one in theirs]
    fitted = Ridge(strengths=strengths).fit(train, validation, num_classes=5, device=torch.device("cpu"))
    best = theirs[int(np.argmax(scores))]
    assert fitted(test_MD)[""].tolist() == best.predict(scaler.transform(test_MD.numpy())).tolist()


def test_it_repeats_and_has_its_metrics(context: EvaluationContext) -> None:
    evaluation = Ridge(train_images=100, test_images=40, baselines=True)
    metrics = evaluation(context)
    assert set(metrics) == {"ridge/pretrained", "ridge/initialization", "ridge/raw_pixels"}
    assert evaluation(context) == metrics
    assert metrics["ridge/raw_pixels"] > 0.2  # ten classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strengths": ()}, r"Ridge.strengths = \(\)"),
        ({"strengths": (1.0, 0.0)}, "Ridge.strengths"),
        ({"train_images": 0}, "Ridge.train_images = 0 must be at least 1"),
        ({"pool": "max"}, "Ridge.pool = 'max'"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ridge(**arguments)
