"""Frozen layers: training changes neither their parameters nor their statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from jax import lax
from jax.tree_util import tree_leaves_with_path, tree_map_with_path

from linsey.fine_tuning.adapted import Change, Run, adapt, changes_of, check_unbound
from linsey.fine_tuning.paths import Where, check_where, matches, text_of
from linsey.linen.module import Module, nowrap
from linsey.linen.normalization import BatchNorm
from linsey.linen.transforms import map_variables

M = TypeVar("M", bound=Module)
Collections = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Freezing(Change):
    """Layers without gradients and without updates of running statistics.

    Attributes:
        where: selects the layers.
    """

    where: Where

    def layer(self, path: str, layer: Module) -> Module:
        """Return a frozen batch norm in place of one that is selected."""
        if not isinstance(layer, BatchNorm) or not matches(self.where, path):
            return layer
        has_affine = layer.frozen in (True, "affine")
        return layer.clone(frozen=True if has_affine else "statistics")

    def around(self, run: Run, model: Module, /, *args: Any, **kwargs: Any) -> Any:
        """Call the model with gradients stopped, and undo updates of statistics."""
        if model.is_initializing():
            return run(model, *args, **kwargs)
        leaves = tree_leaves_with_path(model.variables)
        paths = (text_of(path[1:]) for path, _ in leaves)
        # `*/lora` selects nothing once the factors are merged.
        check_where(self.where, paths, patterns=False)
        stored: list[dict[str, Any]] = []

        def stop(collections: Collections) -> Collections:
            stored.append(_by_path(collections))
            return self._mapped(lambda _, leaf: lax.stop_gradient(leaf), collections)

        def restore(written: Collections) -> Collections:
            return self._mapped(stored.pop(0).get, written)

        @nowrap
        def forward(model: Module, *args: Any, **kwargs: Any) -> Any:
            return run(model, *args, **kwargs)

        changed = ("params", "batch_stats")
        mapped = map_variables(forward, changed, stop, restore, mutable=True)
        return mapped(model, *args, **kwargs)

    def _mapped(self, fn: Callable[[str, Any], Any], tree: Collections) -> Collections:
        """Apply `fn(path, leaf)` to the frozen leaves."""

        def one(path: tuple[Any, ...], leaf: Any) -> Any:
            is_frozen = matches(self.where, text_of(path[1:]))
            return fn(text_of(path), leaf) if is_frozen else leaf

        return tree_map_with_path(one, tree)


def _by_path(tree: Collections) -> dict[str, Any]:
    return {text_of(path): leaf for path, leaf in tree_leaves_with_path(tree)}


def freeze(module: M, where: Where) -> M:
    """Freeze layers of a model: both their parameters and their running statistics.

    * The gradients of their parameters are exactly zero. Gradients still flow through
      the layers to their inputs and to earlier layers.
    * Frozen batch norms normalize by their running statistics in training too, and all
      entries of frozen layers in the collection `batch_stats` stay exactly the same.

    Stopping gradients alone would not freeze a layer: in training, it would normalize
    by batches, and its running statistics would move towards the new data, although its
    weights were never trained on such inputs.

    The variables of the model are not changed. An optimizer may still update parameters
    with zero gradients, by weight decay or momentum; use `trainable` to exclude them.
    Dropout stays active in frozen layers; `remove` removes it. Other norms than
    `BatchNorm` that have statistics keep them, but may normalize by the batch: call
    them as in evaluation.

    Args:
        module: the model.
        where: the layers and parameters to freeze, by their paths in the variables:
            `"backbone"` selects everything below it, `"*/norm"` each `norm` at any
            depth, `nn.DenyList("head")` everything except the head, and `"*"`
            everything. A sequence selects several.

    Returns:
        The changed model.

    Raises:
        OptionError: a path does not exist. This is raised when the model is applied.
        ArgumentTypeError: the model is not an unbound module of linsey.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.linen as nn
        >>> model, x = nn.Sequential([nn.Dense(2), nn.Dense(1)]), jnp.ones((1, 3))
        >>> variables = model.init(jax.random.key(0), x)
        >>> model = freeze(model, "layers_0")
        >>> grads = jax.grad(lambda v: model.apply(v, x).sum())(variables)["params"]
        >>> [bool((layer["kernel"] != 0).any()) for layer in grads.values()]
        [False, True]
    """
    check_unbound(module)
    return adapt(module, (*changes_of(module), Freezing({}, where)))


def trainable(params: Any, where: Where) -> Any:
    """Return a mask of the parameters that are trained, when others are frozen.

    Use it as a mask for `optax.masked`, or as labels for `optax.multi_transform`. With
    the latter, frozen parameters are not updated and need no optimizer state:

        mask = trainable(variables["params"], where)
        tx = optax.multi_transform({True: tx, False: optax.set_to_zero()}, mask)

    Args:
        params: the parameters, a tree of any library.
        where: the frozen parameters, as for `freeze`.

    Returns:
        A tree of the same structure, with `True` for parameters that are trained.

    Raises:
        OptionError: a path does not exist.

    Example:
        >>> trainable({"body": {"kernel": 1.0}, "head": {"kernel": 1.0}}, "body")
        {'body': {'kernel': False}, 'head': {'kernel': True}}
    """
    paths = tree_leaves_with_path(params)
    check_where(where, (text_of(path) for path, _ in paths))
    return tree_map_with_path(lambda p, _: not matches(where, text_of(p)), params)
