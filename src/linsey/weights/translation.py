"""Layouts: how PyTorch and Linen order the axes of corresponding arrays.

A *turn* converts arrays from their layout to ours, and back to the same bits:

* `Dense`: (out, in) in PyTorch, (in, out) in Linen;
* `Conv`, also grouped and depthwise: (out, in / groups, *window) in PyTorch,
  (*window, in / groups, out) in Linen;
* `ConvTranspose`: (in, out, *window) in PyTorch; in Linen (*window, in, out) with the
  window mirrored, or (*window, out, in) with `transpose_kernel`;
* attention: (3 * heads * depth, in) in PyTorch, three of (in, heads, depth) in Linen;
* LSTM: gates i, f, g, o in one array and two biases in PyTorch, an array for each gate
  and one bias in Linen;
* GRU: gates r, z, n in one array and two biases in PyTorch, an array for each gate and
  two biases for n in Linen.

Embeddings, scales, biases and statistics are the same on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from linsey.weights.layers import ATTENTION, CELLS, Layer

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray]

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "updates": "num_batches_tracked",
}
"""The names of the arrays of a layer in PyTorch."""


@dataclass(frozen=True)
class Axes:
    """The order of the axes of one array.

    Attributes:
        ours: our shape.
        theirs: shape in PyTorch.
        order: their axes in our order.
        mirrored: number of our leading axes that are reversed.
    """

    ours: Shape
    theirs: Shape
    order: tuple[int, ...]
    mirrored: int = 0

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Convert an array from their layout to ours."""
        turned = array.reshape(self.theirs).transpose(self.order)
        return np.flip(turned, tuple(range(self.mirrored))).reshape(self.ours)

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """Convert an array from our layout to theirs."""
        turned = array.reshape([self.theirs[axis] for axis in self.order])
        mirrored = np.flip(turned, tuple(range(self.mirrored)))
        return mirrored.transpose(np.argsort(self.order)).reshape(self.theirs)


@dataclass(frozen=True)
class Stacked:
    """One array of theirs, whose rows hold one or several arrays of ours.

    Attributes:
        parts: the layouts of our arrays, in the order of the rows.
    """

    parts: tuple[Axes, ...]

    @property
    def theirs(self) -> tuple[Shape, ...]:
        """The shapes in PyTorch."""
        first = self.parts[0].theirs
        if len(self.parts) == 1:
            return (first,)
        return ((sum(part.theirs[0] for part in self.parts), *first[1:]),)

    def to_ours(self, arrays: Arrays) -> list[np.ndarray]:
        """Split their array into ours."""
        if len(self.parts) == 1:
            return [self.parts[0].to_ours(arrays[0])]
        ends = np.cumsum([part.theirs[0] for part in self.parts])[:-1]
        rows = np.split(arrays[0].reshape(self.theirs[0]), ends)
        return [p.to_ours(array) for p, array in zip(self.parts, rows, strict=True)]

    def to_theirs(self, arrays: Arrays, like: Arrays | None) -> list[np.ndarray]:
        """Join our arrays to theirs."""
        rows = [p.to_theirs(array) for p, array in zip(self.parts, arrays, strict=True)]
        return rows if len(rows) == 1 else [np.concatenate(rows)]


@dataclass(frozen=True)
class GateBiases:
    """The two biases of their recurrent layer, whose sum is our bias.

    Attributes:
        size: number of features.
        counts: number of our biases for each gate: 1 (the sum), or 2.
    """

    size: int
    counts: tuple[int, ...]

    @property
    def theirs(self) -> tuple[Shape, ...]:
        """The shapes in PyTorch."""
        return ((self.size * len(self.counts),),) * 2

    def to_ours(self, arrays: Arrays) -> list[np.ndarray]:
        """Add the two biases of each gate for which we have only one."""
        pairs = zip(*(np.split(a, len(self.counts)) for a in arrays), strict=True)
        biases: list[np.ndarray] = []
        for count, (of_x, of_h) in zip(self.counts, pairs, strict=True):
            biases += [of_x + of_h] if count == 1 else [of_x, of_h]
        return biases

    def to_theirs(self, arrays: Arrays, like: Arrays | None) -> list[np.ndarray]:
        """Split sums as in `like` if the sums are equal, or make the second bias 0."""
        remaining, of_x, of_h = list(arrays), [], []
        parts = None if like is None else [np.split(a, len(self.counts)) for a in like]
        for gate, count in enumerate(self.counts):
            x = remaining.pop(0)
            h = remaining.pop(0) if count == 2 else np.zeros_like(x)
            if parts is not None and count == 1:
                before = parts[0][gate], parts[1][gate]
                if np.array_equal((before[0] + before[1]).astype(x.dtype), x):
                    x, h = before
            of_x.append(x)
            of_h.append(h)
        return [np.concatenate(of_x), np.concatenate(of_h)]


Turn = Stacked | GateBiases


@dataclass(frozen=True)
class ArrayLink:
    """Corresponding arrays of the two models, and the conversion between them.

    Attributes:
        ours: our paths of the arrays.
        theirs: their names of the arrays.
        turn: the conversion from their layout to ours and back.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    turn: Turn

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        """Tell whether the shapes of their arrays fit the conversion."""
        pairs = zip(self.theirs, self.turn.theirs, strict=True)
        return all(essential(shapes[name]) == essential(s) for name, s in pairs)


def links_of(
    layer: Layer, group: Mapping[str, str], same_layout: bool
) -> list[ArrayLink]:
    """Link the arrays of our layer with those of theirs.

    Args:
        layer: our layer.
        group: their names, by the part within the layer.
        same_layout: whether theirs is a Linen tree, with the same layouts as ours.

    Returns:
        The links, without arrays that have no counterpart.
    """
    links = []
    for ours, theirs, turn in _candidates(layer, group, same_layout):
        if all(o in layer.arrays for o in ours) and all(t in group for t in theirs):
            paths = tuple(layer.arrays[local] for local in ours)
            links.append(
                ArrayLink(paths, tuple(group[local] for local in theirs), turn)
            )
    return links


def essential(shape: Shape) -> Shape:
    """Return a shape without axes of size 1: a convolution of 1 x 1 is a linear map.

    Example:
        >>> essential((8, 3, 1, 1))
        (8, 3)
    """
    return tuple(size for size in shape if size != 1)


Candidate = tuple[tuple[str, ...], tuple[str, ...], Turn]


def _candidates(
    layer: Layer, group: Mapping[str, str], same_layout: bool
) -> Iterator[Candidate]:
    if same_layout:
        for local, shape in layer.shapes.items():
            yield (local,), (local,), Stacked((_unchanged(shape),))
    elif layer.kind in ATTENTION:
        yield from _attention(layer, group)
    elif layer.kind in CELLS:
        yield from _cell(layer)
    else:
        for local in layer.shapes:
            axes = _layout(layer, local)
            yield (local,), (LEAVES.get(local, local),), Stacked((axes,))


def _unchanged(shape: Shape, theirs: Shape | None = None) -> Axes:
    theirs = shape if theirs is None else theirs
    return Axes(shape, theirs, tuple(range(len(theirs))))


def _layout(layer: Layer, local: str) -> Axes:
    """Return the layout of an array in a layer without inner layers."""
    shape = layer.shapes[local]
    if layer.kind == "DenseGeneral":
        return _map(shape, layer.contracted, local == "bias")
    if local != "kernel" or layer.kind in ("ConvLocal", "Einsum") or len(shape) < 2:
        return _unchanged(shape)
    window = tuple(range(2, len(shape)))
    *sizes, rows, columns = shape
    if layer.kind != "ConvTranspose":
        return Axes(shape, (columns, rows, *sizes), (*window, 1, 0))
    if layer.transpose_kernel:
        return Axes(shape, (columns, rows, *sizes), (*window, 1, 0))
    return Axes(shape, (rows, columns, *sizes), (*window, 0, 1), len(window))


def _map(shape: Shape, contracted: int, is_bias: bool) -> Axes:
    """Return the layout of a map between several axes, flattened in PyTorch."""
    if is_bias:
        return _unchanged(shape, (math.prod(shape),))
    rows, columns = math.prod(shape[:contracted]), math.prod(shape[contracted:])
    return Axes(shape, (columns, rows), (1, 0))


def _attention(layer: Layer, group: Mapping[str, str]) -> Iterator[Candidate]:
    maps = {
        local: _map(shape, 2 if local.startswith("out/") else 1, local.endswith("bias"))
        for local, shape in layer.shapes.items()
    }
    inputs = ("query", "key", "value")
    for leaf, fused in (("kernel", "in_proj_weight"), ("bias", "in_proj_bias")):
        ours = tuple(f"{name}/{leaf}" for name in inputs)
        if fused in group and all(local in maps for local in ours):
            yield ours, (fused,), Stacked(tuple(maps[local] for local in ours))
    pairs = {
        "query/kernel": "q_proj_weight",
        "key/kernel": "k_proj_weight",
        "value/kernel": "v_proj_weight",
        "out/kernel": "out_proj.weight",
        "out/bias": "out_proj.bias",
    }
    for local, theirs in pairs.items():
        if local in maps:
            yield (local,), (theirs,), Stacked((maps[local],))
    for local, theirs in (("query_ln", "q_norm"), ("key_ln", "k_norm")):
        if f"{local}/scale" in layer.shapes:
            scale = _unchanged(layer.shapes[f"{local}/scale"])
            yield (f"{local}/scale",), (f"{theirs}.weight",), Stacked((scale,))


def _cell(layer: Layer) -> Iterator[Candidate]:
    gates = CELLS[layer.kind]
    for side, theirs in (("i", "weight_ih"), ("h", "weight_hh")):
        ours = tuple(f"{side}{gate}/kernel" for gate in gates)
        parts = tuple(_map(layer.shapes[local], 1, False) for local in ours)
        yield ours, (theirs,), Stacked(parts)
    biases, counts = [], []
    for gate in gates:
        found = [f"{side}{gate}/bias" for side in "ih"]
        found = [local for local in found if local in layer.shapes]
        biases += found
        counts.append(len(found))
    if all(counts):
        turn = GateBiases(layer.shapes[biases[0]][0], tuple(counts))
        yield tuple(biases), ("bias_ih", "bias_hh"), turn
