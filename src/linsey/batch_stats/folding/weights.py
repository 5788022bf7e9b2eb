"""Kernels and biases into which the surrounding chains are folded.

    a' (k * (a x + b)) + b'  =  (a' k a) * x  +  (a' (k * b) + b')

where `*` is the product, `a`, `b` the chain before it and `a'`, `b'` the one after it.
The result is computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from linsey.batch_stats.folding.axes import Shape, moved_axes
from linsey.batch_stats.folding.chains import Chain
from linsey.batch_stats.folding.folds import Fold
from linsey.batch_stats.folding.graph import Graph, Value, evaluate
from linsey.batch_stats.folding.products import Product

Numbers = np.ndarray


@dataclass(frozen=True)
class Place:
    """The leaves that the folded arrays of a product replace.

    Attributes:
        kernel: position of the leaf that the folded kernel replaces. If `None`, the
            original kernel is computed from several leaves, or also used elsewhere, so
            the folded kernel is stored separately.
        axes: maps each axis of the product's kernel to an axis of the leaf.
        bias: position of the leaf that the folded bias replaces; `None` if there is no
            such leaf.
    """

    kernel: int | None
    axes: Mapping[int, int]
    bias: int | None


def place(graph: Graph, fold: Fold) -> Place:
    """Find the leaves that the folded arrays of a product can replace."""
    product = fold.product
    rank = len(graph.shape(product.kernel))
    axes = {axis: axis for axis in range(rank)}
    leaf = _leaf_behind(graph, product.kernel, axes)
    needed = {*product.kernel_axes, *(axis for _, axis in product.entries)}
    if leaf is None or not needed <= axes.keys():
        return Place(None, {axis: axis for axis in range(rank)}, None)
    return Place(leaf, axes, _bias_leaf(graph, fold))


def _leaf_behind(graph: Graph, value: Value, axes: dict[int, int]) -> int | None:
    """Return the leaf that equals a constant up to dtype and layout; update `axes`."""
    while graph.sole_user(value) is not None:
        if value in graph.leaves:
            return graph.leaves.index(value)
        step = graph.makers.get(value)
        if step is None or len(step.operands) != 1:
            return None
        source = step.operands[0]
        if not isinstance(source, Value):
            return None
        moves = moved_axes(step.eqn)
        if step.name == "rev":
            moved = set(step.eqn.params["dimensions"])
            for axis in [k for k, v in axes.items() if v in moved]:
                axes.pop(axis)
        elif moves is not None and step.name != "broadcast_in_dim":
            back = {after: before for before, after in moves.items()}
            kept = {k: back[v] for k, v in axes.items() if v in back}
            axes.clear()
            axes.update(kept)
        elif step.name != "convert_element_type":
            return None
        value = source
    return None


def _bias_leaf(graph: Graph, fold: Fold) -> int | None:
    """Return the leaf that is added first, if its shape is that of the channels."""
    kernel = graph.shape(fold.product.kernel)
    shape = tuple(kernel[axis] for axis in fold.product.kernel_axes)
    links = [
        link for link in fold.after.links if link.operation not in ("move", "keep")
    ]
    if not links or links[0].operation != "add":
        return None
    constant = links[0].constant
    if not isinstance(constant, Value):
        return None
    while graph.sole_user(constant) is not None and constant not in graph.leaves:
        step = graph.makers.get(constant)
        if step is None or step.name not in ("reshape", "broadcast_in_dim", "squeeze"):
            return None
        source = step.operands[0]
        if not isinstance(source, Value):
            return None
        constant = source
    if constant not in graph.leaves or graph.sole_user(constant) is None:
        return None
    same = graph.shape(constant) == shape
    return graph.leaves.index(constant) if same else None


# --- numbers --------------------------------------------------------------------------


def fold_weights(
    graph: Graph,
    folds: Sequence[Fold],
    destinations: Sequence[Place],
    leaves: Sequence[Array],
) -> list[tuple[Numbers, Numbers]]:
    """Compute the folded kernel and bias of every product.

    Args:
        graph: the program, traced without symbolic sizes.
        folds: the folds.
        destinations: the places of the results, which determine the order of the axes
            of kernels.
        leaves: the leaves of the variables.

    Returns:
        Kernels and biases in float64, or complex128.
    """
    constants = _constants(graph, folds, destinations, leaves)
    results = []
    for fold, where in zip(folds, destinations, strict=True):
        product, axes = fold.product, where.axes
        kernel = constants[product] if where.kernel is None else leaves[where.kernel]
        kernel = _wide(kernel)
        outputs = [axes[axis] for axis in product.kernel_axes]
        a, b = _coefficients(fold.after, constants)
        sizes = tuple(kernel.shape[axis] for axis in outputs)
        bias = np.zeros(sizes) + b
        if fold.before is not None:
            a0, b0 = (
                _over_entries(product, v, axes, kernel.shape)
                for v in _coefficients(fold.before, constants)
            )
            rest = tuple(i for i in range(kernel.ndim) if i not in outputs)
            added = (kernel * b0).sum(rest)  # the channels in ascending order
            added = added.transpose(np.argsort(np.argsort(outputs)))
            bias, kernel = bias + a * added, kernel * a0
        kernel = kernel * _expand(np.zeros(sizes) + a, outputs, kernel.ndim)
        results.append((kernel, bias))
    return results


def _constants(
    graph: Graph,
    folds: Sequence[Fold],
    destinations: Sequence[Place],
    leaves: Sequence[Array],
) -> dict[object, Array]:
    """Return the constants of links, one number per channel, and computed kernels."""
    links = [link for fold in folds for c in fold.chains() for link in c.links]
    read = {v: v.constant for v in links if isinstance(v.constant, Value)}
    pairs = zip(folds, destinations, strict=True)
    kernels = {f.product: f.product.kernel for f, p in pairs if p.kernel is None}

    # Compiled, so that constants broadcast to the inputs' size are never in memory.
    @jax.jit
    def compute(leaves: Sequence[Array]) -> list[Array]:
        known = dict(zip(graph.leaves, leaves, strict=True))
        found = evaluate(graph, known, [*read.values(), *kernels.values()])
        numbers = [_per_channel(found[v], link.axes) for link, v in read.items()]
        return numbers + [found[v] for v in kernels.values()]

    return dict(zip([*read, *kernels], compute(leaves), strict=True))


def _per_channel(constant: Array, axes: Shape) -> Array:
    """Return the entries of a constant along the channels, in their order."""
    if not constant.ndim:
        return constant
    entries = constant[
        tuple(slice(None) if i in axes else 0 for i in range(constant.ndim))
    ]
    return entries.transpose(np.argsort(np.argsort(axes)))


def _coefficients(
    chain: Chain, constants: Mapping[object, Array]
) -> tuple[Numbers, Numbers]:
    """Return `a` and `b` of a chain `a x + b`. They broadcast to the channels."""
    a, b = np.ones(()), np.zeros(())
    for link in chain.links:
        is_value = isinstance(link.constant, Value)
        c = _wide(constants[link] if is_value else getattr(link.constant, "val", 0))
        match link.operation:
            case "add":
                b = b + c
            case "sub":
                b = b - c
            case "rsub":
                a, b = -a, c - b
            case "mul":
                a, b = a * c, b * c
            case "div":
                a, b = a / c, b / c
            case "neg":
                a, b = -a, -b
    return a, b


def _over_entries(
    product: Product, values: Numbers, axes: Mapping[int, int], shape: Shape
) -> Numbers:
    """Arrange values for each channel of the input along the axes of the kernel."""
    destinations = [axes[axis] for _, axis in product.entries]
    groups = product.groups
    if groups == 1 or values.ndim == 0:
        return _expand(values, destinations, len(shape)) if values.ndim else values
    (output,), (entry,) = [axes[axis] for axis in product.kernel_axes], destinations
    whole = np.broadcast_to(values, (groups * shape[entry],))
    parts = whole.reshape(groups, shape[entry])
    parts = np.repeat(parts, shape[output] // groups, 0)  # (outputs, entries)
    return _expand(parts, [output, entry], len(shape))


def _expand(values: Numbers, destinations: Sequence[int], rank: int) -> Numbers:
    """Move the axes of an array to `destinations` among `rank` axes."""
    ordered = values.transpose(np.argsort(destinations))
    sizes = dict(zip(sorted(destinations), ordered.shape, strict=True))
    return ordered.reshape([sizes.get(i, 1) for i in range(rank)])


def _wide(values: object) -> Numbers:
    """Convert numbers to float64, complex ones to complex128."""
    array = np.asarray(values)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
