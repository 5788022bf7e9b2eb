"""Layers that training leaves alone: their parameters and their running statistics."""

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
    """Layers without gradients and without updates.

    Attributes:
        where: which ones.
    """

    where: Where

    def layer(self, path: str, layer: Module) -> Module:
        """Return a batch norm that normalizes by its running statistics."""
        if not isinstance(layer, BatchNorm) or not matches(self.where, path):
            return layer
        has_affine = layer.frozen in (True, "affine")
        return layer.clone(frozen=True if has_affine else "statistics")

    def around(self, run: Run, model: Module, /, *args: Any, **kwargs: Any) -> Any:
        """Call the model on parameters without gradients, and undo updates."""
        if model.is_initializing():
            return run(model, *args, **kwargs)
        leaves = tree_leaves_with_path(model.variables)
        paths = (text_of(path[1:]) for path, _ in leaves)
        # `*/lora` chooses nothing once factors are merged.
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
        """Map what is frozen, as `fn(path, leaf)`."""

        def one(path: tuple[Any, ...], leaf: Any) -> Any:
            is_frozen = matches(self.where, text_of(path[1:]))
            return fn(text_of(path), leaf) if is_frozen else leaf

        return tree_map_with_path(one, tree)


def _by_path(tree: Collections) -> dict[str, Any]:
    return {text_of(path): leaf for path, leaf in tree_leaves_with_path(tree)}


def freeze(module: M, where: Where) -> M:
    """Let training leave layers of a model alone, in both of the ways in which it acts.

    * Their parameters have gradients that are exactly zero. What flows back through
      them, to inputs and to layers before, is as it was.
    * Batch norms among them normalize by their running statistics in training too, and
      everything in the collection `batch_stats` stays bit by bit as it is.

    With gradients alone a frozen layer would go on changing: in training it would
    normalize by batches, and its running statistics would move to the new data, under
    weights that were never trained on such inputs.

    The variables of the model stay what they are. An optimizer may still move what has
    no gradient, by weight decay or by its memory of earlier steps; `trainable` tells it
    what to leave out. Dropout drops in frozen layers too; `remove` takes it out. Norms
    other than `BatchNorm` that have statistics keep them, but may normalize by the
    batch: call them as in evaluation.

    Args:
        module: the model.
        where: what is frozen, by the paths of layers and parameters, which are those of
            the variables: `"backbone"` is all that is below it, `"*/norm"` each `norm`
            at any depth, `nn.DenyList("head")` everything but the head, and `"*"`
            everything. Several are a sequence.

    Returns:
        The changed model.

    Raises:
        OptionError: nothing is at a path, which is found when the model is applied.
        ArgumentTypeError: the model is no unbound module of linsey.

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
    """Tell an optimizer which parameters are trained, where others are frozen.

    A mask for `optax.masked`, and labels for `optax.multi_transform`, with which
    nothing moves the others and no state is held for them:

        mask = trainable(variables["params"], where)
        tx = optax.multi_transform({True: tx, False: optax.set_to_zero()}, mask)

    Args:
        params: the parameters: a tree of any library.
        where: what is frozen, as for `freeze`.

    Returns:
        A tree of the same structure, with `True` for what is trained.

    Raises:
        OptionError: nothing is at a path.

    Example:
        >>> trainable({"body": {"kernel": 1.0}, "head": {"kernel": 1.0}}, "body")
        {'body': {'kernel': False}, 'head': {'kernel': True}}
    """
    paths = tree_leaves_with_path(params)
    check_where(where, (text_of(path) for path, _ in paths))
    return tree_map_with_path(lambda p, _: not matches(where, text_of(p)), params)
