"""`hpm evaluate`: protocols on a trained model, and where their results go.

evaluation-PROTOCOL.json   beside checkpoints/ in the run's folder, or beside a published file; likewise
evaluation-PROTOCOL.png    where the protocol has something to show
evaluation/                what long protocols need to go on after a kill; gone once they are done
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from hpm import __version__
from hpm.errors import UserError
from hpm.evaluation import Evaluation, EvaluationContext, discovery
from hpm.inference.evaluation_results import (
    Entry,
    draw,
    key_of,
    read_entries,
    results_folder,
    send_to_tracker,
    summarize,
    tables,
    write_entry,
)
from hpm.inference.kept_encoders import check_kept, keep_trained
from hpm.inference.loading import LoadedModel, check_weights, load_model
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.files import check_folder, printable
from hpm.tracking import NoTracker, Tracker

_MOST_SEEDS = 1_000
_OF_WORKERS = re.compile(r"\.num_workers\s*=")
_WITHOUT_NUMBERS = ("Runtime.", "MLflowTracker.")  # bindings that change nothing but speed and rounding


def evaluate(
    path: Path,
    console: Console,
    *,
    protocols: Sequence[str],
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    weights: str = "student",
    seeds: int | None = None,
    keep: bool = False,
    processes: DistributedContext | None = None,
) -> list[Entry]:
    """Run protocols on a trained model, print a table, and keep the results.

    Args:
        path: what names a trained model, as `find_model` takes it.
        console: where a person reads.
        protocols: names, as `hpm.evaluation.protocols` has them.
        configs: the protocols'; for published weights, of their data too.
        bindings: gin bindings over all.
        weights: "student" or "teacher".
        seeds: how many seeds a protocol is repeated with; how often one that repeats by itself does so. None for what
            the configuration says.
        keep: whether to write the encoders that protocols have trained, each as a folder for timm beside the results,
            `finetune-scratch`: a model for every command. Default False.
        processes: all that were started. Default this one alone.

    Returns:
        The results' entries, one for each protocol, as written; none in all processes but the main one.

    Raises:
        UserError: for an unknown protocol, a model that cannot be loaded, or data that cannot serve.
    """
    _check(protocols, weights, seeds)
    processes = DistributedContext() if processes is None else processes
    classes = [discovery.protocols()[name] for name in protocols]
    loaded = load_model(path, bindings=[*_seed_bindings(classes, seeds), *bindings], over=configs, weights=weights)
    for cls in classes if seeds else ():
        if cls.seeds_argument and (given := loaded.config.parameter(cls.__name__, cls.seeds_argument)) != seeds:
            raise UserError(
                f"--seeds {seeds} and {cls.__name__}.{cls.seeds_argument} = {given} (-b) do not go together; leave one "
                "of them out"
            )
    tracker: Tracker = loaded.config.parameter("Monitoring", "tracker") or NoTracker()
    evaluations = _build(loaded, classes, processes)
    processes.connect(loaded.device)
    console.print(f"data: {loaded.source.describe()}")
    for line in loaded.lines:
        console.print(line)
    folder = results_folder(loaded)
    check_folder("the folder of long evaluations", folder / "evaluation")
    for name in protocols:
        read_entries(folder / f"evaluation-{name}.json")  # a damaged file is found before the work, not after it
    if keep:
        check_kept(folder, protocols, seeds, loaded)
    context = replace(
        loaded.context(weights),
        processes=processes,
        report=lambda text: console.print(text),
        trained={} if keep else None,
    )
    entries = []
    for evaluation in evaluations:
        name = evaluation.protocol
        entry = _entry(loaded, evaluation, configs, bindings, weights, seeds)
        console.print(f"{name}: {entry['model']}, {weights}'s weights, on {loaded.device}")
        progress = folder / "evaluation" / f"{name}-{_fingerprint(loaded, entry, processes.world_size)}"
        started = time.monotonic()
        values = _measure(console, evaluation, context, seeds=seeds or 1, progress=progress)
        if not processes.is_main:
            continue
        entry |= {"seconds": time.monotonic() - started, "metrics": summarize(values)}
        if per_class := context.mean_per_class(values):
            entry["per_class"] = per_class
        for table in tables(name, entry["metrics"]):
            console.print(table, soft_wrap=False)
        if keep and not context.trained:
            console.print(f"--keep: {name} trains no encoder, so that there is nothing to keep", style="yellow")
        whole = keep_trained(console, loaded, context, folder)
        write_entry(console, folder / f"evaluation-{name}.json", entry)
        if whole:
            shutil.rmtree(progress, ignore_errors=True)
        drawn = None
        if name in context.galleries:
            of = (loaded.path if loaded.run is None else loaded.run.path).resolve().name
            drawn = draw(console, context.galleries[name], folder / f"evaluation-{name}.png", of)
        if loaded.run is not None:
            send_to_tracker(console, loaded.run, tracker, entry, [] if drawn is None else [drawn])
        entries.append(entry)
    return entries


def _check(protocols: Sequence[str], weights: str, seeds: int | None) -> None:
    known = discovery.protocols()
    unknown = [name for name in protocols if name not in known]
    if unknown or not protocols:
        raise UserError(f"--protocol {','.join(unknown) or 'of no name'} is unknown; choose from {', '.join(known)}")
    if len(set(protocols)) < len(protocols):
        raise UserError(f"--protocol {','.join(protocols)} names one twice")
    check_weights(weights)
    if seeds is not None and not 1 <= seeds <= _MOST_SEEDS:
        raise UserError(f"--seeds {seeds} must be 1 to {_MOST_SEEDS:,}")


def _seed_bindings(classes: Sequence[type[Evaluation]], seeds: int | None) -> list[str]:
    """How often evaluations that repeat by themselves do so: as bindings, so that the configuration says it."""
    if seeds is None:
        return []
    return [f"{cls.__name__}.{cls.seeds_argument} = {seeds}" for cls in classes if cls.seeds_argument is not None]


def _build(loaded: LoadedModel, classes: Sequence[type[Evaluation]], processes: DistributedContext) -> list[Evaluation]:
    """The evaluations, as the configuration has them.

    Raises:
        UserError: where one does not fit the data, the model or the processes, or a binding of the command line is of
            none of them.
    """
    evaluations: list[Evaluation] = [loaded.config.build_part(cls.__name__) for cls in classes]
    loaded.config.parameter("Loading", "max_unreadable")  # what the context asks for, so that it counts as used
    loaded.config.check_bindings()
    for evaluation in evaluations:
        if lacking := sorted(evaluation.needs_trained(loaded.method.student) & loaded.untrained):
            raise UserError(
                f"{evaluation.protocol} can say nothing of {loaded.path}: it holds no whole "
                f"{' and no '.join(lacking)} for this model and target; choose another protocol, or a model that has "
                "all components"
            )
        try:
            evaluation.check(loaded.source, loaded.method.student)
            evaluation.check_world_size(processes.world_size)
        except ValueError as error:
            raise UserError(str(error)) from error
    if not all(evaluation.scores_training_images for evaluation in evaluations):
        loaded.source.require_held_out()
    if any(evaluation.scores_training_images for evaluation in evaluations):
        loaded.source.train()  # so that it is told how many there are
    loaded.source.prepare()
    return evaluations


def _entry(
    loaded: LoadedModel,
    evaluation: Evaluation,
    configs: Sequence[str],
    bindings: Sequence[str],
    weights: str,
    seeds: int | None,
) -> Entry:
    own = f"{type(evaluation).__name__}."
    return {
        "protocol": evaluation.protocol,
        "model": loaded.path.name,
        "step": loaded.step,
        "weights": weights,
        "configs": list(configs),
        "bindings": list(bindings),
        "seeds": seeds,
        "data": type(loaded.source).__name__,
        "parameters": {name: value for name, value in loaded.config.parameters().items() if name.startswith(own)},
        "seed": loaded.seed,
        "device": str(loaded.device),
        "version": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _fingerprint(loaded: LoadedModel, entry: Entry, world_size: int) -> str:
    """Of everything that the progress of a long protocol depends on."""
    parameters = {
        name: value
        for name, value in loaded.config.parameters().items()
        if not name.startswith(_WITHOUT_NUMBERS) and not name.endswith(".num_workers")
    }
    file = loaded.path.stat()
    told = [binding for binding in entry["bindings"] if not _OF_WORKERS.search(binding)]
    content = [
        key_of(entry | {"bindings": told}),
        entry["seed"],
        file.st_size,
        file.st_mtime_ns,
        parameters,
        world_size,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _measure(
    console: Console,
    evaluation: Evaluation,
    context: EvaluationContext,
    *,
    seeds: int,
    progress: Path,
) -> dict[str, list[float]]:
    """Each metric's values, one for each seed."""
    if seeds > 1 and (evaluation.seeds_argument is not None or not evaluation.seeded):
        if evaluation.seeds_argument is None:
            console.print(
                f"{type(evaluation).__name__} is the same for every seed: it is measured once", style="yellow"
            )
        seeds = 1
    processes = context.processes
    values: dict[str, list[float]] = {}
    named = set(context.unreadable.by_name)
    for seed in range(context.seed, context.seed + seeds):
        if seeds > 1:
            console.print(f"seed {seed}")
        if not evaluation.shared and not processes.is_main:
            continue
        measured = evaluation.measure_values(replace(context, seed=seed, folder=progress / f"seed-{seed}"))
        for metric, own in measured.items():
            values.setdefault(metric, []).extend(own)
    for found in processes.gather(context.unreadable.by_name):
        for name in (name for name in found if name not in named):
            line = " ".join(f"skipped, unreadable: {name}: {found[name]}".splitlines())
            console.print(printable(line), style="yellow")
        context.unreadable.by_name |= found
        named |= found.keys()
    return values
