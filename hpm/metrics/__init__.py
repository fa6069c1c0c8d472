"""What is measured: names, units and intervals, which need neither torch nor a model to be read.

metric      a metric's name and unit
declared    the metrics of every evaluation, in one table
intervals   the confidence interval of a mean
"""

from hpm.metrics.declared import DECLARED, find_metric, unit_of
from hpm.metrics.intervals import CONFIDENCE, half_interval
from hpm.metrics.metric import HELD_OUT, TEST, VALIDATION, Metric, Unit, metric_on, split_of

__all__ = [
    "CONFIDENCE",
    "DECLARED",
    "HELD_OUT",
    "TEST",
    "VALIDATION",
    "Metric",
    "Unit",
    "find_metric",
    "half_interval",
    "metric_on",
    "split_of",
    "unit_of",
]
