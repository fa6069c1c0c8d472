"""A user's own modules that a config imports: what they may be called, and where they may lie."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.runs.checkpoint import STATE_FILE, checksum_of_text, list_checkpoints
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


@pytest.fixture
def sent(pretrained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """A stranger's run with one checkpoint, whose configuration imports a module that lies in the run's folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    run = RunFolder(Path(shutil.copytree(pretrained("Schedule.epochs = 2"), tmp_path / "sent", symlinks=True)))
    newest, *others = list_checkpoints(run.checkpoints)
    for other in others:
        shutil.rmtree(other)
    state = json.loads((newest / STATE_FILE).read_text())
    del state["checksum"]
    state["values"]["config"] = "import brought\n" + state["values"]["config"]
    (newest / STATE_FILE).write_text(json.dumps({**state, "checksum": checksum_of_text(state)}))
    run.config.write_text("import brought\n" + run.config.read_text())
    (run.path / "brought.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    yield run
    sys.modules.pop("brought", None)


# What is left of the run, by its new name, and what is evaluated.
SENT = {
    "without what tells that it is a run": ({"config.gin": "config.gin", "checkpoints": "checkpoints"}, "."),
    "its checkpoints": ({"checkpoints": "checkpoints"}, "checkpoints/checkpoint-00000020"),
    "a checkpoint beside the module": ({"checkpoints/checkpoint-00000020": "weights"}, "weights"),
    "a checkpoint of another name": ({"checkpoints/checkpoint-00000020": "checkpoints/x"}, "checkpoints/x"),
    "a checkpoint around the module": ({"checkpoints/checkpoint-00000020": "."}, "."),
}


@pytest.mark.parametrize("kept", SENT)
def test_whatever_is_left_of_a_run_brings_nothing_along(
    hpm: Callable[..., int],
    sent: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kept: str,
) -> None:
    names, evaluated = SENT[kept]
    folder = tmp_path / "left"
    for old, new in names.items():
        (folder / new).parent.mkdir(exist_ok=True, parents=True)
        (sent.path / old).rename(folder / new)
    (sent.path / "brought.py").rename(folder / "brought.py")
    monkeypatch.chdir(folder)
    assert hpm("evaluate", evaluated, "--protocol", "knn") == 2
    assert "and would be executed" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "executed").exists()


def test_a_part_may_not_have_a_shipped_ones_name(tmp_path: Path, forks: Forks) -> None:
    """In a process of its own, for what a module registered stays."""
    (tmp_path / "mine.py").write_text(PART.format("Ramp"))
    (tmp_path / "mine.gin").write_text("include 'quickstart.gin'\nimport mine\n")
    ran = forks.run("hpm", "plan", tmp_path / "mine.gin", cwd=tmp_path)
    assert ran.returncode == 2
    told = " ".join(ran.stderr.split())
    assert "mine.gin, line 2: mine.Ramp has the name of curriculum.schedulers.ramps.Ramp" in told


def test_a_checkpoint_among_ones_own_parts_is_trusted_by_the_environment(
    hpm: Callable[..., int], sent: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sent.path)
    monkeypatch.setenv("HPM_TRUST_RUNS", "1")
    assert hpm("evaluate", ".", "--protocol", "knn") == 0
    assert (tmp_path / "executed").exists()


def test_nothing_but_a_configs_own_imports_is_found_in_the_current_folder(
    pretrained: Callable[..., Path], forks: Forks, tmp_path: Path
) -> None:
    """In a process of its own, which has imported neither."""
    run = Path(shutil.copytree(pretrained("Schedule.epochs = 2"), tmp_path / "run", symlinks=True))
    for name in ("sklearn", "mlflow", "not_installed_anywhere"):
        (run / f"{name}.py").write_text("open('executed', 'w').close()\n")
    assert forks.run("hpm", "evaluate", ".", "--protocol", "knn", cwd=run).returncode == 0
    assert not (run / "executed").exists()


def test_ones_own_folders_come_first_for_the_import_and_last_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, configs, here = (tmp_path / name for name in ("installed", "configs", "here"))
    for folder in (installed, configs, here):
        folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(installed), *sys.path])
    monkeypatch.chdir(here)
    (installed / "part_of_two_places.py").write_text("raise AssertionError('the installed one')\n")
    (configs / "part_of_two_places.py").write_text("import part_in_the_current_folder\n")
    (here / "part_in_the_current_folder.py").write_text(PART.format("Nested"))
    (configs / "mine.gin").write_text("Ramp.end = 0.5\n")
    parse_config([str(configs / "mine.gin")])
    assert not {str(configs), str(here)} & set(sys.path), "nothing was imported from there"
    (configs / "mine.gin").write_text("import part_of_two_places\nNested.value = 0.3\n")
    assert parse_config([str(configs / "mine.gin")]).build_part("Nested").value == 0.3
    assert sys.path[0] == str(installed)
    assert sys.path[-2:] == [str(configs), str(here)]


def test_the_current_folder_is_not_used_where_it_is_a_strangers_run(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one's own module either, which lies elsewhere and imports what may be there or not."""
    (run.path / "may_be_there.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    (tmp_path / "part_with_an_option.py").write_text("try:\n    import may_be_there\nexcept ImportError:\n    pass\n")
    (tmp_path / "mine.gin").write_text("import part_with_an_option\n")
    monkeypatch.chdir(run.path)
    parse_config([str(tmp_path / "mine.gin")])
    assert "part_with_an_option" in sys.modules
    assert not (tmp_path / "executed").exists()
