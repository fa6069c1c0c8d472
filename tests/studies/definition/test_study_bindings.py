"""A binding of the command line is the study's own, or goes to all of its runs."""

from __future__ import annotations

import ast
from pathlib import Path

import optuna
import pytest

from hpm.config import parse_config
from hpm.errors import UserError
from studies.definition.ablation import Ablation
from studies.definition.base import Definition
from studies.definition.loading import load_definition
from studies.execution.worker import study_tracker

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


OWN_SEED = r"the study itself binds Trainer\.seed for each run, from its seeds; list them there \("


@pytest.mark.parametrize(
    ("variant", "where"),
    [
        ("['mine.gin']", r"mine\.gin, line 2 binds it too"),
        ("['includes.gin']", r"mine\.gin, line 2 binds it too"),
        ("['Trainer.seed = 3']", "-b binds it too"),
    ],
)
def test_a_seed_of_a_variant_is_refused(tmp_path: Path, study: str, variant: str, where: str) -> None:
    (tmp_path / "mine.gin").write_text("Schedule.epochs = 2\nTrainer.seed = 3\n")
    (tmp_path / "includes.gin").write_text("include 'mine.gin'\n")
    variant = variant.replace("['mine", f"['{tmp_path}/mine").replace("['includes", f"['{tmp_path}/includes")
    with pytest.raises(UserError, match=rf"variant a: {OWN_SEED}{where}"):
        load_definition("ablation", [study], [f"Ablation.variants = {{'a': {variant}}}"]).check()


def test_a_seed_of_the_base_is_any_runs(tmp_path: Path, study: str) -> None:
    """Also of a base that leaves open what its variants set."""
    (tmp_path / "base.gin").write_text("include 'quickstart.gin'\nTrainer.seed = 3\nSchedule.blr = %RATE\n")
    (tmp_path / "rate.gin").write_text("RATE = 1e-3\n")
    bindings = [
        f"Ablation.base = ['{tmp_path}/base.gin']",
        f"Ablation.variants = {{'a': ['RATE = 1e-4'], 'b': ['{tmp_path}/rate.gin']}}",
    ]
    load_definition("ablation", [study], bindings).check()


@pytest.mark.parametrize("name", ["NUMBER", "OTHER"])
def test_a_macro_that_is_the_seed_is_refused_as_well(tmp_path: Path, study: str, name: str) -> None:
    """It would be dropped, as nothing uses it in a run with a seed of the study's."""
    base = ["include 'quickstart.gin'", "Trainer.seed = %NUMBER", "NUMBER = %OTHER", "OTHER = 3"]
    (tmp_path / "base.gin").write_text("\n".join(base))
    bindings = [f"Ablation.base = ['{tmp_path}/base.gin']", f"Ablation.variants = {{'a': [], 'b': ['{name} = 5']}}"]
    with pytest.raises(UserError, match=rf"variant b: {OWN_SEED}-b binds {name}, which its value is\)"):
        load_definition("ablation", [study], bindings).check()


def test_a_search_does_not_choose_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "search.gin"
    path.write_text("Search.base = ['quickstart']\nSearch.space = {'Trainer.seed': 'Int(0, 9)'}\n")
    with pytest.raises(UserError, match=rf"space at Trainer\.seed = 0: {OWN_SEED}-b binds it too"):
        load_definition("search", [str(path)]).check()


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], {"system_metrics": True, "experiment": "s", "tags": {}}),
        (["system_metrics = False"], {"experiment": "s", "tags": {}}),
        (["tags = {'who': 'me', 'variant': 'x'}"], {"system_metrics": True, "experiment": "s", "tags": {"who": "me"}}),
        (["experiment = 'mine'"], {"system_metrics": True, "tags": {}}),
        (["enabled = False"], None),
    ],
)
@pytest.mark.parametrize("of_variant", [False, True])
@pytest.mark.filterwarnings("ignore:MLflow at")
def test_what_runs_bind_of_their_tracker_stands(
    tmp_path: Path, study: str, own: list[str], expected: dict[str, object] | None, of_variant: bool
) -> None:
    words = [f"MLflowTracker.{binding}" for binding in own]
    variant = tmp_path / "variant.gin"
    variant.write_text("\n".join(words))
    variants = f"Ablation.variants = {{'random': {[str(variant)] if of_variant else []}}}"
    uri = "MLflowTracker.uri = 'http://127.0.0.1:9'"  # nobody is there
    definition = load_definition("ablation", [study], [variants, uri, *([] if of_variant else words)])
    tracker = study_tracker(definition, "s")
    made = optuna.create_study(study_name="s")
    (run,) = definition.plan(optuna.trial.FixedTrial({"variant": "random", "seed": 0}), 7)
    found = dict(binding.removeprefix("MLflowTracker.").split(" = ", 1) for binding in tracker.bindings(made, run, 7))
    values = {name: ast.literal_eval(value) for name, value in found.items()}
    if expected is not None:
        tags = {**expected["tags"], "study": "s", "variant": "random", "trial": "7"}
        tags["mlflow.runName"] = "seed 0 of random"
        expected = {**expected, "tags": tags}
    assert values == (expected or {})
