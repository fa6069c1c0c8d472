"""`hpm list`: all parts, a kind of them, one of them, and those that configs and packages bring."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
from packages import SAWTOOTH, install

from curriculum import Ramp
from hpm.config import configurables

Hpm = Callable[..., int]


@pytest.fixture
def listed(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object) -> str:
        capsys.readouterr()
        assert hpm("list", *words) == 0
        return capsys.readouterr().out

    return run


def test_every_part_is_a_line_with_its_summary(listed: Callable[..., str]) -> None:
    lines = listed().splitlines()
    for kind, classes in configurables().items():
        assert kind in lines
        for cls in classes:
            summary = " ".join(inspect.getdoc(cls).split("\n\n")[0].split())
            assert any(line.split()[:1] == [cls.__name__] and line.endswith(summary) for line in lines), cls


def test_one_part_is_explained(listed: Callable[..., str]) -> None:
    text = listed("Ramp")
    assert inspect.getdoc(Ramp) in text
    rows = [line.split() for line in text.splitlines() if line.startswith("Ramp.")]
    assert rows[0] == ["Ramp.start", "float", "0.0"]
    assert rows[2] == ["Ramp.shape", "str", "'linear'"]
    assert len(rows) == len(inspect.signature(Ramp).parameters)
    assert "must be bound" in listed("Curriculum")


def test_one_kind(listed: Callable[..., str]) -> None:
    text = listed("samplers")
    assert "HardestFirst" in text
    assert "LossMemory" not in text


def test_what_a_config_imports(listed: Callable[..., str], tiny: Path) -> None:
    tiny.with_name("own_masks.py").write_text(SAWTOOTH.format(name="OwnTeeth"))
    own = tiny.with_name("own.gin")
    own.write_text("import own_masks\n")
    assert "OwnTeeth" in listed(own).partition("imported by the config")[2]
    assert "OwnTeeth.teeth  int    5" in listed(own, "OwnTeeth")


def test_what_a_package_offers(listed: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "lab-list", "lab_list", SAWTOOTH.format(name="ListTeeth"))
    assert "ListTeeth" in listed().partition("from the package lab-list 1.2\n")[2].partition("\n\n")[0]
    assert "ListTeeth (from the package lab-list 1.2), in lab_list" in listed("ListTeeth")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Rmp", "'Rmp' is no part, no kind of parts and no config. Did you mean Ramp?"),
        ("sampler", "Did you mean samplers"),
        ("curricula/atention", "no config file 'curricula/atention'. Did you mean curricula/attention"),
        ("nowhere.gin", "no config file 'nowhere.gin'."),
    ],
)
def test_the_nearest_names(hpm: Hpm, capsys: pytest.CaptureFixture[str], name: str, told: str) -> None:
    assert hpm("list", name) == 2
    assert told in capsys.readouterr().err
