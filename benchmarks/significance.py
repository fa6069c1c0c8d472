"""How often the tests of `hpm-study compare` find what is not there, and what is: simulated tables of results.

Prints Markdown and, with --out, writes JSON. 10,000 tables of each kind take about 25 minutes on one core.

    python benchmarks/significance.py --out benchmarks/results/significance_cpu.json

Every value is a variant's mean plus a seed's luck, which all variants share, plus the run's own, normal with a standard
deviation that may differ between variants. In all tables but those of power every variant equals its baseline, the
first, so whatever is significant is false.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special
from machine import describe_machine

from studies.analysis.groups import compare_groups
from studies.analysis.power import blocked_design, least_detectable
from studies.analysis.statistics import LEVEL, PValue, holm

_Floats = npt.NDArray[np.float64]

SEED_DEVIATION = 0.4  # of what all variants of a seed share; as in the committed results, where it correlates 0.13
MARGIN = 1.0


@dataclass(frozen=True)
class Scenario:
    """A kind of table.

    Args:
        name: what is special about it.
        deviations: standard deviation of each variant's runs, the baseline's first.
        seeds: how many.
        images: accuracies over so many, with deviations in images; None for real numbers.
        missing: the probability that a run is missing.
        effect: the last variant's true difference to the baseline.
    """

    name: str
    deviations: tuple[float, ...]
    seeds: int
    images: int | None = None
    missing: float = 0.0
    effect: float = 0.0

    @property
    def grid(self) -> float:
        """The steps in which values move."""
        return 0.0 if self.images is None else 1 / self.images


def scenarios() -> list[Scenario]:
    """The tables without an effect."""
    found = []
    for seeds in (2, 3, 5, 10):
        for variants in (2, 3, 6, 12):
            found.append(Scenario("equal variances", (1.0,) * variants, seeds))
            if seeds == 2 or variants == 2:
                continue
            others = (1.0,) * (variants - 1)
            found.append(Scenario("one variant of sd x 4", (*others, 4.0), seeds))
            found.append(Scenario("baseline of sd x 4", (4.0, *others), seeds))
            spread = tuple(np.exp(np.linspace(-1, 1, variants)).tolist())
            found.append(Scenario("sds from 0.37 to 2.7", spread, seeds))
            found.append(Scenario("every fifth run missing", (1.0,) * variants, seeds, missing=0.2))
    for seeds in (3, 5):
        for deviation in (0.3, 1.0, 3.0):
            name = f"200 images, sd of {deviation:g} images"
            found.append(Scenario(name, (deviation,) * 6, seeds, images=200))
    return found


def draw(scenario: Scenario, generator: np.random.Generator) -> _Floats:
    """[variants, seeds]: the values of a table, NaN for a missing run."""
    deviations = np.array(scenario.deviations)
    values = generator.normal(size=(len(deviations), scenario.seeds)) * deviations[:, None]
    values += SEED_DEVIATION * deviations[0] * generator.normal(size=scenario.seeds)
    values[-1] += scenario.effect
    if scenario.images is not None:
        values = np.round(0.75 * scenario.images + values) / scenario.images
    return np.where(generator.random(values.shape) < scenario.missing, math.nan, values)


def simulate(scenario: Scenario, tables: int, seed: int = 0) -> dict[str, float]:
    """What comes of many tables.

    Args:
        scenario: their kind.
        tables: how many.
        seed: of the draws.

    Returns:
        Shares of the tables: "blocked" and "paired" with any false positive after Holm's correction, "omnibus" with a
        false p below 0.05. Of all differences: "tested", with a blocked p; "covered", the intervals that hold the true
        difference. With an effect: "found_blocked", "found_paired", how often the last variant's was significant.
    """
    generator = np.random.default_rng(seed)
    counts = dict.fromkeys(("blocked", "paired", "omnibus", "tested", "covered", "found_blocked", "found_paired"), 0)
    intervals = differences = 0
    for _ in range(tables):
        drawn = draw(scenario, generator)
        values = {
            str(place): {number: value for number, value in enumerate(own) if not math.isnan(value)}
            for place, own in enumerate(drawn.tolist())
        }
        last = str(len(drawn) - 1)
        found, (group,) = compare_groups(values, dict.fromkeys(values, "0"), scenario.grid, None)
        for kind in ("blocked", "paired"):
            tests = holm([getattr(difference, kind) for difference in found.values()])
            right = dict(zip(found, tests, strict=True)).pop(last, None) if scenario.effect else None
            false = [test for test in tests if test is not right]
            counts[kind] += any(test.significant for test in false)
            counts[f"found_{kind}"] += right is not None and right.significant
        counts["omnibus"] += group.omnibus is not None and group.omnibus.p < LEVEL
        for name, difference in found.items():
            true = scenario.effect if name == last else 0.0
            differences += 1
            counts["tested"] += difference.blocked.value is not None
            if difference.estimate.has_interval:
                intervals += 1
                counts["covered"] += difference.estimate.low <= true <= difference.estimate.high
    shares = {name: count / tables for name, count in counts.items()}
    shares["tested"] = counts["tested"] / max(1, differences)
    shares["covered"] = counts["covered"] / intervals if intervals else math.nan
    return shares if scenario.effect else {name: share for name, share in shares.items() if "found" not in name}


def simulate_equivalence(scenario: Scenario, tables: int, seed: int = 0) -> float:
    """How often any variant is called equivalent within `MARGIN` whose true difference is just that, after Holm's."""
    generator = np.random.default_rng(seed)
    false = 0
    for _ in range(tables):
        drawn = draw(scenario, generator)
        drawn[1:] += MARGIN
        values = {str(place): dict(enumerate(own)) for place, own in enumerate(drawn.tolist())}
        found, _ = compare_groups(values, dict.fromkeys(values, "0"), scenario.grid, MARGIN)
        tests = holm([difference.equivalent or PValue(None) for difference in found.values()])
        false += any(test.significant for test in tests)
    return false / tables


# What was not chosen: for complete tables of real numbers


def alternatives(scenario: Scenario, tables: int, seed: int = 0) -> dict[str, float]:
    """Shares of tables with any false positive after Holm's correction, by two other variances of a contrast.

    Returns:
        "pooled": by the residual variance of all variants. "moderated": by the paired variances, shrunk to a common
        one by empirical Bayes (Smyth 2004).
    """
    generator = np.random.default_rng(seed)
    values = np.stack([draw(scenario, generator) for _ in range(tables)])
    count, seeds = values.shape[1:]
    differences = values[:, 1:] - values[:, :1]
    means, variances = differences.mean(axis=2), differences.var(axis=2, ddof=1)
    residuals = values - values.mean(axis=1, keepdims=True) - values.mean(axis=2, keepdims=True)
    residuals += values.mean(axis=(1, 2), keepdims=True)
    freedom = (count - 1) * (seeds - 1)
    pooled = 2 * (residuals**2).sum(axis=(1, 2)) / freedom
    moderated, prior_freedom = _moderated(variances, seeds - 1)

    def false(spread: _Floats, of: _Floats) -> float:
        p = 2 * scipy.special.stdtr(of, -np.abs(means) / np.sqrt(spread / seeds))
        return float((p.min(axis=1) < LEVEL / (count - 1)).mean())

    return {
        "pooled": false(pooled[:, None], np.full((tables, 1), float(freedom))),
        "moderated": false(moderated, np.minimum(prior_freedom + seeds - 1, freedom)),
    }


def _moderated(variances: _Floats, freedom: int) -> tuple[_Floats, _Floats]:
    """Smyth's posterior variances [tables, contrasts], and the prior's degrees of freedom [tables, 1]."""
    logs = np.log(variances) - scipy.special.digamma(freedom / 2) + math.log(freedom / 2)
    excess = logs.var(axis=1, ddof=1) - scipy.special.polygamma(1, freedom / 2)
    prior_freedom = np.full((len(variances), 1), np.inf)
    prior = variances.mean(axis=1, keepdims=True)
    finite = excess > 1e-8
    half = _inverse_trigamma(excess[finite])
    prior_freedom[finite, 0] = 2 * half
    prior[finite, 0] = np.exp(logs[finite].mean(axis=1) + scipy.special.digamma(half) - np.log(half))
    weight = 1 / (1 + freedom / prior_freedom)
    return weight * prior + (1 - weight) * variances, prior_freedom


def _inverse_trigamma(values: _Floats) -> _Floats:
    """By Newton's method, as in Smyth's appendix."""
    found = 0.5 + 1 / values
    for _ in range(30):
        trigamma = scipy.special.polygamma(1, found)
        found = found + trigamma * (1 - trigamma / values) / scipy.special.polygamma(2, found)
    return found


# The tables


def false_positives(tables: int) -> list[dict[str, Any]]:
    """A row for each scenario without an effect."""
    rows = []
    for scenario in scenarios():
        row = asdict(scenario) | simulate(scenario, tables)
        if len(scenario.deviations) > 2 and scenario.seeds > 2 and not scenario.missing and scenario.images is None:
            row |= alternatives(scenario, tables)
        rows.append(row)
    return rows


def powers(tables: int) -> list[dict[str, Any]]:
    """The power at the least detectable effect that the formula gives for the true spread."""
    rows = []
    for seeds in (3, 5, 10, 30):
        for variants in (2, 3, 6, 12):
            spread, freedom = blocked_design(1.0, seeds, variants)
            effect = least_detectable(spread, seeds, freedom, LEVEL / (variants - 1))
            scenario = Scenario("least detectable effect", (1.0,) * variants, seeds, effect=effect)
            rows.append(asdict(scenario) | simulate(scenario, tables))
    return rows


def equivalences(tables: int) -> list[dict[str, Any]]:
    """How often what is not equivalent is called so."""
    rows = []
    for seeds in (3, 5, 10):
        for deviations in ((0.5, 0.5), (0.5,) * 6, (1.5, *(0.4,) * 5), (*(0.4,) * 5, 1.5)):
            scenario = Scenario("differences of just the margin", deviations, seeds)
            rows.append(asdict(scenario) | {"equivalent": simulate_equivalence(scenario, tables)})
    return rows


def _print(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    print(f"\n{title}\n\n| tables | variants | seeds | {' | '.join(columns)} |")
    print(f"| --- | ---: | ---: |{' ---: |' * len(columns)}")
    for row in rows:
        shown = [f"{row[name]:.3f}" if name in row and not math.isnan(row[name]) else "" for name in columns]
        print(f"| {row['name']} | {len(row['deviations'])} | {row['seeds']} | {' | '.join(shown)} |")


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=10_000, help="of each kind")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {"benchmark": "significance", "tables": options.tables}
    report["false_positives"] = false_positives(options.tables)
    columns = ["blocked", "paired", "omnibus", "tested", "covered", "pooled", "moderated"]
    _print("Any false positive at 0.05, after Holm's correction", report["false_positives"], columns)
    report["equivalence"] = equivalences(options.tables)
    _print("Any false equivalence", report["equivalence"], ["equivalent"])
    report["power"] = powers(options.tables)
    _print("Power", report["power"], ["effect", "found_blocked", "found_paired", "blocked", "covered"])
    report["machine"] = describe_machine("cpu")
    if options.out is not None:
        text = json.dumps(report, indent=2).replace("NaN", "null")
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
