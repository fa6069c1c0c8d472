"""Difficulty estimators: images and teacher -> scores, higher = harder.

predicted_loss     PredictedLoss (HPM)
true_loss          TrueLoss (AnatoMask), LossSpread
attention          Attention (AttMask)
sampled_attention  SampledAttention (SMA)
features           FeatureNorm, Disagreement, Parts (SemMAE)
bipartition        MainCluster (Self-guided MAE)
hierarchy          Hierarchy (evolved hierarchical masking)
pixels             EdgeDensity, PixelVariance, PixelEntropy
uniform            Uniform
loss_memory        LossMemory
combined           Mixture, Smoothed, Switched
controls           ObjectShare, PositionLoss, Residual, Shuffled
cached             Cached (AMT)
trained            AdaMAE, ADIOS, CLMAE: networks beside the model
"""

from curriculum.difficulty.attention import Attention
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.bipartition import MainCluster
from curriculum.difficulty.cached import Cached
from curriculum.difficulty.combined import Mixture, Smoothed, Switched
from curriculum.difficulty.controls import ObjectShare, PositionLoss, Residual, Shuffled
from curriculum.difficulty.features import Disagreement, FeatureNorm, Parts
from curriculum.difficulty.hierarchy import Hierarchy
from curriculum.difficulty.loss_memory import LossMemory
from curriculum.difficulty.pixels import EdgeDensity, PixelEntropy, PixelVariance
from curriculum.difficulty.predicted_loss import PredictedLoss
from curriculum.difficulty.sampled_attention import SampledAttention
from curriculum.difficulty.trained import ADIOS, CLMAE, AdaMAE, TrainedDifficulty
from curriculum.difficulty.true_loss import LossSpread, TrueLoss
from curriculum.difficulty.uniform import Uniform

__all__ = [
    "ADIOS",
    "CLMAE",
    "AdaMAE",
    "Attention",
    "Cached",
    "DifficultyEstimator",
    "Disagreement",
    "EdgeDensity",
    "FeatureNorm",
    "Hierarchy",
    "LossMemory",
    "LossSpread",
    "MainCluster",
    "Mixture",
    "ObjectShare",
    "Parts",
    "PixelEntropy",
    "PixelVariance",
    "PositionLoss",
    "PredictedLoss",
    "Residual",
    "SampledAttention",
    "Shuffled",
    "Smoothed",
    "StepOutcome",
    "Switched",
    "TrainedDifficulty",
    "TrainingContext",
    "TrueLoss",
    "Uniform",
]
