"""One self-contained HTML page of a comparison: table, warnings, pictures and how it was made."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpm.runtime.version import source_version
from studies.analysis.comparison import COLUMNS, FOOTNOTE, Comparison, cells

_TITLES = {
    "differences.png": "Means and paired differences, 95 % intervals; each dot is a seed",
    "training.png": "During training: mean over seeds, with 95 % bands where there are few variants",
    "alpha.png": "Alpha: the share of the mask that follows the difficulty",
    "compute.png": "Against the cost of the training",
    "history.png": "The search, trial by trial",
    "importance.png": "What the objective depends on",
    "parallel.png": "Complete trials: the brighter, the better",
    "pareto.png": "Both objectives",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: 0.2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 0.25rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } tr.found { font-weight: 600 }
.warning { background: #fdf3e3; border-left: 4px solid #D55E00; padding: 0.4rem 0.8rem; margin: 0.4rem 0 }
figure { margin: 1.2rem 0 } img { max-width: 100%; height: auto } figcaption, .note { color: #555; font-size: 0.9rem }
pre { background: #f5f5f5; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem }
"""


def write_report(
    path: Path,
    comparison: Comparison,
    figures: Sequence[Path],
    *,
    title: str,
    command: str,
    definition: Mapping[str, Any] | None = None,
    best: str | None = None,
) -> Path:
    """Write the page.

    Args:
        path: of the HTML file.
        comparison: its table.
        figures: PNGs, which the page takes in.
        title: of the page.
        command: which makes the page again.
        definition: of the study.
        best: the best setting of a search, as a config.
    """
    head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
    body = "".join(
        f"<tr{' class=found' if row.difference is not None and row.difference.significant else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(comparison, row))
        + "</tr>"
        for row in comparison.rows
    )
    warnings = "".join(f'<div class="warning">Beware: {html.escape(text)}.</div>' for text in comparison.warnings)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="note">{html.escape(comparison.unit)}, against {html.escape(comparison.baseline)}; '
        f"{len(comparison.results)} runs; made {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())} by "
        f"{html.escape(source_version())}</p>",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
        f'<p class="note">{html.escape(FOOTNOTE)}</p>',
        warnings,
        *map(_figure, figures),
    ]
    if best is not None:
        parts.append(f"<h2>Best setting</h2><pre>{html.escape(best)}</pre>")
    parts.append(f"<h2>Again</h2><pre>{html.escape(command)}</pre>")
    if definition:
        parts.append(f"<h2>Definition</h2>{_definition(definition)}")
    partial = path.with_name(path.name + ".partial")
    partial.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    partial.replace(path)
    return path


def _figure(path: Path) -> str:
    caption = html.escape(_TITLES.get(path.name, path.stem))
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><figcaption>{caption}</figcaption><img alt="{caption}" src="data:image/png;base64,{data}"></figure>'
    )


def _definition(definition: Mapping[str, Any]) -> str:
    """Short values in one block; each variant's whole configuration to unfold."""
    short = {name: value for name, value in definition.items() if name not in ("variants", "config")}
    texts = dict(definition.get("variants", {}))
    if "config" in definition:
        texts["base configuration"] = definition["config"]
    folded = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in texts.items()
    )
    return f"<pre>{html.escape(json.dumps(short, indent=2))}</pre>{folded}"
