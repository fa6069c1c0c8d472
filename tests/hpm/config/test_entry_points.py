"""Parts that installed packages offer are named without an import, and a broken package is in nobody's way."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packages import SAWTOOTH, install

from hpm.config import in_force, load_offers, make_importable, parse_config, parts_by_kind
from hpm.errors import UserError

Hpm = Callable[..., int]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which packages are installed while the test runs."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_a_config_names_an_offered_part_without_an_import(site: Path, tiny: Path) -> None:
    install(site, "lab-masks", "lab_masks", SAWTOOTH.format(name="LabTeeth"))
    config = parse_config([str(tiny)], ["Curriculum.scheduler = @LabTeeth()", "LabTeeth.teeth = 4"])
    assert config.packages() == {"lab-masks": "1.2"}
    scheduler = config.build().method.curriculum.scheduler
    assert (scheduler.teeth, scheduler(0.125)) == (4, 0.25)
    assert "LabTeeth" in {part.name for part in in_force(config).used}
    assert parse_config([str(tiny)]).packages() == {}, "of which nothing is used"


def test_nothing_is_imported_that_nobody_asks_for(site: Path, tiny: Path) -> None:
    install(site, "lab-idle", "lab_idle", SAWTOOTH.format(name="IdleTeeth"))
    parse_config([str(tiny)])
    assert "lab_idle" not in sys.modules


def test_a_run_goes_on_is_evaluated_and_names_the_package_that_is_missing(
    hpm: Hpm, site: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "lab-runs", "lab_runs", SAWTOOTH.format(name="RunTeeth"))
    words = ("-b", "Curriculum.scheduler = @RunTeeth()", "-b", "Schedule.epochs = 2")
    assert hpm("pretrain", tiny, "--output", "run", *words) == 0
    assert json.loads(Path("run/run.json").read_text())["packages"] == {"lab-runs": "1.2"}
    shutil.rmtree("run/checkpoints/checkpoint-00000020")
    Path("run/summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", "run") == 0
    evaluation = ("evaluate", "run", "--protocol", "knn", "-b", "KNN.train_images = 50", "-b", "KNN.test_images = 20")
    assert hpm(*evaluation) == 0
    assert hpm("show", "run") == 0
    shutil.rmtree(site / "lab_runs-1.2.dist-info")
    for command in (
        ("pretrain", "--resume", "--output", "run"),
        evaluation,
        ("pretrain", "run/config.gin"),
        ("show", "run"),
    ):
        capsys.readouterr()
        assert hpm(*command) == 2
        told = capsys.readouterr().err
        assert "uses parts of packages that are not installed here: lab-runs 1.2" in told
        assert len(told.splitlines()) == 1


def test_a_broken_package_is_told_where_a_config_needs_it(
    hpm: Hpm, site: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        site, "lab-broken", "lab_broken", SAWTOOTH.format(name="BrokenTeeth") + "\nraise SystemExit('no license')\n"
    )
    complaint = (
        "the package lab-broken offers parts by its entry point 'masks = lab_broken', but importing lab_broken fails "
        "with SystemExit: no license"
    )
    assert hpm("pretrain", tiny, "--dry-run") == 0
    assert "lab-broken" not in "".join(capsys.readouterr())
    assert hpm("list") == 0
    assert complaint in capsys.readouterr().out
    for _ in range(2):
        with pytest.raises(UserError, match="there is no part called BrokenTeeth") as error:
            parse_config([str(tiny)], ["Curriculum.scheduler = @BrokenTeeth()"])
        assert complaint in str(error.value)


def test_a_part_that_is_called_as_a_shipped_one_is_left_out(site: Path, tiny: Path) -> None:
    install(site, "lab-clash", "lab_clash", SAWTOOTH.format(name="Ramp"))
    wrong = "lab_clash.Ramp has the name of curriculum.schedulers.ramps.Ramp, which shipped configs mean; rename it"
    for _ in range(2):  # Python imports the module once
        assert [offer.problem for offer in load_offers() if offer.package == "lab-clash"] == [wrong]
    assert not [kind for kind in parts_by_kind() if "lab-clash" in kind]
    assert parse_config([str(tiny)]).build()


def test_a_module_that_registers_nothing_is_told(site: Path) -> None:
    install(site, "lab-empty", "lab_empty", "")
    (problem,) = [offer.problem for offer in load_offers() if offer.package == "lab-empty"]
    assert problem == "importing lab_empty registers none, by @gin.register"


def test_an_import_and_an_entry_point_of_one_module_go_together(site: Path, tiny: Path) -> None:
    install(site, "lab-both", "lab_both", SAWTOOTH.format(name="BothTeeth"))
    config = tiny.with_name("both.gin")
    config.write_text("import lab_both\ninclude 'tiny.gin'\nCurriculum.scheduler = @BothTeeth()\n")
    assert parse_config([str(config)]).build()
    assert [part.__name__ for part in parts_by_kind()["from the package lab-both 1.2"]] == ["BothTeeth"]


def test_folders_that_runs_bring_along_install_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "somebodys"
    folder.mkdir()
    install(folder, "lab-sent", "lab_sent", "raise AssertionError('imported')")
    make_importable({"other": str(folder)})
    try:
        assert "lab-sent" not in {offer.package for offer in load_offers()}
    finally:
        sys.path.remove(str(folder))
