"""Spaces as gin files write them: parsed without being run, suggested in order, every mistake named."""

from __future__ import annotations

import optuna
import pytest

from hpm.errors import UserError
from studies.definition.settings import points, setting_key
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
        ("Float(0.1, 1, log=True, log=False)", "log stands there twice"),
        (
            "Float(0, 1, when={'Curriculum.scheduler': '@Ramp()', 'Curriculum.scheduler': '@Cyclic()'})",
            "'Curriculum.scheduler' stands there twice",
        ),
        ("Float(__import__('os').getpid(), 1)", "malformed node"),
        ("(lambda: Float(0, 1))()", "must be one of"),
        ("Float(0, 1, when={'Schedule.blr': 1})", "must stand before it"),
        ("Float(0, 1, when={'Curriculum.scheduler': '@Constant()'})", "which it never is"),
        ("Float(0, 1, when={'Curriculum.scheduler': ['@Ramp()']})", "which it never is"),
        ("Float(0, 1, when=3)", "when = 3 must be a dictionary"),
        ("Int(0, 1, when=['Curriculum.scheduler'])", "must be a dictionary"),
        ("Categorical([1, 2], when={3: 1})", "must be a dictionary"),
        ("Float(0, 1, step=0.3)", "step = 0.3 does not lead from low = 0 to high = 1; let high be 0.9 or 1.2"),
        ("Int(1, 8, step=2)", "let high be 7 or 9"),
        ("Float(0, 1, step=2)", "let high be 2"),
        ("Float(0, 1, step=1e-40)", "too small"),
        ("Float(0, 1, step=0)", "step = 0 must be positive"),
        ("Int(0, 2, step=-1)", "step = -1 must be positive"),
        ("Float(0, 1, step=True)", "must be numbers, which step = True is not"),
        ("Float(0, True)", "must be numbers, which high = True is not"),
        ("Float(0, 1e999)", "must be numbers, which high = inf is not"),
        ("Int(False, 3)", "must be whole numbers, which low = False is not"),
        ("Int(0, 3, step=True)", "must be whole numbers, which step = True is not"),
        ("Float(0.1, 1, log='yes')", "log = 'yes' must be True or False"),
        ("Int(1, 8, log=1)", "log = 1 must be True or False"),
        ("Float(0.1, 1, log=True, step=0.1)", "log=True and step do not go together"),
        ("Int(1, 9, log=True, step=2)", "log=True and step do not go together"),
        ("Categorical([1, True])", "named twice"),
        ("Categorical([0.5, 1e999])", "must be finite"),
    ],
)
def test_names_the_entry_at_fault(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=r"Search.space\['Ramp.begin'\]") as error:
        parse_space({"Curriculum.scheduler": SPACE["Curriculum.scheduler"], "Ramp.begin": text})
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("parameter", "held", "others"),
    [
        (Float(0, 0.9, step=0.3), [0, 0.3, 0.6, 0.9], [0.5, 1.2, -0.3, True, "0.3", None, float("nan")]),
        (Float(0, 1), [0, 0.5, 1], [1.1, False, float("inf")]),
        (Int(1, 7, step=2), [1, 3, 7], [2, 9, 3.0, True]),
        (Categorical([1, "a", None]), [1, "a", None], [True, "b", [1]]),
        (Categorical([True, "a"]), [True], [1, False]),
    ],
)
def test_what_a_parameter_holds(parameter: Float, held: list[object], others: list[object]) -> None:
    assert all(parameter.holds(value) for value in held)
    assert not any(parameter.holds(value) for value in others)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["Float(0, 0.9, step=0.3)", "Float(-0.1, 0.2, step=0.1)", "Int(1, 7, step=2)"])
def test_optuna_knows_the_same_values(text: str) -> None:
    parameter = parse_space({"Ramp.end": text})["Ramp.end"]
    values = list(parameter.values())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {round(parameter.suggest(study.ask(), "Ramp.end"), 6) for _ in range(60)}
    assert sorted(drawn) == [round(value, 6) for value in values]
    assert all(parameter.holds(value) for value in values)


def test_all_points_of_a_space() -> None:
    space = {name: text for name, text in SPACE.items() if name in ("Curriculum.scheduler", "Cyclic.cycles")}
    space["Ramp.end"] = "Float(0, 1, step=0.5, when={'Curriculum.scheduler': '@Ramp()'})"
    found = list(points(parse_space(space)))
    assert len(found) == 8 + 3
    assert len({setting_key(point) for point in found}) == len(found)
    assert {"Curriculum.scheduler": "@Ramp()", "Ramp.end": 0.5} in found
    assert points(parse_space(SPACE)) is None
    assert setting_key({"a": 0.1 + 0.2, "b": 1}) == setting_key({"b": 1, "a": 0.3}) != setting_key({"a": 0.3})


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
