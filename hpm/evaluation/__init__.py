"""What did the model learn? Protocols that turn a trained model into metrics."""

from hpm.evaluation.agreement import Agreement
from hpm.evaluation.base import Evaluation, Subject
from hpm.evaluation.classifier import classifier
from hpm.evaluation.features import extract
from hpm.evaluation.knn import KNN, knn_predict
from hpm.evaluation.linear import Linear
from hpm.evaluation.low_shot import LowShot

__all__ = ["KNN", "Agreement", "Evaluation", "Linear", "LowShot", "Subject", "classifier", "extract", "knn_predict"]
