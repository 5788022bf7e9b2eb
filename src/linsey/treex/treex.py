"""`Treex`: trees with modes, and the selections by kind."""

from __future__ import annotations

from typing import Any, Self

from linsey.treex import kinds
from linsey.treex.treeo import Extensions, Tree, apply, filter
from linsey.treex.treeo.fields import FieldInfo


class Filters:
    """Selections of leaves by kind: each takes further filters."""

    def parameters(self, *filters: Any) -> Self:
        """What is learned."""
        return filter(self, kinds.Parameter, *filters)

    def trainable_parameters(self, *filters: Any) -> Self:
        """What is learned in modules that are not frozen."""
        return filter(self, kinds.Parameter, _is_trainable, *filters)

    def batch_stats(self, *filters: Any) -> Self:
        """Running averages of batch statistics."""
        return filter(self, kinds.BatchStat, *filters)

    def rngs(self, *filters: Any) -> Self:
        """Random keys."""
        return filter(self, kinds.Rng, *filters)

    def model_states(self, *filters: Any) -> Self:
        """State of the model: averages and caches."""
        return filter(self, kinds.ModelState, *filters)

    def states(self, *filters: Any) -> Self:
        """All state."""
        return filter(self, kinds.State, *filters)

    def metric_logs(self, *filters: Any) -> Self:
        """Values to be reported."""
        return filter(self, kinds.MetricLog, *filters)

    def loss_logs(self, *filters: Any) -> Self:
        """Values to be added to the loss."""
        return filter(self, kinds.LossLog, *filters)

    def logs(self, *filters: Any) -> Self:
        """All logged values."""
        return filter(self, kinds.Log, *filters)

    def caches(self, *filters: Any) -> Self:
        """What layers remember between calls."""
        return filter(self, kinds.Cache, *filters)


def _is_trainable(field: FieldInfo) -> bool:
    return not getattr(field.module, "frozen", False)


class Treex(Tree, Extensions):
    """A tree with all operations as methods, and two modes: training and frozen."""

    def train(self, mode: bool = True, inplace: bool = False) -> Self:
        """In training mode, with everything in it.

        Args:
            mode: whether to train.
            inplace: change the object itself.
        """
        return self._set_flag("_training", mode, inplace)

    def eval(self, inplace: bool = False) -> Self:
        """In evaluation mode, with everything in it."""
        return self.train(False, inplace=inplace)

    def freeze(self, mode: bool = True, inplace: bool = False) -> Self:
        """Frozen: layers leave their state alone, `trainable_parameters` is empty.

        Args:
            mode: whether to freeze.
            inplace: change the object itself.
        """
        return self._set_flag("_frozen", mode, inplace)

    def unfreeze(self, inplace: bool = False) -> Self:
        """No longer frozen, with everything in it."""
        return self.freeze(False, inplace=inplace)

    def _set_flag(self, name: str, value: bool, inplace: bool) -> Self:
        def set_flag(tree: Any) -> None:
            if name in vars(tree):
                vars(tree)[name] = value

        return apply(set_flag, self, inplace=inplace)
