"""The README's code is run as it stands there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]


def test_the_curriculum_in_somebody_elses_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in PYTHON if "class MyTeacher" in block]
    names: dict[str, object] = {}
    exec(code, names)
    mask = names["mask"]
    assert mask.visible.shape == (8, 49)  # type: ignore[attr-defined]
    assert mask.masked.shape == (8, 147)  # type: ignore[attr-defined]
    # At the end of the run half of the mask follows the teacher: more contrast than in a random patch.
    scores = names["curriculum"].scores  # type: ignore[attr-defined]
    hard = scores.topk(73, dim=1).indices
    assert mask.to_bool().gather(1, hard).all()  # type: ignore[attr-defined]


def test_a_part_of_ones_own(
    hpm: Callable[..., int], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example's module and its conformance test, on the tiny run instead of the quickstart."""
    (part,) = [block for block in PYTHON if "class Sawtooth" in block]
    (suite,) = [block for block in PYTHON if "class TestSawtooth" in block]
    (config,) = [block for language, block in BLOCKS if not language and "import my_parts" in block]
    (tmp_path / "my_parts.py").write_text(part)
    (tmp_path / "test_my_parts.py").write_text(suite)
    (tmp_path / "my.gin").write_text(config.replace("quickstart.gin", "tiny.gin"))
    assert hpm("pretrain", "my.gin", "--output", "run") == 0
    assert "Sawtooth.teeth = 3" in Path("run/config.gin").read_text()
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pytest.ini").touch()
    assert (
        pytest.main(
            ["-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini"), str(tmp_path / "test_my_parts.py")]
        )
        == 0
    )
    sys.modules.pop("my_parts", None)


VALUED = {"-b", "--output", "--init-from", "--gpus", "--device"}


def test_commands_name_configs_that_exist() -> None:
    from hpm.config import find_config

    text = README + (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    commands = re.findall(r"^(?:torchrun.*-m )?hpm (?:pretrain|plan) (.*)$", text, flags=re.MULTILINE)
    assert len(commands) > 8
    for command in commands:
        words = re.sub(r"'[^']*'|\"[^\"]*\"", "X", command.split("#")[0].rstrip("\\")).split()
        for before, word in zip(["", *words], words, strict=False):
            if not word.startswith(("-", "my.gin", "...")) and "…" not in word and before not in VALUED:
                find_config(word)
