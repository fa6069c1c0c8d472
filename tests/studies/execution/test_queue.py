"""The queue: who takes what, and whose trial comes back."""

from __future__ import annotations

import os

import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from two_studies import IDENTITY, ablation, search

from studies.definition.ablation import cell_of
from studies.definition.trials import root_number
from studies.execution.queue import enqueue, fail_dead_trials, give_back, is_anybody_at_work, take
from studies.execution.storage import load_study, open_storage, open_study


def test_an_ablation_is_a_grid_that_grows_by_seeds(storage: RDBStorage) -> None:
    study = open_study(storage, "s", ablation(), IDENTITY)
    assert enqueue(study, ablation()) == 4
    assert enqueue(study, ablation()) == 0
    assert enqueue(study, ablation((0, 1, 2))) == 2
    assert [cell_of(trial) for trial in study.get_trials()] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
    ]


def test_seeds_that_are_no_longer_asked_for_wait(storage: RDBStorage) -> None:
    study = open_study(storage, "s", ablation(), IDENTITY)
    enqueue(study, ablation((0, 1)))
    taken = [take(study, storage, ablation((1,))) for _ in range(3)]
    assert [None if trial is None else trial.number for trial in taken] == [2, 3, None]


def test_a_search_has_as_many_trials_as_it_is_told(storage: RDBStorage) -> None:
    definition = search(first=[{"Ramp.end": 0.5}])
    study = open_study(storage, "s", definition, {"kind": "search", "space": {}})
    assert enqueue(study, definition, trials=3) == 3
    assert enqueue(study, definition, trials=5) == 2
    first = take(study, storage, definition)
    (run,) = definition.plan(first, 0)
    assert run.bindings == ("Ramp.end = 0.5",)
    study.tell(first, state=TrialState.FAIL)
    assert enqueue(study, definition, trials=5) == 1  # another in the place of one that failed


def test_a_trial_is_taken_once(storage: RDBStorage) -> None:
    study = open_study(storage, "s", ablation(), IDENTITY)
    enqueue(study, ablation())
    taken = [take(study, storage, ablation()) for _ in range(5)]
    assert [None if trial is None else trial.number for trial in taken] == [0, 1, 2, 3, None]
    assert is_anybody_at_work(study)
    give_back(taken[2], storage)
    assert take(study, storage, ablation()).number == 2


def age(storage: RDBStorage) -> None:
    """As if the last signs of life had been an hour ago."""
    sqlite = storage.engine.dialect.name == "sqlite"
    earlier = "datetime(heartbeat, '-1 hour')" if sqlite else "heartbeat - interval '1 hour'"
    with storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE trial_heartbeats SET heartbeat = {earlier}"))


def test_a_trial_of_another_machine_comes_back_after_the_grace_period(storage: RDBStorage) -> None:
    study = open_study(storage, "s", ablation(), IDENTITY)
    enqueue(study, ablation((0,)))
    trial = take(study, storage, ablation())
    ablation().plan(trial, 0)
    trial.set_user_attr("worker", "elsewhere:1")
    fail_dead_trials(study, storage)
    assert storage.get_trial(trial._trial_id).state == TrialState.RUNNING
    for tries in range(1, 4):
        age(storage)
        fail_dead_trials(study, storage)
        fail_dead_trials(study, storage)  # nothing is enqueued twice
        waiting = [t for t in study.get_trials(states=(TrialState.WAITING,)) if cell_of(t) == ("a", 0)]
        assert len(waiting) == (1 if tries < 3 else 0)  # two retries, no more
        if waiting:
            assert root_number(waiting[0]) == 0
            assert waiting[0].params == {"variant": "a", "seed": 0}
            while (again := take(study, storage, ablation())).number != waiting[0].number:
                again.set_user_attr("worker", "here:0")
                study.tell(again, 0.0)
            again.set_user_attr("worker", "elsewhere:1")


def test_a_dead_process_of_this_machine_is_noticed_at_once(storage: RDBStorage) -> None:
    study = open_study(storage, "s", ablation(), IDENTITY)
    enqueue(study, ablation((0,)))
    child = os.fork()
    if child == 0:  # a worker that takes a trial and dies
        try:
            own = open_storage(storage.engine.url.render_as_string(hide_password=False), heartbeat=1, grace=2)
            take(load_study(own, "s"), own, ablation())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert [trial.state for trial in study.get_trials()] == [TrialState.RUNNING, TrialState.WAITING]
    fail_dead_trials(study, storage)
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.FAIL, TrialState.WAITING, TrialState.WAITING]
    assert cell_of(study.get_trials()[2]) == ("a", 0)
