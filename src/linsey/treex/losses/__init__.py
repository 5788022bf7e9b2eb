"""Losses: functions of targets and predictions, and objects that reduce them."""

from linsey.treex.losses.crossentropy import Crossentropy, crossentropy
from linsey.treex.losses.loss import Loss, Reduction
from linsey.treex.losses.regression import (
    CosineSimilarity,
    Huber,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    cosine_similarity,
    huber,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
)

__all__ = [
    "CosineSimilarity",
    "Crossentropy",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Reduction",
    "cosine_similarity",
    "crossentropy",
    "huber",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
]
