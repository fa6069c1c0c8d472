"""Definition: what every study answers, so that nobody has to ask whether it is an ablation or a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, cast, get_args

import optuna
from optuna.trial import FrozenTrial

from curriculum.validation import require_choice
from hpm.config import Config, parse_config
from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.tracking.redact import redact_all
from studies.definition.metric_check import require_metric
from studies.definition.seed_binding import refuse_seed

Direction = Literal["maximize", "minimize"]
DIRECTIONS = get_args(Direction)

LARGEST_SEED = 2**31 - 1  # larger ones would not all be kept apart: Optuna keeps numbers as floats


@dataclass(frozen=True)
class PlannedRun:
    """One run of the trainer, as a trial wants it.

    Args:
        name: the name of its folder, which is the same in every try.
        configs: the configs that `hpm pretrain` is given.
        bindings: gin bindings over them.
        seed: the run's seed.
        variant: what is compared: a variant of an ablation, or a trial of a search.
    """

    name: str
    configs: tuple[str, ...]
    bindings: tuple[str, ...]
    seed: int
    variant: str


class Headline(NamedTuple):
    """The variant whose figures stand for a study.

    Args:
        variant: its name.
        why: in words, e.g. "the baseline".
    """

    variant: str
    why: str


@dataclass(frozen=True)
class QueuedTrial:
    """A trial that a study still lacks, as the queue gets it.

    Args:
        parameters: the parameters that are known already; the sampler chooses the others.
        attributes: what else the trial is to remember, as user attributes in Optuna.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Definition(ABC):
    """What a study consists of. What is said here of pruning and of a best trial is what an ablation answers.

    Args:
        base: configs that every run starts from.
        bindings: gin bindings over them, in every run.
        seeds: the seeds of the runs.
        metric: what is compared, as a run's summary names it, e.g. "low_shot/pretrained".
        direction: "maximize" or "minimize" it.

    Attributes:
        kind: what this kind of study is called in the storage.
        command: the command of `hpm-study` that starts it.
        imports: import statements of the study's own file, e.g. of a user's parts; its runs get them too.
        pruner: ends hopeless trials early; None for never.
        probe: the metric of `Monitoring.probes` that pruning looks at.
        cost: a second objective that is minimized; None for none.
        shown_rows: how many variants, of the best, a terminal shows; None for all.

    Raises:
        ValueError: naming the setting at fault.
    """

    kind: ClassVar[str]
    command: ClassVar[str]
    shown_rows: ClassVar[int | None] = None
    imports: tuple[str, ...] = ()
    pruner: optuna.pruners.BasePruner | None = None
    probe: str = ""
    cost: str | None = None

    def __init__(
        self, *, base: Sequence[str], bindings: Sequence[str], seeds: Sequence[int], metric: str, direction: str
    ) -> None:
        owner = type(self).__name__
        if isinstance(base, str) or not base:
            raise ValueError(f"{owner}.base = {base!r} must be a list of at least one config, e.g. ['fashion_mnist']")
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
                raise ValueError(f"{owner}.seeds = {seeds!r} must be whole numbers from 0 to {LARGEST_SEED:,}")
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"{owner}.seeds = {seeds!r} must name at least one seed, and each once")
        require_choice(owner, DIRECTIONS, direction=direction)
        self.base = tuple(base)
        self.bindings = tuple(bindings)
        self.seeds = tuple(seeds)
        self.metric = metric
        self.direction = cast(Direction, direction)
        self._first_source: tuple[str, ImageSource] | None = None  # of what has been built, and whose it is

    @property
    def objectives(self) -> list[str]:
        """What a trial is judged by."""
        return [self.metric] if self.cost is None else [self.metric, self.cost]

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective."""
        return [self.direction] if self.cost is None else [self.direction, "minimize"]

    @property
    def reports_probes(self) -> bool:
        """Whether the pruner is told the probes of a trial's first run."""
        return False

    @property
    def reports_seeds(self) -> bool:
        """Whether the pruner is told the metric of each finished run of a trial."""
        return False

    @property
    def variant_names(self) -> list[str]:
        """The variants that are known before any trial has been made."""
        return []

    @abstractmethod
    def check(self) -> dict[str, Any]:
        """Build every kind of run that the study can ask for, before anything is trained.

        Returns:
            What makes two studies the same, for JSON.

        Raises:
            UserError: naming the variant or parameter at fault.
        """

    @abstractmethod
    def what_is_missing(self, study: optuna.Study, trials: int | None) -> list[QueuedTrial]:
        """The trials that must be added until the study is whole; what failed is missing once more.

        Args:
            study: with the trials that there are.
            trials: how many a search is to have in all; an ablation knows by itself.
        """

    @abstractmethod
    def plan(self, trial: optuna.trial.BaseTrial, number: int) -> list[PlannedRun]:
        """The runs of a trial.

        Args:
            trial: the trial, which is asked for its parameters.
            number: the trial's number, or that of the trial which it tries again.
        """

    @abstractmethod
    def variant_of(self, trial: FrozenTrial) -> str:
        """The variant that a trial's runs belong to."""

    def label_of(self, trial: FrozenTrial) -> str:
        """What people call the variant of a trial; by default its name."""
        return self.variant_of(trial)

    @abstractmethod
    def changes_of(self, variant: str, trial: FrozenTrial | None) -> list[str]:
        """What makes a variant another than the base: configs, and bindings.

        Args:
            variant: its name.
            trial: one of its trials; None before there is any.
        """

    def varied(self, variant: str) -> Mapping[str, str]:
        """The parameters in force of a variant that differ among the study's; empty until `check` has built them."""
        return {}

    @abstractmethod
    def headline(self, study: optuna.Study, values: Mapping[str, Sequence[float]]) -> Headline | None:
        """The variant whose figures stand for the study in a list of studies; None for none. No test image chooses it.

        Args:
            study: with its trials.
            values: the metric of every finished run, by variant.
        """

    @abstractmethod
    def default_baseline(self, variants: Collection[str]) -> str:
        """What variants are compared with unless the user says otherwise; see `baselines`.

        Args:
            variants: those that have results.
        """

    def asks_for(self, trial: FrozenTrial) -> bool:
        """Whether a trial that waits belongs to what the study asks for now."""
        return True

    def cell_of(self, trial: FrozenTrial) -> Hashable:
        """What trials that stand for each other have in common; by default each stands for itself."""
        return trial.number

    def sampler_of(self, number: int) -> optuna.samplers.BaseSampler | None:
        """The sampler of a trial, by its number or that of the trial which it tries again; None where all is known."""
        return None

    def in_place_of(self, study: optuna.Study, repeat: FrozenTrial) -> QueuedTrial | None:
        """What is tried in the place of a trial that has another's setting; None for nothing."""
        return None

    def best_trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """The trials whose configuration is worth keeping: one, or a Pareto front by its last objective."""
        return []

    def keep_config(self, imports: Sequence[str], bindings_of: Callable[[str], dict[str, Any]]) -> None:
        """Keep what is needed later of the study's configuration, which the next one that is parsed clears.

        Args:
            imports: the import statements of the study's own file.
            bindings_of: gives what is bound of a configurable, by its name.
        """
        self.imports = tuple(imports)

    def objective_values(self, results: Sequence[Mapping[str, Any]]) -> list[float]:
        """The objectives of a trial: means over its runs.

        Args:
            results: one for each run, with its "metrics" and "cost" by name.
        """
        values = [sum(result["metrics"][self.metric] for result in results) / len(results)]
        if self.cost is not None:
            values.append(sum(result["cost"][self.cost] for result in results) / len(results))
        return values

    def _identity(self, **own: Any) -> dict[str, Any]:
        return redact_all({"kind": self.kind, "metric": self.metric, "direction": self.direction, **own})

    def _build(self, configs: Sequence[str], bindings: Sequence[str], what: str) -> Config:
        """A configuration that works, and has just been built."""
        try:
            config = parse_config([*self.base, *configs], [*self.bindings, *bindings])
            refuse_seed(config, self.base, configs)
            trainer = config.build()
        except UserError as error:
            raise UserError(f"{what}: {error}") from error
        name = f"{type(self).__name__}.metric"
        require_metric(self.metric, trainer.monitoring.evaluations, trainer.source, name, what)
        self._first_source = self._first_source or (what, trainer.source)
        return config

    def read_images(self) -> None:
        """Read what the first run that was checked holds in memory, so that its faults show before anything is trained.

        Those of the first stand for all, since it may take long and runs of a study seldom differ in their images.

        Raises:
            UserError: if it cannot be read.
        """
        if self._first_source is None:
            return
        what, source = self._first_source
        try:
            source.prepare()
        except UserError as error:
            raise UserError(f"{what}: {error}") from error
        self._first_source = None  # its images take memory
