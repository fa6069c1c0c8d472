"""Settings of difficulty estimators that are refused."""

from __future__ import annotations

import pytest

from curriculum import (
    ADIOS,
    CLMAE,
    AdaMAE,
    Cached,
    LossSpread,
    Mixture,
    Parts,
    PixelEntropy,
    Ramp,
    Smoothed,
    Uniform,
)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Mixture(estimators=[]),
        lambda: Mixture(estimators=[Uniform()], weights=[0.0]),
        lambda: Mixture(estimators=[Uniform()], weights=[1.0, 1.0]),
        lambda: Smoothed(estimator=Uniform(), sigma=0),
        lambda: Mixture(estimators=[AdaMAE()]),
        lambda: Smoothed(estimator=Cached(estimator=Uniform())),
        lambda: Cached(estimator=Uniform(), every=0),
        lambda: Cached(estimator=Uniform(), period="day"),
        lambda: Cached(estimator=Uniform(), start=-1),
        lambda: AdaMAE(width=50),
        lambda: AdaMAE(lr=0.0),
        lambda: ADIOS(masks=1),
        lambda: CLMAE(factor=Ramp(start=2.0, end=0.0)),
        lambda: LossSpread(probes=1),
        lambda: PixelEntropy(bins=1),
        lambda: Parts(parts=0),
        lambda: Parts(iterations=10**9),
        lambda: PixelEntropy(bins=2**62),
        lambda: LossSpread(probes=10**9),
        lambda: AdaMAE(width=2**62),
        lambda: AdaMAE(depth=10**9),
        lambda: ADIOS(masks=10**9),
        lambda: Mixture(estimators=["Uniform"]),  # type: ignore[list-item]
        lambda: Smoothed(estimator=Parts()),
    ],
)
def test_bad_values_are_named(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"Mixture|Smoothed|Cached|AdaMAE|ADIOS|CLMAE|LossSpread|PixelEntropy|Parts"):
        build()
