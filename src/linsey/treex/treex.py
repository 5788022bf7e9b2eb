"""`Treex`: trees with modes, and selections of leaves by kind."""

from __future__ import annotations

from typing import Self

import linsey.treex.types as kinds
from linsey.treex.treeo import Extensions, FieldInfo, Tree, apply, filter


class Filters:
    """Selections of leaves by kind; each method takes further filters."""

    def parameters(self, *filters: kinds.Filter) -> Self:
        """Select the parameters."""
        return filter(self, kinds.Parameter, *filters)

    def trainable_parameters(self, *filters: kinds.Filter) -> Self:
        """Select the parameters of modules that are not frozen."""
        return filter(self, kinds.Parameter, _is_trainable, *filters)

    def batch_stats(self, *filters: kinds.Filter) -> Self:
        """Select running statistics."""
        return filter(self, kinds.BatchStat, *filters)

    def rngs(self, *filters: kinds.Filter) -> Self:
        """Select random keys."""
        return filter(self, kinds.Rng, *filters)

    def model_states(self, *filters: kinds.Filter) -> Self:
        """Select the state of the model: running statistics and caches."""
        return filter(self, kinds.ModelState, *filters)

    def states(self, *filters: kinds.Filter) -> Self:
        """Select all state."""
        return filter(self, kinds.State, *filters)

    def metric_logs(self, *filters: kinds.Filter) -> Self:
        """Select values to be reported."""
        return filter(self, kinds.MetricLog, *filters)

    def loss_logs(self, *filters: kinds.Filter) -> Self:
        """Select values to be added to the loss."""
        return filter(self, kinds.LossLog, *filters)

    def logs(self, *filters: kinds.Filter) -> Self:
        """Select all logged values."""
        return filter(self, kinds.Log, *filters)

    def caches(self, *filters: kinds.Filter) -> Self:
        """Select values that layers keep between calls."""
        return filter(self, kinds.Cache, *filters)


def _is_trainable(field: FieldInfo) -> bool:
    return not getattr(field.module, "frozen", False)


class Treex(Tree, Extensions):
    """A tree with all operations as methods, and two modes: training and frozen."""

    def train(self, mode: bool = True, inplace: bool = False) -> Self:
        """Return the object in training mode, including everything in it.

        Args:
            mode: whether to train.
            inplace: whether to change the object itself.
        """
        return self._set_flag("_training", mode, inplace)

    def eval(self, inplace: bool = False) -> Self:
        """Return the object in evaluation mode, including everything in it."""
        return self.train(False, inplace=inplace)

    def freeze(self, mode: bool = True, inplace: bool = False) -> Self:
        """Freeze: layers keep their state, and `trainable_parameters` is empty.

        Args:
            mode: whether to freeze.
            inplace: whether to change the object itself.
        """
        return self._set_flag("_frozen", mode, inplace)

    def unfreeze(self, inplace: bool = False) -> Self:
        """Return the object unfrozen, including everything in it."""
        return self.freeze(False, inplace=inplace)

    def _set_flag(self, name: str, value: bool, inplace: bool) -> Self:
        def set_flag(tree: Tree) -> None:
            if name in vars(tree):
                vars(tree)[name] = value

        return apply(set_flag, self, inplace=inplace)
