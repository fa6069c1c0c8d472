"""Classifiers of patches against loops over pixels, and how they choose their settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score
from torch import Tensor

from hpm.data import IGNORED
from hpm.evaluation.dense.patch_classifiers import KNNPatches, LinearPatches, PatchClassifier, Segmented
from hpm.evaluation.dense.patch_tokens import cells_of

CPU = torch.device("cpu")
CLASSES = 4
GRIDS = {"square": ((3, 3), (6, 6)), "wide": ((2, 5), (4, 15))}  # rows and columns of tokens, height and width


def segmented(
    count: int, seed: int, shape: str = "square", *, noise: float = 1.0, ignored: float = 0.1, width: int = 8
) -> Segmented:
    """Features that tell the class of their patch as far as noise lets them; one pixel in five is of another class."""
    rng = np.random.default_rng(seed)
    (rows, columns), (height, width_px) = GRIDS[shape]
    kinds = rng.integers(0, CLASSES, (count, rows, columns))
    features = np.eye(CLASSES, width)[kinds] * 2 + rng.normal(size=(count, rows, columns, width)) * noise
    maps = kinds.repeat(height // rows, 1).repeat(width_px // columns, 2)
    other = rng.random(maps.shape) < 0.2
    maps[other] = rng.integers(0, CLASSES, other.sum())
    maps[rng.random(maps.shape) < ignored] = IGNORED
    features_NTD = torch.tensor(features.reshape(count, rows * columns, width), dtype=torch.float32)
    return Segmented(features_NTD, torch.tensor(maps, dtype=torch.int16), (rows, columns))


def fitted(
    classifier: PatchClassifier, train: Segmented, validation: Segmented | None = None, classes: int = CLASSES
) -> PatchClassifier:
    return classifier.fit(train, validation, num_classes=classes, device=CPU)


def miou(images: Segmented, predicted_NSS: Tensor) -> float:
    """By scikit-learn."""
    counted = images.maps_NSS != IGNORED
    return jaccard_score(images.maps_NSS[counted], predicted_NSS[counted], average="macro")


def standardized(train: Segmented, features_NTD: Tensor) -> np.ndarray:
    rows = train.features_NTD.flatten(0, 1).numpy()
    return (features_NTD.numpy() - rows.mean(axis=0)) / rows.std(axis=0)


def voted(train: Segmented, features_NTD: Tensor, k: int, temperature: float) -> np.ndarray:
    """Pixel by pixel: what the pixels at its place in the k most similar training patches are, or all of their pixels.

    Patches of which no pixel is annotated are none of them.
    """
    (rows, columns), (height, width) = train.grid, train.size
    cell_height, cell_width = height // rows, width // columns
    bank = standardized(train, train.features_NTD).reshape(-1, train.features_NTD.shape[2])
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    annotated = (cells_of(train.maps_NSS, train.grid).flatten(0, 1) != IGNORED).any(dim=1).numpy()
    asked = standardized(train, features_NTD)
    predicted = np.zeros((len(asked), height, width), dtype=int)
    for image in range(len(asked)):
        for y in range(height):
            for x in range(width):
                token = asked[image, y // cell_height * columns + x // cell_width]
                similar = np.where(annotated, bank @ token / np.linalg.norm(token), -np.inf)
                votes, of_all = np.zeros(CLASSES), np.zeros(CLASSES)
                for patch in np.argsort(-similar)[:k]:
                    of_image, place = divmod(int(patch), rows * columns)
                    top, left = place // columns * cell_height, place % columns * cell_width
                    label = int(train.maps_NSS[of_image, top + y % cell_height, left + x % cell_width])
                    weight = np.exp((similar[patch] - similar.max()) / temperature)
                    if label != IGNORED:
                        votes[label] += weight
                    whole = train.maps_NSS[of_image, top : top + cell_height, left : left + cell_width].flatten()
                    for other in whole[whole != IGNORED].tolist():
                        of_all[other] += weight
                predicted[image, y, x] = (votes if votes.any() else of_all).argmax()
    return predicted


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize("k", [1, 7])
def test_each_pixel_is_what_its_place_is_in_the_nearest_patches(shape: str, k: int) -> None:
    train, asked = segmented(10, 0, shape), segmented(4, 1, shape)
    classifier = fitted(KNNPatches([k], 0.07), train)
    assert classifier.predict(asked.features_NTD).tolist() == voted(train, asked.features_NTD, k, 0.07).tolist()
    assert classifier.chosen == {"k": k}


def test_any_blocks_of_votes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train, asked = segmented(10, 0), segmented(4, 1)
    for classifier in (KNNPatches([5], 0.07), LinearPatches([1.0])):
        whole = fitted(classifier, train).predict(asked.features_NTD)
        monkeypatch.setattr("hpm.evaluation.dense.patch_classifiers._VALUES", 50)
        assert torch.equal(classifier.predict(asked.features_NTD), whole)
        monkeypatch.undo()


def test_a_nearest_patch_that_is_not_annotated_leaves_the_vote_to_others() -> None:
    """The nearest patch of each of the two is of no class; the next is of class 1."""
    tokens = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.4], [-1.0, -0.4]]])
    maps = torch.tensor([[[IGNORED, IGNORED]], [[1, 1]]], dtype=torch.int16)
    classifier = fitted(KNNPatches([2], 0.07), Segmented(tokens, maps, (1, 2)), classes=2)
    assert classifier.predict(tokens[:1]).tolist() == [[[1, 1]]]


def enlarged(logits_TC: np.ndarray, grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Bilinear: a logit stands in the middle of its patch, and beyond the outermost middles nothing changes."""
    rows, columns = grid
    places = [np.clip((np.arange(s) + 0.5) * g / s - 0.5, 0, g - 1) for s, g in zip(size, grid, strict=True)]
    shown = np.zeros((*size, logits_TC.shape[1]))
    for y, down in enumerate(places[0]):
        for x, across in enumerate(places[1]):
            top, left = int(down), int(across)
            for row, of_row in ((top, 1 - down + top), (min(top + 1, rows - 1), down - top)):
                for column, of_column in ((left, 1 - across + left), (min(left + 1, columns - 1), across - left)):
                    shown[y, x] += of_row * of_column * logits_TC[row * columns + column]
    return shown


@pytest.mark.parametrize("shape", GRIDS)
def test_the_linear_classifier_is_scikit_learns_of_every_annotated_pixel(shape: str) -> None:
    train, asked = segmented(20, 0, shape), segmented(6, 1, shape)
    (rows, columns), (height, width) = train.grid, train.size
    in_patch = height * width // (rows * columns)
    pixels, labels = [], []
    features = standardized(train, train.features_NTD)
    for image, y, x in zip(*np.nonzero(train.maps_NSS.numpy() != IGNORED), strict=True):
        pixels.append(features[image, y * rows // height * columns + x * columns // width])
        labels.append(int(train.maps_NSS[image, y, x]))
    # A patch's pixels share one prediction, and the penalty is of the sum over patches.
    theirs = LogisticRegression(C=1 / 2.0, max_iter=5000, tol=1e-6).fit(
        np.stack(pixels), labels, sample_weight=np.full(len(pixels), 1 / in_patch)
    )
    logits = standardized(train, asked.features_NTD) @ theirs.coef_.T + theirs.intercept_
    expected = np.stack([enlarged(of_image, asked.grid, asked.size).argmax(axis=2) for of_image in logits])
    classifier = fitted(LinearPatches([2.0]), train)
    assert (classifier.predict(asked.features_NTD).numpy() == expected).mean() > 0.995
    assert classifier.chosen == {"strength": 2.0}


def made(kind: str, *values: float) -> PatchClassifier:
    return KNNPatches([int(k) for k in values], 0.5) if kind == "knn" else LinearPatches(values)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_what_is_chosen_does_best_on_the_validation_images(kind: str) -> None:
    """Other validation images choose otherwise; a single setting is what is left of several."""
    train = segmented(6, 0, noise=2.0)
    # Where validation images are the training images, the nearest patch is the patch itself, and no penalty is best.
    for validation, expected in ((train, True), (segmented(30, 2, noise=2.0), False)):
        values = (1, 5, 25) if kind == "knn" else (0.01, 30.0, 1000.0)
        several = fitted(made(kind, *values), train, validation)
        alone = [fitted(made(kind, value), train) for value in values]
        ious = [miou(validation, one.predict(validation.features_NTD)) for one in alone]
        best = int(np.argmax(ious))
        assert (best == 0) == expected
        assert several.chosen == alone[best].chosen
        predicted, single = (one.predict(validation.features_NTD) for one in (several, alone[best]))
        # Each linear fit begins with the one before, and ends within the tolerance of L-BFGS.
        assert (predicted == single).double().mean() >= (0.99 if kind == "linear" else 1)
