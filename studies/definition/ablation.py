"""Ablation: named variants of a configuration, each trained with every seed."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from studies.definition.base import LARGEST_SEED, Definition, Headline, PlannedRun, QueuedTrial
from studies.definition.baselines import baselines
from studies.definition.metric_check import may_choose_by
from studies.definition.trials import trials_not_failed

_LONGEST_NAME = 100  # of a variant
_VARIANT, _SEED = "variant", "run_seed"  # user attributes of a trial


def split_items(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """The configs and the bindings of a list of both: what has an equals sign is a binding."""
    return [item for item in items if "=" not in item], [item for item in items if "=" in item]


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

    Raises:
        ValueError: naming the setting at fault.
    """

    kind = "ablation"
    command = "ablate"

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
            if not name.strip(".") or not all(part.isalnum() or part in "-_." for part in name):
                raise ValueError(f"Ablation.variants: {name!r} names folders; use letters, digits, '-', '_' and '.'")
            if len(name) > _LONGEST_NAME:
                raise ValueError(f"Ablation.variants: {name!r} names folders; use at most {_LONGEST_NAME} characters")
            if isinstance(items, str) or not all(isinstance(item, str) for item in items):
                raise ValueError(f"Ablation.variants['{name}'] = {items!r} must be a list of configs and bindings")
        self.variants = {name: tuple(items) for name, items in variants.items()}
        self.baseline = next(iter(variants)) if baseline is None else baseline
        try:
            baselines(self.baseline, variants)
        except ValueError as error:
            raise ValueError(f"Ablation.baseline = {error}") from error
        self._varied: dict[str, dict[str, str]] = {}

    @property
    def variant_names(self) -> list[str]:
        return list(self.variants)

    def check(self) -> dict[str, Any]:
        texts, in_force = {}, {}
        for name in self.variants:
            config = self._build(*self.configs_and_bindings(name), f"variant {name}")
            texts[name], in_force[name] = config.text(), config.parameters()
        self._varied = _differing(in_force)
        return self._identity(variants=texts, baseline=self.baseline)

    def configs_and_bindings(self, variant: str) -> tuple[list[str], list[str]]:
        """What a variant adds to the base."""
        return split_items(self.variants[variant])

    def changes_of(self, variant: str, trial: FrozenTrial | None) -> list[str]:
        return list(self.variants.get(variant, ()))

    def varied(self, variant: str) -> Mapping[str, str]:
        return self._varied.get(variant, {})

    def headline(self, study: optuna.Study, values: Mapping[str, Sequence[float]]) -> Headline | None:
        if not may_choose_by(self.metric):
            return Headline(self.baseline, "the baseline") if self.baseline in values else None
        whole = {name: sum(found) for name, found in values.items() if len(found) == len(self.seeds)}
        if not whole:
            return None
        best = (max if self.direction == "maximize" else min)(whole, key=whole.__getitem__)
        return Headline(best, f"the best by {self.metric}")

    def what_is_missing(self, study: optuna.Study, trials: int | None) -> list[QueuedTrial]:
        known = {cell_of(trial) for trial in trials_not_failed(study)}
        return [
            QueuedTrial({"variant": variant, "seed": seed}, {_VARIANT: variant, _SEED: seed})
            for seed in self.seeds
            for variant in self.variants
            if (variant, seed) not in known
        ]

    def asks_for(self, trial: FrozenTrial) -> bool:
        # Seeds that were asked for when the study was started may be left out now.
        variant, seed = cell_of(trial)
        return variant in self.variants and seed in self.seeds

    def cell_of(self, trial: FrozenTrial) -> Hashable:
        return cell_of(trial)

    def plan(self, trial: optuna.trial.BaseTrial, number: int) -> list[PlannedRun]:
        # Sorted, for Optuna takes another order for another space.
        variant = trial.suggest_categorical("variant", sorted(self.variants))
        seed = trial.suggest_int("seed", 0, LARGEST_SEED)
        configs, bindings = self.configs_and_bindings(variant)
        return [
            PlannedRun(
                name=f"{variant}-seed{seed}",
                configs=(*self.base, *configs),
                bindings=(*self.bindings, *bindings),
                seed=seed,
                variant=variant,
            )
        ]

    def variant_of(self, trial: FrozenTrial) -> str:
        return cell_of(trial)[0]

    def default_baseline(self, variants: Collection[str]) -> str:
        return self.baseline


def _differing(in_force: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Of each variant the parameters that another has otherwise, or lacks."""
    names = set().union(*in_force.values())
    differ = {name for name in names if len({parameters.get(name) for parameters in in_force.values()}) > 1}
    return {
        variant: {name: value for name, value in parameters.items() if name in differ}
        for variant, parameters in in_force.items()
    }


def cell_of(trial: FrozenTrial) -> tuple[str, int]:
    """The place of an ablation's trial in the grid: its variant and its seed."""
    return trial.user_attrs.get(_VARIANT, ""), trial.user_attrs.get(_SEED, -1)
