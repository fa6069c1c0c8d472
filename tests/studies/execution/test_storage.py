"""The queue: who takes what, whose trial comes back, and which studies are the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from hpm.errors import UserError
from studies.definition.base import Ablation, Search
from studies.execution.storage import (
    cell_of,
    enqueue,
    fail_dead_trials,
    give_back,
    load_study,
    open_storage,
    open_study,
    root_number,
    take,
)

IDENTITY = {"kind": "ablation", "metric": "m", "direction": "maximize", "variants": {"a": "x", "b": "y"}}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_postgresql)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> RDBStorage:
    url = f"sqlite:///{tmp_path}/s.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    return open_storage(url, heartbeat=1, grace=2, retries=2)


def ablation(seeds: tuple[int, ...] = (0, 1)) -> Ablation:
    return Ablation(base=["quickstart"], variants={"a": [], "b": []}, seeds=seeds, metric="m")


def search(**options: object) -> Search:
    return Search(base=["quickstart"], space={"Ramp.end": "Float(0, 1)"}, metric="m", **options)


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"variants": {"a": "x", "b": "z"}}, "other variants: b is another there"),
        ({"variants": {"a": "x"}}, "other variants: b is not here"),
        ({"variants": {"a": "x", "b": "y", "c": "w"}}, "other variants: c is not in it"),
        ({"metric": "n"}, "another metric: 'm' there, 'n' here"),
    ],
)
def test_a_study_of_another_definition_is_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    open_study(storage, "s", ablation(), IDENTITY)
    with pytest.raises(UserError, match="give this one another --study name") as error:
        open_study(storage, "s", ablation(), {**IDENTITY, **change})
    assert told in str(error.value)


def test_a_space_that_differs_is_named(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    open_study(storage, "s", search(), {"kind": "search", "space": {"Ramp.end": "Float(0, 1)"}})
    with pytest.raises(UserError, match=r"Ramp.end is Float\(0, 1\) there and Float\(0, 0.5\) here"):
        open_study(storage, "s", search(), {"kind": "search", "space": {"Ramp.end": "Float(0, 0.5)"}})


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://user:secret@127.0.0.1:1/x", "cannot be opened"),
        ("nonsense", "cannot be opened"),
        ("mysql://127.0.0.1/x", "needs a driver that is not installed"),
    ],
)
def test_a_storage_that_cannot_be_reached(url: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(url)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    optuna.create_study(study_name="other", storage=storage)
    with pytest.raises(UserError, match="there is no study 's' in the storage; other"):
        load_study(storage, "s")


Make = Callable[..., Search]


def test_proposals_depend_on_the_trials_number_alone() -> None:
    def proposals(order: list[int]) -> dict[int, float]:
        definition, found = search(), {}
        for number in order:
            study = optuna.create_study(sampler=definition.sampler_of(number))
            found[number] = study.ask().suggest_float("x", 0, 1)
        return found

    assert proposals([0, 1, 2]) == proposals([2, 0, 1])
    assert len(set(proposals([0, 1, 2]).values())) == 3
