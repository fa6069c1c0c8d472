"""What did the model learn? Protocols that turn a trained model into metrics."""

from hpm.evaluation.agreement import Agreement
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.classifier import classifier
from hpm.evaluation.curriculum_diagnostics import Diagnostics
from hpm.evaluation.detection import Detection
from hpm.evaluation.discovery import protocols
from hpm.evaluation.features import extract
from hpm.evaluation.finetune import FineTune
from hpm.evaluation.finetune_segmentation import FineTuneSegmentation
from hpm.evaluation.hardness_share import HardnessShare
from hpm.evaluation.knn import KNN, knn_predict
from hpm.evaluation.lidar import LiDAR
from hpm.evaluation.linear import Linear
from hpm.evaluation.linear_mae import LinearMAE
from hpm.evaluation.localization import Localization
from hpm.evaluation.low_shot import LowShot
from hpm.evaluation.negatives import Negatives
from hpm.evaluation.rankme import RankMe
from hpm.evaluation.ridge import Ridge
from hpm.evaluation.segmentation import Segmentation
from hpm.evaluation.shown_images import ShownImages
from hpm.evaluation.trained_classifier import TrainedClassifier
from hpm.evaluation.unsupervised_segmentation import UnsupervisedSegmentation
from hpm.metrics import Metric, Unit

__all__ = [
    "KNN",
    "Agreement",
    "Detection",
    "Diagnostics",
    "Evaluation",
    "EvaluationContext",
    "FineTune",
    "FineTuneSegmentation",
    "HardnessShare",
    "LiDAR",
    "Linear",
    "LinearMAE",
    "Localization",
    "LowShot",
    "Metric",
    "Negatives",
    "RankMe",
    "Ridge",
    "Segmentation",
    "ShownImages",
    "TrainedClassifier",
    "Unit",
    "UnsupervisedSegmentation",
    "classifier",
    "extract",
    "knn_predict",
    "protocols",
]
