"""The variables of a folded model: how their tree is built and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from linsey.batch_stats.calls import Variables
from linsey.batch_stats.folding.folds import Fold
from linsey.batch_stats.folding.graph import Graph, Leaves
from linsey.batch_stats.folding.products import Product
from linsey.batch_stats.folding.replay import Folded, rewrite
from linsey.batch_stats.folding.weights import Numbers, Place, fold_weights, place
from linsey.batch_stats.foreign import MOMENTS, STATS, find_foreign
from linsey.batch_stats.statistics import unbox
from linsey.errors import MismatchError

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Norm:
    """A layer with running statistics, and their positions among the leaves."""

    layer: str
    leaves: Leaves


@dataclass(frozen=True)
class Target:
    """The paths of the folded arrays of a product.

    Attributes:
        kernel: path of the kernel.
        bias: path of the bias.
        is_leaf: whether the kernel replaces a leaf of the original variables, and is
            read like this leaf.
    """

    kernel: Path
    bias: Path
    is_leaf: bool


@dataclass(frozen=True)
class FoldedTree:
    """Folded variables, with the information needed to read them.

    Attributes:
        variables: nested dictionaries.
        paths: path of each leaf of the original variables; `None` if it is not needed.
        targets: paths of the arrays of each fold.
        names: name of the layer of each leaf of the original variables.
        norms: the layers with running statistics.
        signature: the leaves that are combined in each fold.
    """

    variables: dict[str, Any]
    paths: list[Path | None]
    targets: list[Target]
    names: list[str]
    norms: list[Norm]
    signature: list[tuple[Leaves, Leaves]]

    def read(self, variables: Variables) -> tuple[dict[int, Array], list[Folded]]:
        """Return the leaves by position, and the arrays of each fold."""
        leaves = {i: _at(variables, path) for i, path in enumerate(self.paths) if path}
        folded = [
            Folded(
                None if target.is_leaf else _at(variables, target.kernel),
                _at(variables, target.bias),
            )
            for target in self.targets
        ]
        return leaves, folded

    def layer_of(self, graph: Graph, product: Product) -> str:
        """Return the name of a product's layer, from the path of its kernel."""
        leaves = graph.depends[product.kernel]
        return self.names[min(leaves)] if leaves else "a layer without variables"


def fold_variables(
    graph: Graph, folds: Sequence[Fold], variables: Variables
) -> FoldedTree:
    """Make the variables of the folded program.

    Args:
        graph: the program, traced without symbolic sizes.
        folds: the folds.
        variables: the variables of the model.
    """
    boxes = jax.tree.map(unbox, variables, is_leaf=lambda v: hasattr(v, "unbox"))
    flat = jax.tree_util.tree_leaves_with_path(boxes)
    paths = [tuple(map(_name, keys)) for keys, _ in flat]
    leaves = [leaf for _, leaf in flat]
    norms, layers = _find_norms(paths, boxes)
    names = [layers.get(path, "/".join(map(str, path[1:-1] or path))) for path in paths]
    destinations = [place(graph, fold) for fold in folds]
    dropped = _dropped(graph, folds, destinations, norms, names)
    targets = _targets(graph, folds, destinations, paths, dropped)
    kept = dict(zip(paths, leaves, strict=True))
    for i in dropped:
        del kept[paths[i]]
    weights = fold_weights(graph, folds, destinations, leaves)
    for target, (kernel, bias) in zip(targets, weights, strict=True):
        kept[target.kernel] = kernel = _like(kernel, kept.get(target.kernel))
        kept[target.bias] = _like(bias, kept.get(target.bias, kernel))
    return FoldedTree(
        _nested(kept),
        [None if i in dropped else path for i, path in enumerate(paths)],
        targets,
        names,
        norms,
        [fold.signature(graph) for fold in folds],
    )


def _find_norms(
    paths: Sequence[Path], variables: Variables
) -> tuple[list[Norm], dict[Path, str]]:
    """Return the norms, and the layers of those arrays that are in no mapping of it."""
    foreign = {
        (STATS, *path): (norm.layer, role)
        for norm in find_foreign(variables)
        for path, role in norm.arrays.items()
    }
    found: dict[str, set[int]] = {}
    for i, path in enumerate(paths):
        if path[0] == STATS:
            own = "/".join(map(str, path[1:-1] or path)), "mean"
            layer, role = foreign.get(path, own)
            # Evaluation does not read the other arrays of a foreign norm, or only to
            # compute the moments.
            found.setdefault(layer, set()).update([i] if role in MOMENTS else [])
    norms = [Norm(name, frozenset(leaves)) for name, leaves in found.items()]
    return norms, {path: layer for path, (layer, _) in foreign.items()}


def _dropped(
    graph: Graph,
    folds: Sequence[Fold],
    destinations: Sequence[Place],
    norms: Sequence[Norm],
    names: Sequence[str],
) -> set[int]:
    """Return the leaves that are no longer needed after folding."""
    own = [where.kernel is None for where in destinations]
    steps, _ = rewrite(graph, folds, own)
    read = {v for step in steps for v in step.operands if isinstance(v, int)}
    read.update(v for v in graph.outputs if isinstance(v, int))
    unread = {i for i, value in enumerate(graph.leaves) if value not in read}
    before = {i for i, value in enumerate(graph.leaves) if graph.users[value]}
    targets = {i for where in destinations for i in (where.kernel, where.bias)}
    dropped = unread & before - targets
    # Other arrays of a layer whose statistics are gone, such as a count of updates.
    gone = {norm.layer for norm in norms if norm.leaves <= dropped}
    beside = {i for i in unread - before if names[i] in gone}
    return dropped | beside


def _targets(
    graph: Graph,
    folds: Sequence[Fold],
    destinations: Sequence[Place],
    paths: Sequence[Path],
    dropped: set[int],
) -> list[Target]:
    """Choose the paths of the folded arrays, without overwriting other arrays."""
    taken = {path for i, path in enumerate(paths) if i not in dropped}

    def free(*candidates: Path) -> Path:
        path = next(path for path in candidates if path not in taken)
        taken.add(path)
        return path

    targets = []
    for fold, where in zip(folds, destinations, strict=True):
        if where.kernel is None:
            leaves = graph.depends[fold.product.kernel]
            layer = paths[min(leaves)][1:-1] if leaves else ()
            calls = (("folded", *layer, f"call_{n}") for n in range(len(folds)))
            *parent, _ = free(*((*call, "kernel") for call in calls))
            targets.append(Target((*parent, "kernel"), (*parent, "bias"), False))
            continue
        kernel = paths[where.kernel]
        if where.bias is not None:
            bias = paths[where.bias]
        else:
            bias = free((*kernel[:-1], "bias"), (*kernel[:-1], "folded_bias"))
        targets.append(Target(kernel, bias, True))
    return targets


def _like(values: Numbers, model: Any) -> Array:
    """Convert numbers to the dtype and sharding of the array that they replace."""
    dtype = jnp.float32 if model is None else model.dtype
    if values.dtype.kind == "c" and not jnp.issubdtype(dtype, jnp.complexfloating):
        dtype = jnp.complex64
    array = jnp.asarray(values.astype(dtype))
    if isinstance(model, Array) and model.shape == array.shape:
        return jax.device_put(array, model.sharding)
    return array


def _nested(flat: Mapping[Path, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        inner = tree
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        inner[path[-1]] = leaf
    return tree


def _at(variables: Variables, path: Path) -> Array:
    inner: Any = variables
    for name in path:
        if not isinstance(inner, Mapping) or name not in inner:
            raise MismatchError(
                f"The variables have no `{'/'.join(map(str, path))}`.",
                "The folded program reads the variables that `fold` returned with it, "
                "not those of the model.",
                "Call `apply` with the variables that `fold` returned.",
            )
        inner = inner[name]
    return inner


def _name(entry: Any) -> Any:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return str(entry)
