"""Model cards as their readers see them: the tables of the page, and its program, which is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

Table = list[list[str]]


def split_card(folder: Path) -> tuple[dict[str, Any], str]:
    """The head of a model card, and the page."""
    _, head, page = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), page


def tokens_of(page: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page)


def tables_of(page: str) -> dict[str, Table]:
    """The cells' texts of the table below each heading, the headings' row left out."""
    tables: dict[str, Table] = {}
    tokens, title = tokens_of(page), ""
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            title = plain(tokens[place + 1])
        elif token.type == "table_open":
            tables[title] = []
        elif token.type == "tr_open":
            tables[title].append([])
        elif token.type in ("th_open", "td_open"):
            tables[title][-1].append(plain(tokens[place + 1]))
    return {title: table[1:] for title, table in tables.items()}


def plain(inline: Token) -> str:
    """A line's text without any markup; fails where it holds anything that a letter could not be."""
    assert {child.type for child in inline.children or ()} <= {"text", "code_inline", "text_special"}
    return "".join(child.content for child in inline.children or ())


def run_program(folder: Path) -> dict[str, Any]:
    """Run a card's program, in the present folder; returns its names."""
    (program,) = re.findall(r"```python\n(.*?)```", split_card(folder)[1], flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)
    return names
