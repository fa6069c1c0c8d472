"""Schedulers: training progress in [0, 1], or what the learner has achieved, -> a scalar such as alpha.

A scheduler is a function of progress. One that is driven by feedback also implements `observe`, and keeps what it
has observed in `state_dict`. Any scalar may be scheduled; bounds such as alpha's [0, 1] are checked where it is used.
"""

from curriculum.schedulers.adaptive import MetricPaced, Plateau
from curriculum.schedulers.bandit import Bandit
from curriculum.schedulers.base import Feedback, Scheduler
from curriculum.schedulers.combinators import Chained, Held, Reversed, Scaled, Stepped
from curriculum.schedulers.ramps import (
    SHAPES,
    Competence,
    Constant,
    Cyclic,
    Piecewise,
    Ramp,
    WarmRestarts,
)
from curriculum.schedulers.scheduled import Scalar, Scheduled, require_time_alone, values_of

__all__ = [
    "SHAPES",
    "Bandit",
    "Chained",
    "Competence",
    "Constant",
    "Cyclic",
    "Feedback",
    "Held",
    "MetricPaced",
    "Piecewise",
    "Plateau",
    "Ramp",
    "Reversed",
    "Scalar",
    "Scaled",
    "Scheduled",
    "Scheduler",
    "Stepped",
    "WarmRestarts",
    "require_time_alone",
    "values_of",
]
