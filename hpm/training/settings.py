"""What a `Trainer` is put together from: small groups of settings that check themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from curriculum.validation import require_at_least, require_in, require_instance
from hpm.data import HELD_OUT, VALIDATION
from hpm.evaluation import Evaluation
from hpm.evaluation.base import need_held_out
from hpm.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How training images are read. Changes nothing but speed.

    Args:
        num_workers: loader processes beside each training process.
        gpu_decode: loader processes only read JPEGs, and the CUDA device decodes them (nvJPEG): for data whose decoding
            cannot keep up with training. Pixels differ slightly from those that loader processes decode.
        max_unreadable: share of the training images that may be unreadable; others stand in for them.

    Raises:
        ValueError: naming the setting at fault.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"num_workers", "max_unreadable"})

    num_workers: int = 0
    gpu_decode: bool = False
    max_unreadable: float = 0.01

    def __post_init__(self) -> None:
        require_in("Loading", "[0, 1024]", num_workers=self.num_workers)
        require_in("Loading", "[0, 1)", max_unreadable=self.max_unreadable)
        if self.gpu_decode and self.num_workers == 0:
            raise ValueError(
                "Loading.gpu_decode = True needs processes that read the files: set Loading.num_workers to 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """When checkpoints are written, and which are kept.

    Args:
        every: steps between checkpoints; one is written at the end as well.
        keep: how many of the newest are kept.
        keep_every: steps between checkpoints that are kept for good, a multiple of `every`; 0 for none.

    Raises:
        ValueError: naming the setting at fault.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"every", "keep", "keep_every"})

    every: int = 500
    keep: int = 2
    keep_every: int = 0

    def __post_init__(self) -> None:
        require_at_least("Checkpointing", 1, every=self.every, keep=self.keep)
        require_at_least("Checkpointing", 0, keep_every=self.keep_every)
        if self.keep_every % self.every:
            raise ValueError(
                f"Checkpointing.keep_every = {self.keep_every} must be a multiple of Checkpointing.every = {self.every}"
            )


@dataclass(frozen=True, kw_only=True)
class Monitoring:
    """What is measured of a run, when, and where it is copied to.

    Args:
        log_every: steps between rows of metrics.
        probe_every: epochs between probes, each with a picture; 0 for none.
        probes: cheap evaluations during training, scored on validation images alone, or on training images where that
            is what they measure (`HardnessShare`).
        evaluations: evaluations at the end, scored on validation and on test images, or likewise; each protocol at
            most once, as among the probes.
        tracker: where metrics are copied to; None for nowhere.

    Raises:
        ValueError: naming the setting at fault.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"tracker"})

    log_every: int = 20
    probe_every: int = 0
    probes: Sequence[Evaluation] = ()
    evaluations: Sequence[Evaluation] = ()
    tracker: Tracker | None = None

    def __post_init__(self) -> None:
        require_at_least("Monitoring", 1, log_every=self.log_every)
        require_at_least("Monitoring", 0, probe_every=self.probe_every)
        for name in ("probes", "evaluations"):
            for evaluation in getattr(self, name):
                require_instance("Monitoring", Evaluation, **{name: evaluation})
            protocols = [evaluation.protocol or type(evaluation).__name__ for evaluation in getattr(self, name)]
            for protocol in protocols:
                if protocols.count(protocol) > 1:
                    raise ValueError(
                        f"Monitoring.{name} holds the protocol {protocol} twice, and their metrics would have the same "
                        "names; leave one of them out"
                    )
        if self.tracker is not None:
            require_instance("Monitoring", Tracker, tracker=self.tracker)

    @property
    def held_out(self) -> Sequence[str]:
        """The held-out splits that are looked at."""
        return HELD_OUT if need_held_out(self.evaluations) else (VALIDATION,) if need_held_out(self.probes) else ()


def given_or_default(name: str, value: Any, kind: type) -> Any:
    """Settings that a trainer was given, or their defaults where these are None; of another kind they are refused."""
    if value is None:
        return kind()
    require_instance("Trainer", kind, **{name: value})
    return value
