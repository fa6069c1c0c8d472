"""Targets: what is reconstructed, and what an error in it costs.

base              the interface
pixels            pixels, as they are or standardized in each patch
hog               histograms of oriented gradients (MaskFeat)
features          the base of those that are features
teacher_features  features of the moving average
patch_contrast    the same, told from those of the image's other patches (ConMIM)
timm_features     features of any timm model
weighted          several at once
"""

from hpm.targets.base import Target
from hpm.targets.features import FeatureTarget
from hpm.targets.hog import HOG
from hpm.targets.patch_contrast import PatchContrast
from hpm.targets.pixels import NormalizedPixels, Pixels
from hpm.targets.teacher_features import TeacherFeatures
from hpm.targets.timm_features import TimmFeatures
from hpm.targets.weighted import WeightedTargets

__all__ = [
    "HOG",
    "FeatureTarget",
    "NormalizedPixels",
    "PatchContrast",
    "Pixels",
    "Target",
    "TeacherFeatures",
    "TimmFeatures",
    "WeightedTargets",
]
