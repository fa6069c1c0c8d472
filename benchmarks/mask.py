"""Time of drawing a mask, against a straightforward loop over images, in alternation. Prints JSON.

python benchmarks/mask.py [--images 256] [--patches 196] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable

import torch
from machine import describe_machine, synchronize
from torch import Tensor

from curriculum import HardestFirst, Mask, Noise, Random, count_hard, count_masked
from curriculum.samplers import Blockwise, Sampler


def per_image_loop(scores_NL: Tensor, num_masked: int, num_hard: int) -> Mask:
    """HPM's split, image by image: mask the hardest, then a random choice of the rest."""
    masked, visible = [], []
    for score_L in scores_NL:
        order = torch.argsort(score_L, descending=True)
        rest = order[num_hard:][torch.randperm(len(order) - num_hard, device=order.device)]
        masked.append(torch.cat([order[:num_hard], rest[: num_masked - num_hard]]).sort().values)
        visible.append(rest[num_masked - num_hard :].sort().values)
    return Mask(torch.stack(visible), torch.stack(masked))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--alpha", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    side = math.isqrt(options.patches)
    grid = (side, options.patches // side)
    num_masked = count_masked(options.patches, 0.75)
    num_hard = count_hard(options.alpha, num_masked)
    scores_NL = torch.randn(options.images, options.patches, device=options.device)

    def draw(sampler: Sampler, step: int, scores_NL: Tensor | None = scores_NL) -> Mask:
        noise = Noise.for_batch(seed=0, step=step, batch_size=options.images, device=options.device)
        return sampler(scores_NL, alpha=options.alpha, num_masked=num_masked, grid=grid, noise=noise)

    contestants: dict[str, Callable[[int], Mask]] = {
        "per_image_loop": lambda step: per_image_loop(scores_NL, num_masked, num_hard),
        "hardest_first": lambda step: draw(HardestFirst(), step),
        "random": lambda step: draw(Random(), step),
        "blockwise": lambda step: draw(Blockwise(), step, None),
        "blockwise_where_hard": lambda step: draw(Blockwise(), step),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for step in range(options.rounds + 3):
        for name, contestant in contestants.items():
            synchronize(options.device)
            started = time.perf_counter()
            mask = contestant(step)
            synchronize(options.device)
            if step >= 3:
                seconds[name].append(time.perf_counter() - started)
            assert mask.num_masked == num_masked
    ratios = [loop / ours for loop, ours in zip(seconds["per_image_loop"], seconds["hardest_first"], strict=True)]
    report = {
        "benchmark": "mask",
        "shape": [options.images, options.patches],
        "num_masked": num_masked,
        "num_hard": num_hard,
        "milliseconds_median": {name: 1e3 * statistics.median(times) for name, times in seconds.items()},
        "times_faster_than_loop": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "machine": describe_machine(options.device),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
