"""What one thread hands over reaches another, and what is remembered is read back."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tracked_runs import rows_of, until

from hpm.tracking.outbox import Outbox, TrackingState


def test_what_is_outstanding() -> None:
    outbox = Outbox()
    outbox.put(rows_of(3), [Path("a.png")])
    outbox.put(rows_of(5), [Path("a.png"), Path("b.png")])
    outbox.put(rows_of(4))  # a resumed run starts with fewer
    assert outbox.rows == rows_of(5)
    assert outbox.files == [Path("a.png"), Path("b.png")]
    outbox.remove(Path("a.png"))
    assert outbox.files == [Path("b.png")]
    assert not outbox.wait()
    outbox.close("FINISHED")
    assert outbox.wait()
    assert outbox.status == "FINISHED"


def test_the_sender_sleeps_until_there_is_something() -> None:
    outbox = Outbox()
    woken: list[bool] = []

    def sender() -> None:
        while not woken or not woken[-1]:
            woken.append(outbox.wait())

    thread = threading.Thread(target=sender)
    thread.start()
    outbox.put(rows_of(1))
    until(lambda: len(woken) == 1)
    outbox.put((), [Path("a.png")])
    until(lambda: len(woken) == 2)
    outbox.close("KILLED")
    thread.join()
    assert woken == [False, False, True]


def test_a_state_is_read_as_it_was_written(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TrackingState.read(folder)
    state = TrackingState("sqlite:///a.db", run_id="1", sent=7, ended=True)
    state.write(folder)
    assert TrackingState.read(folder) == state
    assert [path.name for path in folder.iterdir()] == ["mlflow.json"]
    assert TrackingState("a").key != TrackingState("a").key
