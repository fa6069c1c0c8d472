"""What to mask: schedulers, difficulty estimators and samplers, and the `Curriculum` that joins them.

Depends on torch and numpy alone; works in any training loop.
"""

from curriculum.batch import Batch
from curriculum.curriculum import Curriculum
from curriculum.difficulty import Attention, DifficultyEstimator, EdgeDensity, PredictedLoss, TrueLoss, Uniform
from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.samplers import EasiestFirst, HardestFirst, Random, Sampler, count_hard, hardest
from curriculum.schedulers import (
    Bandit,
    Chained,
    Competence,
    Constant,
    Cyclic,
    Feedback,
    Held,
    Piecewise,
    Plateau,
    Ramp,
    Reversed,
    Scaled,
    Scheduler,
    SelfPaced,
    WarmRestarts,
)
from curriculum.teacher import Teacher

__all__ = [
    "Attention",
    "Bandit",
    "Batch",
    "Chained",
    "Competence",
    "Constant",
    "Curriculum",
    "Cyclic",
    "DifficultyEstimator",
    "EasiestFirst",
    "EdgeDensity",
    "Feedback",
    "HardestFirst",
    "Held",
    "Mask",
    "Noise",
    "Piecewise",
    "Plateau",
    "PredictedLoss",
    "Ramp",
    "Random",
    "Reversed",
    "Sampler",
    "Scaled",
    "Scheduler",
    "SelfPaced",
    "Teacher",
    "TrueLoss",
    "Uniform",
    "WarmRestarts",
    "count_hard",
    "count_masked",
    "hardest",
]
