"""The operations per channel before and after a product.

A *chain* is a sequence of steps in which the result of each step is used only by the
next. Together they are an affine map `a x + b`, with `a` and `b` per channel, and may
also rearrange entries. Batch normalization in evaluation is a chain, in whatever order
a library writes its operations.
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
        x: the input of the step.
        operation: `add`, `sub`, `rsub` (constant - x), `mul`, `div`, `neg`, `keep`
            (a change of dtype), or `move` (a rearrangement of entries).
        constant: the other operand, if there is one.
        axes: the channel axes of `x`.
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
        source: the input of the chain.
        end: the result of the chain.
        links: the steps.
        axes: the channel axes of the result.
    """

    source: Value
    end: Value
    links: tuple[Link, ...]
    axes: Shape

    def leaves(self, graph: Graph) -> Leaves:
        """Return the leaves from which the constants are computed."""
        return frozenset().union(
            *(graph.leaves_of(v.constant) for v in self.links if v.constant is not None)
        )

    def scales(self, graph: Graph) -> bool:
        """Tell whether the chain multiplies by a value that depends on variables."""
        return any(
            link.operation in ("mul", "div")
            and link.constant is not None
            and bool(graph.leaves_of(link.constant))
            for link in self.links
        )


def chain_after(graph: Graph, source: Value, axes: Shape) -> Chain:
    """Return the longest chain that starts at a value with the given channel axes."""
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
    """Return the longest chain that ends at a product's input, if it can be folded."""
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
    """Tell whether a link's constant belongs to a layer and is not a literal number.

    Literal numbers at the ends of a chain, such as the division in a mean before a
    norm, are left in the program, so that the folded weights fit the model without the
    norm.
    """
    constant = link.constant
    if constant is None:
        return False
    return bool(graph.leaves_of(constant) or graph.shape(constant))


def _link_to(graph: Graph, value: Value, axes: Shape) -> Link | None:
    """Return the link that computes a value with the given channel axes, if any."""
    step = graph.makers.get(value)
    if step is None or graph.sole_user(value) is None:
        return None
    source, before = input_of(graph, step), _before(step, axes)
    if source is None or before is None:
        return None
    return as_link(graph, step, source, before)


def input_of(graph: Graph, step: Step) -> Value | None:
    """Return the operand of a step that is not a constant, if there is exactly one."""
    inputs = [v for v in step.operands if not graph.is_constant(v)]
    return inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Value) else None


def as_link(graph: Graph, step: Step, x: Value, axes: Shape) -> Link | None:
    """Return a step as a link from `x` with the given channel axes, if it is one."""
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
    """Tell whether a constant, combined with `x`, varies only along the channels."""
    rank = len(graph.shape(constant))
    if rank == 0:
        return True
    varies = graph.varying[constant] if isinstance(constant, Value) else {-1}
    return rank == len(graph.shape(x)) and varies <= set(axes)


def _after(link: Link) -> Shape:
    """Return the channel axes after a link."""
    moves = moved_axes(link.step.eqn)
    return link.axes if moves is None else tuple(moves[axis] for axis in link.axes)


def _before(step: Step, axes: Shape) -> Shape | None:
    """Return the channel axes before a step; `None` if the step created one of them."""
    moves = moved_axes(step.eqn)
    if moves is None:
        return axes
    back = {after: before for before, after in moves.items()}
    return tuple(back[axis] for axis in axes) if set(axes) <= back.keys() else None
