"""The guide to writing one's own parts is run as it stands there; its table names every shipped curriculum."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from doc_pages import ROOT, blocks

from hpm.config import configs_folder, parse_config

PAGE = ROOT / "docs" / "curricula.md"
GUIDE = PAGE.read_text()
BLOCKS = [(block.language, block.body) for block in blocks(PAGE)]


def test_parts_of_ones_own(
    hpm: Callable[..., int],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (module,) = [block for language, block in BLOCKS if language == "python" and "class Breathing" in block]
    (suite,) = [block for language, block in BLOCKS if language == "python" and "class TestBreathing" in block]
    (config,) = [block for language, block in BLOCKS if language == "gin" and "import my_masks" in block]
    (tmp_path / "my_masks.py").write_text(module)
    (tmp_path / "test_my_masks.py").write_text(suite)
    (tmp_path / "my.gin").write_text(config.replace("quickstart.gin", "tiny.gin"))
    assert hpm("pretrain", "my.gin", "--output", "run") == 0
    assert "Center.pull = 0.3" in Path("run/config.gin").read_text()
    capsys.readouterr()
    assert hpm("list", "my.gin") == 0
    listed = capsys.readouterr().out.split("imported by the config")[1]
    assert all(f"  {name} " in listed for name in ("Breathing", "Brightness", "Center"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pytest.ini").touch()
    found = pytest.main(
        ["-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini"), str(tmp_path / "test_my_masks.py")]
    )
    assert found == 0
    sys.modules.pop("my_masks", None)


def test_a_scheduled_ratio(tiny: Path, hpm: Callable[..., int], tmp_path: Path) -> None:
    (ratio,) = [block for language, block in BLOCKS if language == "gin" and "ratio/Stepped" in block]
    (tmp_path / "ratio.gin").write_text(f"include 'tiny.gin'\n{ratio}")
    curriculum = parse_config([str(tmp_path / "ratio.gin")]).build().method.curriculum
    assert [curriculum.count_masked(100, progress) for progress in (0.0, 0.3, 0.6, 1.0)] == [54, 62, 69, 77]
    assert hpm("pretrain", "ratio.gin", "--output", "run") == 0


def test_every_curriculum_is_in_the_table() -> None:
    cells = " ".join(line.split("|")[1] for line in GUIDE.splitlines() if line.startswith("| `"))
    configs = configs_folder() / "curricula"
    assert set(re.findall(r"`(\w+)`", cells)) == {path.stem for path in configs.glob("*.gin")}


def test_what_differs_from_what_was_published_is_in_one_place() -> None:
    """A curriculum whose header names a difference has a row in the guide's list of them."""
    listed = GUIDE.split("| config | what differs from what was published |")[1].split("\n\n")[0]
    rows = {name for line in listed.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1] if line else "")}
    named = {
        path.stem for path in (configs_folder() / "curricula").glob("*.gin") if "Not as published" in path.read_text()
    }
    assert named
    assert named <= rows
