"""What runs leave behind, compared: what `recording.RecordingCurriculum` appended, and their folders."""

import json
from pathlib import Path
from typing import Any

import torch

from hpm.runs import checkpoint

TIMINGS = {"time", "seconds", "images_per_second"}


def recorded_lines(path: Path) -> list[str]:
    """Not those that a kill tore, which may happen where a page of the file ends."""
    return [line[:-1] for line in path.read_text().splitlines() if line.endswith(";")]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMINGS}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def assert_same_run(one: Path, other: Path) -> None:
    """The same bits in the last checkpoint, the same rows of metrics, the same summary; times aside."""
    states = [checkpoint.Checkpoint(checkpoint.list_checkpoints(folder / "checkpoints")[0]) for folder in (one, other)]
    assert states[0].values["step"] == states[1].values["step"]
    assert states[0].values["curriculum"] == states[1].values["curriculum"]
    assert set(states[0].names()) == set(states[1].names())
    for name in states[0].names():
        one_bits, other_bits = (state.tensor(name).reshape(-1).view(torch.uint8) for state in states)
        assert torch.equal(one_bits, other_bits), name  # of what is not measured yet, NaN, too
    assert rows(one) == rows(other)
    summaries = [json.loads((folder / "summary.json").read_text())["metrics"] for folder in (one, other)]
    assert summaries[0] == summaries[1]
