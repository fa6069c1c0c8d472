"""Targets: what is reconstructed, and what an error in it costs.

base              the interface
pixels            pixels, as they are or standardized in each patch
hog               histograms of oriented gradients (MaskFeat)
features          features of the moving average, or of any timm model
weighted          several at once
"""

from hpm.targets.base import Target
from hpm.targets.features import FeatureTarget, TeacherFeatures, TimmFeatures
from hpm.targets.hog import HOG
from hpm.targets.pixels import NormalizedPixels, Pixels
from hpm.targets.weighted import WeightedTargets

__all__ = [
    "HOG",
    "FeatureTarget",
    "NormalizedPixels",
    "Pixels",
    "Target",
    "TeacherFeatures",
    "TimmFeatures",
    "WeightedTargets",
]
