"""What a program does per channel, before and after a product.

A *chain* is a sequence of steps of which each is read by the next alone, and which
together are an affine map `a x + b` with `a` and `b` per channel, or only arrange
entries. Batch normalization in evaluation is one, in whatever order a library writes
its operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from linsey.batch_stats.folding.axes import Shape, moved_axes
from linsey.batch_stats.folding.graph import Atom, Graph, Leaves, Step, Value
from linsey.batch_stats.folding.products import Product


@dataclass(frozen=True, eq=False)
class Link:
    """A step of a chain.

    Attributes:
        step: the step.
        x: what it maps.
        operation: `add`, `sub`, `rsub` (constant - x), `mul`, `div`, `neg`, `keep`
            (another dtype), or `move`.
        constant: the other operand, if there is one.
        axes: of `x`, which the channels are before the step.
    """

    step: Step
    x: Value
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


def chain_after(graph: Graph, source: Value, axes: Shape) -> Chain:
    """Follow a value, whose channels are some axes, as long as a chain goes."""
    links, end, at = [], source, axes
    while (step := graph.sole_user(end)) is not None:
        link = as_link(graph, step, end, at)
        if link is None:
            break
        links.append(link)
        end, at = step.results[0], _after(link)
    while links and not _is_per_channel_step(graph, links[-1]):
        last = links.pop()
        end, at = last.x, last.axes
    return Chain(source, end, tuple(links), at)


def chain_before(graph: Graph, product: Product) -> Chain | None:
    """Go back from the input of a product, as long as a chain goes, if it can go in."""
    if product.pads:
        return None
    at, axes = product.x, tuple(axis for axis, _ in product.entries)
    links: list[Link] = []
    while (link := _link_to(graph, at, axes)) is not None:
        links.insert(0, link)
        at, axes = link.x, link.axes
    while links and not _is_per_channel_step(graph, links[0]):
        at = links.pop(0).step.results[0]
    last = tuple(axis for axis, _ in product.entries)
    return Chain(at, product.x, tuple(links), last) if links else None


def _is_per_channel_step(graph: Graph, link: Link) -> bool:
    """Tell whether a link is of a layer, and no number that stands in the program.

    With these left where they are, as the division of a mean before a norm, the weights
    are those of the model without the norm.
    """
    constant = link.constant
    if constant is None:
        return False
    return bool(graph.leaves_of(constant) or graph.shape(constant))


def _link_to(graph: Graph, value: Value, axes: Shape) -> Link | None:
    """Return the link that gives a value, whose channels are some axes."""
    step = graph.makers.get(value)
    if step is None or graph.sole_user(value) is None:
        return None
    source, before = input_of(graph, step), _before(step, axes)
    if source is None or before is None:
        return None
    return as_link(graph, step, source, before)


def input_of(graph: Graph, step: Step) -> Value | None:
    """Return the only operand of a step that is no constant."""
    inputs = [v for v in step.operands if not graph.is_constant(v)]
    return inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Value) else None


def as_link(graph: Graph, step: Step, x: Value, axes: Shape) -> Link | None:
    """Return a step as a link of a chain over `x`, whose channels are some axes."""
    moves = moved_axes(step.eqn)
    if moves is not None:
        kept = set(axes) <= moves.keys() and len(step.results) == 1
        return Link(step, x, "move", None, axes) if kept else None
    if step.name == "convert_element_type":
        inexact = jnp.issubdtype(graph.avals[step.results[0]].dtype, jnp.inexact)
        return Link(step, x, "keep", None, axes) if inexact else None
    if step.name == "neg":
        return Link(step, x, "neg", None, axes)
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
    return Link(step, x, operation, other, axes)


def is_per_channel(graph: Graph, constant: Atom, x: Value, axes: Sequence[int]) -> bool:
    """Return whether a constant that meets `x` differs only between its channels."""
    rank = len(graph.shape(constant))
    if rank == 0:
        return True
    varies = graph.varying[constant] if isinstance(constant, Value) else {-1}
    return rank == len(graph.shape(x)) and varies <= set(axes)


def _after(link: Link) -> Shape:
    """Return the axes that the channels are after a link."""
    moves = moved_axes(link.step.eqn)
    return link.axes if moves is None else tuple(moves[axis] for axis in link.axes)


def _before(step: Step, axes: Shape) -> Shape | None:
    """Return the axes of the channels before a step; `None` if it made one of them."""
    moves = moved_axes(step.eqn)
    if moves is None:
        return axes
    back = {after: before for before, after in moves.items()}
    return tuple(back[axis] for axis in axes) if set(axes) <= back.keys() else None
