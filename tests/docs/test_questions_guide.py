"""The page of open questions: what it links to is there, and so is every study that it names."""

from __future__ import annotations

import re
from pathlib import Path

from hpm.config import configs_folder

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "questions.md").read_text()


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if not link.startswith("https://")]
    assert len(links) > 10
    for link in links:
        path, _, anchor = link.partition("#")
        assert (DOCS / path).exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", (DOCS / path).read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


def test_every_study_is_shipped() -> None:
    named = set(re.findall(r"(?:ablate|search) ((?:ablations|studies)/\w+)", PAGE)) | {"ablations/alpha_range"}
    assert len(named) > 10
    for config in named:
        assert (configs_folder() / f"{config}.gin").is_file(), config
