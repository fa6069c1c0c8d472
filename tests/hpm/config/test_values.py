"""Bound values that their parameters do not take."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hpm.config import parse_config
from hpm.config.gin_compat import registered
from hpm.config.values import _fits, _type_hints
from hpm.errors import UserError


def test_a_text_is_no_list_of_its_letters() -> None:
    assert not _fits("ab", Sequence[str])
    assert not _fits("ab", Sequence[str] | None)
    assert _fits("ab", str | Sequence[str])
    assert _fits(["ab"], Sequence[str])
    assert _fits("ab", Any)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("Schedule.batch_size = True", "Schedule.batch_size = True (-b) has the wrong type: int is wanted"),
        ("LossMemory.momentum = True", "LossMemory.momentum = True (-b) has the wrong type: float is wanted"),
        ("Optimization.betas = (0.9, True)", "has the wrong type: tuple[float, float] is wanted"),
        ("LowShot.lr = (True, 1e-3)", "has the wrong type: float | Sequence[float] is wanted"),
        ("Curriculum.sampler = None", "Curriculum.sampler = None (-b) has the wrong type: Sampler is wanted"),
        ("Schedule.blr = 1e400", "Schedule.blr = inf (-b) must be finite"),
        ("LowShot.lr = [1e-3, -1e400]", "LowShot.lr = [0.001, -inf] (-b) must be finite"),
        ("Schedule.blr = 1e39", "Schedule.blr = 1e+39 (-b) must be 0 or of a size from 1e-38 to 1e+38"),
        ("Optimization.betas = (0.9, -1e-300)", "betas = (0.9, -1e-300) (-b) must be 0 or of a size from 1e-38"),
        ("Schedule.epochs = 18446744073709551616", "must fit into 64 bits"),
        ("Schedule.accumulate = @Ramp()", "Schedule.accumulate must be an int, got Ramp (-b)"),
        ("Schedule.accumulate = @Ramp", "Schedule.accumulate must be an int, got the class Ramp; call it (-b)"),
        ("MLflowTracker.enabled = @Ramp()", "MLflowTracker.enabled must be a bool, got Ramp (-b)"),
        ("Monitoring.evaluations = @KNN()", "Monitoring.evaluations must be Sequence[Evaluation], got KNN (-b)"),
        ("Monitoring.evaluations = [@KNN(), @Ramp()]", "must be Sequence[Evaluation], got [KNN, Ramp] (-b)"),
        (
            "Curriculum.difficulty = @LossMemory",
            "must be a DifficultyEstimator, got the class LossMemory; call it (-b)",
        ),
        ("Curriculum.mask_ratio = @Uniform()", "Curriculum.mask_ratio must be a float or Scheduler or MaskRatio, got"),
    ],
)
def test_refused_before_anything_is_built(tiny: Path, binding: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_config([str(tiny)], [binding])
    assert message in str(refused.value)


def test_what_a_macro_stands_for_is_checked_where_it_is_used(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"Schedule\.batch_size = True"):
        parse_config([str(tiny)], ["SIZE = True", "Schedule.batch_size = %SIZE"])


@pytest.mark.parametrize(
    "binding",
    [
        "Schedule.blr = 1",
        "MLflowTracker.enabled = True",
        "Curriculum.mask_ratio = @Ramp()",
        "KNN.k = [3, 5]",
        "LossMemory.predicted = True",
        "DigitScenes.seed = 18446744073709551615",
    ],
)
def test_taken(tiny: Path, binding: str) -> None:
    parse_config([str(tiny)], [binding])


def test_a_function_may_return_anything(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rates.py").write_text("import gin\n\n@gin.register\ndef rate():\n    return 0.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    tiny.write_text("import rates\n" + tiny.read_text())
    parse_config([str(tiny)], ["Ramp.end = @rate()"]).build()


ODD = """
import gin
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

@gin.register
class Block:
    def __init__(self, *, dim: int) -> None: ...

@gin.register
class Numbers(Sequence):
    def __getitem__(self, place): return self.kept[place]
    def __len__(self): return len(self.kept)

@gin.register
class Odd:
    def __init__(self, *, make: Callable[[], Block] | None = None, numbers: Sequence[int] = (), options: dict = {},
                 mode: Literal["auto", True, False] = "auto", later: "NotThere | None" = None) -> None: ...
"""


def test_what_cannot_be_told_before_it_is_built_is_left_to_the_part(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd_parts.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    tiny.write_text("import odd_parts\n" + tiny.read_text())
    for value in ("make = @Block", "numbers = @Numbers()", "options = {'flag': True}", "mode = True", "later = 3"):
        parse_config([str(tiny)], [f"Odd.{value}"])


def test_every_default_is_of_its_type(tiny: Path) -> None:
    parse_config([str(tiny)])
    shipped = [part for part in registered().values() if part.__module__.split(".")[0] in ("curriculum", "hpm")]
    for part in shipped:
        hints = _type_hints(part)
        for name, parameter in inspect.signature(part).parameters.items():
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                assert name in hints, f"{part.__name__}.{name}"
                if parameter.default is not parameter.empty:
                    assert _fits(parameter.default, hints[name]), f"{part.__name__}.{name} = {parameter.default}"
