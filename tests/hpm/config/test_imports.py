"""A user's own modules that a config imports: what they may be called, and where they may lie."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forks import Forks

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.runs.manifest import DataRecord, Manifest
from hpm.runs.run_folder import RunFolder

PART = "import gin\nfrom curriculum import Constant\n@gin.register\nclass {}(Constant):\n    pass\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Somebody's run, which brings along the module that it imports."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    manifest = Manifest("run", "pixels", "hard", "fp32", DataRecord("D", 1, "f"), plugins={"brought": str(run.path)})
    manifest.write(run.manifest)
    return run


@pytest.mark.parametrize("name", ["brought", "brought.inner"])
def test_a_module_that_a_run_brings_along_is_not_executed(
    run: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = run.path / "executed"
    code = f"open({str(executed)!r}, 'w').close()\n"
    if "." in name:
        (run.path / "brought").mkdir()
        (run.path / "brought" / "__init__.py").write_text(code)
    else:
        (run.path / "brought.py").write_text(code)
    run.config.write_text(f"import {name}\n")
    monkeypatch.chdir(run.path)
    with pytest.raises(UserError, match=r"config\.gin, line 1 imports brought.* lies in the folder of a run"):
        parse_config([str(run.config)])
    assert not executed.exists()


def test_a_module_of_a_run_that_is_trusted(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.path / "brought_and_trusted.py").write_text(PART.format("Trusted"))
    run.config.write_text("import brought_and_trusted\nTrusted.value = 0.3\n")
    monkeypatch.setenv("HPM_TRUST_RUNS", "1")
    assert parse_config([str(run.config)]).build_part("Trusted").value == 0.3


def test_a_part_may_not_have_a_shipped_ones_name(tmp_path: Path, forks: Forks) -> None:
    """In a process of its own, for what a module registered stays."""
    (tmp_path / "mine.py").write_text(PART.format("Ramp"))
    (tmp_path / "mine.gin").write_text("include 'quickstart.gin'\nimport mine\n")
    ran = forks.run("hpm", "plan", tmp_path / "mine.gin", cwd=tmp_path)
    assert ran.returncode == 2
    told = " ".join(ran.stderr.split())
    assert "mine.gin, line 2: mine.Ramp has the name of curriculum.schedulers.ramps.Ramp" in told
