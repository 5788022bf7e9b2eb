"""Metrics: objects that accumulate values over batches."""

import sys

from linsey.treex.metrics import accuracy, collections, reduce
from linsey.treex.metrics.accuracy import *  # noqa: F403 (what it lists, as the others)
from linsey.treex.metrics.collections import *  # noqa: F403
from linsey.treex.metrics.metric import Metric
from linsey.treex.metrics.reduce import *  # noqa: F403

__all__ = ["Metric"]
__all__ += accuracy.__all__
__all__ += collections.__all__
__all__ += reduce.__all__

# `LossAndLogs` was in a file of its own; pickles name it.
sys.modules[f"{__name__}.loss_and_logs"] = collections
