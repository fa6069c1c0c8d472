"""`hpm-study power`: how many seeds a question needs, from the spread of a study that is done."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from hpm.errors import UserError
from studies.execution.options import DEFAULT_STORAGE, StorageOption, require_count

_MOST_VARIANTS = 100_000


def command(
    name: Annotated[
        str, typer.Argument(metavar="STUDY|EXPERIMENT|CSV", help="A study, an MLflow experiment, or a results.csv.")
    ],
    effect: Annotated[
        float, typer.Option(help="The true difference to be found, in the unit shown: percent points of accuracies.")
    ],
    metric: Annotated[str | None, typer.Option(help="Which; by default the study's.")] = None,
    power: Annotated[float, typer.Option(help="The probability of finding it.")] = 0.8,
    variants: Annotated[
        int | None, typer.Option(help="How many, with the baseline; by default as many as the study has.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="The baseline, or one for each group: '*_random'.")] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Tell how many seeds a comparison needs to find an effect, given how much a finished study's seeds scatter."""
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from studies.analysis.comparison import compare
        from studies.analysis.seeds import plan_seeds
        from studies.commands._sources import load_sources
        from studies.reporting.power import show_seeds

    if not 0 < effect < math.inf:
        raise UserError(f"--effect {effect:g} must be more than 0, in the unit that the metric is shown in, and finite")
    if not 0 < power < 1:
        raise UserError(f"--power {power:g} must lie between 0 and 1, e.g. 0.8")
    if variants is not None:
        require_count("variants", variants, 2, _MOST_VARIANTS)  # the baseline among them
    console = make_console()
    with notices_to(console):
        sources = load_sources([name], storage)
        ((chosen, direction),) = sources.metrics([metric] if metric else [], None).items()
        comparison = compare(
            sources.results,
            chosen,
            against=sources.baseline(against),
            direction=direction,
            planned=sources.planned(),
        )
        show_seeds(console, plan_seeds(comparison, effect=effect, power=power, variants=variants))
