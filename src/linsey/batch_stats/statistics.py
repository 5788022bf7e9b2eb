"""The running statistics in variables, by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

Path = tuple[str, ...]
Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Statistics:
    """What variables hold of one batch norm.

    Attributes:
        path: of the layer.
        mean: running mean, of the shape of the channels, after axes of scanned or
            mapped layers or domains.
        var: running variance, of that shape.
        scale: `None` if there is none.
        bias: `None` if there is none.
        count: updates so far; `None` if they were not counted.
    """

    path: Path
    mean: Any
    var: Any
    scale: Any = None
    bias: Any = None
    count: Any = None

    @property
    def layer(self) -> str:
        """The path as a text."""
        return "/".join(self.path)


def find_statistics(variables: Variables) -> list[Statistics]:
    """Return the statistics in the collection `batch_stats`, in its order.

    A layer is what has `mean` and `var` there.

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
        for path, node in _nodes(variables.get("batch_stats", {}), ())
        if "mean" in node and "var" in node
    ]


def _nodes(tree: Any, path: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if isinstance(tree, Mapping):
        yield path, tree
        for name, inner in tree.items():
            yield from _nodes(inner, (*path, str(name)))


def replace_moments(stats: Any, replace: Callable[[str, Any], Any]) -> Any:
    """Return a collection `batch_stats` with other running statistics.

    Args:
        stats: the collection; what is no mean and no variance in it stays.
        replace: called with `"mean"` or `"var"` and the array; gives the new one.
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


def at(tree: Any, path: Path) -> Any:
    """Return what stands at a path of nested mappings; `None` if nothing does."""
    for name in path:
        if not isinstance(tree, Mapping) or name not in tree:
            return None
        tree = tree[name]
    return tree


def unbox(value: Any) -> Any:
    """Return the array in a box with axis metadata; other values as they are."""
    return value.unbox() if hasattr(value, "unbox") else value
