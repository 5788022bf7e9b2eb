"""Metrics: objects that accumulate values over batches."""

from linsey.treex.metrics.accuracy import Accuracy
from linsey.treex.metrics.collections import AuxLosses, AuxMetrics, Losses, Metrics
from linsey.treex.metrics.loss_and_logs import LossAndLogs
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
