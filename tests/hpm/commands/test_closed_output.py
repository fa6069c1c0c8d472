"""A command whose reader has gone, as after `hpm configs | head -3`, ends without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpm.runs.outcome import Outcome

SIGPIPE = 141  # as a shell tells it


def run_without_reader(*words: str, errors_too: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program into a pipe that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        return subprocess.run(
            [sys.executable, "-m", *words],
            stdout=writes,
            stderr=writes if errors_too else subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
    finally:
        os.close(writes)


@pytest.mark.parametrize(
    "words",
    ["hpm -h", "hpm --version", "hpm pretrain -h", "hpm configs", "hpm configs quickstart", "studies -h"],
)
def test_a_command_whose_reader_has_gone_ends_quietly(words: str) -> None:
    ended = run_without_reader(*words.split())
    assert ended.stderr == ""
    assert ended.returncode == SIGPIPE


def test_a_mistake_that_nobody_reads_is_told_by_the_exit_code() -> None:
    assert run_without_reader("hpm", "configs", "quikstart", errors_too=True).returncode == 2


def test_a_run_that_nobody_watches_any_longer_may_be_tried_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPM_OUTCOME", str(tiny.with_name("outcome.json")))
    ended = run_without_reader("hpm", "pretrain", str(tiny), "--dry-run")
    assert (ended.returncode, ended.stderr) == (SIGPIPE, "")
    told = Outcome.read(tiny.with_name("outcome.json"))
    assert told is not None
    assert told.retryable
