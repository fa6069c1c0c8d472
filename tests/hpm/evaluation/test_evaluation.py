"""Protocols against other people's implementations, and what every evaluation must keep."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from curriculum.diagnostics import spearman
from hpm.data import ImageFolder, RandomResizedCrop
from hpm.evaluation import KNN, Agreement, Evaluation, EvaluationContext, LowShot, classifier, extract, knn_predict
from hpm.evaluation.few_labels import draw_labels
from hpm.optim.param_groups import layer_groups
from hpm.visualization.picture import picture

EVALUATIONS = [
    KNN(k=5, train_images=200, test_images=60, baselines=True),
    LowShot(labels=20, draws=2, epochs=2, batch_size=10, test_images=60),
    Agreement(images=40),
]


def test_knn_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(300, 8)), rng.normal(size=(100, 8))
    labels = rng.integers(0, 4, size=300)
    train += np.eye(4, 8)[labels] * 1.5
    theirs = KNeighborsClassifier(
        n_neighbors=15, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
    ).fit(train, labels)
    ours = knn_predict(
        torch.tensor(train), torch.tensor(labels), torch.tensor(test), k=15, temperature=0.07, num_classes=4
    )
    assert ours.tolist() == theirs.predict(test).tolist()


def test_knn_votes_survive_a_small_temperature() -> None:
    """The nearest neighbor decides, as it must in the limit; no class 0 exists."""
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(200, 64, generator=generator), torch.randn(50, 64, generator=generator)
    labels = torch.randint(1, 4, (200,), generator=generator)
    nearest = knn_predict(train, labels, test, k=1, temperature=1.0, num_classes=4)
    assert torch.equal(knn_predict(train, labels, test, k=5, temperature=1e-5, num_classes=4), nearest)


def test_spearman_against_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(6, 20, generator=generator)
    other = (one + torch.randn(6, 20, generator=generator)).mul(2).round()  # with ties
    expected = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert spearman(one, other).tolist() == pytest.approx(expected)
    assert spearman(torch.ones(1, 5), torch.arange(5.0).unsqueeze(0)).isnan().all()


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_the_classifier_is_timms_and_has_our_features(context: EvaluationContext, pool: str) -> None:
    vit = classifier(context.model, 10, pool=pool).eval()
    images = context.source.load(context.source.test(), torch.arange(8))
    with torch.no_grad():
        tokens = vit.forward_features(images)
        latent = context.model.encoder(images)
        if pool == "token":
            torch.testing.assert_close(tokens, latent, rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(vit.fc_norm(tokens), latent, rtol=1e-5, atol=1e-5)
        assert not vit(images).any()  # a head of zeros


def test_extract(context: EvaluationContext) -> None:
    split, indices = context.source.test(), torch.tensor([5, 3, 8])
    latent = context.model.encoder(context.source.load(split, indices)).detach()
    arguments = {"device": context.device, "batch_size": 2}
    mean = extract(context.model.encoder, context.source, split, indices, pool="mean", **arguments)  # type: ignore[arg-type]
    token = extract(context.model.encoder, context.source, split, indices, pool="token", **arguments)  # type: ignore[arg-type]
    torch.testing.assert_close(mean, latent[:, 1:].mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(token, latent[:, 0], rtol=1e-4, atol=1e-5)


def test_labels_are_drawn_evenly_and_repeatably() -> None:
    labels = torch.arange(3).repeat(50)
    drawn = draw_labels(labels, 7, 3, seed=4)
    assert torch.bincount(labels[drawn]).tolist() == [7, 7, 7]
    assert len(set(drawn.tolist())) == 21
    assert torch.equal(drawn, draw_labels(labels, 7, 3, seed=4))
    assert not torch.equal(drawn, draw_labels(labels, 7, 3, seed=5))


def test_layer_decay(context: EvaluationContext) -> None:
    vit = classifier(context.model, 10, pool="mean")
    groups = layer_groups(vit, lr=1.0, layer_decay=0.5, weight_decay=0.05)
    rates = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(rates) == sum(1 for _ in vit.parameters())
    assert rates[id(vit.head.weight)] == rates[id(vit.fc_norm.weight)] == 1.0
    assert rates[id(vit.blocks[1].mlp.fc1.weight)] == 0.5
    assert rates[id(vit.blocks[0].attn.qkv.bias)] == 0.25
    assert rates[id(vit.patch_embed.proj.weight)] == rates[id(vit.cls_token)] == 0.125


@pytest.mark.parametrize("evaluation", EVALUATIONS, ids=lambda e: type(e).__name__)
def test_repeats_and_leaves_everything_as_it_was(context: EvaluationContext, evaluation: Evaluation) -> None:
    evaluation.check(context.source, context.model)
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    first = evaluation(context)
    assert evaluation(context) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert context.model.training
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())
    assert all(parameter.grad is None for parameter in context.model.parameters())
    assert all(np.isfinite(value) for value in first.values())


def test_metrics_have_their_names(context: EvaluationContext) -> None:
    metrics = {name: value for evaluation in EVALUATIONS for name, value in evaluation(context).items()}
    names = "knn/pretrained knn/initialization knn/raw_pixels low_shot/pretrained low_shot/scratch low_shot/raw_pixels"
    assert set(f"{names} low_shot/gain agreement/teacher agreement/student".split()) <= metrics.keys()
    assert metrics["low_shot/pretrained"] == pytest.approx(
        (metrics["low_shot/pretrained/draw0"] + metrics["low_shot/pretrained/draw1"]) / 2
    )


def test_low_shot_from_the_same_weights_is_the_same(context: EvaluationContext) -> None:
    """Pre-trained and from scratch differ in nothing but the weights (and the rates they are given)."""
    evaluation = LowShot(labels=20, epochs=3, batch_size=10, test_images=60, lr=1e-3, layer_decay=1.0)
    metrics = evaluation(dataclasses.replace(context, initial=lambda: context.model, pretraining=None))
    assert metrics["low_shot/gain"] == 0


def test_low_shot_learns(colors: EvaluationContext) -> None:
    metrics = LowShot(labels=100, epochs=60, batch_size=20)(colors)
    assert metrics["low_shot/pretrained"] > 0.9
    assert metrics["low_shot/raw_pixels"] > 0.9


def test_agreement_of_an_oracle(context: EvaluationContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A predictor that says minus the true loss agrees at -1."""
    from curriculum import TrueLoss

    monkeypatch.setattr(TrueLoss, "__call__", lambda self, batch, teacher, **_: -teacher.predicted_loss(batch.images))
    assert Agreement(images=20)(context)["agreement/teacher"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (lambda: KNN(k=0), "KNN.k = 0"),
        (lambda: KNN(pool="max"), "KNN.pool = 'max'"),
        (lambda: KNN(temperature=0), "KNN.temperature = 0"),
        (lambda: LowShot(labels=10), "LowShot.batch_size = 50"),
        (lambda: LowShot(lr=0), "LowShot.lr = 0"),
        (lambda: LowShot(weight_decay=-1), "LowShot.weight_decay = -1"),
        (lambda: LowShot(flip=2), "LowShot.flip = 2"),
        (lambda: LowShot(scale=(0, 1)), "LowShot.scale = "),
        (lambda: Agreement(images=0), "Agreement.images = 0"),
    ],
)
def test_refuses(evaluation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation()  # type: ignore[operator]


def test_refuses_data_that_cannot_serve(context: EvaluationContext, tmp_path: Path) -> None:
    source, model = context.source, context.model
    with pytest.raises(ValueError, match=r"LowShot.labels = 2000 .* choose 10 to"):
        LowShot(labels=2000).check(source, model)
    with pytest.raises(ValueError, match=r"LowShot.batch_size = 55 is more than the 50 images"):
        LowShot(labels=55, batch_size=55).check(source, model)
    with pytest.raises(ValueError, match=r"KNN.k = 500 is more than the 400"):
        KNN(k=500).check(source, model)
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a.png")
    with pytest.raises(ValueError, match="KNN needs labels"):
        KNN(k=1).check(ImageFolder(root=str(tmp_path), img_size=16), model)


def test_unknown_pools_are_refused(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match=r"classifier.pool = 'max'"):
        classifier(context.model, 10, pool="max")
    split = context.source.test()
    with pytest.raises(ValueError, match=r"extract.pool = 'max'"):
        extract(context.model.encoder, context.source, split, torch.arange(2), pool="max", device=context.device)


@pytest.mark.parametrize("predictor", [True, False])
def test_picture(context: EvaluationContext, tmp_path: Path, predictor: bool) -> None:
    if not predictor:
        context.model.loss_predictor = context.teacher.model.loss_predictor = None
    state = torch.get_rng_state()
    path = picture(context, tmp_path / "picture.png", images=3, name="run$_$1")
    assert torch.equal(torch.get_rng_state(), state)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] >= 120 * 1.5 * (5 if predictor else 4)
    assert pixels.std() > 20
    before = path.read_bytes()
    assert picture(context, path, images=3, name="run$_$1").read_bytes() == before


def test_evaluation_crops_are_light() -> None:
    assert isinstance(LowShot().crop, RandomResizedCrop)
    assert LowShot().crop.flip == 0.0  # a mirrored digit is another digit, or none
