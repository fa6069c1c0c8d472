"""The confidence interval of a mean."""

from __future__ import annotations

import math

import pytest
import scipy.stats

from hpm.metrics import half_interval


def test_it_is_students() -> None:
    values = [0.61, 0.64, 0.6, 0.66]
    low, high = scipy.stats.t.interval(0.95, 3, loc=0.6275, scale=scipy.stats.sem(values))
    assert half_interval(values) == pytest.approx((high - low) / 2)


def test_equal_values_have_an_empty_interval_and_a_single_one_has_none() -> None:
    assert half_interval([0.5, 0.5, 0.5]) == 0.0
    assert math.isnan(half_interval([0.5]))
