"""Intersection over union of classes, against scikit-learn's Jaccard score of the same pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from torch import Tensor

from hpm.data import IGNORED
from hpm.evaluation.dense.class_iou import ConfusionMatrix, mean_iou

CLASSES = 6
pixels = st.lists(
    # The last class is never there, so that a class is absent whatever is drawn.
    st.tuples(st.integers(IGNORED, CLASSES - 2), st.integers(0, CLASSES - 2)),
    min_size=1,
    max_size=60,
).filter(lambda pairs: any(true != IGNORED for true, _ in pairs))

some = settings(max_examples=60, deadline=None, derandomize=True)


def maps(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    true, predicted = torch.tensor(pairs, dtype=torch.int16).T
    return true, predicted


@some
@given(pixels)
def test_the_mean_is_scikit_learns_macro_jaccard_score(pairs: list[tuple[int, int]]) -> None:
    true, predicted = maps(pairs)
    counted = true != IGNORED
    theirs = jaccard_score(true[counted], predicted[counted], average="macro")
    assert mean_iou(true, predicted, CLASSES) == pytest.approx(theirs, abs=1e-12)


@some
@given(pixels)
def test_each_class_is_scikit_learns_and_an_absent_one_has_none(pairs: list[tuple[int, int]]) -> None:
    true, predicted = maps(pairs)
    counted = true != IGNORED
    matrix = ConfusionMatrix(CLASSES)
    matrix.add(true, predicted)
    present = np.union1d(true[counted], predicted[counted])
    theirs = dict(
        zip(
            present.tolist(),
            jaccard_score(true[counted], predicted[counted], labels=present, average=None),
            strict=True,
        )
    )
    for label, iou in enumerate(matrix.iou().tolist()):
        assert math.isnan(iou) if label not in theirs else iou == pytest.approx(theirs[label], abs=1e-12)


@some
@given(pixels, st.integers(0, 60))
def test_pixels_may_be_counted_in_parts(pairs: list[tuple[int, int]], cut: int) -> None:
    true, predicted = maps(pairs)
    matrix = ConfusionMatrix(CLASSES)
    for part in (slice(None, cut), slice(cut, None)):
        matrix.add(true[part], predicted[part])
    assert matrix.mean_iou() == mean_iou(true, predicted, CLASSES)


def test_by_hand() -> None:
    true = torch.tensor([[0, 0, 1, 1], [2, 2, IGNORED, IGNORED]], dtype=torch.int16)
    predicted = torch.tensor([[0, 1, 1, 1], [2, 0, 3, 0]], dtype=torch.int16)
    matrix = ConfusionMatrix(4)
    matrix.add(true, predicted)
    assert matrix.counts_CC.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert matrix.iou().tolist()[:3] == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert math.isnan(matrix.iou()[3])  # taken for it were pixels alone that count for nothing
    assert matrix.mean_iou() == pytest.approx((1 / 3 + 2 / 3 + 1 / 2) / 3)


def test_of_pixels_that_count_for_nothing_there_is_no_mean() -> None:
    assert math.isnan(mean_iou(torch.full((2, 3), IGNORED), torch.zeros(2, 3, dtype=torch.int64), 2))
