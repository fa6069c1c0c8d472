"""Targets: what is reconstructed, and what an error in it costs.

base              the interface
pixels            pixels, as they are or standardized in each patch
hog               histograms of oriented gradients (MaskFeat)
features          the base of those that are features
teacher_features  features of the moving average
patch_contrast    the same, told from those of the image's other patches (ConMIM)
timm_features     features of any timm model
assignments       how logits become assignments to prototypes
soft_classes      the base of those that are such assignments
distilled_tokens  those that the moving average's own head makes (iBOT)
online_clusters   those of clusters of its features, learned beside the student (CAPI)
weighted          several at once
"""

from hpm.targets.base import Target, TargetTeacher
from hpm.targets.distilled_tokens import DistilledTokens
from hpm.targets.features import FeatureTarget
from hpm.targets.hog import HOG
from hpm.targets.online_clusters import OnlineClusters
from hpm.targets.patch_contrast import PatchContrast
from hpm.targets.pixels import NormalizedPixels, Pixels
from hpm.targets.teacher_features import TeacherFeatures
from hpm.targets.timm_features import TimmFeatures
from hpm.targets.weighted import WeightedTargets

__all__ = [
    "HOG",
    "DistilledTokens",
    "FeatureTarget",
    "NormalizedPixels",
    "OnlineClusters",
    "PatchContrast",
    "Pixels",
    "Target",
    "TargetTeacher",
    "TeacherFeatures",
    "TimmFeatures",
    "WeightedTargets",
]
