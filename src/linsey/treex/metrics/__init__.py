"""Metrics: objects that accumulate values over batches."""

import sys

from linsey.treex.metrics import collections, metric
from linsey.treex.metrics.accuracy import Accuracy
from linsey.treex.metrics.collections import *  # noqa: F403 (lists its names)
from linsey.treex.metrics.metric import *  # noqa: F403

__all__ = ["Accuracy"]
__all__ += collections.__all__
__all__ += metric.__all__

# Some classes used to be in files of their own, which pickles name.
sys.modules[f"{__name__}.reduce"] = metric
sys.modules[f"{__name__}.loss_and_logs"] = collections
