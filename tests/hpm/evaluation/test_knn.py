"""k-NN: several k at once, in blocks, within memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from hpm.evaluation import KNN, EvaluationContext, knn_predict
from hpm.evaluation.knn import nearest, vote

CPU = torch.device("cpu")


def clusters(train: int = 300, test: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size=train)
    features = rng.normal(size=(train, 8)) + np.eye(4, 8)[labels] * 1.5
    return torch.tensor(features), torch.tensor(labels), torch.tensor(rng.normal(size=(test, 8)))


@pytest.mark.parametrize(("train_block", "test_block"), [(1000, 1000), (37, 11), (5, 100)])
def test_any_blocks_agree_with_scikit_learn(train_block: int, test_block: int) -> None:
    train_ND, labels_N, test_MD = clusters()
    similarity_MK, labels_MK = nearest(
        train_ND, labels_N, test_MD, k=40, device=CPU, train_block=train_block, test_block=test_block
    )
    for k in (1, 15, 40):
        theirs = KNeighborsClassifier(
            n_neighbors=k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
        ).fit(train_ND.numpy(), labels_N.numpy())
        ours = vote(similarity_MK[:, :k], labels_MK[:, :k], temperature=0.07, num_classes=4)
        assert ours.tolist() == theirs.predict(test_MD.numpy()).tolist()
        assert torch.equal(ours, knn_predict(train_ND, labels_N, test_MD, k=k, temperature=0.07, num_classes=4))


def test_several_k_are_each_k(context: EvaluationContext) -> None:
    sizes = {"train_images": 200, "test_images": 60}
    several = KNN(k=[1, 7, 30], **sizes)(context)
    assert several == {f"knn/pretrained/k{k}": KNN(k=k, **sizes)(context)["knn/pretrained"] for k in (1, 7, 30)}


def test_none_is_all(context: EvaluationContext) -> None:
    assert KNN(k=5, train_images=None, test_images=None)(context) == KNN(k=5, train_images=400, test_images=120)(
        context
    )


def test_workers_change_nothing(context: EvaluationContext) -> None:
    assert KNN(k=5, num_workers=2, test_images=40)(context) == KNN(k=5, test_images=40)(context)


def test_memory_does_not_grow_with_the_product() -> None:
    """All similarities would take 458 MiB."""
    program = Path(__file__).parents[3] / "benchmarks" / "knn_memory.py"
    command = [sys.executable, program, "--train", "60000", "--test", "2000", "--width", "16", "--k", "20"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert report["all_similarities_mib"] > 450
    assert report["above_features_mib"] < 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": []}, r"KNN.k = \[\] must be at least 1"),
        ({"k": [5, 0]}, r"KNN.k = \[5, 0\] must be at least 1"),
        ({"k": [5, 50], "train_images": 20}, r"KNN.k = \[5, 50\] must lie between 1 and KNN.train_images = 20"),
        ({"test_images": 0}, "KNN.test_images = 0"),
        ({"num_workers": -1}, "KNN.num_workers = -1"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KNN(**arguments)


def test_refuses_more_neighbors_than_images(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match=r"KNN.k = 401 is more than the 400 training images"):
        KNN(k=[5, 401], train_images=None).check(context.source, context.model)
