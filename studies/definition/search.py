"""Search: the best configuration in a space of bindings, found by one of Optuna's samplers."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from curriculum.validation import require_choice
from hpm.config import parse_config
from hpm.config.gin_compat import Key
from hpm.config.usage import spell
from hpm.errors import Notice, UserError
from hpm.metrics import VALIDATION, find_metric, metric_on
from hpm.runs.title import settings_title
from studies.definition.base import (
    Definition,
    Headline,
    PlannedRun,
    QueuedTrial,
)
from studies.definition.metric_check import may_choose_by, require_metric
from studies.definition.settings import REPEATS, best_of, is_repeat, points, setting_key
from studies.definition.space import Assignment, binding, example_assignments, parse_space, suggest
from studies.definition.trials import root_number, trials_not_failed

COSTS = ("flops", "training_seconds")
_MOST_SETTINGS = 10_000  # of a space whose settings are counted; a sampler seldom repeats itself in a larger one
_SEEDS_FOR_WILCOXON = 5


class Search(Definition):
    """A search for the best values of some bindings.

    Args:
        base: configs that every run starts from.
        space: bindings and what each may be; see `studies.definition.space`.
        metric: the objective, as a run's summary names it. It begins with "validation/": what is chosen on test images
            says nothing when it is scored on them. It must have a better side, unlike a chosen learning rate.
        direction: "maximize" or "minimize" it.
        cost: a second objective to minimize: "flops" (counted, of the whole training) or "training_seconds"; there
            is no best trial then but a Pareto front, and no pruning. None for none.
        seeds: a trial trains one run with each; the objective is their mean.
        bindings: over the base, in every run.
        first: values to try first, by binding, e.g. the published ones; what they leave out is sampled.
        sampler: makes an Optuna sampler from `seed`.
        sampler_seed: the seed of the search itself.
        pruner: ends hopeless trials early; None for never. `WilcoxonPruner` compares trials seed by seed; others look
            at `probe` during a trial's first run.
        probe: the metric of `Monitoring.probes` that pruning looks at, on validation images too.

    Raises:
        ValueError: naming the setting at fault.
    """

    kind = "search"
    command = "search"
    shown_rows = 10

    def __init__(
        self,
        *,
        base: Sequence[str],
        space: Mapping[str, str],
        metric: str = "validation/low_shot/pretrained",
        direction: str = "maximize",
        cost: str | None = None,
        seeds: Sequence[int] = (0,),
        bindings: Sequence[str] = (),
        first: Sequence[Mapping[str, Any]] = (),
        sampler: Callable[..., optuna.samplers.BaseSampler] = optuna.samplers.TPESampler,
        sampler_seed: int = 0,
        pruner: optuna.pruners.BasePruner | None = None,
        probe: str = "validation/ridge/pretrained",
    ) -> None:
        super().__init__(base=base, bindings=bindings, seeds=seeds, metric=metric, direction=direction)
        for name, value in (("metric", metric), ("probe", probe)):
            declared = find_metric(value)
            if declared is not None and declared.higher_is_better is None:
                raise ValueError(
                    f"Search.{name} = {value!r} says nothing of how good a run is, for neither larger nor smaller "
                    "values of it are better; choose by an accuracy, e.g. 'validation/low_shot/pretrained'"
                )
            if not may_choose_by(value):
                usual = {"metric": "validation/low_shot/pretrained", "probe": "validation/ridge/pretrained"}[name]
                raise ValueError(
                    f"Search.{name} = {value!r} is not measured on validation images, by which alone a search chooses; "
                    "name a metric that begins with 'validation/', e.g. "
                    f"{metric_on(VALIDATION, value) if declared else usual!r}"
                )
        if not isinstance(space, Mapping) or not space:
            raise ValueError("Search.space must be a dictionary of at least one parameter")
        require_choice("Search", (*COSTS, None), cost=cost)
        _check_pruner(pruner, cost, seeds)
        self._sampler_name = _checked(sampler)
        self.space = parse_space(space)
        self.space_texts = dict(space)
        for assignment in first:
            unknown = [name for name in assignment if name not in self.space]
            if unknown:
                raise ValueError(f"Search.first sets {unknown[0]}, which is not in Search.space")
        self.cost = cost
        self.first = [dict(assignment) for assignment in first]
        self.sampler = sampler
        self.sampler_seed = sampler_seed
        self.pruner = pruner
        self.probe = probe

    @property
    def reports_seeds(self) -> bool:
        return isinstance(self.pruner, optuna.pruners.WilcoxonPruner)

    @property
    def reports_probes(self) -> bool:
        return self.pruner is not None and not self.reports_seeds

    def check(self) -> dict[str, Any]:
        first_config = ""
        for assignment in [*example_assignments(self.space), *self._first_assignments()]:
            bindings = [binding(name, value) for name, value in assignment.items()]
            shown = ", ".join(f"{name} = {value!r}" for name, value in assignment.items())
            text = self._build([], bindings, f"space at {shown}").text()
            first_config = first_config or text
        self._refuse_parameters_bound_twice()
        if self.reports_probes:
            trainer = parse_config(self.base, self.bindings).build()
            probes = trainer.monitoring.probes
            require_metric(self.probe, probes, trainer.source, "Search.probe", "Monitoring.probes")
            if not trainer.monitoring.probe_every:
                raise UserError("Search.pruner looks at probes, and Monitoring.probe_every = 0 asks for none")
        return self._identity(space=self.space_texts, cost=self.cost, seeds=list(self.seeds), config=first_config)

    def _refuse_parameters_bound_twice(self) -> None:
        """Of two names of one parameter that apply together, and of a binding beside a name that always applies, one
        value would replace the other without a word.
        """
        in_space = [binding(name, parameter.examples()[0]) for name, parameter in self.space.items()]
        statements = parse_config(self.base, [*self.bindings, *in_space]).statements
        keys = {name: one.key for name, one in zip(self.space, statements[-len(in_space) :], strict=True)}
        bound = {one.key for one in statements[: -len(in_space)] if one.on_command_line}
        for name, parameter in self.space.items():
            if keys[name] in bound and not parameter.when:
                raise UserError(f"Search.bindings binds {spell(keys[name])}, which Search.space does too; bind it once")
        for assignment in example_assignments(self.space):
            names: dict[Key, str] = {}
            for name in assignment:
                if (other := names.setdefault(keys[name], name)) != name:
                    raise UserError(f"Search.space binds {spell(keys[name])} twice, by {other!r} and {name!r}")

    def _first_assignments(self) -> Iterator[Assignment]:
        """What is to be tried first, with what it leaves out filled in."""
        for wanted in self.first:
            assignment: Assignment = {}
            for name, parameter in self.space.items():
                if parameter.applies(assignment | wanted):
                    value = wanted.get(name, parameter.examples()[0])
                    if not parameter.holds(value):
                        raise UserError(
                            f"Search.first sets {name} = {value!r}, which Search.space does not hold; there it is "
                            f"{self.space_texts[name]}"
                        )
                    assignment[name] = value
            if lost := [name for name in wanted if name not in assignment]:
                raise UserError(
                    f"Search.first sets {lost[0]}, which does not apply there; it needs {self.space[lost[0]].when}"
                )
            yield assignment

    def what_is_missing(self, study: optuna.Study, trials: int | None) -> list[QueuedTrial]:
        wanted = trials or 0
        settings = self._settings()
        if settings is not None and wanted > len(settings):
            warnings.warn(
                Notice(
                    f"Search.space holds {len(settings)} settings, fewer than {wanted} trials; the search ends when "
                    "each has been tried once"
                ),
                stacklevel=2,
            )
            wanted = len(settings)
        count = max(0, wanted - sum(not is_repeat(trial) for trial in trials_not_failed(study)))
        first = [] if study.get_trials(deepcopy=False) else self.first
        known = [QueuedTrial(assignment) for assignment in first[:count]]
        return known + [QueuedTrial()] * (count - len(known))

    def _settings(self) -> list[Assignment] | None:
        """All settings of the space; None where there are too many to count."""
        known = points(self.space)
        settings = None if known is None else list(islice(known, _MOST_SETTINGS + 1))
        return None if settings is None or len(settings) > _MOST_SETTINGS else settings

    def in_place_of(self, study: optuna.Study, repeat: FrozenTrial) -> QueuedTrial | None:
        settings = self._settings()
        if settings is None:
            return QueuedTrial()
        trials = study.get_trials(deepcopy=False)
        for tried in (trials, trials_not_failed(study)):  # what failed is tried again when all else has been tried
            keys = {setting_key(trial.params or trial.system_attrs.get("fixed_params", {})) for trial in tried}
            if left := [setting for setting in settings if setting_key(setting) not in keys]:
                return QueuedTrial(random.Random(self._seed_of(repeat.number)).choice(left))
        return None

    def plan(self, trial: optuna.trial.BaseTrial, number: int) -> list[PlannedRun]:
        bindings = [binding(name, value) for name, value in suggest(trial, self.space).items()]
        variant = _variant_name(number)
        several = len(self.seeds) > 1
        return [
            PlannedRun(
                name=f"{variant}-seed{seed}" if several else variant,
                configs=self.base,
                bindings=(*self.bindings, *bindings),
                seed=seed,
                variant=variant,
            )
            for seed in self.seeds
        ]

    def variant_of(self, trial: FrozenTrial) -> str:
        return _variant_name(trial.user_attrs[REPEATS] if is_repeat(trial) else root_number(trial))

    def label_of(self, trial: FrozenTrial) -> str:
        return f"{self.variant_of(trial)}: {settings_title(trial.params)}"

    def changes_of(self, variant: str, trial: FrozenTrial | None) -> list[str]:
        return [] if trial is None else [binding(name, value) for name, value in trial.params.items()]

    def headline(self, study: optuna.Study, values: Mapping[str, Sequence[float]]) -> Headline | None:
        if self.cost is not None or not values:
            return None
        return Headline(self.variant_of(self.best_trials(study)[0]), f"the best by {self.metric}")

    def default_baseline(self, variants: Collection[str]) -> str:
        # The first trial has the published values where `first` has them.
        return min(variants)

    def sampler_of(self, number: int) -> optuna.samplers.BaseSampler:
        return self.sampler(seed=self._seed_of(number))

    def _seed_of(self, number: int) -> int:
        """Draws depend on the trial's number, not on who asks or on restarts."""
        return (self.sampler_seed * 1_000_003 + number) % 2**32

    def best_trials(self, study: optuna.Study) -> list[FrozenTrial]:
        return best_of(study)

    def keep_config(self, imports: Sequence[str], bindings_of: Callable[[str], dict[str, Any]]) -> None:
        super().keep_config(imports, bindings_of)
        self.sampler = functools.partial(self.sampler, **bindings_of(self._sampler_name))


def _checked(sampler: Any) -> str:
    """The name of a sampler's class, whose options do for it."""
    try:
        made = sampler(seed=0)
    except Exception as error:  # an instance cannot be called, a class of something else has no seed, options are wrong
        made, reason = None, str(error)
    if isinstance(made, optuna.samplers.BaseSampler):
        return type(made).__name__
    raise ValueError(
        f"Search.sampler must be the class of a sampler, e.g. @TPESampler without (), with options that it takes; its "
        f"seed is Search.sampler_seed ({reason if made is None else f'it makes a {type(made).__name__}'})"
    )


def _variant_name(number: int) -> str:
    return f"trial-{number:04d}"


def _check_pruner(pruner: Any, cost: str | None, seeds: Sequence[int]) -> None:
    if pruner is None:
        return
    if cost is not None:
        raise ValueError("Search.cost and Search.pruner do not go together: with two objectives nothing is pruned")
    if not isinstance(pruner, optuna.pruners.BasePruner):
        raise ValueError(f"Search.pruner must be a pruner, e.g. @MedianPruner(), got {pruner!r}")
    if isinstance(pruner, optuna.pruners.WilcoxonPruner) and len(seeds) < _SEEDS_FOR_WILCOXON:
        raise ValueError(
            f"Search.pruner = @WilcoxonPruner() compares trials seed by seed and prunes from the fourth on; "
            f"Search.seeds = {list(seeds)} must name five or more"
        )
