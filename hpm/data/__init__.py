"""Images: where they come from, how they are augmented and how they reach the trainer."""

from hpm.data.augment import RandomResizedCrop, resample
from hpm.data.digit_scenes import DigitScenes, SceneSplit
from hpm.data.encoded import EncodedSplit
from hpm.data.fashion_mnist import FashionMNIST
from hpm.data.image_folder import FolderSplit, ImageFolder
from hpm.data.loader import Loader
from hpm.data.source import Crops, ImageSource, Split, TensorSplit, Unreadable
from hpm.data.tar_shards import TarSplit
from hpm.data.timm_dataset import TimmDataset

__all__ = [
    "Crops",
    "DigitScenes",
    "EncodedSplit",
    "FashionMNIST",
    "FolderSplit",
    "ImageFolder",
    "ImageSource",
    "Loader",
    "RandomResizedCrop",
    "SceneSplit",
    "Split",
    "TarSplit",
    "TensorSplit",
    "TimmDataset",
    "Unreadable",
    "resample",
]
