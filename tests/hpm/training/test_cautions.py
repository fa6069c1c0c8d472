"""What a run that is too short for its settings says before it trains."""

from __future__ import annotations

import pytest

from hpm.config import parse_config
from hpm.training.cautions import cautions
from hpm.training.trainer import Trainer


@pytest.mark.parametrize(
    ("every", "told"),
    [
        (1, None),
        (207, None),
        (208, "Method.dense_prediction_every = 208, and the run has 208 steps: the loss predictor learns"),
        (3000, "Method.dense_prediction_every = 3000, and the run has 208 steps: the loss predictor learns"),
    ],
)
def test_dense_prediction_that_comes_once_is_told(every: int, told: str | None) -> None:
    bindings = ["Schedule.epochs = 1", "Schedule.warmup_epochs = 0.1", f"Method.dense_prediction_every = {every}"]
    trainer: Trainer = parse_config(["quickstart", "curricula/hpm_dense"], bindings).build()
    assert trainer.clock.total_steps == 208
    found = [caution for caution in cautions(trainer.method, trainer.clock, trainer.image_sizes) if "dense" in caution]
    assert [caution.startswith(told or "-") for caution in found] == [True] * (told is not None)
