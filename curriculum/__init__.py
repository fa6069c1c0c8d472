"""What to mask: schedulers, difficulty estimators and samplers, and the `Curriculum` that joins them.

Depends on torch and numpy alone; works in any training loop.
"""

from curriculum.batch import Batch
from curriculum.curriculum import Curriculum
from curriculum.difficulty import Attention, DifficultyEstimator, EdgeDensity, PredictedLoss, TrueLoss, Uniform
from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.samplers import EasiestFirst, HardestFirst, Random, Sampler, count_hard, hardest
from curriculum.schedulers import Constant, Cyclic, Feedback, Piecewise, Ramp, Scheduler, SelfPaced
from curriculum.teacher import Teacher

__all__ = [
    "Attention",
    "Batch",
    "Constant",
    "Curriculum",
    "Cyclic",
    "DifficultyEstimator",
    "EasiestFirst",
    "EdgeDensity",
    "Feedback",
    "HardestFirst",
    "Mask",
    "Noise",
    "Piecewise",
    "PredictedLoss",
    "Ramp",
    "Random",
    "Sampler",
    "Scheduler",
    "SelfPaced",
    "Teacher",
    "TrueLoss",
    "Uniform",
    "count_hard",
    "count_masked",
    "hardest",
]
