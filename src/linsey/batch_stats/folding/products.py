"""The steps in which a program multiplies by a kernel.

A *product* is a convolution, transposed or not, or a dense layer. One of its operands,
the kernel, is a constant. Its *channels* are the axes of the output that are also axes
of the kernel, so scaling the output is the same as scaling the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from linsey.batch_stats.folding.axes import Shape
from linsey.batch_stats.folding.graph import Graph, Step, Value

PRODUCTS = ("conv_general_dilated", "dot_general")
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Product:
    """A step that multiplies an input by a kernel.

    Attributes:
        step: the step.
        x: the input.
        kernel: the kernel, a constant.
        channels: pairs of an axis of the output and the same axis of the kernel.
        entries: pairs of contracted axes, one of the input and one of the kernel.
        groups: number of feature groups.
        pads: whether zeros are inserted around or between the entries of the input.
    """

    step: Step
    x: Value
    kernel: Value
    channels: Pairs
    entries: Pairs
    groups: int = 1
    pads: bool = False

    @property
    def output(self) -> Value:
        """The result."""
        return self.step.results[0]

    @property
    def kernel_axes(self) -> Shape:
        """The axes of the kernel that correspond to the channels."""
        return tuple(axis for _, axis in self.channels)


def as_product(graph: Graph, step: Step) -> Product | None:
    """Return a step as a product, or `None` if it is not input times constant."""
    if step.name not in PRODUCTS:
        return None
    constant = [graph.is_constant(atom) for atom in step.operands]
    left, right = step.operands[:2]
    if not isinstance(left, Value) or not isinstance(right, Value) or all(constant):
        return None
    if step.name == "conv_general_dilated":
        return _convolution(step, left, right) if constant == [False, True] else None
    if True not in constant:
        return None
    return _dot(graph, step, constant.index(True))


def _convolution(step: Step, x: Value, kernel: Value) -> Product:
    params = step.eqn.params
    x_axes, kernel_axes, y_axes = params["dimension_numbers"]
    zeros = any(any(pair) for pair in params["padding"])
    return Product(
        step,
        x,
        kernel,
        ((y_axes[1], kernel_axes[0]),),
        ((x_axes[1], kernel_axes[1]),),
        params["feature_group_count"],
        zeros or set(params["lhs_dilation"]) > {1} or params["batch_group_count"] > 1,
    )


def _dot(graph: Graph, step: Step, side: int) -> Product:
    """Return a dense layer; its output axes are those shared, then left, then right."""
    contracted, shared = step.eqn.params["dimension_numbers"]
    x, kernel = step.operands[1 - side], step.operands[side]
    assert isinstance(x, Value) and isinstance(kernel, Value)
    of_x, of_kernel = ([*shared[i], *contracted[i]] for i in (1 - side, side))
    free = [i for i in range(len(graph.shape(kernel))) if i not in of_kernel]
    first = len(shared[0])
    if side == 1:
        first += len(graph.shape(x)) - len(of_x)
    channels = [*enumerate(shared[side]), *enumerate(free, first)]
    entries = tuple(zip(of_x, of_kernel, strict=True))
    return Product(step, x, kernel, tuple(channels), entries)
