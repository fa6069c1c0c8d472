"""Every registered part, in the place where it belongs, with whatever its parameters may be bound to."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from fuzzing import assert_ends_well, fuzz, lines_of, names_in, run
from hypothesis import given
from hypothesis import strategies as st

import curriculum
import hpm.data
import hpm.evaluation
import hpm.targets
from hpm.cli import main
from hpm.config.registry import configurables
from hpm.methods.decay import Decay
from hpm.methods.loss_prediction import PredictionLoss
from hpm.models.base import MaskedModel
from hpm.models.encoder import Encoder

# Where a part of each kind belongs.
PLACES: dict[type, tuple[str, ...]] = {
    curriculum.Scheduler: ("Curriculum.scheduler = @{}()",),
    curriculum.DifficultyEstimator: ("Curriculum.difficulty = @{}()",),
    curriculum.Sampler: ("Curriculum.sampler = @{}()",),
    curriculum.UniformRatio: ("Curriculum.mask_ratio = @{}()",),
    hpm.targets.Target: ("Method.target = @{}()",),
    PredictionLoss: ("Method.prediction_loss = @{}()",),
    Decay: ("Method.ema_decay = @{}()",),
    hpm.data.ImageSource: ("Trainer.source = @{}()",),
    hpm.evaluation.Evaluation: ("Monitoring.evaluations = [@{}()]",),
    MaskedModel: ("Method.model = @{}()",),
    Encoder: ("Method.model = @SimMIM()", "SimMIM.encoder = @{}()"),
}
# What parts must be given.
NEEDED = {
    "scheduler": "@Ramp()",
    "schedulers": "[@Ramp(), @Constant()]",
    "estimator": "@PixelVariance()",
    "estimators": "[@PixelVariance(), @Uniform()]",
    "sampler": "@Random()",
    "img_size": "16",
    "patch_size": "4",
    "embed_dim": "16",
    "depth": "1",
    "depths": "(1, 1)",
    "num_heads": "2",
    "encoder": "@ViT()",
    "model": "'resnet18'",
}
ODD = lines_of("odd_values.txt")
PARTS = [cls for classes in configurables().values() for cls in classes]


@st.composite
def bindings(draw: st.DrawFn) -> list[str]:
    """A part where it belongs, what it must be given, and one to three of its parameters bound to anything."""
    part = draw(st.sampled_from(PARTS))
    name = part.__name__
    found = [line.format(name) for kind, lines in PLACES.items() if issubclass(part, kind) for line in lines]
    parameters = [one for one in inspect.signature(part).parameters.values() if one.kind is not one.VAR_KEYWORD]
    needed = [one.name for one in parameters if one.default is one.empty and one.name in NEEDED]
    found += [f"{name}.{parameter} = {NEEDED[parameter]}" for parameter in needed]
    chosen = (
        draw(st.lists(st.sampled_from(parameters), max_size=3, unique_by=lambda one: one.name)) if parameters else []
    )
    return [*found, *(f"{name}.{one.name} = {draw(values(one))}" for one in chosen)]


def values(parameter: inspect.Parameter) -> st.SearchStrategy[str]:
    """What is odd; numbers; and the default, a little changed."""
    near: list[st.SearchStrategy[str]] = []
    default: Any = parameter.default
    if isinstance(default, bool | str) or default is None:
        near.append(st.just(repr(default)))
    elif isinstance(default, int | float):
        near.append(st.sampled_from([default, default / 2, default * 2, -default, default + 1]).map(repr))
    numbers = [st.integers(-3, 40).map(repr), st.floats(-2, 2).map(repr)]
    if parameter.name == "num_workers":  # processes: of those that a machine could have a few are enough
        return st.sampled_from([value for value in ODD if not re.fullmatch(r"\d{2,3}", value)])
    return st.one_of(st.sampled_from(ODD), *numbers, *near)


@fuzz
@given(bound=bindings())
def test_a_plan(tiny: Path, scratch: Path, bound: list[str]) -> None:
    assert_ends_well(run(main, "plan", tiny, *words(bound)), names_in(bound))


@fuzz
@given(bound=bindings())
def test_two_steps(tiny: Path, scratch: Path, bound: list[str]) -> None:
    bound = ["Monitoring.tracker = None", *bound]
    assert_ends_well(run(main, "pretrain", "--dry-run", tiny, *words(bound)), names_in(bound), codes=(0, 2, 3))


def words(bound: list[str]) -> list[str]:
    return [word for binding in bound for word in ("-b", binding)]
