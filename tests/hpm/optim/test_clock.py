"""Where a run stands: steps, epochs and progress."""

from __future__ import annotations

import pytest

from hpm.optim.clock import Clock


def test_clock() -> None:
    clock = Clock(25, 10, 4)
    assert (clock.epoch, clock.fractional_epoch, clock.total_steps) == (2, 2.5, 40)
    assert clock.progress("epoch") == 0.75
    assert clock.progress("step") == 26 / 40


def test_the_same_run_at_another_step() -> None:
    start = Clock(0, 10, 4)
    later = start.at(25)
    assert later == Clock(25, 10, 4)
    assert later.at(0) == start
    assert start.step == 0


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_progress_rises_to_1_and_is_never_0(per: str) -> None:
    start = Clock(0, 5, 3)
    progress = [start.at(step).progress(per) for step in range(start.total_steps)]
    assert progress[0] == (1 / 3 if per == "epoch" else 1 / 15)
    assert progress[-1] == 1.0
    assert progress == sorted(progress)
    assert len(set(progress)) == (3 if per == "epoch" else 15)


def test_epochs_change_where_their_last_step_is_done() -> None:
    start = Clock(0, 5, 3)
    assert [start.at(step).epoch for step in (0, 4, 5, 9, 10, 14)] == [0, 0, 1, 1, 2, 2]
