"""What did the model learn? Protocols that turn a trained model into metrics."""

from hpm.evaluation.agreement import Agreement
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.classifier import classifier
from hpm.evaluation.curriculum_diagnostics import Diagnostics
from hpm.evaluation.discovery import find_metric, protocols, unit_of
from hpm.evaluation.features import extract
from hpm.evaluation.finetune import FineTune
from hpm.evaluation.hardness_share import HardnessShare
from hpm.evaluation.intervals import half_interval
from hpm.evaluation.knn import KNN, knn_predict
from hpm.evaluation.linear import Linear
from hpm.evaluation.linear_mae import LinearMAE
from hpm.evaluation.localization import Localization
from hpm.evaluation.low_shot import LowShot
from hpm.evaluation.metrics import Metric, Unit
from hpm.evaluation.ridge import Ridge

__all__ = [
    "KNN",
    "Agreement",
    "Diagnostics",
    "Evaluation",
    "EvaluationContext",
    "FineTune",
    "HardnessShare",
    "Linear",
    "LinearMAE",
    "Localization",
    "LowShot",
    "Metric",
    "Ridge",
    "Unit",
    "classifier",
    "extract",
    "find_metric",
    "half_interval",
    "knn_predict",
    "protocols",
    "unit_of",
]
