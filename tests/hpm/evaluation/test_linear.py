"""Linear probes: logistic regression against scikit-learn's, and MAE's protocol."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from hpm.evaluation import EvaluationContext, Linear, LinearMAE
from hpm.evaluation.frozen_probe import Labelled
from hpm.evaluation.linear import classify, logistic_regression
from hpm.evaluation.linear_mae import build_head, build_optimizer

QUICK = {"epochs": 3, "batch_size": 100, "accumulate": 2, "warmup_epochs": 1, "precision": "fp32", "test_images": 60}


def features(count: int = 900) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, size=count)
    mixing = rng.normal(size=(12, 12))
    return torch.tensor((rng.normal(size=(count, 12)) + np.eye(5, 12)[labels]) @ mixing), torch.tensor(labels)


@pytest.mark.parametrize("strength", [0.3, 30.0, 3000.0])
def test_the_regression_is_scikit_learns(strength: float) -> None:
    x_ND, y_N = features()
    theirs = LogisticRegression(C=1 / strength, max_iter=5000, tol=1e-8).fit(x_ND.numpy(), y_N.numpy())
    ours = logistic_regression(x_ND, y_N, num_classes=5, strength=strength, iterations=1000, tolerance=1e-7)
    np.testing.assert_allclose(ours[:, :-1].numpy(), theirs.coef_, atol=2e-4)
    # Biases are free up to a constant: neither penalizes them.
    np.testing.assert_allclose((ours[:, -1] - ours[:, -1].mean()).numpy(), theirs.intercept_, atol=2e-4)
    assert classify(x_ND, ours).tolist() == theirs.predict(x_ND.numpy()).tolist()


def test_a_start_changes_the_way_not_the_end() -> None:
    x_ND, y_N = features()
    strong = logistic_regression(x_ND, y_N, num_classes=5, strength=100.0)
    cold, warm = (
        logistic_regression(x_ND, y_N, num_classes=5, strength=1.0, start=start, iterations=1000, tolerance=1e-7)
        for start in (None, strong)
    )
    torch.testing.assert_close(cold[:, :-1], warm[:, :-1], atol=1e-4, rtol=0)


def soft(count: int = 300) -> tuple[Tensor, Tensor]:
    """Shares of three classes: of one, of two, and of rows of which only a part counts."""
    x_ND, y_N = features(count)
    shares_NC = torch.nn.functional.one_hot(y_N % 3, 3).double()
    shares_NC[::3] = torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64)
    shares_NC[1::5] *= 0.25
    shares_NC[2::7] = 0.0
    return x_ND, shares_NC


def test_shares_of_one_class_each_are_labels() -> None:
    x_ND, y_N = features()
    settings = {"num_classes": 5, "strength": 3.0}
    torch.testing.assert_close(
        logistic_regression(x_ND, torch.nn.functional.one_hot(y_N, 5).double(), **settings),
        logistic_regression(x_ND, y_N, **settings),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("strength", [0.3, 30.0])
def test_shares_are_rows_of_each_class_with_the_shares_as_weights(strength: float) -> None:
    x_ND, shares_NC = soft()
    ours = logistic_regression(x_ND, shares_NC, num_classes=3, strength=strength, iterations=1000, tolerance=1e-8)
    theirs = LogisticRegression(C=1 / strength, max_iter=5000, tol=1e-8).fit(
        x_ND.repeat(3, 1).numpy(), np.repeat([0, 1, 2], len(x_ND)), sample_weight=shares_NC.T.reshape(-1).numpy()
    )
    np.testing.assert_allclose(ours[:, :-1].numpy(), theirs.coef_, atol=2e-4)
    np.testing.assert_allclose((ours[:, -1] - ours[:, -1].mean()).numpy(), theirs.intercept_, atol=2e-4)


@pytest.mark.parametrize("kind", ["labels", "shares"])
def test_the_way_down_is_autograds(kind: str) -> None:
    """The first step of L-BFGS is along the gradient, here from anywhere, in more rows than are taken at a time."""
    x_ND, shares_NC = (rows.repeat(30, 1) for rows in soft())
    y_N = shares_NC.argmax(dim=1) if kind == "labels" else shares_NC
    start = torch.randn(3, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    logits_NC = x_ND @ start[:, :-1].T + start[:, -1]
    loss = torch.nn.functional.cross_entropy(logits_NC, y_N, reduction="sum") + 5.0 * start[:, :-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, start)
    step = logistic_regression(x_ND, y_N, num_classes=3, strength=10.0, start=start.detach(), iterations=1) - start
    cosine = torch.nn.functional.cosine_similarity(-step.flatten(), gradient.flatten(), dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-12)


def predict(evaluation: Linear, train: Labelled, validation: Labelled | None, test_MD: Tensor, classes: int) -> Tensor:
    """What the probe says of test features."""
    fitted = evaluation.fit(train, validation, num_classes=classes, device=torch.device("cpu"))
    return fitted(test_MD)[""]


def test_the_probe_is_scikit_learns_at_the_strength_that_validation_chooses() -> None:
    x_ND, y_N = features(1200)
    train, validation, test_MD = Labelled(x_ND[:720], y_N[:720]), Labelled(x_ND[720:900], y_N[720:900]), x_ND[900:]
    scaler = StandardScaler().fit(train.features_ND.numpy())
    strengths = (0.1, 10.0, 1000.0, 100000.0)
    theirs = [
        LogisticRegression(C=1 / s, max_iter=5000).fit(scaler.transform(train.features_ND), train.labels_N)
        for s in strengths
    ]
    scores = [one.score(scaler.transform(validation.features_ND), validation.labels_N) for one in theirs]
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))  # of equals the strongest
    ours = predict(Linear(strengths=strengths), train, validation, test_MD, 5)
    assert (ours.numpy() == theirs[best].predict(scaler.transform(test_MD))).mean() > 0.99


def test_one_strength_needs_no_validation_images() -> None:
    x_ND, y_N = features()
    evaluation = Linear(strengths=(10.0,))
    assert not evaluation.chooses
    predicted_M = predict(evaluation, Labelled(x_ND[:700], y_N[:700]), None, x_ND[700:], 5)
    assert (predicted_M == y_N[700:]).double().mean() > 0.5


def test_constant_features_and_absent_classes_are_no_trouble() -> None:
    x_ND, y_N = features()
    x_ND = torch.cat([x_ND, torch.full((900, 1), 3.0)], dim=1)
    train, validation = Labelled(x_ND[:600], y_N[:600]), Labelled(x_ND[600:700], y_N[600:700])
    predicted_M = predict(Linear(strengths=(1.0, 10.0)), train, validation, x_ND[700:], 9)
    assert (predicted_M == y_N[700:]).double().mean() > 0.5


def test_linear_repeats_and_none_is_all(context: EvaluationContext) -> None:
    metrics = Linear(train_images=None, test_images=None, baselines=True)(context)
    assert set(metrics) == {"linear/pretrained", "linear/initialization", "linear/raw_pixels"}
    assert metrics == Linear(train_images=400, test_images=120, baselines=True)(context)


def test_lars_is_mae_s() -> None:
    """MAE's own rule, written out: the trust ratio on weights alone, momentum over the scaled gradient."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(6, 3)
    expected = [parameter.detach().clone() for parameter in (linear.weight, linear.bias)]
    velocity = [torch.zeros_like(parameter) for parameter in expected]
    optimizer = build_optimizer("lars", linear, momentum=0.9, weight_decay=0.0)
    for step in range(4):
        gradients = [torch.randn(parameter.shape, generator=generator) for parameter in expected]
        for group in optimizer.param_groups:
            group["lr"] = 6.4 / (step + 1)
        for parameter, gradient in zip((linear.weight, linear.bias), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
        for place, gradient in enumerate(gradients):
            if gradient.ndim > 1:
                gradient = gradient * 0.001 * expected[place].norm() / gradient.norm()
            velocity[place] = 0.9 * velocity[place] + gradient
            expected[place] = expected[place] - 6.4 / (step + 1) * velocity[place]
    torch.testing.assert_close(linear.weight.detach(), expected[0])
    torch.testing.assert_close(linear.bias.detach(), expected[1])


def test_the_head_standardizes_and_starts_small() -> None:
    head = build_head(16, 10, seed=0)
    assert torch.equal(head[1].weight, build_head(16, 10, seed=0)[1].weight)
    assert not list(head[0].parameters())
    assert 0.005 < head[1].weight.std().item() < 0.02
    assert not head[1].bias.any()


@pytest.mark.parametrize("optimizer", ["lars", "sgd"])
def test_linear_mae_touches_nothing_and_repeats(context: EvaluationContext, optimizer: str) -> None:
    evaluation = LinearMAE(optimizer=optimizer, baselines=True, **QUICK)
    evaluation.check(context.source, context.model)
    weights = {name: value.clone() for name, value in context.model.state_dict().items()}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    metrics = evaluation(context)
    assert set(metrics) == {f"linear_mae/{n}{top}" for n in ("pretrained", "initialization") for top in ("", "_top5")}
    assert metrics["linear_mae/pretrained"] <= metrics["linear_mae/pretrained_top5"]
    assert evaluation(context) == metrics
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state[1]).all()  # noqa: NPY002
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())
    assert all(parameter.grad is None for parameter in context.model.parameters())


def test_linear_mae_learns(context: EvaluationContext) -> None:
    """Better than chance on features of random projections, and better with more training."""
    settings = QUICK | {
        "batch_size": 40,
        "accumulate": 1,
        "blr": 1.0,
        "optimizer": "sgd",
        "scale": (0.8, 1.0),
        "flip": 0.0,
        "pool": "mean",
        "test_images": None,
    }
    lines: list[str] = []
    LinearMAE(**settings | {"epochs": 12})(dataclasses.replace(context, report=lines.append))
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.05


def test_linear_mae_goes_on(context: EvaluationContext, tmp_path: Path) -> None:
    whole = LinearMAE(**QUICK)
    expected = whole(dataclasses.replace(context, folder=tmp_path / "whole"))
    folder, lines = tmp_path / "parts", []

    class Killed(Exception): ...

    def kill(line: str) -> None:
        if "epoch 2/3" in line:
            raise Killed

    with pytest.raises(Killed):
        whole(dataclasses.replace(context, folder=folder, report=kill))
    assert whole(dataclasses.replace(context, folder=folder, report=lines.append)) == expected
    assert "going on after epoch 2 of 3" in lines[0]
    one, other = (
        torch.load(tmp_path / name / "linear-mae-pretrained.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert torch.equal(one["trained"]["1.weight"], other["trained"]["1.weight"])
    assert one["epoch"] == other["epoch"] == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(strengths=()), "Linear.strengths"),
        (
            lambda: Linear(strengths=(1.0, 1e13)),
            r"Linear.strengths = \(1.0, 1.*\) must be numbers from 1e-12 to 1e\+12",
        ),
        (lambda: Linear(train_images=0), "Linear.train_images = 0"),
        (lambda: Linear(test_images=0), "Linear.test_images = 0"),
        (lambda: LinearMAE(optimizer="adam"), "LinearMAE.optimizer = 'adam' is unknown; choose 'lars', 'sgd'"),
        (lambda: LinearMAE(batch_size=100, accumulate=3), "LinearMAE.batch_size = 100 must be divisible"),
        (lambda: LinearMAE(batch_size=8, accumulate=8), "cannot be standardized"),
        (lambda: LinearMAE(warmup_epochs=90), "LinearMAE.warmup_epochs = 90"),
        (lambda: LinearMAE(blr=0), "LinearMAE.blr = 0"),
        (lambda: LinearMAE(scale=(0, 1)), "LinearMAE.scale"),
        (lambda: LinearMAE(pool="max"), "LinearMAE.pool = 'max'"),
        (lambda: LinearMAE(precision="fp16"), "LinearMAE.precision = 'fp16' is unknown"),
    ],
)
def test_refuses(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_refuses_data_of_less_than_a_batch(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match=r"LinearMAE.batch_size = 16384 must be 1 to 400, the number of"):
        LinearMAE().check(context.source, context.model)
