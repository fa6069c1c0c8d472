"""A run that has diverged ends with code 3, names a checkpoint that is good, and never counts as complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.runtime.finite import not_finite
from hpm.training.divergence import skipped_too_many, usual_remedy
from hpm.training.metrics import Interval

Hpm = Callable[..., int]

SHORT = ("Schedule.epochs = 1", "Schedule.warmup_epochs = 0", "Monitoring.evaluations = []", "Checkpointing.keep = 9")


@pytest.fixture
def pretrain(hpm: Hpm, tiny: Path) -> Callable[..., int]:
    """Starts a run of 160 images in the folder `run`, which has no evaluations."""

    def run(*bindings: str) -> int:
        words = [word for text in (*SHORT, *bindings) for word in ("-b", text)]
        return hpm("pretrain", tiny, *words, "--output", "run")

    return run


INFINITE = r"the weights are not finite after step {}: student\.\S+ and \d+ more tensors are infinite or NaN"
PROBED = ("Schedule.epochs = 2", "Monitoring.probe_every = 1", "Monitoring.log_every = 99")


@pytest.mark.parametrize(
    ("batch_size", "bindings", "told"),
    [
        (160, (), INFINITE.format(1)),  # the run's only step is taken
        (80, (), "the gradient is not finite: the last 1 of 2 steps were skipped"),
        (20, ("Checkpointing.every = 3",), INFINITE.format(3)),
        (20, PROBED, INFINITE.format(8)),
    ],
    ids=["at the end", "skipped at the end", "at a checkpoint", "at a probe"],
)
def test_weights_that_are_not_finite_end_the_run(
    pretrain: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    batch_size: int,
    bindings: tuple[str, ...],
    told: str,
) -> None:
    # A step multiplies the weights by 1 - rate x decay.
    rate = ("Schedule.blr = 1e38", "Optimization.weight_decay = 1e10", f"Schedule.batch_size = {batch_size}")
    assert pretrain("Checkpointing.every = 99", *rate, *bindings) == 3
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(f"{told}; there is no checkpoint yet. Lower Schedule.blr", error), error
    assert "Runtime.precision" not in error  # a CPU computes in fp32 as it is
    assert not Path("run/summary.json").exists()
    assert not Path("run/checkpoints").exists()


DIVERGING = """
import gin
import torch
from hpm.targets import Pixels


@gin.register
class Diverging(Pixels):  # after so many calls it makes an infinite weight, as a step far too large does
    def __init__(self, *, after: int) -> None:
        self.after, self.calls, self.model = after, 0, None

    def outputs(self, model):
        self.model = model
        return super().outputs(model)

    def advance(self, progress):
        self.calls += 1
        if self.calls > self.after:
            self.model.mask_token.data.fill_(float("inf"))
"""


def test_the_checkpoint_that_is_named_is_good(
    pretrain: Callable[..., int], hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the run goes on from it."""
    Path("diverging.py").write_text(DIVERGING)
    tiny.write_text("import diverging\n" + tiny.read_text() + "Method.target = @Diverging()\nDiverging.after = 7\n")
    assert pretrain("Checkpointing.every = 2", "Schedule.batch_size = 16") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "not finite after step 8: student.mask_token and 1 more tensors are infinite or NaN" in told
    assert "the last good checkpoint is run/checkpoints/checkpoint-00000006. Lower" in told
    newest, *_ = list_checkpoints(Path("run/checkpoints"))
    assert newest.name == "checkpoint-00000006"
    Checkpoint(newest).weights("student")
    assert hpm("pretrain", "--resume", "--output", "run") == 0
    assert not not_finite(Checkpoint(Path("run/checkpoints/latest")).state_dict("student"))


def test_a_network_of_the_curriculum_that_diverges_is_named(
    pretrain: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    trained = ("Curriculum.difficulty = @CLMAE()", "CLMAE.lr = 1e38", "Method.ema_decay = None")
    assert pretrain("Schedule.batch_size = 160", *trained) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "the weights are not finite after step 1: curriculum." in told
    assert "Lower CLMAE.lr" in told


@pytest.mark.parametrize(
    ("precision", "clip_grad", "told"),
    [
        ("fp32", 1.0, "Lower Schedule.blr or lengthen Schedule.warmup_epochs"),
        ("fp32", None, "Lower Schedule.blr, lengthen Schedule.warmup_epochs or set Optimization.clip_grad = 1.0"),
        ("bf16", 1.0, "Lower Schedule.blr, lengthen Schedule.warmup_epochs or set Runtime.precision = 'fp32'"),
    ],
)
def test_nothing_is_advised_that_is_so_already(precision: str, clip_grad: float | None, told: str) -> None:
    assert usual_remedy(precision, clip_grad) == told


def interval(at_end: int, in_a_row: int | None = None) -> Interval:
    in_a_row = at_end if in_a_row is None else in_a_row
    return Interval({}, {}, None, at_end, in_a_row, at_end, unscored=0.0, unreadable=0, stop=False)


@pytest.mark.parametrize(
    ("at_end", "done", "fp16", "told"),
    [
        (1, 1, False, "the last 1 of 1 steps were skipped"),
        (1, 2, False, "the last 1 of 2 steps were skipped"),
        (1, 3, False, None),
        (0, 1, True, None),
        (1, 3, True, None),
        (2, 5, True, "the last 2 of 5 steps were skipped"),
        (3, 3, True, "the last 3 of 3 steps were skipped, and fp16 has not found the scale of its gradients"),
        (2, 400, True, "the last 2 of 400 steps were skipped"),
        (20, 400, True, "20 steps in a row were skipped, up to step 400, and Optimization.max_skipped = 20"),
    ],
)
def test_a_run_is_judged_by_its_last_steps_however_short_it_is(
    at_end: int, done: int, fp16: bool, told: str | None
) -> None:
    """In fp16 too: one that took no step has trained nothing."""
    found = skipped_too_many(interval(at_end), done=done, last=True, limit=20, fp16=fp16)
    assert (None if found is None else found.fault) == (told and f"the gradient is not finite: {told}")
    assert skipped_too_many(interval(min(at_end, 19)), done=done, last=False, limit=20, fp16=fp16) is None


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_what_is_not_finite_is_found_in_every_type(dtype: torch.dtype, bad: float) -> None:
    good: dict[str, Tensor] = {
        "numbers": torch.ones(3, 2).to(dtype),
        "none": torch.empty(0).to(dtype),
        "counts": torch.arange(3),
        "marks": torch.tensor([True, False]),
        "complex": torch.ones(2, dtype=torch.complex64),
    }
    assert not_finite({}) == not_finite(good) == []
    broken = torch.ones(3, 2)
    broken[1, 0] = bad
    assert not_finite(good | {"broken": broken.to(dtype)}) == ["broken"]
