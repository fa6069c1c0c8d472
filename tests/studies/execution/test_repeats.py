"""A setting is trained once, whatever a sampler proposes and however many workers there are."""

from __future__ import annotations

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpm.errors import Notice
from studies.definition.search import Search
from studies.definition.settings import is_repeat
from studies.execution.queue import enqueue, take
from studies.execution.repeats import settle
from studies.execution.storage import open_study

SHAPES = {"Ramp.shape": "Categorical(['linear', 'cosine', 'root'])"}


class Stubborn(optuna.samplers.RandomSampler):
    """Proposes the first choice again and again."""

    def sample_independent(self, *arguments: object) -> str:
        return "linear"


def search(**options: object) -> Search:
    return Search(
        base=["quickstart"], metric="validation/m", sampler=Stubborn, **{"space": SHAPES, **options}
    )  # nothing of it is built here


class Bench:
    """A study whose trials are taken and told by hand."""

    def __init__(self, storage: RDBStorage, definition: Search, trials: int) -> None:
        self.storage, self.definition = storage, definition
        self.study = open_study(storage, "s", definition, {"kind": "search", "space": {}})
        enqueue(self.study, definition, trials=trials)

    def take(self) -> tuple[optuna.Trial, optuna.trial.FrozenTrial | None] | None:
        """A trial with its setting, and the trial that it repeats."""
        trial = take(self.study, self.storage, self.definition)
        if trial is None:
            return None
        self.study.sampler = self.definition.sampler_of(trial.number)
        self.definition.plan(trial, trial.number)
        return trial, settle(self.study, self.storage, self.definition, trial)

    def waiting(self) -> list[int]:
        return [trial.number for trial in self.study.get_trials(states=(TrialState.WAITING,))]


def test_every_setting_of_a_small_space_is_tried_once(storage: RDBStorage) -> None:
    with pytest.warns(Notice, match="holds 3 settings, fewer than 9 trials; the search ends when each has been tried"):
        bench = Bench(storage, search(), 9)
    trained = []
    while (taken := bench.take()) is not None:
        trial, other = taken
        if other is None:
            trained.append(trial.params["Ramp.shape"])
        bench.study.tell(trial, 0.5 if other is None else other.values[0])
    assert sorted(trained) == ["cosine", "linear", "root"]
    assert len(bench.study.get_trials()) == 5  # two repeats, for each of which another was tried
    with pytest.warns(Notice, match="3 settings"):
        assert enqueue(bench.study, bench.definition, trials=9) == 0


def test_a_setting_that_another_worker_trains_is_waited_for(storage: RDBStorage) -> None:
    bench = Bench(storage, search(), 2)
    first, nothing = bench.take()
    assert nothing is None
    second, other = bench.take()
    assert other.number == first.number
    assert other.state == TrialState.RUNNING
    storage.set_trial_state_values(second._trial_id, state=TrialState.WAITING)  # given back
    third, nothing = bench.take()  # what is tried in its place
    assert nothing is None
    assert third.params["Ramp.shape"] != "linear"
    assert bench.take() is None
    assert bench.waiting() == [second.number]
    bench.study.tell(first, 0.7)
    again, other = bench.take()
    assert again.number == second.number
    assert (other.number, other.values) == (first.number, [0.7])
    assert bench.waiting() == []  # nothing more in its place


def test_a_setting_that_failed_is_tried_again(storage: RDBStorage) -> None:
    bench = Bench(storage, search(), 2)
    first, _ = bench.take()
    second, other = bench.take()
    assert other is not None
    storage.set_trial_state_values(second._trial_id, state=TrialState.WAITING)
    bench.study.tell(first, state=TrialState.FAIL)
    again, other = bench.take()
    assert (again.number, other) == (second.number, None)
    assert not is_repeat(storage.get_trial(again._trial_id))


def test_without_an_end_of_settings_the_sampler_is_asked_again(storage: RDBStorage) -> None:
    space = {"Ramp.end": "Float(0, 1)"}
    bench = Bench(storage, search(space=space, first=[{"Ramp.end": 0.5}, {"Ramp.end": 0.5}]), 2)
    (first, _), (second, other) = bench.take(), bench.take()
    assert other.number == first.number
    assert bench.waiting() == [2]
    assert "fixed_params" in bench.study.get_trials()[2].system_attrs  # of no parameter: the sampler's turn
    bench.study.tell(first, 0.5)
    bench.study.tell(second, 0.5)
    repeat = bench.study.get_trials()[1]
    assert bench.definition.variant_of(repeat) == "trial-0000"
    assert [trial.number for trial in bench.definition.best_trials(bench.study)] == [0]


def test_a_front_names_a_setting_once(storage: RDBStorage) -> None:
    bench = Bench(storage, search(cost="flops"), 2)
    (first, _), (second, _) = bench.take(), bench.take()
    for trial in (first, second):
        bench.study.tell(trial, [0.5, 1.0])
    assert [trial.number for trial in bench.definition.best_trials(bench.study)] == [0]
