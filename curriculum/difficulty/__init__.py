"""Difficulty estimators: images and teacher -> scores, higher = harder."""

from curriculum.difficulty.attention import Attention
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.difficulty.edge_density import EdgeDensity
from curriculum.difficulty.predicted_loss import PredictedLoss
from curriculum.difficulty.true_loss import TrueLoss
from curriculum.difficulty.uniform import Uniform

__all__ = ["Attention", "DifficultyEstimator", "EdgeDensity", "PredictedLoss", "TrueLoss", "Uniform"]
