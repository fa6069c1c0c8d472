"""What `benchmarks/gpu.py` found, as a table for a terminal and as a page of the documentation.

python benchmarks/gpu_page.py benchmarks/results/gpu_h100.json > docs/gpu.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Found = dict[str, Any]
COMMAND = "python benchmarks/gpu.py --out FILE"


def rows_of_races(section: Found, peak: float | None) -> list[list[str]]:
    """A row for each contestant of each race: name, batch, compiled, ms, images/s, to MAE, of the peak, memory."""
    rows = []
    for race in section.get("races", []):
        for name, row in race.get("rows", {}).items():
            rows.append(
                [
                    f"{race.get('model', '')} {name}".strip(),
                    str(race.get("batch_size", "")),
                    {False: "no", True: "passes"}.get(race.get("compile"), str(race.get("compile", ""))),
                    "yes" if race.get("graphs") else "no",
                    f"{row['ms']:.1f} ({row['ms_min']:.1f} to {row['ms_max']:.1f})",
                    f"{row['images_per_second']:,.0f}",
                    f"{row['ratio_to_mae']:.2f}" if "ratio_to_mae" in row else "1" if name == "mae" else "",
                    f"{row['ratio_by_arithmetic']:.2f}" if "ratio_by_arithmetic" in row else "",
                    f"{row['tflops'] / peak:.0%}" if peak else f"{row['tflops']:.3g} TFLOP/s",
                    f"{row['step_bytes'] / 1e9:.1f}" if "step_bytes" in row else "",
                ]
            )
    return rows


RACE = (
    *("contestant", "images", "compiled", "graphs", "ms a step", "images/s", "to MAE", "by arithmetic", "of the peak"),
    "GB a step",
)


def attention_rows(section: Found) -> list[list[str]]:
    """A row for each shape and kernel."""
    return [
        [
            name,
            f"{row['forward_ms']:.2f}" if isinstance(row, dict) else "",
            f"{row['both_ms']:.2f}" if isinstance(row, dict) else "",
            f"{max(row['errors']):.1e}" if isinstance(row, dict) else row,
        ]
        for name, row in section.get("rows", {}).items()
    ]


def published_rows(section: Found) -> list[list[str]]:
    """A row for each batch."""
    rows = []
    for size, by_name in section.get("rows", {}).items():
        cells = [f"{by_name[name]['ms']:.0f}" if name in by_name else "" for name in ("published", "ours")]
        faster = by_name.get("ours", {}).get("times_faster")
        rows.append([size, *cells, "" if faster is None else f"{faster:.2f}"])
    return rows


def teacher_rows(section: Found) -> list[list[str]]:
    """A row for each precision."""
    return [
        [name, f"{row['ms']:.1f}", f"{row['spearman']:.4f}", f"{row['hardest_in_common']:.1%}"]
        if isinstance(row, dict)
        else [name, "", "", row]
        for name, row in section.get("rows", {}).items()
    ]


def accuracy_rows(section: Found) -> list[list[str]]:
    """A row for each variant and seed."""
    rows = []
    for run in section.get("runs", []):
        metrics = {name: value for name, value in run["metrics"].items() if name.endswith("/pretrained")}
        told = ", ".join(f"{name.removesuffix('/pretrained')} {100 * value:.1f} %" for name, value in metrics.items())
        rows.append([run["variant"], str(run["seed"]), f"{run['last_loss']:.4f}", told])
    return rows


def pairs(values: dict[str, float], digits: int = 1) -> list[list[str]]:
    """A row for each name and number."""
    return [[name, f"{value:,.{digits}f}"] for name, value in values.items()]


def tables(found: Found) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, head and rows of every table for which there are results."""
    sections = found["sections"]
    peak = sections.get("machine", {}).get("matmul_bf16_tflops")
    for name in ("vit_base", "vit_large", "vit_base_small", "vit_base_eager", "compilation"):
        if rows := rows_of_races(sections.get(name, {}), peak):
            yield f"Training steps: {name}", RACE, rows
    head: tuple[str, ...] = ("images", "published ms", "ours ms", "times faster")
    if rows := published_rows(sections.get("published", {})):
        yield "HPM at alpha 0.5, ViT-B/16: the published code and ours", head, rows
    part = sections.get("parts", {})
    if part.get("ms"):
        head = ("part", "ms, launched by the host", "ms of the device alone")
        alone = part.get("device_ms", {})
        rows = [
            [name, f"{value:.1f}", f"{alone[name]:.1f}" if name in alone else ""] for name, value in part["ms"].items()
        ]
        yield "Parts of a step of HPM at alpha 0.5, ViT-B/16, without CUDA graphs", head, rows
    if part.get("kinds_ms"):
        yield "Where the device's time goes in that step", ("kernels", "ms"), pairs(part["kinds_ms"])
    if rows := teacher_rows(sections.get("teacher", {})):
        head = ("precision", "ms", "Spearman correlation with float32", "of the hardest patches in common")
        yield "The teacher's scores, ViT-B/16, 256 images", head, rows
    if rows := attention_rows(sections.get("attention", {})):
        head = ("tokens x width of a head, kernel", "forward ms", "with backward ms", "error against float64")
        yield "Attention in bf16, 256 images", head, rows
    if rows := pairs(sections.get("data", {}).get("images_per_second", {}), 0):
        yield "JPEGs of 500 x 375 pixels", ("how", "images/s"), rows
    if rows := accuracy_rows(sections.get("accuracy", {})):
        head = ("variant", "seed", "last loss", "accuracy")
        yield "What the settings do to the quickstart", head, rows


def table(found: Found) -> str:
    """For a terminal: columns aligned."""
    lines = []
    for title, head, rows in tables(found):
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        lines += ["", title]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]
        ]
    return "\n".join(lines)


def page(found: Found) -> str:
    """For the documentation."""
    machine = found["sections"]["machine"]
    lines = [
        f"# On a GPU: {machine['device']}",
        "",
        f"Measured with torch {machine['torch']}, timm {machine['timm']}: `{COMMAND}`",
        f"(`benchmarks/results/{slug(machine['device'])}.json`). This page is made from the results by",
        "`benchmarks/gpu_page.py`. A section that took too long shows what it had found until then.",
        "",
        "Ceilings, measured on the same device: "
        + ", ".join(
            f"{value:,.0f} TFLOP/s in {name.removeprefix('matmul_').removesuffix('_tflops')}"
            for name, value in machine.items()
            if name.startswith("matmul_")
        )
        + f" for a product of two 8192 x 8192 matrices, and {machine['copy_tbps']:.2f} TB/s for a copy, which reads "
        "and writes.",
        "",
        "A contestant's share of the peak is that of the bf16 product: operations of student and teacher, two for each",
        "multiply-add and the backward pass twice the forward, over the time of the step. Times are medians of up to",
        "five turns of four steps, the contestants of a race in one process, in alternation; in brackets the fastest",
        "and the slowest turn. Graphs are CUDA graphs: without them the host launches every kernel.",
        "",
        "| section | result | commit | |",
        "| --- | --- | --- | --- |",
    ]
    for name, section in found["sections"].items():
        if name == "warm":  # it fills caches for the others and shows nothing
            continue
        told = "; ".join(filter(None, [*section.get("failed", []), section.get("skipped"), section.get("note")]))
        lines.append(f"| {name} | {section['status']} | {section['commit']} | {told} |")
    for title, head, rows in tables(found):
        lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def slug(device: str) -> str:
    """The name of a device's file of results: gpu_h100_80gb_hbm3."""
    words = device.lower().replace("nvidia", "").split()
    return "_".join(["gpu", *words])


def main() -> None:
    """Print a page."""
    if len(sys.argv) != 2:
        sys.exit("give one file that benchmarks/gpu.py has written")
    try:
        print(page(json.loads(Path(sys.argv[1]).read_text())), end="")
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{sys.argv[1]} holds no page's results ({type(error).__name__}: {error}); give a file of a whole run")


if __name__ == "__main__":
    main()
