"""Conformance suites: what every scheduler, difficulty estimator and sampler must do, as tests to inherit.

The author of a part subclasses a suite, defines how to build the part, and lets pytest collect the class:

    from curriculum.testing import SamplerConformance

    class TestBlockwise(SamplerConformance):
        def build(self) -> Blockwise:
            return Blockwise(min_patches=4)

Each test runs on real images, real noise and a real, if tiny, teacher. The suites need no test runner themselves: a
failure is an `AssertionError` that names the case.
"""

from curriculum.testing.difficulty import DifficultyConformance
from curriculum.testing.host_sync import refuse_host_sync
from curriculum.testing.samplers import SamplerConformance
from curriculum.testing.schedulers import SchedulerConformance, typical_feedback
from curriculum.testing.teacher import TinyTeacher, tiny_batch

__all__ = [
    "DifficultyConformance",
    "SamplerConformance",
    "SchedulerConformance",
    "TinyTeacher",
    "refuse_host_sync",
    "tiny_batch",
    "typical_feedback",
]
