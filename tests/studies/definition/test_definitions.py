"""What an ablation and a search answer, so that nobody else has to tell them apart."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpm.errors import UserError
from studies.definition.ablation import Ablation, cell_of
from studies.definition.base import Definition, QueuedTrial
from studies.definition.identity import difference, give_identity, identity_of, key_of, update_baseline
from studies.definition.search import Search


def ablation(**options: object) -> Ablation:
    return Ablation(base=["quickstart"], **{"variants": {"a": [], "b": ["Ramp.end = 1.0"]}, "seeds": [0, 1], **options})


def search(**options: object) -> Search:
    return Search(base=["quickstart"], **{"space": {"Ramp.end": "Float(0, 1)"}, **options})


def enqueue(study: optuna.Study, missing: list[QueuedTrial]) -> None:
    for trial in missing:
        study.enqueue_trial(dict(trial.parameters), user_attrs=dict(trial.attributes))


@pytest.mark.parametrize("seed", [-1, 2**31, 2**53 + 1, True, 1.5, "a"])
def test_seeds_that_a_study_cannot_tell_apart_are_refused(seed: object) -> None:
    for build in (ablation, search):
        with pytest.raises(ValueError, match=r"seeds = \[.*\] must be whole numbers from 0 to 2,147,483,647"):
            build(seeds=[0, seed])
    assert ablation(seeds=[2**31 - 1]).seeds == (2**31 - 1,)


def test_an_ablation_knows_its_variants_and_prunes_nothing() -> None:
    definition = ablation()
    assert definition.variant_names == ["a", "b"]
    assert definition.objectives == ["low_shot/pretrained"]
    assert definition.directions == ["maximize"]
    assert (definition.pruner, definition.cost, definition.sampler_of(3)) == (None, None, None)
    assert (definition.reports_probes, definition.reports_seeds) == (False, False)
    assert definition.default_baseline({"b", "a"}) == "a"
    assert ablation(baseline="b").default_baseline({"a"}) == "b"
    assert definition.best_trials(optuna.create_study()) == []


def test_an_ablation_lacks_the_cells_that_are_empty_or_failed() -> None:
    study = optuna.create_study()
    definition = ablation()
    enqueue(study, definition.what_is_missing(study, None))
    assert [cell_of(trial) for trial in study.get_trials()] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert definition.what_is_missing(study, None) == []
    study.tell(study.ask(), state=TrialState.FAIL)
    assert definition.what_is_missing(study, None) == [
        QueuedTrial({"variant": "a", "seed": 0}, {"variant": "a", "run_seed": 0})
    ]


def test_an_ablation_asks_for_its_own_cells() -> None:
    study = optuna.create_study()
    enqueue(study, ablation().what_is_missing(study, None))
    trials = study.get_trials()
    assert [ablation(seeds=[1]).asks_for(trial) for trial in trials] == [False, False, True, True]
    assert [ablation().variant_of(trial) for trial in trials] == ["a", "b", "a", "b"]


def test_a_search_lacks_as_many_trials_as_it_is_asked_for() -> None:
    study = optuna.create_study()
    definition = search(first=[{"Ramp.end": 0.5}])
    missing = definition.what_is_missing(study, 3)
    assert missing == [QueuedTrial({"Ramp.end": 0.5}), QueuedTrial(), QueuedTrial()]
    enqueue(study, missing)
    assert definition.what_is_missing(study, 3) == []
    assert definition.what_is_missing(study, 4) == [QueuedTrial()]
    assert all(definition.asks_for(trial) for trial in study.get_trials())
    assert definition.variant_of(study.get_trials()[2]) == "trial-0002"
    assert definition.variant_names == []
    assert definition.default_baseline({"trial-0003", "trial-0001"}) == "trial-0001"


def test_what_tries_again_keeps_its_variant() -> None:
    study = optuna.create_study()
    study.add_trial(optuna.create_trial(value=0.0, system_attrs={"retry_history": [4, 6]}))
    assert search().variant_of(study.get_trials()[0]) == "trial-0004"


@pytest.mark.parametrize(
    ("pruner", "probes", "seeds"),
    [
        (None, False, False),
        (optuna.pruners.MedianPruner(), True, False),
        (optuna.pruners.WilcoxonPruner(), False, True),
    ],
)
def test_what_a_pruner_is_told(pruner: optuna.pruners.BasePruner | None, probes: bool, seeds: bool) -> None:
    definition = search(pruner=pruner, seeds=range(5))
    assert definition.pruner is pruner
    assert (definition.reports_probes, definition.reports_seeds) == (probes, seeds)


ACCURACIES = ("low_shot/pretrained", "validation/low_shot/pretrained")
RESULTS = [
    {"metrics": dict.fromkeys(ACCURACIES, 0.5), "cost": {"flops": 10.0}},
    {"metrics": dict.fromkeys(ACCURACIES, 0.7), "cost": {"flops": 20.0}},
]


@pytest.mark.parametrize(
    ("definition", "values"),
    [(ablation(), [0.6]), (search(), [0.6]), (search(cost="flops"), [0.6, 15.0])],
)
def test_objectives_are_means_over_runs(definition: Definition, values: list[float]) -> None:
    assert definition.objective_values(RESULTS) == pytest.approx(values)
    assert len(definition.objectives) == len(definition.directions) == len(values)


def test_the_best_trials_of_a_search() -> None:
    one = optuna.create_study(direction="maximize")
    for value in (0.1, 0.3, 0.2):
        one.add_trial(optuna.create_trial(value=value))
    assert [trial.number for trial in search().best_trials(one)] == [1]
    two = optuna.create_study(directions=["maximize", "minimize"])
    for values in ((0.9, 9.0), (0.5, 1.0), (0.4, 2.0)):
        two.add_trial(optuna.create_trial(values=values))
    assert [trial.number for trial in search(cost="flops").best_trials(two)] == [1, 0]  # the cheapest first


def test_a_search_keeps_what_the_config_says_of_its_sampler() -> None:
    definition = search(sampler=optuna.samplers.TPESampler)
    asked = []

    def bindings_of(name: str) -> dict[str, object]:
        asked.append(name)
        return {"n_startup_trials": 7}

    definition.keep_config(["import mine"], bindings_of)
    assert asked == ["TPESampler"]
    assert definition.imports == ("import mine",)
    assert definition.sampler_of(0)._n_startup_trials == 7


def test_proposals_depend_on_the_trials_number_alone() -> None:
    def proposals(order: list[int]) -> dict[int, float]:
        definition = search()
        values = {}
        for number in order:
            study = optuna.create_study(sampler=definition.sampler_of(number))
            values[number] = study.ask().suggest_float("x", 0, 1)
        return values

    assert proposals([0, 1, 2]) == proposals([2, 0, 1])
    assert len(set(proposals([0, 1, 2]).values())) == 3


def test_a_study_keeps_its_identity() -> None:
    study = optuna.create_study(study_name="s")
    assert (identity_of(study), key_of(study)) == ({}, "s")
    identity = {"kind": "ablation", "variants": {"a": "x"}, "baseline": "a"}
    give_identity(study, identity)
    assert identity_of(study) == identity
    assert key_of(study) != "s"
    assert difference(identity, {**identity, "baseline": "b"}) is None
    update_baseline(study, {**identity, "baseline": "b"})
    assert identity_of(study) == {**identity, "baseline": "b"}
    assert difference(identity, {**identity, "kind": "search"}) == "another kind: 'ablation' there, 'search' here"


def test_images_that_cannot_be_read_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    for name in ("cutouts/a/0.png", "cutouts/b/0.png", "photographs/0.png", "photographs/1.png", "photographs/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no image")
    bindings = [f"Composites.{folder} = '{tmp_path / folder}'" for folder in ("cutouts", "photographs")]
    small = ["IMG_SIZE = 16", "MaskedAutoencoder.patch_size = 4", "Schedule.batch_size = 4"]
    definition = Ablation(
        base=["quickstart", "data/composites"],
        variants={"a": []},
        bindings=[*bindings, *small],
    )
    definition.check()
    with pytest.raises(UserError, match=r"variant a: \S+/(cutouts|photographs)/.*\.png cannot be read as an image"):
        definition.read_images()


CHOICE = {"Curriculum.mask_ratio": "Categorical([0.5, 0.75])"}
WHERE_HALF, WHERE_MORE = (f"Float(0, 1, when={{'Curriculum.mask_ratio': {ratio}}})" for ratio in (0.5, 0.75))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"space": {"Ramp.end": "Float(0, 1)", "ramps.Ramp.end": "Float(0, 1)"}},
            r"space binds Ramp\.end twice, by 'Ramp\.end' and 'ramps\.Ramp\.end'",
        ),
        ({"bindings": ["Ramp.end = 0.5"]}, r"bindings binds Ramp\.end, which Search\.space does too; bind it once"),
        (
            {"space": {**CHOICE, "Ramp.end": "Float(0, 1)", "ramps.Ramp.end": WHERE_HALF}},
            r"space binds Ramp\.end twice",
        ),
    ],
)
def test_what_a_space_varies_is_bound_once(options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=rf"Search\.{told}"):
        search(**options).check()


@pytest.mark.parametrize(
    "options",
    [
        {"bindings": ["Ramp.end = 0.5"], "space": {**CHOICE, "Ramp.end": WHERE_HALF}},
        {"space": {**CHOICE, "Ramp.end": WHERE_HALF, "ramps.Ramp.end": WHERE_MORE}},
    ],
    ids=["what holds elsewhere", "two ranges"],
)
def test_what_does_not_apply_together_may_be_bound_twice(options: dict[str, object]) -> None:
    assert search(**options).check()["space"] == options["space"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": optuna.samplers.TPESampler()}, "without \\(\\), .*object is not callable"),
        ({"sampler": optuna.pruners.MedianPruner}, "unexpected keyword argument 'seed'"),
        ({"sampler": partial(optuna.samplers.NSGAIISampler, population_size=1)}, "`population_size` must be greater"),
        ({"sampler": dict}, "it makes a dict"),
    ],
)
def test_what_is_no_sampler(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=rf"Search\.sampler must be the class of a sampler, .*{told}"):
        search(**options)


@pytest.mark.parametrize("name", ["Ramp.end = 0.3 #", "", "Ramp end", "Ramp.end\n"])
def test_a_space_names_bindings(name: str) -> None:
    with pytest.raises(UserError, match=r"Search\.space names .*, which is not what a binding binds"):
        search(space={name: "Float(0, 1)"})


def test_what_is_kept_of_a_study_has_no_secrets() -> None:
    kept = ablation(bindings=["MLflowTracker.uri = 'postgresql://me:hunter2@host/db'"]).check()
    assert "postgresql://" in json.dumps(kept)
    assert "hunter2" not in json.dumps(kept)
