"""What each shipped curriculum costs, and what other targets and models cost under random masks.

Measures a training step, and the drawing of its masks, against random masks. All train an encoder of 4 blocks of width
96 on 64 patches, on the same batch of 64 images, in alternation, in the middle of a run, where schedules from 0 to 1
stand at a half. A difficulty that is asked now and then (`amt`) is measured between its questions. Prints JSON.

    python benchmarks/policies.py [--rounds 10] [--device cpu] [--only random beit boot_mae] [-b BINDING]
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from machine import describe_machine, seconds_of

from curriculum import Noise
from hpm.config import configs_folder, parse_config
from hpm.optim.clock import Clock
from studies.definition.ablation import split_items

BASELINE = "random"
CONFIGS = ["base.gin", "models/tiny", "data/digit_scenes"]
SETTINGS = [
    "IMG_SIZE = 32",
    "DigitScenes.train_size = 10000",
    "Schedule.epochs = 4",
    "Schedule.batch_size = 64",
    "Schedule.blr = 4e-3",
    "Schedule.warmup_epochs = 0.5",
    "Monitoring.evaluations = []",
    "Monitoring.probes = []",
    "Monitoring.probe_every = 0",
    "MLflowTracker.enabled = False",
]
# What else may be trained under random masks: configs and bindings. The loss predictor and the moving average of
# `random` are left out where nothing reads them.
WITHOUT_PREDICTOR = "MaskedAutoencoder.loss_predictor_depth = None"
METHODS = {
    "mae": [WITHOUT_PREDICTOR, "Method.ema_decay = None"],
    "cross_mae_model": ["models/cross_mae_tiny", "CrossMAE.loss_predictor_depth = None", "Method.ema_decay = None"],
    "simmim_model": ["models/simmim_vit_tiny", "SimMIM.loss_predictor_depth = None", "Method.ema_decay = None"],
    "teacher_features": [WITHOUT_PREDICTOR, "Method.target = @TeacherFeatures()"],
    "boot_mae": ["models/boot_mae_tiny", "BootMAE.loss_predictor_depth = None"],
    "patch_contrast": [WITHOUT_PREDICTOR, "Method.target = @PatchContrast()"],
    "hard_negatives": [WITHOUT_PREDICTOR, "Method.target = @PatchContrast()", "PatchContrast.beta = 1.0"],
    "ibot": [
        "models/simmim_vit_tiny",
        "SimMIM.loss_predictor_depth = None",
        "Method.target = @DistilledTokens()",
        "DistilledTokens.prototypes = 512",
        "DistilledTokens.hidden = 256",
        "DistilledTokens.bottleneck = 64",
    ],
    "capi_clusters": [
        "models/cross_mae_tiny",
        "CrossMAE.loss_predictor_depth = None",
        "Method.target = @OnlineClusters()",
        "OnlineClusters.clusters = 512",
    ],
    "semi_supervised": [
        WITHOUT_PREDICTOR,
        "Method.supervision = @SemiSupervised()",
        "SemiSupervised.num_classes = 10",
        "SemiSupervised.labeled_share = 0.2",
    ],
}


class Contestant:
    """A curriculum, or another method under random masks, in training.

    Args:
        name: of the curriculum, or of `METHODS`.
        bindings: over it.
    """

    def __init__(self, name: str, bindings: list[str]) -> None:
        configs, own = split_items(METHODS.get(name, []))
        curriculum = f"curricula/{BASELINE if name in METHODS else name}"
        trainer = parse_config([*CONFIGS, curriculum, *configs], [*SETTINGS, *own, *bindings]).build()
        self.trainer = trainer
        self.step = trainer.build_step()
        self.batches = next(trainer.loader.epoch(0))
        self.number = trainer.clock.total_steps // 2

    def take_step(self) -> None:
        """One optimizer step."""
        clock = self.trainer.clock
        settings = self.trainer.step_arguments(Clock(self.number, clock.steps_per_epoch, clock.epochs))
        self.step(self.batches, **settings)
        self.number += 1

    def draw(self) -> None:
        """The masks of a batch alone."""
        method, batch = self.step.method, self.batches[0]
        noise = Noise.for_batch(seed=0, step=self.number, batch_size=len(batch), device=batch.images.device)
        method.curriculum.draw(batch, method.teacher, 0.5, noise)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4, help="in each round; a multiple of 4 for hpm_dense")
    parser.add_argument("--only", nargs="*", help="names of curricula and methods; random is always there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("-b", "--binding", action="append", default=[])
    options = parser.parse_args()
    found = sorted(path.stem for path in (configs_folder() / "curricula").glob("*.gin"))
    names = [BASELINE, *(name for name in options.only or [*found, *METHODS] if name != BASELINE)]
    bindings = [f"Runtime.device = '{options.device}'", *options.binding]
    contestants = {name: Contestant(name, bindings) for name in names}

    steps: dict[str, list[float]] = {name: [] for name in names}
    draws: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(options.rounds + 1):  # the first is warm-up
        for name, contestant in contestants.items():
            step = seconds_of(contestant.take_step, options.device, repeats=options.steps, warm_up=0)
            draw = seconds_of(contestant.draw, options.device, repeats=options.steps, warm_up=0)
            if round_number:
                steps[name].append(step)
                draws[name].append(draw)
    report = {
        "benchmark": "policies",
        "configs": CONFIGS,
        "bindings": [*SETTINGS, *bindings],
        "rounds": options.rounds,
        "batch": contestants[BASELINE].trainer.schedule.batch_size,
        "patches": contestants[BASELINE].step.method.student.num_patches,
        "policies": {
            name: {
                "step_ratio": statistics.median(
                    own / other for own, other in zip(steps[name], steps[BASELINE], strict=True)
                ),
                "step_milliseconds": 1e3 * statistics.median(steps[name]),
                "draw_milliseconds": 1e3 * statistics.median(draws[name]),
            }
            for name in names
        },
        "machine": describe_machine(options.device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
