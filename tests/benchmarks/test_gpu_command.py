"""`benchmarks/gpu.py`: what dies costs its own section, and the page is made from what was found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gpu_page import page, slug, table  # noqa: E402


def start(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--tiny", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *words], env=environment, stdout=subprocess.PIPE, text=True)


def section_of(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """The process of a section, once it is there: between fork and exec it still has its parent's command line."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):  # or ended in between
                words = child.cmdline()
                if "--section" in words and words[words.index("--section") + 1] == name:
                    return child
        time.sleep(0.05)
    raise AssertionError(f"{name} never started")


def sections(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text())["sections"]


def test_a_contestant_that_is_killed_costs_its_section_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    process = start(out, "--only", "machine", "fp16", "vit_base_eager", "data")
    section_of(process, "vit_base_eager").send_signal(signal.SIGKILL)
    told, _ = process.communicate(timeout=300)
    found = sections(out)
    assert process.returncode == 1
    assert {name: section["status"] for name, section in found.items()} == {
        "machine": "ok",
        "fp16": "skipped",
        "vit_base_eager": "exit code -9",
        "data": "ok",
    }
    assert "exit code -9" in told

    again = start(out, "--only", "vit_base_eager")
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert sections(out)["vit_base_eager"]["status"] == "ok"
    assert sections(out)["data"] == found["data"]
    assert "toy mae" in told
    assert not list(tmp_path.glob("x.json.*"))


def test_a_section_that_takes_too_long_keeps_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    process = start(out, "--only", "vit_base_eager", "fp16", "--minutes", "0.5")
    section = section_of(process, "vit_base_eager")
    part = out.with_name("x.json.vit_base_eager")
    while process.poll() is None and not part.exists():
        time.sleep(0.02)
    if section.is_running():
        section.send_signal(signal.SIGSTOP)  # as a kernel that never returns
    process.communicate(timeout=120)
    found = sections(out)["vit_base_eager"]
    assert found["status"] in ("took too long", "ok")
    assert found["races"][0]["rows"]
    assert not section.is_running()


def test_what_is_stopped_leaves_nothing_running(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    process = start(out, "--only", "fp16", "vit_base_eager")
    section = section_of(process, "vit_base_eager")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1
    section.wait(timeout=10)  # a killed process takes a moment to go
    assert not section.is_running()
    assert list(sections(out)) == ["fp16"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--device", "cuda:99"), "--device cuda:99 is not there"),
        (("--minutes", "0"), "--minutes 0.0 must be positive"),
        (("--published", "."), "--published . has no models_mae_learn_loss.py"),
        (("--only", "fp16"), "x.json is no file of this command's results"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "x.json").write_text("{")
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "x.json"),
    ]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


RESULTS = sorted((ROOT / "benchmarks" / "results").glob("gpu_*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_page_is_what_the_results_say(path: Path) -> None:
    found = json.loads(path.read_text())
    assert path.stem == slug(found["sections"]["machine"]["device"])
    assert table(found)
    assert (ROOT / "docs" / "gpu.md").read_text() == page(found)
