"""Layers that training leaves alone: their parameters and their running statistics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax import lax

from linsey.batch_stats.objects import entry_name
from linsey.batch_stats.observe import STATS, is_dropout
from linsey.fine_tuning.adapted import (
    Args,
    Called,
    Change,
    Kwargs,
    Run,
    adapt,
    changes_of,
)
from linsey.fine_tuning.low_rank import FACTORS
from linsey.fine_tuning.paths import Path, Where, check_where, leaves, matches
from linsey.linen.module import Module, nowrap
from linsey.linen.module.binding import copy_deep
from linsey.linen.normalization import BatchNorm
from linsey.linen.transforms import map_variables


@dataclasses.dataclass(frozen=True)
class Freeze(Change):
    """Layers without gradients and without updates.

    Attributes:
        where: which ones.
        dropout: whether layers of dropout among them drop.
    """

    where: Where
    dropout: bool

    def other(self, path: Path, module: Module) -> Module | None:
        """Return a batch norm that normalizes by its running statistics."""
        if not isinstance(module, BatchNorm) or not matches(self.where, path):
            return None
        frozen = copy_deep(module, reset_names=True)
        frozen.__dict__["frozen"] = (
            True if module.frozen == "affine" else (module.frozen or "statistics")
        )
        return frozen

    def call(
        self, path: Path, run: Run, args: Args, kwargs: Kwargs, called: Called
    ) -> Any:
        """Call a layer, and put its statistics back."""
        layer, method = called.module, called.method_name
        if method == "setup" or not matches(self.where, path):
            return run(*args, **kwargs)
        if not self.dropout and method == "__call__" and is_dropout(layer):
            return args[0] if args else kwargs["inputs"]
        if layer.is_initializing() or not layer.is_mutable_collection(STATS):
            return run(*args, **kwargs)
        before = _own(layer)
        y = run(*args, **kwargs)
        for name, value in before.items():
            layer.put_variable(STATS, name, value)
        return y

    def around(self, run: Run, model: Module, args: Args, kwargs: Kwargs) -> Any:
        """Call a method of the model on parameters without gradients."""
        if model.is_initializing():
            return run(model, *args, **kwargs)

        @nowrap
        def forward(model: Module, *args: Any, **kwargs: Any) -> Any:
            return run(model, *args, **kwargs)

        stop = functools.partial(_stopped, self.where)
        return map_variables(forward, "params", stop)(model, *args, **kwargs)


def _own(layer: Module) -> dict[str, Any]:
    """Return the variables of a layer itself in the collection `batch_stats`."""
    found = layer.variables.get(STATS, {})
    return {name: x for name, x in found.items() if not isinstance(x, Mapping)}


def _stopped(where: Where, collections: Any) -> Any:
    """Return parameters, those that are chosen without gradients."""
    check_where(where, (path[1:] for path in leaves(collections)))

    def stopped(path: tuple[object, ...], leaf: Any) -> Any:
        names = tuple(map(entry_name, path))[1:]
        is_frozen = matches(where, names) and not {*FACTORS} & {*names}
        return lax.stop_gradient(leaf) if is_frozen else leaf

    return jax.tree_util.tree_map_with_path(stopped, collections)


def freeze(module: Module, where: Where, *, dropout: bool = True) -> Module:
    """Let training leave layers of a model alone, in both of the ways in which it acts.

    * Their parameters get gradients that are exactly zero. What flows back through the
      layers, to inputs and to layers before them, does not change.
    * Batch norms among them normalize by their running statistics in training too, and
      statistics of any layer, what is in the collection `batch_stats`, stay bit by bit.

    With gradients alone a frozen backbone would go on changing: in training it would
    normalize by batches, and its running statistics would move to new data, half of the
    way or all of it, under weights that were not trained on such inputs.

    The variables are those of the model as it is. An optimizer may still move what has
    no gradient, by weight decay or by moments of earlier steps, and holds moments for
    it; `trainable` tells it what to leave out.

    Norms of other libraries that are no `BatchNorm` keep their statistics, but may
    still normalize by the batch: give them their flag for evaluation.

    Args:
        module: the model.
        where: what is frozen, by paths as they are in the variables. `"backbone"` is
            all below it; parts may be patterns, `"block_*/norm"`; a sequence is any of
            them; `nn.DenyList("head")` all but the head; `True` everything. A function
            is called with paths of layers and of parameters, as
            `where("backbone/conv/kernel")`. Factors of `lora` are never frozen.
        dropout: whether layers of dropout in there drop in training.

    Returns:
        The model, of its class, and with its fields.

    Raises:
        OptionError: nothing is at a path; raised when the model is applied.
        ArgumentTypeError: the model is no module of linsey.
        UsageError: it is bound.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model = nn.Sequential([nn.Dense(2), nn.Dense(1)])
        >>> x = jnp.ones((1, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> model = freeze(model, "layers_0")
        >>> grads = jax.grad(lambda v: model.apply(v, x).sum())(variables)["params"]
        >>> for name, layer in grads.items():
        ...     print(name, bool((layer["kernel"] != 0).any()))
        layers_0 False
        layers_1 True
    """
    return adapt(module, (*changes_of(module), Freeze(where, dropout)))


def trainable(params: Any, where: Where) -> Any:
    """Tell what of the parameters is trained, where some are frozen.

    With optax, so that no state is held for the others, and nothing moves them:

        labels = trainable(params, where)
        tx = optax.multi_transform({True: tx, False: optax.set_to_zero()}, labels)

    Args:
        params: the parameters.
        where: what is frozen, as for `freeze`.

    Returns:
        A tree of their structure, with `True` for those that are trained.

    Raises:
        OptionError: nothing is at a path.

    Example:
        >>> trainable({"body": {"kernel": 1.0}, "head": {"kernel": 1.0}}, "body")
        {'body': {'kernel': False}, 'head': {'kernel': True}}
    """
    check_where(where, leaves(params))

    def is_trained(path: tuple[object, ...], leaf: object) -> bool:
        names = tuple(map(entry_name, path))
        return not matches(where, names) or bool({*FACTORS} & {*names})

    return jax.tree_util.tree_map_with_path(is_trained, params)
