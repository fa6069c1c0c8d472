"""What evaluations are told of the model that they measure, in training and after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpm.evaluation import Evaluation, EvaluationContext, Ridge
from hpm.inference.loading import load_model
from hpm.runs.checkpoint import list_checkpoints

Hpm = Callable[..., int]


def test_evaluations_know_how_long_the_model_was_trained(hpm: Hpm, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During training, at its end, and of the run that was kept."""
    seen = []

    def watched(self: Evaluation, context: EvaluationContext) -> dict[str, float]:
        assert context.pretraining is not None
        seen.append((context.pretraining.clock.step, context.pretraining.batch_size, context.splits))
        return {}

    monkeypatch.setattr(Ridge, "measure", watched)
    bindings = ("Monitoring.probe_every = 2", "Monitoring.probes = [@Ridge()]", "Monitoring.evaluations = [@Ridge()]")
    assert hpm("pretrain", tiny, *(word for text in bindings for word in ("-b", text)), "--output", "run") == 0
    assert seen == [(20, 16, ("validation",)), (40, 16, ("validation", "test"))]
    kept = load_model(Path("run")).context().pretraining
    assert kept is not None
    assert (kept.clock.step, kept.clock.total_steps, kept.batch_size, kept.progress_per) == (40, 40, 16, "epoch")


@pytest.mark.parametrize("name", ["probes", "evaluations"])
def test_a_protocol_that_is_there_twice_is_refused(
    hpm: Callable[..., int], tiny: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    words = ["-b", f"Monitoring.{name} = [@a/Ridge(), @KNN(), @Ridge()]", "-b", "a/Ridge.train_images = 3"]
    assert hpm("pretrain", tiny, *words, "--output", "run") == 2
    assert f"Monitoring.{name} holds the protocol ridge twice" in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


def test_a_probe_that_fails_loses_no_steps(hpm: Hpm, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Evaluation, context: EvaluationContext) -> dict[str, float]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Ridge, "measure", failing)
    bindings = ("Monitoring.probe_every = 2", "Monitoring.probes = [@Ridge()]", "Checkpointing.every = 500")
    with pytest.raises(RuntimeError, match="no memory"):
        hpm("pretrain", tiny, *(word for text in bindings for word in ("-b", text)), "--output", "run")
    assert list_checkpoints(Path("run/checkpoints"))[0].name == "checkpoint-00000020"
