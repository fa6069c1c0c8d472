"""The site: its pages link to what is there, name what exists, and are made from what they say."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from doc_pages import ROOT, pages

DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_of_the_site(page: Path) -> None:
    """zensical finds pages and anchors that are missing, but neither pictures nor what lies outside of the site."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith(("http", "#", "mailto:")):
            continue
        target = (page.parent / link.partition("#")[0]).resolve()
        assert target.is_file(), f"{link}: there is no such file"
        assert page.parent == ROOT or target.is_relative_to(DOCS), f"{link} leads out of the site"


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r'"([\w/]+\.md)"', (ROOT / "zensical.toml").read_text())
    assert len(set(listed)) == len(listed)
    behind = {"objects.md", "results.md"}  # linked from their folder's page
    assert set(listed) == {
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.name not in behind or page.parent == DOCS
    }


def test_the_table_of_methods_is_made_from_the_results() -> None:
    made = subprocess.run(
        [sys.executable, "benchmarks/methods_page.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (DOCS / "methods.md").read_text()


def test_the_reference_names_what_the_packages_offer() -> None:
    import curriculum
    import hpm

    text = (DOCS / "api.md").read_text()
    named = set(re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE))
    whole = {name for name in named if name.split(".")[-1].islower()}  # modules, shown with all that they offer
    for name in hpm.__all__:
        thing = getattr(hpm, name)
        assert f"{thing.__module__}.{name}" in named
    for name in curriculum.__all__:
        thing = getattr(curriculum, name)
        module = getattr(thing, "__module__", "")
        shown = f"curriculum.{name}" in named or any(module.startswith(f"{other}.") for other in whole)
        assert shown, f"curriculum.{name} is not in the reference"


def test_parts_of_the_configuration_are_named_as_they_are() -> None:
    """`Part.parameter` in a page is one that there is."""
    import inspect

    from hpm.config import configurables

    parts = {cls.__name__: cls for classes in configurables().values() for cls in classes}
    wrong = []
    for page in pages():
        for name, parameter in re.findall(r"`(?:\w+/)?([A-Z]\w+)\.([a-z_]\w*)(?: = [^`]*)?`", page.read_text()):
            known = inspect.signature(parts[name]).parameters if name in parts else None
            if known is not None and parameter not in known and not hasattr(parts[name], parameter):
                wrong.append(f"{page.name}: {name}.{parameter}")
    assert not wrong


def test_the_site_is_built_by_make() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(name.startswith("zensical") for name in project["optional-dependencies"]["docs"])
    assert "zensical build --strict" in (ROOT / "Makefile").read_text()
