"""The running statistics in a model's variables, by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from linsey.batch_stats.objects import Variables, entry_name

Path = tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """The variables of one batch norm.

    Attributes:
        path: path of the layer.
        mean: running mean. The last axes are the channels; axes of scanned or mapped
            layers, or of domains, come first.
        var: running variance, of the same shape.
        scale: scale, or `None` if there is none.
        bias: bias, or `None` if there is none.
        count: number of updates so far; `None` if they were not counted.
    """

    path: Path
    mean: Any
    var: Any
    scale: Any = None
    bias: Any = None
    count: Any = None

    @property
    def layer(self) -> str:
        """The path as a string."""
        return "/".join(self.path)


def find_statistics(variables: Variables) -> list[Statistics]:
    """Return the statistics in the collection `batch_stats`, in its order.

    Every mapping there that has `mean` and `var` is a layer.

    Example:
        >>> stats = {"norm": {"mean": 0.0, "var": 1.0}}
        >>> [one.layer for one in find_statistics({"batch_stats": stats})]
        ['norm']
    """
    params, counts = (variables.get(name, {}) for name in ("params", "batch_counts"))
    return [
        Statistics(
            path,
            unbox(node["mean"]),
            unbox(node["var"]),
            unbox(at(params, (*path, "scale"))),
            unbox(at(params, (*path, "bias"))),
            unbox(at(counts, (*path, "updates"))),
        )
        for path, node in nodes(variables.get("batch_stats", {}), ())
        if "mean" in node and "var" in node
    ]


def with_statistics(
    variables: Variables, new: Mapping[Path, tuple[ArrayLike, ArrayLike]]
) -> Variables:
    """Replace the means and variances of some layers.

    Args:
        variables: by collection. The types of containers and boxes are kept.
        new: mean and variance by path of the layer. They get the dtype, array type and
            sharding of the values that they replace.

    Example:
        >>> old = {"batch_stats": {"norm": {"mean": np.zeros(1), "var": np.ones(1)}}}
        >>> with_statistics(old, {("norm",): (np.full(1, 2), np.full(1, 3))})
        {'batch_stats': {'norm': {'mean': array([2.]), 'var': array([3.])}}}
    """
    values = {
        ("batch_stats", *path, name): value
        for path, pair in new.items()
        for name, value in zip(("mean", "var"), pair, strict=True)
    }

    def replaced(path: tuple[object, ...], leaf: object) -> object:
        names = tuple(map(entry_name, path))
        # Path entries after the name belong to a box.
        ends = (names[:i] for i in range(len(names), 0, -1))
        found = next((end for end in ends if end in values), None)
        return leaf if found is None else _like(leaf, values[found])

    return jax.tree_util.tree_map_with_path(replaced, variables)


def _like(old: object, value: ArrayLike) -> ArrayLike:
    if not isinstance(old, jax.Array):
        return np.asarray(value, np.asarray(old).dtype)
    if isinstance(old, jax.core.Tracer) or isinstance(value, jax.core.Tracer):
        return jnp.asarray(value, old.dtype)
    return jax.device_put(np.asarray(value, old.dtype), old.sharding)


def nodes(tree: object, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield all mappings in nested mappings with their paths, the outer ones first."""
    if isinstance(tree, Mapping):
        yield path, tree
        for name, inner in tree.items():
            yield from nodes(inner, (*path, str(name)))


def replace_moments(stats: Any, replace: Callable[[str, Any], Any]) -> Any:
    """Replace the running statistics in a collection `batch_stats`.

    Args:
        stats: the collection. Entries other than means and variances are kept.
        replace: called with `"mean"` or `"var"` and the array; returns the new array.
    """
    if not isinstance(stats, Mapping):
        return stats
    is_layer = "mean" in stats and "var" in stats
    return {
        name: jax.tree.map(lambda leaf, name=name: replace(name, leaf), inner)
        if is_layer and name in ("mean", "var")
        else replace_moments(inner, replace)
        for name, inner in stats.items()
    }


def at(tree: object, path: Path) -> Any:
    """Return the value at a path of nested mappings, or `None` if there is none."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def unbox(value: Any) -> Any:
    """Return the array in a box with axis metadata, or any other value as it is."""
    return value.unbox() if hasattr(value, "unbox") else value
