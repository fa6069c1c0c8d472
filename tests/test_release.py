"""What a release is made of: one version and address, a whole source archive, and workflows that run make's targets."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpm import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_is_the_same_in_every_place() -> None:
    version, date = re.findall(r"^## \[(.*)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[0]
    assert version == __version__ == CITATION["version"]
    assert date == str(CITATION.get("date-released", "unreleased"))
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "hpm/__init__.py"


def test_the_address_and_the_license_are_the_same_in_every_place() -> None:
    addresses = PROJECT["project"]["urls"]
    assert CITATION["repository-code"] == addresses["Repository"]
    assert all(address.startswith(addresses["Repository"]) for address in addresses.values())
    assert CITATION["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_citation_names_the_methods() -> None:
    assert {"cff-version", "message", "title", "authors"} <= set(CITATION)  # which the format requires
    cited = {reference["identifiers"][0]["value"]: reference for reference in CITATION["references"]}
    assert set(cited) == {"arXiv:2304.05919", "arXiv:2111.06377"}
    card = (ROOT / "hpm" / "inference" / "model_card.md.j2").read_text()
    for name, reference in cited.items():
        assert reference["url"] == f"https://arxiv.org/abs/{name.removeprefix('arXiv:')}"
        assert reference["url"] in card
        assert f"{{{reference['title']}}}" in card


@pytest.mark.parametrize(
    ("tag", "heading", "told"),
    [
        ("v1.2.3", "1.2.3] - 2026-01-31", None),
        ("1.2.3", "1.2.3] - 2026-01-31", "the tag '1.2.3' must be v1.2.3"),
        ("v1.2.4", "1.2.3] - 2026-01-31", "the tag 'v1.2.4' must be v1.2.3"),
        ("v1.2.3", "1.2.3] - unreleased", "CHANGELOG.md says 'unreleased' of 1.2.3"),
        ("v1.2.3", "1.2.2] - 2026-01-31", "CHANGELOG.md must begin with 1.2.3, and begins with 1.2.2"),
    ],
)
def test_a_tag_names_the_version_and_its_day(tmp_path: Path, tag: str, heading: str, told: str | None) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "hpm").mkdir()
    shutil.copy(ROOT / ".ci" / "check_tag.py", tmp_path / ".ci")
    (tmp_path / "hpm" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{heading}\n\n## [1.0.0] - 2020-01-31\n")
    done = subprocess.run([sys.executable, tmp_path / ".ci" / "check_tag.py", tag], capture_output=True, text=True)
    assert done.returncode == (0 if told is None else 1)
    assert (told or "") in done.stderr


def test_the_source_archive_has_every_tracked_file() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone, which knows the tracked files")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    tracked = {name.split("/")[0] for name in listed if name}
    by_itself = {"pyproject.toml", ".gitignore"}  # hatchling adds these
    assert tracked - by_itself <= set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])


def test_each_target_of_make_is_defined_once() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z][\w-]*):", makefile, flags=re.M)
    assert len(targets) == len(set(targets))
    (phony,) = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, flags=re.M)
    assert set(phony.replace("\\", " ").split()) == set(targets)


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_workflows_run_what_people_run() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    ran = {step["run"] for path in WORKFLOWS for step in steps_of(yaml.safe_load(path.read_text())) if "run" in step}
    assert {"make static-checks", "make test", "make test-lowest", "make docs", "make smoke"} <= ran
    for command in ran:
        program, target, *variables = command.split()
        assert program == "make", command
        assert target in targets, command
        assert all(re.fullmatch(r'[A-Z]+="\$[A-Z_]+"', variable) for variable in variables), command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_more_rights_than_it_needs(path: Path) -> None:
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120
        if "permissions" in job:  # to publish, and then it runs nothing of the source
            assert name == "publish"
            assert not any("run" in step or "checkout" in step["uses"] for step in job["steps"])
    for step in steps_of(workflow):
        assert re.fullmatch(
            r"(actions/[\w-]+@v\d+|pypa/gh-action-pypi-publish@release/v1)", step.get("uses", "actions/x@v1")
        )
