"""Spaces as gin files write them: parsed without being run, suggested in order, every mistake named."""

from __future__ import annotations

import optuna
import pytest

from hpm.errors import UserError
from studies.definition.space import Categorical, Float, Int, binding, example_assignments, parse_space, suggest

SPACE = {
    "Curriculum.scheduler": "Categorical(['@Ramp()', '@Cyclic()'])",
    "Ramp.end": "Float(0, 1, when={'Curriculum.scheduler': '@Ramp()'})",
    "Ramp.shape": "Categorical(['linear', 'cosine'], when={'Curriculum.scheduler': '@Ramp()'})",
    "Cyclic.cycles": "Int(1, 8, log=True, when={'Curriculum.scheduler': '@Cyclic()'})",
    "Schedule.blr": "Float(1e-5, 1e-3, log=True)",
}


def test_parses_every_kind() -> None:
    space = parse_space(SPACE)
    assert space["Curriculum.scheduler"] == Categorical(["@Ramp()", "@Cyclic()"])
    assert space["Ramp.end"] == Float(0, 1, when={"Curriculum.scheduler": "@Ramp()"})
    assert space["Cyclic.cycles"] == Int(1, 8, log=True, when={"Curriculum.scheduler": "@Cyclic()"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Flaot(0, 1)", "must be one of Float, Int, Categorical"),
        ("Float(1, 0)", "low = 1 must be less than high = 0"),
        ("Float(0, 1, log=True)", "must be positive"),
        ("Int(0.5, 2)", "must be whole numbers"),
        ("Float(0)", "missing 1 required positional argument"),
        ("Float('a', 'b')", "must be numbers"),
        ("Categorical([])", "at least one value"),
        ("Categorical([1, 1])", "named twice"),
        ("Categorical([[1]])", "a number, a string, a bool or None"),
        ("Float(0, 1", "was never closed"),
        ("Float(__import__('os').getpid(), 1)", "malformed node"),
        ("(lambda: Float(0, 1))()", "must be one of"),
        ("Float(0, 1, when={'Schedule.blr': 1})", "must stand before it"),
        ("Float(0, 1, when={'Curriculum.scheduler': '@Constant()'})", "which it never is"),
    ],
)
def test_names_the_entry_at_fault(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=r"Search.space\['Ramp.begin'\]") as error:
        parse_space({"Curriculum.scheduler": SPACE["Curriculum.scheduler"], "Ramp.begin": text})
    assert expected in str(error.value)


def test_suggests_what_applies() -> None:
    space = parse_space(SPACE)
    fixed = {"Curriculum.scheduler": "@Cyclic()", "Cyclic.cycles": 3, "Schedule.blr": 1e-4}
    assert suggest(optuna.trial.FixedTrial(fixed), space) == fixed


def test_examples_show_every_choice_and_bound_once() -> None:
    points = list(example_assignments(parse_space(SPACE)))
    seen = {(name, value) for point in points for name, value in point.items()}
    assert {
        ("Ramp.shape", "cosine"),
        ("Ramp.end", 0.0),
        ("Ramp.end", 1.0),
        ("Cyclic.cycles", 1),
        ("Cyclic.cycles", 8),
        ("Schedule.blr", 1e-5),
        ("Schedule.blr", 1e-3),
    } <= seen
    for point in points:
        assert ("Cyclic.cycles" in point) == (point["Curriculum.scheduler"] == "@Cyclic()")
        assert ("Ramp.end" in point) == (point["Curriculum.scheduler"] == "@Ramp()")
    assert all(points.count(point) == 1 for point in points)


def test_values_become_bindings() -> None:
    assert binding("Ramp.shape", "linear") == "Ramp.shape = 'linear'"
    assert binding("Curriculum.scheduler", "@Ramp()") == "Curriculum.scheduler = @Ramp()"
    assert binding("Ramp.end", 0.1) == "Ramp.end = 0.1"
    assert binding("Method.ema_decay", None) == "Method.ema_decay = None"
