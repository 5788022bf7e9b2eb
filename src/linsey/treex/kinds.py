"""The kinds of fields: what the leaves of a module are for.

::

    TreePart
      Parameter                     what gradients are taken of
      State
        Rng                         random keys
        MetricState                 running values of metrics
        ModelState
          BatchStat                 running averages of batch statistics
          Cache                     what a layer remembers between calls
        OptState                    states of optimizers
      Log
        LossLog                     what is added to the loss
        MetricLog                   what is reported
"""

from __future__ import annotations

from linsey.treex.treeo import KindMixin


class TreePart(KindMixin):
    """Base of all kinds."""


class Parameter(TreePart):
    """What is learned."""


class State(TreePart):
    """What is not learned and changes."""


class Rng(State):
    """A random key."""


class MetricState(State):
    """The running values of a metric."""


class ModelState(State):
    """State of a model."""


class BatchStat(ModelState):
    """Running averages of the statistics of batches."""


class Cache(ModelState):
    """What a layer remembers between calls."""


class OptState(State):
    """The state of an optimizer."""


class Log(TreePart):
    """A value that a model leaves behind for others."""


class LossLog(Log):
    """A value that is added to the loss."""


class MetricLog(Log):
    """A value that is reported."""
