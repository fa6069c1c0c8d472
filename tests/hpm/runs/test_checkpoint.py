"""Checkpoints on disk: damage is recognized, the right ones are kept, nothing is pickled."""

from __future__ import annotations

import json
import os
import resource
import warnings
from pathlib import Path

import pytest
import torch

from hpm.errors import UserError
from hpm.runs.checkpoint import Checkpoint, list_checkpoints, load_newest
from hpm.runs.checkpoint_writer import CheckpointWriter
from hpm.runtime.distributed import DistributedContext


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {
        "student.weight": torch.arange(1000.0).view(10, 100) + step,
        "student.bias": torch.ones(3),
        "tally": torch.zeros(()),
    }


def writer(folder: Path, *, keep: int = 2, keep_every: int = 0) -> CheckpointWriter:
    return CheckpointWriter(folder, DistributedContext(), keep=keep, keep_every=keep_every, sharded=False)


def saved(folder: Path, *steps: int) -> Path:
    """The newest of some checkpoints."""
    writes = writer(folder, keep=len(steps))
    for step in steps:
        writes.save(step, tensors(step), {"step": step, "config": "Ramp.end = 0.5"})
    writes.wait()
    return list_checkpoints(folder)[0]


def test_comes_back(tmp_path: Path) -> None:
    loaded = Checkpoint(saved(tmp_path, 3))
    assert loaded.values == {"step": 3, "config": "Ramp.end = 0.5"}
    assert set(loaded.names()) == set(tensors(3))
    for name, tensor in tensors(3).items():
        assert torch.equal(loaded.tensor(name), tensor)
    assert set(loaded.state_dict("student")) == {"weight", "bias"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_who_may_read_a_checkpoint_is_for_the_umask_to_say(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files = list(saved(tmp_path, 3).iterdir())
    finally:
        os.umask(before)
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert {file.stat().st_mode & 0o777 for file in files} == {0o666 & ~mask}


def test_saving_copies(tmp_path: Path) -> None:
    """What training changes while the checkpoint is written does not change the checkpoint."""
    writes, state = writer(tmp_path), tensors(1)
    writes.save(1, state, {})
    for tensor in state.values():
        tensor.fill_(-1)
    writes.wait()
    assert torch.equal(Checkpoint(list_checkpoints(tmp_path)[0]).tensor("student.weight"), tensors(1)["student.weight"])


def test_which_are_kept(tmp_path: Path) -> None:
    writes = writer(tmp_path, keep=2, keep_every=30)
    for step in range(10, 101, 10):
        writes.save(step, tensors(step), {})
    writes.wait()
    assert [int(path.name.split("-")[1]) for path in list_checkpoints(tmp_path)] == [100, 90, 80, 60, 30]
    assert (tmp_path / "latest").resolve().name == "checkpoint-00000100"
    assert writes.written == 100
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob("*.removed"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove part", "remove state", "flip state", "empty state"])
def test_damage_is_recognized(tmp_path: Path, damage: str) -> None:
    newest = saved(tmp_path, 1, 2)
    part, state = newest / "part-00000-of-00001.safetensors", newest / "state.json"
    if damage == "truncate":
        os.truncate(part, part.stat().st_size // 2)
    elif damage == "flip":
        content = bytearray(part.read_bytes())
        content[-1000] ^= 1
        part.write_bytes(content)
    elif damage == "remove part":
        part.unlink()
    elif damage == "remove state":
        state.unlink()
    elif damage == "flip state":
        state.write_text(state.read_text().replace('"step": 2', '"step": 3'))
    else:
        state.write_text("")
    before, lines = load_newest(tmp_path)
    assert before is not None
    assert before.values["step"] == 1
    assert len(lines) == 1
    assert newest.name in lines[0]


def test_a_part_must_lie_inside(tmp_path: Path) -> None:
    newest = saved(tmp_path, 1)
    state = json.loads((newest / "state.json").read_text())
    state["parts"] = {"../../secret": 1}
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="damaged"):
        Checkpoint(newest)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a checkpoint.*checkpoint-\* folder"):
        Checkpoint(tmp_path)


def test_left_overs_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000007.partial").mkdir()
    (tmp_path / "checkpoint-00000003.removed").mkdir()
    saved(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000008", "latest"]


def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    """The limit on a file's size stands for the disk: writing fails in the same place, with the same kind of error."""
    writes = writer(tmp_path)
    writes.save(1, tensors(1), {})
    writes.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        writes.save(2, tensors(2), {})
        with pytest.warns(UserWarning, match="checkpoint-00000002 could not be written.*training goes on"):
            writes.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000001"]
    assert writes.written == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writes.save(3, tensors(3), {})
        writes.wait()
    assert writes.written == 3
    assert Checkpoint(tmp_path / "latest").tensor("student.weight").equal(tensors(3)["student.weight"])
