"""Pages of the documentation, and the code blocks in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')


def pages() -> list[Path]:
    """The README, and every page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A code block.

    Args:
        language: "sh", "python", "gin", "text", ...; empty where the page does not say.
        title: the name of the file that it is; None for none.
        body: without indentation.
        line: where it begins.
    """

    language: str
    title: str | None
    body: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, in their order."""
    text = page.read_text()
    for found in _FENCE.finditer(text):
        info = found["info"].strip()
        title = _TITLE.search(info)
        body = re.sub(rf"^{found['indent']}", "", found["body"], flags=re.MULTILINE)
        line = text[: found.start()].count("\n") + 1
        yield Block(info.partition(" ")[0], title and title[1], body, line)


def commands(body: str) -> list[list[str]]:
    """The words of each command of a block, its loops' too; comments and variables of loops are left out."""
    found = []
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] not in ("for", "done", "do"):
            found.append(words)
    return found
