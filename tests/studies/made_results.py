"""Complete runs as studies keep them, made by hand."""

from __future__ import annotations

from studies.analysis.results import Result

RANDOM, HARD = [0.70, 0.72, 0.71, 0.69, 0.73], [0.75, 0.77, 0.75, 0.74, 0.78]


def results(
    variant: str, values: list[float], *, source: str = "s", images: float = 1000, **more: object
) -> list[Result]:
    """A run of a variant for each value of low_shot/pretrained, over 10,000 images, with the seeds 0, 1, ..."""
    defaults = {
        "data": "FashionMNIST",
        "device": "cpu",
        "commit": "abc",
        "scored_images": {"low_shot/pretrained": 10_000},
    }
    return [
        Result(
            source,
            variant,
            seed,
            {"low_shot/pretrained": value},
            {"images": images, "training_seconds": 10.0, "flops": 1e12},
            **{**defaults, **more},
        )
        for seed, value in enumerate(values)
    ]
