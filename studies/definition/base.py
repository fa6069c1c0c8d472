"""What a study is: an ablation over named variants, or a search over a space. Both come from gin files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import optuna

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.evaluation import Evaluation
from studies.definition.baselines import baselines
from studies.definition.space import Setting, binding, example_settings, parse_space, suggest

Direction = Literal["maximize", "minimize"]
DIRECTIONS = get_args(Direction)
COSTS = ("flops", "training_seconds")


@dataclass(frozen=True)
class PlannedRun:
    """One run of the trainer, as a trial wants it.

    Args:
        name: of its folder; the same in every try.
        configs: what `hpm pretrain` is given.
        bindings: over them.
        seed: of the run.
        variant: what is compared: a variant of an ablation, a trial of a search.
    """

    name: str
    configs: tuple[str, ...]
    bindings: tuple[str, ...]
    seed: int
    variant: str


class Definition(ABC):
    """What ablations and searches share.

    Args:
        base: configs that every run starts from.
        bindings: over them, in every run.
        seeds: of the runs.
        metric: what is compared, as a run's summary names it, e.g. "low_shot/pretrained".
        direction: "maximize" or "minimize" it.
    """

    kind: str
    imports: tuple[str, ...] = ()
    """Import statements of the study's own file, e.g. of a user's parts; its runs get them too."""

    def __init__(
        self, *, base: Sequence[str], bindings: Sequence[str], seeds: Sequence[int], metric: str, direction: str
    ) -> None:
        owner = type(self).__name__
        if isinstance(base, str) or not base:
            raise ValueError(f"{owner}.base = {base!r} must be a list of at least one config, e.g. ['fashion_mnist']")
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise ValueError(f"{owner}.seeds = {seeds!r} must be whole numbers, 0 or more")
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"{owner}.seeds = {seeds!r} must name at least one seed, and each once")
        if direction not in DIRECTIONS:
            raise ValueError(f"{owner}.direction = {direction!r} is unknown; choose {' or '.join(DIRECTIONS)}")
        self.base = tuple(base)
        self.bindings = tuple(bindings)
        self.seeds = tuple(seeds)
        self.metric = metric
        self.direction = cast(Direction, direction)

    @property
    def objectives(self) -> list[str]:
        """What a trial is judged by."""
        return [self.metric]

    @property
    def directions(self) -> list[Direction]:
        """Of the objectives."""
        return [self.direction]

    @abstractmethod
    def check(self) -> dict[str, Any]:
        """Build every kind of run that the study can ask for, before anything is trained.

        Returns:
            What makes two studies the same, for JSON.

        Raises:
            UserError: naming the variant or parameter at fault.
        """

    @abstractmethod
    def plan(self, trial: optuna.trial.BaseTrial, number: int) -> list[PlannedRun]:
        """The runs of a trial.

        Args:
            trial: asked for its parameters.
            number: the trial's, or that of the trial which it tries again.
        """

    def _identity(self, **own: Any) -> dict[str, Any]:
        return {"kind": self.kind, "metric": self.metric, "direction": self.direction, **own}

    def _build(self, configs: Sequence[str], bindings: Sequence[str], what: str) -> str:
        """A configuration that works, as text."""
        try:
            config = parse_config([*self.base, *configs], [*self.bindings, *bindings])
            trainer = config.build()
        except UserError as error:
            raise UserError(f"{what}: {error}") from error
        _require_metric(self.metric, trainer.evaluations, f"{type(self).__name__}.metric", what)
        return config.text()


class Ablation(Definition):
    """Named variants of a configuration, each trained with every seed.

    Args:
        base: configs that every run starts from.
        variants: what each variant adds, by its name: bindings, and configs by path or name. What has no '=' is a
            config.
        seeds: each variant is trained with each; differences are taken seed by seed.
        bindings: over the base, in every run.
        metric: what is compared, as a run's summary names it.
        direction: "maximize" or "minimize" it.
        baseline: the variant that the others are compared with; with a star, one for each group: under '*_random',
            'hog_easy_to_hard' is compared with 'hog_random'. None for the first.
    """

    kind = "ablation"

    def __init__(
        self,
        *,
        base: Sequence[str],
        variants: Mapping[str, Sequence[str]],
        seeds: Sequence[int] = (0, 1, 2, 3, 4),
        bindings: Sequence[str] = (),
        metric: str = "low_shot/pretrained",
        direction: str = "maximize",
        baseline: str | None = None,
    ) -> None:
        super().__init__(base=base, bindings=bindings, seeds=seeds, metric=metric, direction=direction)
        if not isinstance(variants, Mapping) or not variants:
            raise ValueError("Ablation.variants must be a dictionary of at least one variant")
        for name, items in variants.items():
            if not name or not all(part.isalnum() or part in "-_." for part in name):
                raise ValueError(f"Ablation.variants: {name!r} names folders; use letters, digits, '-', '_' and '.'")
            if isinstance(items, str) or not all(isinstance(item, str) for item in items):
                raise ValueError(f"Ablation.variants['{name}'] = {items!r} must be a list of configs and bindings")
        self.variants = {name: tuple(items) for name, items in variants.items()}
        self.baseline = next(iter(variants)) if baseline is None else baseline
        try:
            baselines(self.baseline, variants)
        except ValueError as error:
            raise ValueError(f"Ablation.baseline = {error}") from error

    def check(self) -> dict[str, Any]:
        texts = {name: self._build(*self._parts(name), f"variant {name}") for name in self.variants}
        return self._identity(variants=texts, baseline=self.baseline)

    def _parts(self, variant: str) -> tuple[list[str], list[str]]:
        items = self.variants[variant]
        return [item for item in items if "=" not in item], [item for item in items if "=" in item]

    def asks_for(self, variant: str, seed: int) -> bool:
        """Whether this is one of its runs."""
        return variant in self.variants and seed in self.seeds

    def plan(self, trial: optuna.trial.BaseTrial, number: int) -> list[PlannedRun]:
        # Sorted, for Optuna takes another order for another space.
        variant = trial.suggest_categorical("variant", sorted(self.variants))
        seed = trial.suggest_int("seed", 0, 2**31 - 1)
        configs, bindings = self._parts(variant)
        return [
            PlannedRun(
                name=f"{variant}-seed{seed}",
                configs=(*self.base, *configs),
                bindings=(*self.bindings, *bindings),
                seed=seed,
                variant=variant,
            )
        ]


class Search(Definition):
    """A search for the best setting of some bindings.

    Args:
        base: configs that every run starts from.
        space: bindings and what each may be; see `studies.definition.space`.
        metric: the objective, as a run's summary names it.
        direction: "maximize" or "minimize" it.
        cost: a second objective to minimize: "flops" (counted, of the whole training) or "training_seconds"; there
            is no best trial then but a Pareto front, and no pruning. None for none.
        seeds: a trial trains one run with each; the objective is their mean.
        bindings: over the base, in every run.
        first: settings to try first, e.g. the published one; what they leave out is sampled.
        sampler: makes an Optuna sampler from `seed`.
        sampler_seed: of the search itself.
        pruner: ends hopeless trials early; None for never. `WilcoxonPruner` compares trials seed by seed; others look
            at `probe` during a trial's first run.
        probe: the metric of `Monitoring.probes` that pruning looks at.
    """

    kind = "search"

    def __init__(
        self,
        *,
        base: Sequence[str],
        space: Mapping[str, str],
        metric: str = "low_shot/pretrained",
        direction: str = "maximize",
        cost: str | None = None,
        seeds: Sequence[int] = (0,),
        bindings: Sequence[str] = (),
        first: Sequence[Mapping[str, Any]] = (),
        sampler: Callable[..., optuna.samplers.BaseSampler] = optuna.samplers.TPESampler,
        sampler_seed: int = 0,
        pruner: optuna.pruners.BasePruner | None = None,
        probe: str = "ridge/pretrained",
    ) -> None:
        super().__init__(base=base, bindings=bindings, seeds=seeds, metric=metric, direction=direction)
        if not isinstance(space, Mapping) or not space:
            raise ValueError("Search.space must be a dictionary of at least one parameter")
        if cost is not None and cost not in COSTS:
            raise ValueError(f"Search.cost = {cost!r} is unknown; choose {' or '.join(COSTS)}, or None")
        if cost is not None and pruner is not None:
            raise ValueError("Search.cost and Search.pruner do not go together: with two objectives nothing is pruned")
        if pruner is not None and not isinstance(pruner, optuna.pruners.BasePruner):
            raise ValueError(f"Search.pruner must be a pruner, e.g. @MedianPruner(), got {pruner!r}")
        if isinstance(pruner, optuna.pruners.WilcoxonPruner) and len(seeds) < 5:
            raise ValueError(
                f"Search.pruner = @WilcoxonPruner() compares trials seed by seed and prunes from the fourth on; "
                f"Search.seeds = {list(seeds)} must name five or more"
            )
        self.sampler_name = type(sampler(seed=0)).__name__  # finds a wrong option now
        self.space = parse_space(space)
        self.texts = dict(space)
        for setting in first:
            unknown = [name for name in setting if name not in self.space]
            if unknown:
                raise ValueError(f"Search.first sets {unknown[0]}, which is not in Search.space")
        self.cost = cost
        self.first = [dict(setting) for setting in first]
        self.sampler_seed = sampler_seed
        self.sampler = sampler
        self.pruner = pruner
        self.probe = probe

    @property
    def objectives(self) -> list[str]:
        return [self.metric] if self.cost is None else [self.metric, self.cost]

    @property
    def directions(self) -> list[Direction]:
        return [self.direction] if self.cost is None else [self.direction, "minimize"]

    @property
    def by_seed(self) -> bool:
        """Whether pruning compares finished seeds rather than probes."""
        return isinstance(self.pruner, optuna.pruners.WilcoxonPruner)

    def check(self) -> dict[str, Any]:
        base = ""
        for setting in [*example_settings(self.space), *self._first_settings()]:
            shown = ", ".join(f"{name} = {value!r}" for name, value in setting.items())
            text = self._build([], [binding(name, value) for name, value in setting.items()], f"space at {shown}")
            base = base or text
        if self.pruner is not None and not self.by_seed:
            trainer = parse_config([*self.base], [*self.bindings]).build()
            _require_metric(self.probe, trainer.probes, "Search.probe", "Monitoring.probes")
            if not trainer.probe_every:
                raise UserError("Search.pruner looks at probes, and Monitoring.probe_every = 0 asks for none")
        return self._identity(space=self.texts, cost=self.cost, seeds=list(self.seeds), config=base)

    def _first_settings(self) -> Iterator[Setting]:
        """What is to be tried first, with what it leaves out filled in."""
        for wanted in self.first:
            setting: Setting = {}
            for name, parameter in self.space.items():
                if parameter.applies(setting | wanted):
                    value = wanted.get(name, parameter.examples()[0])
                    if not parameter.holds(value):
                        raise UserError(f"Search.first sets {name} = {value!r}, which Search.space does not hold")
                    setting[name] = value
            yield setting

    def plan(self, trial: optuna.trial.BaseTrial, number: int) -> list[PlannedRun]:
        setting: Setting = suggest(trial, self.space)
        bindings = [binding(name, value) for name, value in setting.items()]
        several = len(self.seeds) > 1
        return [
            PlannedRun(
                name=f"trial-{number:04d}" + (f"-seed{seed}" if several else ""),
                configs=self.base,
                bindings=(*self.bindings, *bindings),
                seed=seed,
                variant=f"trial-{number:04d}",
            )
            for seed in self.seeds
        ]

    def sampler_of(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler for one trial: its draws depend on the trial's number, not on who asks or on restarts."""
        return self.sampler(seed=(self.sampler_seed * 1_000_003 + number) % 2**32)


def _require_metric(metric: str, evaluations: Sequence[Evaluation], name: str, what: str) -> None:
    """A metric that no evaluation can give is found before anything is trained."""
    given = metric.split("/")[0].replace("_", "")
    names = [type(evaluation).__name__.lower() for evaluation in evaluations]
    ours = all(type(evaluation).__module__.startswith("hpm.") for evaluation in evaluations)
    if ours and given not in names:
        shown = ", ".join(f"@{type(evaluation).__name__}()" for evaluation in evaluations) or "none"
        raise UserError(f"{name} = {metric!r} is measured by none of the evaluations of {what}: {shown}")
