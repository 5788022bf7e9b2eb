"""Where a program multiplies by a kernel, and what it does per channel around that.

Words: a *product* is a convolution, transposed or not, or a dense layer: one operand is
a constant, the kernel. Its *channels* are the axes of the output that are also axes of
the kernel, so that to scale the output is to scale the kernel. A *chain* is a sequence
of steps of which each is read by the next alone, and which together are an affine map
`a x + b` with `a` and `b` per channel, or only arrange entries. Batch normalization in
evaluation is one, in whatever order a library writes its operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from linsey.batch_stats.fold_graph import (
    Atom,
    Graph,
    Leaves,
    Shape,
    Step,
    Value,
    moved_axes,
)

PRODUCTS = ("conv_general_dilated", "dot_general")
Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Product:
    """A step that multiplies an input by a kernel.

    Attributes:
        step: the step.
        x: the input.
        kernel: the kernel, a constant.
        channels: pairs of an axis of the output and one of the kernel.
        entries: pairs of an axis of the input and one of the kernel that meet there.
        groups: number of groups of channels that do not mix.
        pads: whether zeros are put around or between the entries of the input.
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
        """The axes of the kernel that the channels are."""
        return tuple(axis for _, axis in self.channels)


@dataclass(frozen=True, eq=False)
class Link:
    """A step of a chain.

    Attributes:
        step: the step.
        operation: `add`, `sub`, `rsub` (constant - x), `mul`, `div`, `neg`, `keep`
            (another dtype), or `move`.
        constant: the other operand, if there is one.
        axes: of `x`, which the channels are before the step.
    """

    step: Step
    operation: str
    constant: Atom | None
    axes: Shape


@dataclass(frozen=True, eq=False)
class Chain:
    """An affine map per channel.

    Attributes:
        source: what it maps.
        end: what it gives.
        links: its steps.
        axes: of the result, which the channels are.
    """

    source: Value
    end: Value
    links: tuple[Link, ...]
    axes: Shape

    def leaves(self, graph: Graph) -> Leaves:
        """Return the leaves that its constants are computed from."""
        return frozenset().union(
            *(graph.leaves_of(v.constant) for v in self.links if v.constant is not None)
        )

    def scales(self, graph: Graph) -> bool:
        """Return whether it multiplies by something that depends on the variables."""
        return any(
            link.operation in ("mul", "div")
            and link.constant is not None
            and bool(graph.leaves_of(link.constant))
            for link in self.links
        )


@dataclass(frozen=True, eq=False)
class Fold:
    """A product with the chains before and after it that go into its kernel."""

    product: Product
    before: Chain | None
    after: Chain

    def chains(self) -> Iterator[Chain]:
        """Yield the chains that there are."""
        if self.before is not None:
            yield self.before
        yield self.after

    def leaves(self, graph: Graph) -> Leaves:
        """Return the leaves that the chains read."""
        return frozenset().union(*(chain.leaves(graph) for chain in self.chains()))

    def signature(self, graph: Graph) -> tuple[Leaves, Leaves]:
        """Return which leaves meet: the same for all shapes of the inputs."""
        return graph.depends[self.product.kernel], self.leaves(graph)


def find_folds(graph: Graph) -> list[Fold]:
    """Return the products of a program that have something to fold.

    Example:
        >>> import jax.numpy as jnp
        >>> from linsey.batch_stats.fold_graph import trace
        >>> def function(variables, x):
        ...     return (x @ variables["kernel"] - variables["mean"]) * variables["rstd"]
        >>> shapes = {"kernel": jnp.ones((3, 2)), "mean": 1.0, "rstd": jnp.ones(2)}
        >>> fold, = find_folds(trace(function, shapes, jnp.ones((4, 3)))[0])
        >>> [link.operation for link in fold.after.links]
        ['sub', 'mul']
    """
    products = [p for step in graph.steps if (p := as_product(graph, step)) is not None]
    folds, taken = [], set()
    for product in products:
        axes = tuple(axis for axis, _ in product.channels)
        after = chain_after(graph, product.output, axes)
        if after.scales(graph):
            taken.add(product.output)
        folds.append(Fold(product, None, after))
    found = []
    for fold in folds:
        before = chain_before(graph, fold.product)
        if before is not None and before.scales(graph) and before.source not in taken:
            found.append(Fold(fold.product, before, fold.after))
        elif fold.after.scales(graph):
            found.append(fold)
    return found


def as_product(graph: Graph, step: Step) -> Product | None:
    """Return a step as a product, if it is one of an input and a constant."""
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
    """A dense layer; the axes of its output are those shared, the left, the right."""
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


# --- chains -------------------------------------------------------------------------


def chain_after(graph: Graph, source: Value, axes: Shape) -> Chain:
    """Follow a value, whose channels are some axes, as long as a chain goes."""
    links, end, at = [], source, axes
    while (step := graph.sole_user(end)) is not None:
        link = as_link(graph, step, end, at)
        if link is None:
            break
        links.append(link)
        end, at = step.results[0], _after(link)
    return Chain(source, end, tuple(links), at)


def chain_before(graph: Graph, product: Product) -> Chain | None:
    """Go back from the input of a product, as long as a chain goes, if it can go in."""
    if product.pads:
        return None
    end = at = product.x
    axes = last = tuple(axis for axis, _ in product.entries)
    links: list[Link] = []
    while graph.sole_user(at) is not None and (step := graph.makers.get(at)):
        source = input_of(graph, step)
        axes_before = None if source is None else _before(step, axes)
        link = axes_before and as_link(graph, step, source, axes_before)
        if not link:
            break
        links.insert(0, link)
        at, axes = source, axes_before
    return Chain(at, end, tuple(links), last) if links else None


def input_of(graph: Graph, step: Step) -> Value | None:
    """Return the only operand of a step that is no constant."""
    inputs = [v for v in step.operands if not graph.is_constant(v)]
    return inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Value) else None


def as_link(graph: Graph, step: Step, x: Value, axes: Shape) -> Link | None:
    """Return a step as a link of a chain over `x`, whose channels are some axes."""
    moves = moved_axes(step.eqn)
    if moves is not None:
        kept = set(axes) <= moves.keys() and len(step.results) == 1
        return Link(step, "move", None, axes) if kept else None
    if step.name == "convert_element_type":
        inexact = jnp.issubdtype(graph.avals[step.results[0]].dtype, jnp.inexact)
        return Link(step, "keep", None, axes) if inexact else None
    if step.name == "neg":
        return Link(step, "neg", None, axes)
    if step.name not in ("add", "sub", "mul", "div", "add_any"):
        return None
    left, right = step.operands
    is_left = left == x and isinstance(left, Value)
    other = right if is_left else left
    if not graph.is_constant(other) or not is_per_channel(graph, other, x, axes):
        return None
    if graph.shape(step.results[0]) != graph.shape(x):
        return None
    operation = "add" if step.name == "add_any" else step.name
    if not is_left and operation == "div":
        return None
    if not is_left and operation == "sub":
        operation = "rsub"
    return Link(step, operation, other, axes)


def is_per_channel(graph: Graph, constant: Atom, x: Value, axes: Sequence[int]) -> bool:
    """Return whether a constant that meets `x` differs only between its channels."""
    rank = len(graph.shape(constant))
    if rank == 0:
        return True
    varies = graph.varying[constant] if isinstance(constant, Value) else {-1}
    return rank == len(graph.shape(x)) and varies <= set(axes)


def _after(link: Link) -> Shape:
    """The axes that the channels are after a link."""
    moves = moved_axes(link.step.eqn)
    return link.axes if moves is None else tuple(moves[axis] for axis in link.axes)


def _before(step: Step, axes: Shape) -> Shape | None:
    """The axes that the channels were before a step; `None` if it made one of them."""
    moves = moved_axes(step.eqn)
    if moves is None:
        return axes
    back = {after: before for before, after in moves.items()}
    return tuple(back[axis] for axis in axes) if set(axes) <= back.keys() else None
