"""Images: where they come from, how they are augmented and how they reach the trainer."""

from hpm.data.augment import RandomResizedCrop, resample
from hpm.data.digit_scenes import DigitScenes, SceneSplit
from hpm.data.fashion_mnist import FashionMNIST
from hpm.data.image_folder import FolderSplit, ImageFolder
from hpm.data.loader import Loader
from hpm.data.source import ImageSource, Split, TensorSplit

__all__ = [
    "DigitScenes",
    "FashionMNIST",
    "FolderSplit",
    "ImageFolder",
    "ImageSource",
    "Loader",
    "RandomResizedCrop",
    "SceneSplit",
    "Split",
    "TensorSplit",
    "resample",
]
