"""Settings of samplers that are refused."""

from __future__ import annotations

import pytest

from curriculum.samplers import (
    Blockwise,
    Bonus,
    Cells,
    FilteredNoise,
    Hint,
    MultiBlock,
    Quotas,
    Weighted,
)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Weighted(weights="inverse"),
        lambda: Weighted(temperature=0),
        lambda: Hint(reveal=(0.5, 0.1)),
        lambda: Hint(reveal=(0.1, 1.5)),
        lambda: Hint(among=1.1),
        lambda: Bonus(bonus=0.0),
        lambda: Bonus(bonus=1.5),
        lambda: Cells(size=0),
        lambda: Blockwise(min_patches=0),
        lambda: Blockwise(max_patches=0),
        lambda: Blockwise(share=0.0),
        lambda: Blockwise(share=1.1),
        lambda: Blockwise(min_aspect=2),
        lambda: Blockwise(attempts=0),
        lambda: MultiBlock(targets=0),
        lambda: MultiBlock(scale=(0.3, 0.2)),
        lambda: FilteredNoise(color="pink"),
        lambda: FilteredNoise(sigma=(2.0, 1.0)),
        lambda: FilteredNoise(bank=-1),
        lambda: Quotas(parts=0),
        lambda: Quotas(parts=10**9),
        lambda: Blockwise(attempts=10**9),
        lambda: MultiBlock(targets=10**9),
        lambda: FilteredNoise(bank=2**62),
        lambda: FilteredNoise(sigma=(1.0, 1e30)),
    ],
)
def test_bad_values_are_named(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\w+\.\w+ = "):
        build()


@pytest.mark.parametrize("among", [0.0, -0.1, float("nan")])
def test_a_hint_among_none_is_no_hint(among: float) -> None:
    told = rf"Hint.among = {among} must lie in \(0, 1\].*to reveal none of them, set Curriculum.sampler = @HardestFirst"
    with pytest.raises(ValueError, match=told):
        Hint(among=among)
