"""The metrics of a run: none lost and none twice, whatever the disk does."""

from __future__ import annotations

import json
import math
import resource
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpm.errors import Notice
from hpm.runs import metrics_file
from hpm.runs.metrics_file import parse_row
from hpm.runs.run_folder import MetricsFile


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def row(step: int) -> dict[str, object]:
    return {"step": step, "kind": "train", "loss": 1 / step}


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append(row(1))
    size = metrics.path.stat().st_size
    with full_disk(size + 10):  # the next line begins and does not end
        with pytest.warns(UserWarning, match="metrics wait in memory"):
            metrics.append(row(2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # told once
            metrics.append(row(3))
        assert metrics.problem == f"{metrics.path} cannot be written: File too large"
        assert metrics.path.stat().st_size == size
        assert [r["step"] for r in metrics.rows()] == [1, 2, 3]
        with pytest.raises(OSError, match="too large"):
            metrics.flush()
    metrics.append(row(4))
    assert metrics.problem is None
    assert [json.loads(line) for line in metrics.path.read_text().splitlines()] == [row(step) for step in range(1, 5)]
    with full_disk(size), pytest.warns(UserWarning, match="metrics wait in memory"):  # another outage is told again
        metrics.append(row(5))
    metrics.flush()
    assert MetricsFile(metrics.path).rows() == [row(step) for step in range(1, 6)]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    metrics = MetricsFile(tmp_path / "file" / "metrics.jsonl")
    with pytest.warns(UserWarning, match="cannot be written"):
        metrics.append(row(1))
    (tmp_path / "file").unlink()
    (tmp_path / "file").mkdir()
    metrics.flush()
    assert MetricsFile(metrics.path).rows() == [row(1)]


def test_half_a_line_hides_nothing_that_waits(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append(row(1))
    with metrics.path.open("a") as file:
        file.write('{"step": 2, "ki')
    with full_disk(metrics.path.stat().st_size), pytest.warns(UserWarning, match="cannot be written"):
        metrics.append(row(3))
    assert metrics.rows() == [row(1), row(3)]
    metrics.keep(lambda r: True)
    assert MetricsFile(metrics.path).rows() == [row(1), row(3)]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.append(row(step))
    text = metrics.path.read_text()
    metrics.path.write_text(text[:-5])
    assert metrics.rows() == [row(1), row(2)]
    metrics.keep(lambda r: r["step"] < 2)
    assert metrics.rows() == [row(1)]


DAMAGED = [
    b"{",
    b"nonsense",
    b"\xff\xfe",
    b"[1, 2]",
    b"5",
    b'{"step": 2}',
    b'{"step": "2", "kind": "train"}',
    b"[" * 99_999,
    *(
        b'{"step": 2, "kind": "train", %s}' % value
        for value in (
            b'"epoch": [1]',
            b'"norms": [1.0, null]',
            b'"loss": true',
            b'"loss": "1"',
            b'"loss": {}',
            b'"skipped_steps": [1]',
            b'"skipped_steps": 1.5',
            b'"skipped_steps": -1',
            b'"skipped_steps": 3',
            b'"time": -1',
            b'"time": 1e300',
            b'"time": Infinity',
        )
    ),
    b'{"step": true, "kind": "train"}',
    b'{"step": null, "kind": "train"}',
    b'{"step": 2, "kind": ["train"]}',
]


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_costs_that_line_alone(tmp_path: Path, damage: bytes) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3, 4):
        metrics.append(row(step))
    lines = metrics.path.read_bytes().splitlines(keepends=True)
    lines[1] = damage + b"\n"
    metrics.path.write_bytes(b"".join(lines))
    again = MetricsFile(metrics.path)
    with pytest.warns(Notice, match=r"metrics.jsonl, line 2 is damaged; it is left out"):
        assert again.rows() == [row(1), row(3), row(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        again.append(row(5))
        assert again.rows() == [row(1), row(3), row(4), row(5)]
        again.keep(lambda r: r["step"] < 5)
    assert metrics.path.read_bytes() == b"".join(lines)  # byte for byte, the damaged one too


def test_what_is_no_number_is_null_in_the_file_and_nan_here(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append(row(1) | {"loss": math.inf, "norm": math.nan})
    written = json.loads(metrics.path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert (written["loss"], written["norm"]) == (None, None)
    assert math.isnan(metrics.rows()[0]["loss"])


def test_skipped_steps_that_are_null_count_as_nothing(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for skipped in ({"skipped_steps": 2}, {"skipped_steps": math.nan}, {}, {"skipped_steps": 1}):
        metrics.append(row(3) | skipped)
    assert metrics.count_skipped() == 3


def test_what_waits_and_is_no_row_is_not_read(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    with full_disk(0):
        with pytest.warns(UserWarning, match="metrics wait in memory"):
            metrics.append(row(1) | {"of an evaluation of one's own": [1.0]})
        metrics.append(row(2))
        assert metrics.rows() == [row(2)]
    metrics.keep(lambda r: r["step"] < 3)
    with pytest.warns(Notice, match="line 1 is damaged"):
        assert metrics.rows() == [row(2)]


def test_lines_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are those of a file that is written anew taken for those of before."""
    writer, reader = (MetricsFile(tmp_path / "metrics.jsonl") for _ in range(2))
    parsed: list[bytes] = []
    monkeypatch.setattr(metrics_file, "parse_row", lambda line: parsed.append(line) or parse_row(line))
    for step in range(1, 6):
        writer.append(row(step))
        assert [r["step"] for r in reader.rows()] == list(range(1, step + 1))
    assert len(parsed) == 5
    writer.keep(lambda r: r["step"] < 3)
    for step in range(6, 12):
        writer.append(row(step))
    assert [r["step"] for r in reader.rows()] == [1, 2, *range(6, 12)]


def test_the_rows_up_to_a_step_are_not_copied_and_do_not_grow(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 2, 3):
        metrics.append(row(step))
    two, whole = metrics.rows_until(2), metrics.rows_until()
    metrics.append(row(4))
    assert list(two) == [row(1), row(2), row(2)] == two[:]
    assert (len(whole), len(metrics.rows_until()), len(metrics.rows_until(0))) == (4, 5, 0)
    assert (whole[-1], whole[2:], whole[9:]) == (row(3), [row(2), row(3)], [])
    assert whole[1] is two[1] is metrics.rows_until()[1]
    with pytest.raises(IndexError):
        two[3]


def test_a_row_after_a_torn_line_is_a_line_of_its_own(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append(row(1))
    with metrics.path.open("a") as file:
        file.write('{"step": 2, "ki')
    again = MetricsFile(metrics.path)
    again.append(row(3))
    again.append(row(4))
    with pytest.warns(Notice, match="line 2 is damaged"):
        assert again.rows() == [row(1), row(3), row(4)]
    again.rows()[0]["step"] = 7
    assert again.rows()[0] == row(1)
    again.path.unlink()
    assert again.rows() == []
