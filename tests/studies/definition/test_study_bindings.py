"""A binding of the command line is the study's own, or goes to all of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpm.config import parse_config
from hpm.errors import UserError
from studies.definition.ablation import Ablation
from studies.definition.base import Definition
from studies.definition.loading import load_definition

STUDY = """
TWO = [0, 1]
Ablation.base = ['quickstart']
Ablation.bindings = ['Schedule.epochs = 3']
Ablation.variants = {'random': ['curricula/random'], 'longer': ['Schedule.epochs = 7']}
Ablation.seeds = %TWO
Ablation.metric = 'low_shot/pretrained'
"""


@pytest.fixture
def study(tmp_path: Path) -> str:
    path = tmp_path / "study.gin"
    path.write_text(STUDY)
    return str(path)


def epochs(definition: Definition, variant: str) -> int:
    assert isinstance(definition, Ablation)
    configs, bindings = definition.configs_and_bindings(variant)
    trainer = parse_config([*definition.base, *configs], [*definition.bindings, *bindings]).build()
    return int(trainer.schedule.epochs)


def test_what_is_not_the_studys_own_is_of_its_runs(study: str) -> None:
    words = [
        "Ablation.seeds = [4]",
        "Schedule.epochs = 2",
        "IMG_SIZE = 32",
        "final/KNN.k = 3",
        "hpm.Schedule.blr = 1e-3",
    ]
    definition = load_definition("ablation", [study], words)
    assert definition.seeds == (4,)
    assert definition.bindings == ("Schedule.epochs = 3", *words[1:])
    assert epochs(load_definition("ablation", [study], ["Schedule.epochs = 2"]), "random") == 2
    assert epochs(load_definition("ablation", [study], ["Schedule.epochs = 2"]), "longer") == 7


def test_a_macro_of_the_studys_file_is_the_studys(study: str) -> None:
    definition = load_definition("ablation", [study], ["TWO = [5, 6]"])
    assert definition.seeds == (5, 6)
    assert definition.bindings == ("Schedule.epochs = 3",)


def test_a_macro_that_the_file_leaves_open_is_the_studys(study: str) -> None:
    Path(study).write_text(STUDY.replace("TWO = [0, 1]\n", ""))
    assert load_definition("ablation", [study], ["TWO = [5, 6]"]).seeds == (5, 6)
    with pytest.raises(UserError, match=r"Ablation\.seeds \(study\.gin, line 5\) is %TWO, which is not set"):
        load_definition("ablation", [study])


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("Shedule.epochs = 1", "variant random: -b 'Shedule.epochs = 1': there is no part called Shedule"),
        ("Schedule.epoch = 1", "variant random: Schedule.epoch .*cannot be bound"),
        ("UNUSED = 1", r"variant random: UNUSED \(-b\) is bound, but nothing in this run uses it"),
        ("Search.trials = 1", r"Search\.\w+ \(-b\)"),
        (
            "Trainer.seed = 3",
            r"variant random: the study itself binds Trainer\.seed for each run, from its seeds",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(study: str, binding: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_definition("ablation", [study], [binding]).check()
