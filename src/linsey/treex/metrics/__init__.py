"""Metrics: objects that accumulate values over batches."""

import sys

from linsey.treex.metrics import collections
from linsey.treex.metrics.accuracy import Accuracy
from linsey.treex.metrics.collections import (
    AuxLosses,
    AuxMetrics,
    LossAndLogs,
    Losses,
    Metrics,
)
from linsey.treex.metrics.metric import Metric
from linsey.treex.metrics.reduce import (
    MAE,
    MSE,
    Mean,
    MeanAbsoluteError,
    MeanSquareError,
    Reduce,
    Reduction,
)

__all__ = [
    "MAE",
    "MSE",
    "Accuracy",
    "AuxLosses",
    "AuxMetrics",
    "LossAndLogs",
    "Losses",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquareError",
    "Metric",
    "Metrics",
    "Reduce",
    "Reduction",
]

# `LossAndLogs` was in a file of its own; pickles name it.
sys.modules[f"{__name__}.loss_and_logs"] = collections
