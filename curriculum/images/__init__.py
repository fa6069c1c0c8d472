"""Which images to see: difficulties of whole images, and how often an epoch shows each.

base        ImageDifficulty
loss        ImageLoss
features    PrototypeDistance, LabelNoise
selection   ImageSelection: ImageShare, ImageWeights, SelfPaced
curriculum  ImageCurriculum, which joins them
draw        the images of an epoch by their weights
"""

from curriculum.images.base import ImageDifficulty
from curriculum.images.curriculum import ImageCurriculum
from curriculum.images.draw import TURN, draw_epoch
from curriculum.images.features import LabelNoise, PrototypeDistance
from curriculum.images.loss import ImageLoss
from curriculum.images.selection import ImageSelection, ImageShare, ImageWeights, SelfPaced

__all__ = [
    "TURN",
    "ImageCurriculum",
    "ImageDifficulty",
    "ImageLoss",
    "ImageSelection",
    "ImageShare",
    "ImageWeights",
    "LabelNoise",
    "PrototypeDistance",
    "SelfPaced",
    "draw_epoch",
]
