"""What a contrast is made of: read directly, on features where the answer is known, and on data that know no object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from curriculum import Mask, Noise, Random
from curriculum.sizes import Size
from hpm.data import DigitScenes, ImageFolder
from hpm.errors import Notice
from hpm.evaluation import EvaluationContext, Negatives
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.metrics import DECLARED
from hpm.targets import PatchContrast, Target


@pytest.fixture
def contrasting(context: EvaluationContext) -> Callable[[Target], EvaluationContext]:
    """The tiny model under a target."""

    def under(target: Target) -> EvaluationContext:
        method = Method(model=context.model, curriculum=context.curriculum, target=target, ema_decay=HorizonDecay())
        method.initialize(torch.device("cpu"), autocast=None, seed=0)
        return dataclasses.replace(context, target=target, teacher=method.teacher)

    return under


@torch.no_grad()
@pytest.mark.parametrize("negatives", ["image", "masked"])
def test_each_image_by_hand(
    contrasting: Callable[[Target], EvaluationContext], source: DigitScenes, negatives: str
) -> None:
    """16 patches, 12 of them masked: a fifth of 15 negatives is 3, of 11 it is 2."""
    context = contrasting(PatchContrast(negatives=negatives))
    metrics = Negatives(images=30, hardest=0.2)(context)
    assert list(metrics) == [metric.pattern for metric in DECLARED["negatives"]]
    indices = torch.arange(120)[torch.randperm(120, generator=torch.Generator().manual_seed(0))[:30].sort().values]
    images = source.load(source.test(), indices)
    object_NL = source.object_map(source.test(), indices, patch_size=4)
    mask = Random()(None, alpha=0.0, num_masked=12, grid=(4, 4), noise=Noise(0, 0, indices))
    predictions, features = context.model.reconstruct(images, mask), context.teacher.features(images)
    means: dict[str, list[float]] = {}
    for n in range(30):
        masked = mask.masked[n].tolist()
        alike: list[float] = []
        positives, above, chance, hardest = [], [], [], []
        for i, patch in enumerate(masked):
            cosines = torch.cosine_similarity(predictions[n, i], features[n], dim=1).tolist()
            others = [j for j in (range(16) if negatives == "image" else masked) if j != patch]
            positives.append(cosines[patch])
            alike += [cosines[j] for j in others]
            above += [cosines[j] > cosines[patch] for j in others]
            if object_NL[n, patch]:
                chance.append(np.mean([bool(object_NL[n, j]) for j in others]))
                first = sorted(others, key=lambda j: -cosines[j])[: round(0.2 * len(others))]
                hardest.append(np.mean([bool(object_NL[n, j]) for j in first]))
        for percent in (10, 50, 90, 99):
            means.setdefault(f"similarity_{percent}", []).append(np.percentile(alike, percent))
            means.setdefault(f"positive_{percent}", []).append(np.percentile(positives, percent))
        means.setdefault("above_positive", []).append(np.mean(above))
        if chance:
            means.setdefault("same_object", []).append(np.mean(chance))
            means.setdefault("same_object_hardest", []).append(np.mean(hardest))
    expected = {f"negatives/{name}": np.mean(values) for name, values in means.items()}
    assert metrics == pytest.approx(expected, abs=1e-5)


class Told(Target):
    """Similar are the patches of the same object, and the positive most of all."""

    def __init__(self, source: DigitScenes) -> None:
        self.source = source

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: object = None) -> Tensor:
        self.object_NL = self.source.object_map(self.source.test(), torch.arange(len(images_NCHW)), patch_size=4)
        return torch.zeros(len(images_NCHW), mask.num_masked, 48)

    def similarities(self, prediction_NMP: Tensor, target_NMP: Tensor, mask: Mask) -> Tensor:
        own_NM = mask.gather_masked(self.object_NL)
        same_NML = (own_NM.unsqueeze(2) == self.object_NL.unsqueeze(1)).float()
        return same_NML.scatter(2, mask.masked.unsqueeze(2), 2.0)


def test_features_of_objects_make_false_negatives_of_the_hardest(
    contrasting: Callable[[Target], EvaluationContext], source: DigitScenes
) -> None:
    metrics = Negatives(images=120, hardest=1e-3)(contrasting(Told(source)))
    assert metrics["negatives/same_object_hardest"] == pytest.approx(1, abs=0.05)  # some have one patch of the object
    assert 0.1 < metrics["negatives/same_object"] < 0.7
    assert metrics["negatives/above_positive"] == 0
    assert {metrics[f"negatives/positive_{percent}"] for percent in (10, 50, 90, 99)} == {2.0}
    assert metrics["negatives/similarity_10"] < metrics["negatives/similarity_90"] <= 1
    every = Negatives(images=120, hardest=1.0)(contrasting(Told(source)))
    assert every["negatives/same_object_hardest"] == pytest.approx(every["negatives/same_object"])


def test_it_repeats_and_leaves_everything_as_it_was(contrasting: Callable[[Target], EvaluationContext]) -> None:
    context = contrasting(PatchContrast())
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    assert Negatives(images=20)(context) == Negatives(images=20)(context)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())


def test_without_objects_or_without_negatives_less_is_measured(
    contrasting: Callable[[Target], EvaluationContext], context: EvaluationContext, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.effect_noise((16, 16), 50).convert("RGB").save(tmp_path / split / "a" / "a.png")
    source = ImageFolder(root=str(tmp_path), img_size=16)
    metrics = Negatives()(dataclasses.replace(contrasting(PatchContrast()), source=source))
    assert not [name for name in metrics if "object" in name]
    assert len(metrics) == 9
    with pytest.warns(Notice, match=r"Negatives measures nothing of Method\.target = NormalizedPixels"):
        assert Negatives()(context) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"images": 0}, r"Negatives\.images = 0"), ({"hardest": 0.0}, r"Negatives\.hardest = 0\.0")],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Negatives(**arguments)
