"""`hpm configs`: what is shipped, by folder, for a person and for grep."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from hpm.commands import configs
from hpm.runtime.config_files import config_names, configs_folder, find_config, first_sentence
from hpm.runtime.console import make_console

Hpm = Callable[..., int]


def test_every_config_is_one_line_of_a_pipe(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("configs") == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == config_names()
    found = next(line for line in lines if line.split()[:1] == ["curricula/attention"])
    assert found.endswith("the patches that the class token attends to are masked first."), "joined over two lines"


def test_folders_come_in_the_order_in_which_a_newcomer_needs_them(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    hpm("configs")
    lines = capsys.readouterr().out.splitlines()
    headings = [line.partition(":")[0] for line in lines if line and not line.startswith(" ")]
    assert headings[:3] == ["configs", "curricula", "image_curricula"]
    assert sorted(headings[1:]) == sorted(path.name for path in configs_folder().iterdir() if path.is_dir())
    assert all(": " in line for line in lines if line and not line.startswith(" ")), "every heading says what it is"


@pytest.mark.parametrize("name", ["curricula", "curricula/", "configs/curricula"])
def test_one_folder(hpm: Hpm, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert hpm("configs", name) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == [other for other in config_names() if other.startswith("curricula/")]


def test_one_config_is_printed(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("configs", "curricula/attention") == 0
    assert capsys.readouterr().out == find_config("curricula/attention").read_text()


def test_a_misspelt_folder_is_answered_with_the_nearest(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("configs", "curicula") == 2
    assert "Did you mean curricula or" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 140])
def test_a_terminal_shows_whole_sentences_within_its_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    shown = StringIO()
    console = make_console(file=shown, force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr("hpm.runtime.console.make_console", lambda: console)
    configs.command()
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    for name in config_names():
        assert name in words
    if width == 80:
        for name in config_names():
            assert first_sentence(configs_folder() / f"{name}.gin") in words


def test_the_first_sentence_of_a_header(tmp_path: Path) -> None:
    for text, sentence in [
        (
            "# One, e.g. by Li et al. 2022\n# (arXiv 1.2), at 1.5 %. Two.\n",
            "One, e.g. by Li et al. 2022 (arXiv 1.2), at 1.5 %.",
        ),
        ("# Does it help? It does.\n", "Does it help?"),
        ("# No end\n#\n# More.\n", "No end"),
        ("A.b = 1\n# Late.\n", ""),
    ]:
        (tmp_path / "mine.gin").write_text(text)
        assert first_sentence(tmp_path / "mine.gin") == sentence


def test_every_shipped_config_begins_with_a_whole_sentence() -> None:
    short = {name: sentence for name in config_names() if len(sentence := told(name)) < 25 or sentence[-1] not in ".?"}
    assert not short


def told(name: str) -> str:
    return first_sentence(configs_folder() / f"{name}.gin")
