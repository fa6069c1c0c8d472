"""What a manifest says of the model beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpm.errors import UserError
from hpm.runs.manifest import DataRecord, Manifest
from hpm.runtime.files import write_json

BEFORE = Manifest("run", "pixels", "hard", "fp32", DataRecord("D", 1, "f"))
SAID = {"grid": (4, 4), "num_heads": 2, "decoder_num_heads": None, "mean": [0.5], "std": [0.25]}


def test_a_manifest_of_before_is_completed_and_read_back(tmp_path: Path) -> None:
    assert BEFORE.said == {}
    completed = BEFORE.completed(SAID)
    assert completed.said == {name: value for name, value in SAID.items() if value is not None}
    completed.write(tmp_path / "run.json")
    assert Manifest.read(tmp_path / "run.json").said == completed.said
    assert completed.completed({**SAID, "num_heads": 3}) == completed


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ({"num_heads": 0}, "'num_heads' = 0 must be at least 1"),
        ({"decoder_num_heads": -1}, "'decoder_num_heads' = -1 must be at least 1"),
        ({"num_heads": "2"}, "'num_heads'"),
        ({"mean": []}, "'mean' = .* must be finite numbers"),
        ({"std": [0.0]}, "'std' = .* must be finite numbers above 0"),
        ({"grid": [4]}, "'grid' = .* must be rows and columns"),
    ],
)
def test_what_cannot_be_so_is_damaged(damaged: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {**BEFORE.completed(SAID).as_json(), **damaged})
    with pytest.raises(UserError, match=rf"run\.json.* {words}"):
        Manifest.read(tmp_path / "run.json")
