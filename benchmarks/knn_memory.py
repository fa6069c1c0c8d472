"""Memory of a k-NN beyond its features: the growth of the peak resident size on the CPU. Prints JSON.

python benchmarks/knn_memory.py [--train 200000] [--test 10000] [--width 768] [--k 200]
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from machine import describe_machine

from hpm.evaluation.knn import nearest
from hpm.runtime.devices import peak_memory

_CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=200_000)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--k", type=int, default=200)
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    train_ND = torch.empty(options.train, options.width).normal_(generator=generator)
    test_MD = torch.empty(options.test, options.width).normal_(generator=generator)
    labels_N = torch.arange(options.train) % 1000
    nearest(train_ND[: options.k], labels_N[: options.k], test_MD[:8], k=options.k, device=_CPU)  # libraries loaded
    before, started = peak_memory(_CPU), time.perf_counter()
    nearest(train_ND, labels_N, test_MD, k=options.k, device=_CPU)
    report = {
        "benchmark": "knn_memory",
        "shape": [options.train, options.test, options.width],
        "k": options.k,
        "features_mib": 4 * options.width * (options.train + options.test) / 2**20,
        "all_similarities_mib": 4 * options.train * options.test / 2**20,
        "above_features_mib": (peak_memory(_CPU) - before) / 2**20,
        "seconds": time.perf_counter() - started,
        "machine": describe_machine("cpu"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
