"""Images: where they come from, how they are augmented and how they reach the trainer."""

from hpm.data.crops import RandomResizedCrop, resample
from hpm.data.fetch import Annotating
from hpm.data.loader import AnnotatedBatch, Loader
from hpm.data.object_shares import ObjectShares
from hpm.data.sources.annotations import BACKGROUND, IGNORED, Objects
from hpm.data.sources.base import ImageSource
from hpm.data.sources.coco_detection import CocoDetection
from hpm.data.sources.composites import Composites
from hpm.data.sources.digit_scenes import DigitScenes
from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.fashion_mnist import FashionMNIST
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.image_files import describe_left_out, image_files, labeled_files
from hpm.data.sources.image_folder import ImageFolder
from hpm.data.sources.scene_split import SceneSplit
from hpm.data.sources.scenes import Scenes
from hpm.data.sources.segmentation_folder import SegmentationFolder
from hpm.data.sources.split import HELD_OUT, SPLITS, TEST, TRAIN, VALIDATION, Crops, Split, TensorSplit, Unreadable
from hpm.data.sources.stamp_scenes import StampScenes
from hpm.data.sources.tar_shards import TarSplit
from hpm.data.sources.timm_dataset import TimmDataset
from hpm.data.unreadable import UnreadableImages

__all__ = [
    "BACKGROUND",
    "HELD_OUT",
    "IGNORED",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "AnnotatedBatch",
    "Annotating",
    "CocoDetection",
    "Composites",
    "Crops",
    "DigitScenes",
    "EncodedSplit",
    "FashionMNIST",
    "FolderSplit",
    "ImageFolder",
    "ImageSource",
    "Loader",
    "ObjectShares",
    "Objects",
    "RandomResizedCrop",
    "SceneSplit",
    "Scenes",
    "SegmentationFolder",
    "Split",
    "StampScenes",
    "TarSplit",
    "TensorSplit",
    "TimmDataset",
    "Unreadable",
    "UnreadableImages",
    "describe_left_out",
    "image_files",
    "labeled_files",
    "resample",
]
